"""The fused second derivative of convolutions against torch's own and differences; and when it stands back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alidade.landscape.curvature.fused import FusedOperations

CASES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": (F.conv1d, (3, 2, 6), (4, 2, 3), {}),
    "2d": (F.conv2d, (2, 3, 5, 4), (4, 3, 3, 2), {"padding": 1}),
    "2d strided": (F.conv2d, (2, 2, 6, 5), (3, 2, 3, 3), {"stride": (2, 1), "padding": (1, 2)}),
    "2d dilated": (F.conv2d, (2, 2, 6, 6), (3, 2, 2, 2), {"dilation": 2}),
    "2d in groups": (F.conv2d, (2, 4, 4, 4), (4, 2, 3, 3), {"padding": 1, "groups": 2}),
    "2d each channel alone": (F.conv2d, (2, 3, 4, 4), (6, 1, 2, 2), {"groups": 3}),
    "1 x 1": (F.conv2d, (2, 3, 3, 3), (2, 3, 1, 1), {}),
    "3d": (F.conv3d, (2, 2, 3, 4, 3), (2, 2, 2, 2, 2), {"padding": 1}),
}


def _fused(out: Tensor) -> bool:
    return "Convolve" in type(out.grad_fn).__name__


def _leaves(case: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    _, image, kernel, _ = CASES[case]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in (image, kernel, kernel[:1])]


@pytest.mark.parametrize("case", CASES)
def test_its_derivatives_are_those_that_differences_show(case: str) -> None:
    convolve, _, _, options = CASES[case]

    def fused(*leaves: Tensor) -> Tensor:
        with FusedOperations():
            out: Tensor = convolve(*leaves, **options)
        assert _fused(out)
        return out

    assert torch.autograd.gradcheck(fused, _leaves(case))
    assert torch.autograd.gradgradcheck(fused, _leaves(case))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("constant", ["nothing", "image", "kernel", "bias"])
def test_products_with_the_hessian_are_torchs(case: str, constant: str) -> None:
    """Of a loss that bends, with one of the three held constant."""
    convolve, _, _, options = CASES[case]
    image, kernel, bias = _leaves(case)
    given = dict(zip(("image", "kernel", "bias"), (image, kernel, bias), strict=True))
    leaves = [leaf.requires_grad_(name != constant) for name, leaf in given.items()]
    moving = [leaf for leaf in leaves if leaf.requires_grad]
    vectors = [torch.randn_like(leaf) for leaf in moving]

    def product(out: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad((out + 0.3 * out**3).sum(), moving, create_graph=True)
        return (*first, *torch.autograd.grad(first, moving, vectors))

    with FusedOperations():
        out = convolve(*leaves, **options)
    assert _fused(out)
    for found, wanted in zip(product(out), product(convolve(*leaves, **options)), strict=True):
        # sums of at most a few hundred products in float64, in another order
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12 * float(1 + wanted.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_its_forward_pass_and_first_derivative_are_torchs_to_the_last_bit(case: str) -> None:
    convolve, _, _, options = CASES[case]
    leaves = _leaves(case, torch.float32)
    expected = convolve(*leaves, **options)
    with FusedOperations():
        found = convolve(*leaves, **options)
    assert _fused(found)
    assert torch.equal(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    assert all(map(torch.equal, torch.autograd.grad(found.square().sum(), leaves), wanted))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_whose_input_is_data_has_it_too(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 3, bias=bias).double(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    vectors = [torch.randn_like(p) for p in layer.parameters()]

    def product(out: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(out.pow(3).sum(), list(layer.parameters()), create_graph=True)
        return torch.autograd.grad(first, list(layer.parameters()), vectors)

    with FusedOperations():
        out = layer(x)
    assert _fused(out)
    for found, wanted in zip(product(out), product(layer(x)), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12 * float(1 + wanted.abs().max()))


@pytest.mark.parametrize("kind", ["half", "autocast", "another tensor", "one image", "padding by name", "checkpoint"])
def test_what_it_cannot_do_is_torchs_own(kind: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(2, 2, 5, 5, requires_grad=True)
    if kind == "half":
        layer, x = layer.to(torch.bfloat16), x.detach().to(torch.bfloat16)
    if kind == "another tensor":
        x = x.as_subclass(type("Tagged", (Tensor,), {}))
    if kind == "one image":
        x = x[0]
    if kind == "padding by name":
        layer = nn.Conv2d(2, 3, 3, padding="same")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"), FusedOperations():
        if kind == "checkpoint":
            out: Any = checkpoint(layer, x, use_reentrant=False)
            assert len(torch.autograd.grad(out.sum(), list(layer.parameters()))) == 2
        else:
            out = layer(x)
    assert not _fused(out)


def test_under_torch_func_it_stands_back() -> None:
    x, w = torch.randn(2, 2, 5, dtype=torch.float64), torch.randn(3, 2, 3, dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        with FusedOperations():
            return F.conv1d(x, w).pow(3).sum()

    tangent = torch.func.jvp(torch.func.grad(loss), (w,), (torch.ones_like(w),))[1]
    step = 1e-6  # central differences: an error of step^2 and of eps / step
    beside = [torch.func.grad(loss)(w + sign * step) for sign in (1, -1)]
    assert torch.allclose(tangent, (beside[0] - beside[1]) / (2 * step), rtol=1e-6, atol=1e-6)
