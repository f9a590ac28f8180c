"""Theorem 4.1 taken apart for layers of real networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from alidade.core.errors import CallError
from alidade.theory import LipschitzTerms, layer_theorem_4_1_terms, layers, theorem_4_1, theorem_4_1_terms

SHAPES = {nn.BatchNorm1d: (16, 5), nn.BatchNorm2d: (4, 5, 3, 2), nn.BatchNorm3d: (3, 5, 2, 2, 3)}


def captured(layer: nn.Module, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, g and the measured u of a layer in a small loss."""
    y = y.requires_grad_()
    z = layer(y)
    weights = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).reshape(z.shape)
    u, g = torch.autograd.grad((weights * z.tanh()).square().mean(), (y, z))
    return y.detach(), g, u


def randomized(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return layer


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_after_is_what_autograd_measures(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = randomized(kind(5, eps=0.1)).double()
    y, g, u = captured(layer, 3 * torch.randn(SHAPES[kind], dtype=torch.float64) + 1)
    terms = layer_theorem_4_1_terms(layer, y, g)
    dims = [d for d in range(y.ndim) if d != 1]
    assert terms.status == ("ok",) * 5
    # sums of at most 36 products: 36 x 1.1e-16 of each sum, with the same factor of 10 as in test_closed_forms
    assert torch.allclose(terms.after, u.square().sum(dim=dims), rtol=1e-12)
    assert torch.allclose(terms.before, g.square().sum(dim=dims), rtol=1e-12)
    assert torch.allclose(terms.after, terms.factor * (terms.before - terms.mean - terms.alignment), rtol=1e-12)


def test_the_terms_are_those_of_the_theorem() -> None:
    generator = torch.Generator().manual_seed(3)
    y, g = torch.randn(2, 7, 9, dtype=torch.float64, generator=generator)
    gamma = torch.rand(7, dtype=torch.float64, generator=generator)
    terms = theorem_4_1_terms(g, y, gamma, 0.2)
    assert torch.allclose(terms.after, theorem_4_1(g, y, g, gamma, 0.2).rhs, rtol=1e-12)


def test_a_layer_without_gain_has_gain_one() -> None:
    layer = nn.BatchNorm1d(5, affine=False, track_running_stats=False)
    y, g, u = captured(layer, torch.randn(16, 5, generator=torch.Generator().manual_seed(1)))
    layer.eval()  # without running statistics it goes on using those of the batch
    terms = layer_theorem_4_1_terms(layer, y, g)
    assert torch.allclose(terms.after.float(), u.square().sum(dim=0), rtol=1e-3)  # u itself is float32


def test_nothing_is_moved() -> None:
    layer = nn.BatchNorm1d(5)
    y, g = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(1))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer_theorem_4_1_terms(layer, y, g)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


def degenerate() -> LipschitzTerms:
    y = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    g = torch.ones(5, 6)
    y[1] = 0.1  # constant, and 0.1 is no binary fraction
    y[2, 3] = float("nan")
    g[3, 0] = float("inf")
    return theorem_4_1_terms(g, y, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]), 0.0)


def test_degenerate_units_have_a_status_and_no_nan() -> None:
    terms = degenerate()
    assert [reason.split(":")[0] for reason in terms.status] == [
        "ok",
        "sigma is 0",
        "not finite",
        "not finite",
        "gamma is 0",
    ]
    for name in ("before", "after", "factor", "mean", "alignment"):
        values = getattr(terms, name)
        assert torch.isfinite(values).all()
        assert not values[~terms.ok].any()


def test_one_sample_has_a_status() -> None:
    terms = theorem_4_1_terms(torch.ones(2, 1), torch.ones(2, 1), torch.ones(2), 1e-5)
    assert terms.status == ("m is 1: one value has no spread",) * 2


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(5, 5), "expected a BatchNorm1d, BatchNorm2d or BatchNorm3d; got Linear"),
        (nn.LayerNorm(5), "got LayerNorm"),
        (nn.BatchNorm1d(5).eval(), "expected batch statistics; got a layer in eval mode"),
        (nn.BatchNorm1d(4), r"expected two tensors of shape \(N, 4, ...\); got \(16, 5\)"),
    ],
)
def test_other_layers_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(CallError, match=message) as error:
        layer_theorem_4_1_terms(layer, torch.ones(16, 5), torch.ones(16, 5))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(64, 8, 32, 32), (512, 160)], ids=str)
def test_large_layers_are_summed_without_copies_to_the_same_terms(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = (torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d)(shape[1])
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2.0, generator=generator)
    y = torch.randn(shape, generator=generator) + 0.5
    g = torch.randn(shape, generator=generator) + 0.1
    assert layers._from_sums(y, g, layer.weight.detach().double(), layer.eps) is not None
    quick = layers.layer_theorem_4_1_terms(layer, y, g)
    monkeypatch.setattr(layers, "LARGE", 10**12)
    exact = layers.layer_theorem_4_1_terms(layer, y, g)
    for name in ("before", "after", "factor", "mean", "alignment"):
        # Sums of 1e3 products in float32 are off by some 1e-6 of their absolute terms; <g, yhat>^2 is what is left
        # of terms 1e2 times larger.
        torch.testing.assert_close(getattr(quick, name), getattr(exact, name), rtol=1e-3, atol=1e-6)


def test_units_that_sums_would_not_resolve_take_the_exact_way() -> None:
    y = torch.randn(2048, 64, generator=torch.Generator().manual_seed(0))
    y[:, 3] = 1e4 + 1e-2 * y[:, 3]  # a variance far below the rounding of its mean square
    assert layers._from_sums(y, y, torch.ones(64).double(), 1e-5) is None
    assert layers.layer_theorem_4_1_terms(torch.nn.BatchNorm1d(64), y, y).ok.all()
