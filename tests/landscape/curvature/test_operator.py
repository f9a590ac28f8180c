"""Bad input and last resorts: what an operator refuses, falls back to, and says about itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import MatrixOperator, dense_by_differences, symmetric
from torch import Tensor, nn
from torch.nn import functional as F

from alidade import (
    CurvatureOperator,
    Objective,
    batch_sharpness,
    directional_curvature,
    gradient_overlap,
    hessian_trace,
    loss_surface,
    preconditioned_sharpness,
    spectral_density,
    spherical_sharpness,
    step_sharpness,
    top_eigenvalues,
)
from alidade.errors import CallError, RefusedError
from alidade.landscape.curvature.block import Block

SOLVERS = {
    "eigenvalues": lambda operator: top_eigenvalues(operator, max_matvecs=15),
    "trace": lambda operator: hessian_trace(operator, max_matvecs=30),
    "density": lambda operator: spectral_density(operator, probes=2, steps=8),
}


class _Wrong(torch.autograd.Function):
    """x^2 W x by row, with a first derivative that is no gradient: its own derivative is not symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return (x @ w * x).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return gradient * 2 * x @ w, None


def _wrong(n: int) -> Objective:
    torch.manual_seed(0)
    model, w = nn.Linear(n, 1, bias=False).double(), torch.randn(n, n, dtype=torch.float64)
    return Objective(model, lambda model, w: _Wrong.apply(model.weight[0], w), w)


@pytest.mark.parametrize("n", [6, 40])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_backward_pass_that_is_no_gradient_is_seen(solver: str, n: int) -> None:
    with pytest.raises(RefusedError, match="expected a symmetric operator"):
        SOLVERS[solver](_wrong(n))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_slight_asymmetry_is_seen_and_rounding_is_none(solver: str) -> None:
    matrix = symmetric(np.linspace(1.0, 2.0, 60))
    noise = np.random.default_rng(1).normal(size=matrix.shape) / 60
    with pytest.raises(RefusedError, match="expected a symmetric operator"):
        SOLVERS[solver](MatrixOperator(matrix + 0.3 * noise))
    SOLVERS[solver](MatrixOperator(matrix + 1e-6 * noise))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["cpu autocast", "float16 network"])
def test_half_precision_is_rounding(solver: str, kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.LayerNorm(30), nn.Tanh(), nn.Linear(30, 5))
    batch = (torch.randn(64, 20), torch.arange(64) % 5)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]).float(), batch[1])

    if kind == "float16 network":
        model, batch = model.bfloat16(), (batch[0].bfloat16(), batch[1])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "cpu autocast"):
        objective = Objective(model, loss_fn, batch)
    SOLVERS[solver](objective)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_product_that_is_not_finite_is_refused(solver: str, value: float) -> None:
    """The loss and its gradient are finite, the second derivative of sqrt at 0 is not."""
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.bias.zero_()
    scale = 1.0 if np.isinf(value) else -1.0

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum() + scale * (model.bias.abs() ** 1.5).sum()

    with pytest.raises(RefusedError, match="finite product"):
        SOLVERS[solver](Objective(model, loss_fn, torch.randn(4, 3).double()))


@pytest.mark.parametrize("shape", [(4,), (5, 1), ()])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    model = nn.Linear(4, 1).double()
    operator = CurvatureOperator(Objective(model, lambda m, x: m(x).square().sum(), torch.randn(3, 4).double()))
    with pytest.raises(CallError, match="vector: expected a Tensor of 5 numbers, got a float64 Tensor of shape"):
        operator.matvec(torch.ones(shape).double())
    for wrong in ([1.0] * 5, np.ones(5)):
        with pytest.raises(CallError, match="vector: expected a Tensor of 5 numbers, got"):
            operator.matvec(wrong)  # type: ignore[arg-type]
    with pytest.raises(CallError, match="expected shape"):
        operator.product({"weight": torch.ones(4), "bias": torch.ones(1)})


def test_several_devices_need_a_block() -> None:
    parameters = dict(nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2, device="meta")).named_parameters())
    with pytest.raises(CallError, match="one device, got several"):
        Block(parameters, None)
    assert Block(parameters, ["0"]).dimension == 8


def _kinked() -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    return Objective(model, cross_entropy, (torch.randn(32, 1, 14, 14), torch.arange(32) % 4))


def test_differences_across_kinks_say_so_in_every_result() -> None:
    operator = CurvatureOperator(_kinked(), route="difference")
    top = top_eigenvalues(operator, max_matvecs=6)
    trace = hessian_trace(operator, max_matvecs=12)
    spectrum = spectral_density(operator, probes=2, steps=4)
    along = batch_sharpness(operator)
    for rows in (top.rows(0), trace.rows(0), spectrum.rows(0), along.rows(0)):
        assert "two step lengths disagree by" in next(rows).status
    assert not top.converged
    assert not trace.converged


def test_smooth_networks_in_float32_do_not_cry_wolf() -> None:
    """Nor is the result far off: rounding of a float32 gradient leaves about a percent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.GELU(), nn.Linear(20, 4))
    objective = Objective(model, cross_entropy, (torch.randn(64, 10), torch.arange(64) % 4))
    exact = top_eigenvalues(objective)
    found = top_eigenvalues(CurvatureOperator(objective, route="difference"), rtol=3e-2)
    assert found.problem is None
    assert found.route == "difference"
    assert found.eigenvalues[0] == pytest.approx(exact.eigenvalues[0], rel=0.02)


class _NoSecond(torch.autograd.Function):
    """A softplus whose author wrote one derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.softplus(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(x)


class _OutsideOfAutograd(torch.autograd.Function):
    """A softplus whose backward pass is computed by NumPy, as others are by kernels of their own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.softplus(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(gradient.detach().numpy() / (1 + np.exp(-x.detach().numpy())))


class _Between(nn.Module):
    """A function of one derivative between two layers."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(4, 5), nn.Linear(5, 4), function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.function.apply(self.first(x)))
        return found


@pytest.mark.parametrize(
    ("function", "message"), [(_NoSecond, "once_differentiable"), (_OutsideOfAutograd, "outside of autograd")]
)
def test_without_double_backward_it_falls_back_and_stays_right(function: Any, message: str) -> None:
    torch.manual_seed(0)
    model, batch = _Between(function).double(), (torch.randn(9, 4).double(), torch.arange(9) % 4)
    objective = Objective(model, cross_entropy, batch)
    top = top_eigenvalues(objective, k=2)
    expected = np.linalg.eigvalsh(dense_by_differences(model, cross_entropy, batch))
    assert (top.route, top.problem, top.converged) == ("difference", None, True)
    assert np.allclose(top.eigenvalues, expected[:-3:-1], rtol=1e-5)
    assert batch_sharpness(objective).route == "difference"
    ones = {name: torch.ones_like(p) for name, p in objective.parameters.items()}
    with pytest.raises(RefusedError, match=message):
        objective.hvp(ones)
    for route in ("kept", "rebuilt"):
        with pytest.raises(RefusedError, match=message):
            CurvatureOperator(objective, route=route).product(ones)
    pair = (lambda m, b: m(b[0]), lambda out, b: F.cross_entropy(out, b[1]))
    with pytest.raises(RefusedError, match=message):
        top_eigenvalues(Objective(model, pair, batch), matrix="gauss_newton")


def test_flash_attention_is_computed_plainly() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(6, 18), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].mean(1))

    torch.manual_seed(0)
    model, batch = Attention().double(), (torch.randn(5, 3, 6).double(), torch.arange(5) % 4)
    top = top_eigenvalues(Objective(model, cross_entropy, batch), rtol=1e-7)
    expected = np.linalg.eigvalsh(dense_by_differences(model, cross_entropy, batch))[-1]
    assert top.route == "kept"
    assert top.eigenvalues[0] == pytest.approx(expected, rel=1e-5)


def test_memory_that_runs_out_costs_the_graph_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from alidade.landscape.curvature.routes import Kept, Rebuilt

    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)), (torch.randn(6, 3), torch.arange(6) % 4)
    expected = CurvatureOperator(Objective(model, cross_entropy, batch)).matvec(torch.ones(36))

    def full(self: Kept, v: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    own = Rebuilt.product
    monkeypatch.setattr(Kept, "product", full)
    monkeypatch.setattr(Rebuilt, "product", own)
    operator = CurvatureOperator(Objective(model, cross_entropy, batch))
    assert torch.equal(operator.matvec(torch.ones(36)), expected)
    assert operator.route == "rebuilt"


def test_everything_works_in_inference_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()
    batch = (torch.randn(9, 3).double(), torch.arange(9) % 4)
    optimizer = torch.optim.AdamW(model.parameters())
    cross_entropy(model, batch).backward()
    optimizer.step()
    objective = Objective(model, cross_entropy, batch)

    def numbers() -> list[float]:
        top, operator = top_eigenvalues(objective), CurvatureOperator(objective)
        return [
            float(top.eigenvalues[0]),
            gradient_overlap(objective, top).value,
            hessian_trace(objective).value,
            spectral_density(objective, probes=2, steps=5).width,
            float(preconditioned_sharpness(objective, optimizer).eigenvalues[0]),
            float(spherical_sharpness(objective, ["0"]).eigenvalues[0]),
            batch_sharpness(objective).value,
            directional_curvature(objective, {n: torch.ones_like(p) for n, p in objective.parameters.items()}).value,
            float(operator.matvec(torch.ones(operator.dimension, dtype=torch.float64)).sum()),
        ]

    expected = numbers()
    with torch.inference_mode():
        found = numbers()
    assert found == expected


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (top_eigenvalues, {"k": 1.5}),
        (top_eigenvalues, {"k": True}),
        (top_eigenvalues, {"max_matvecs": 10.0}),
        (top_eigenvalues, {"rtol": float("inf")}),
        (top_eigenvalues, {"start": [{"x": torch.full((5,), torch.nan)}]}),
        (hessian_trace, {"max_matvecs": 10.5}),
        (spectral_density, {"probes": 2.0}),
        (spectral_density, {"steps": "60"}),
        (spectral_density, {"smoothing": float("nan")}),
    ],
)
def test_numbers_of_the_wrong_kind_get_one_line(solver: Any, options: dict[str, Any]) -> None:
    with pytest.raises(CallError, match="expected") as error:
        solver(MatrixOperator(np.eye(5)), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "solver",
    [
        CurvatureOperator, top_eigenvalues, hessian_trace, spectral_density, batch_sharpness, spherical_sharpness,
        loss_surface, lambda model: directional_curvature(model, {}), lambda model: step_sharpness(model, {}),
        lambda model: gradient_overlap(model, top_eigenvalues(MatrixOperator(np.eye(3)))),
        lambda model: preconditioned_sharpness(model, torch.optim.Adam(model.parameters())),
    ],
)  # fmt: skip
def test_a_model_in_place_of_an_objective_gets_one_line(solver: Any) -> None:
    with pytest.raises(CallError, match=r"expected an alidade.Objective\(model, loss_fn, batch\), got") as error:
        solver(nn.Linear(3, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("solver", [top_eigenvalues, hessian_trace, spectral_density])
@pytest.mark.parametrize("seed", ["a", 0.5, True, 2**64])
def test_a_seed_of_the_wrong_kind_gets_one_line(solver: Any, seed: Any) -> None:
    with pytest.raises(CallError, match="seed: expected a whole number"):
        solver(MatrixOperator(np.eye(5)), seed=seed)


def test_names_and_matrix_belong_to_an_objective() -> None:
    with pytest.raises(CallError, match="expected only with an objective"):
        top_eigenvalues(MatrixOperator(np.eye(5)), names=["x"])


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenvalues_beyond_the_rank_end_the_search(which: str) -> None:
    """A relative residual of 0 cannot be met; that 0 is known to the rounding of products can."""
    torch.manual_seed(0)
    model, x = nn.Linear(12, 1, bias=False).double(), torch.randn(4, 12).double()
    objective = Objective(model, lambda m, x: m(x).square().sum() / 2, x)
    top = top_eigenvalues(objective, k=12, which=which)
    expected = np.linalg.eigvalsh((x.T @ x).numpy())
    assert np.allclose(np.sort(top.eigenvalues), expected, rtol=1e-6, atol=1e-12)
    assert top.converged
    assert sorted(top.status) == ["below_resolution"] * 8 + ["ok"] * 4
    few = top_eigenvalues(objective, k=6, which=which)
    assert few.converged
    assert few.matvecs < 13
    assert gradient_overlap(objective, top_eigenvalues(objective, k=6)).value == pytest.approx(1.0)
