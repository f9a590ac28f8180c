"""The fused second derivative of batch normalization against plain operations; and when it stands back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.landscape.curvature.fused import FusedOperations


def _fused(out: Tensor) -> bool:
    return "Normalize" in type(out.grad_fn).__name__


def _plain(x: Tensor, w: Tensor | None, b: Tensor | None, eps: float) -> Tensor:
    """Ioffe & Szegedy 2015, algorithm 1, from elementary operations."""
    over, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
    mean = x.mean(over, keepdim=True)
    out = (x - mean) / ((x - mean).square().mean(over, keepdim=True) + eps).sqrt()
    out = out if w is None else out * w.view(shape)
    return out if b is None else out + b.view(shape)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (3, 4, 3, 2), (2, 2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("affine", ["both", "scale", "none"])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_products_with_the_hessian_are_those_of_plain_operations(
    shape: tuple[int, ...], affine: str, eps: float
) -> None:
    """Of a loss that bends: its second derivative sees all of the norm's first and second derivatives."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    w = torch.randn(shape[1], dtype=torch.float64, requires_grad=True) if affine != "none" else None
    b = torch.randn(shape[1], dtype=torch.float64, requires_grad=True) if affine == "both" else None
    leaves = [leaf for leaf in (x, w, b) if leaf is not None]
    mixing = torch.randn(shape, dtype=torch.float64)
    vectors = [torch.randn_like(leaf) for leaf in leaves]

    def product(normalized: Any) -> list[Tensor]:
        out = normalized()
        loss = (mixing * out + 0.3 * out**3).sum() + (out * x).square().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return [*first, *torch.autograd.grad(first, leaves, vectors)]

    def fused() -> Tensor:
        with FusedOperations():
            out = F.batch_norm(x, None, None, w, b, training=True, eps=eps)
        assert _fused(out)
        return out

    expected = product(lambda: _plain(x, w, b, eps))
    for found, wanted in zip(product(fused), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-11 * float(1 + wanted.abs().max()))


def test_its_forward_pass_and_first_derivative_are_torchs_to_the_last_bit() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 4, requires_grad=True)
    layer = nn.BatchNorm2d(3)
    expected = layer(x)
    wanted = torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()])
    with FusedOperations():
        found = layer(x)
    assert _fused(found)
    assert torch.equal(found, expected)
    for gradient, other in zip(
        torch.autograd.grad(found.square().sum(), [x, *layer.parameters()]), wanted, strict=True
    ):
        assert torch.equal(gradient, other)


@pytest.mark.parametrize("momentum", [None, 0.0, 0.1, 1.0])
def test_running_statistics_move_as_they_do_without_it(momentum: float | None) -> None:
    torch.manual_seed(0)
    plain, fused = nn.BatchNorm1d(4, momentum=momentum), nn.BatchNorm1d(4, momentum=momentum)
    for _ in range(3):
        x = torch.randn(6, 4, requires_grad=True)
        plain(x)
        with FusedOperations():
            assert _fused(fused(x))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), fused.buffers(), strict=True))


def _inputs(kind: str) -> Tensor:
    x = torch.randn(6, 4, 3, 3, requires_grad=True)
    return {"half": x.to(torch.bfloat16), "not contiguous": x.to(memory_format=torch.channels_last)}.get(kind, x)


@pytest.mark.parametrize("kind", ["eval", "half", "not contiguous", "autocast", "one value", "another tensor"])
def test_what_it_cannot_do_is_torchs_own(kind: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.BatchNorm2d(4), _inputs(kind)
    if kind == "eval":
        layer.eval()
    if kind == "half":
        layer = layer.to(torch.bfloat16)
    if kind == "one value":
        x = x[:1, :, :1, :1].contiguous()
    if kind == "another tensor":
        x = x.as_subclass(type("Tagged", (Tensor,), {}))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"), FusedOperations():
        if kind == "one value":
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                layer(x)
        else:
            assert not _fused(layer(x))


def test_under_torch_func_it_stands_back() -> None:
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    seen = []

    def loss(x: Tensor) -> Tensor:
        with FusedOperations():
            out = F.batch_norm(x, None, None, training=True)
        seen.append("Normalize" in str(out))
        return out.pow(3).sum()

    tangent = torch.func.jvp(torch.func.grad(loss), (x,), (torch.ones_like(x),))[1]
    assert torch.allclose(tangent, torch.zeros_like(x), atol=1e-9)  # shifting all of x changes nothing
    assert seen == [False]
