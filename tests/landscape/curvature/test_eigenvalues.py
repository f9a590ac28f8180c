"""Eigenvalues against dense matrices, closed forms and the definition of a residual."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import MatrixOperator, dense_hessian, symmetric
from torch import nn

from alidade import CurvatureOperator, Objective, top_eigenvalues
from alidade.core.curvature import NOT_CONVERGED
from alidade.core.errors import CallError, RefusedError
from alidade.landscape.curvature import lanczos

WHICH = {"largest": lambda e: -e, "smallest": lambda e: e, "magnitude": lambda e: -np.abs(e)}


def _network(norm: nn.Module) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), norm, nn.Tanh(), nn.Linear(8, 4)).double()
    batch = (torch.randn(16, 5, dtype=torch.float64), torch.arange(16) % 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    return model, batch


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(8), nn.LayerNorm(8)], ids=str)
def test_they_are_those_of_the_dense_hessian(norm: nn.Module, which: str) -> None:
    model, batch = _network(norm)
    hessian = dense_hessian(model, cross_entropy, batch)
    expected = np.linalg.eigvalsh(hessian)
    expected = expected[np.argsort(WHICH[which](expected))][:3]
    top = top_eigenvalues(Objective(model, cross_entropy, batch), k=3, which=which, rtol=1e-6)
    assert top.converged
    assert top.status == ("ok",) * 3
    # With residual r a symmetric matrix has an eigenvalue within r, and r^2 / gap for a Rayleigh quotient.
    assert np.allclose(top.eigenvalues, expected, rtol=1e-6)
    for value, residual, vector in zip(top.eigenvalues, top.residuals, top.eigenvectors, strict=True):
        v = torch.cat([part.reshape(-1) for part in vector.values()]).numpy()
        assert np.linalg.norm(v) == pytest.approx(1)
        assert np.linalg.norm(hessian @ v - value * v) == pytest.approx(residual, rel=1e-3, abs=1e-12)


def test_running_and_batch_statistics_are_two_networks() -> None:
    model, batch = _network(nn.BatchNorm1d(8))
    found = {s: top_eigenvalues(Objective(model, cross_entropy, batch, statistics=s)) for s in ("batch", "running")}
    for mode, top in found.items():
        model.train(mode == "batch")
        expected = np.linalg.eigvalsh(dense_hessian(model, cross_entropy, batch))[-1]
        assert top.eigenvalues[0] == pytest.approx(expected, rel=1e-5)
        assert top.provenance.statistics == mode
    assert abs(np.log(found["batch"].eigenvalues[0] / found["running"].eigenvalues[0])) > 0.1


@pytest.mark.parametrize("which", WHICH)
def test_a_small_basis_restarts_until_the_true_residual_is_there(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanczos, "MOST_VECTORS", 8)
    values = np.concatenate([np.linspace(-1.0, 1.0, 196), [-1.3, -1.1, 1.2, 1.5]])
    operator = MatrixOperator(symmetric(values))
    top = top_eigenvalues(operator, k=2, which=which, rtol=1e-6)
    assert top.converged
    assert top.matvecs > 20  # it did restart
    assert np.allclose(top.eigenvalues, values[np.argsort(WHICH[which](values))][:2], rtol=1e-9)


def test_a_multiple_eigenvalue_is_found_as_often_as_it_is_there() -> None:
    """A Krylov space has one vector of each eigenspace; the others come from fresh random directions."""
    top = top_eigenvalues(MatrixOperator(symmetric([3.0, 3.0, 3.0, 1.0, 0.0, 0.0])), k=4)
    assert np.allclose(top.eigenvalues, [3, 3, 3, 1])
    assert top.converged


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize(
    "values",
    [
        [3.0, 3.0, 2.0, 1.0], [3.0, 3.0, *np.linspace(0.0, 2.0, 10)], [5.0, 4.0, 4.0, 1.0, *[0.0] * 100],
        [2.0] * 25 + [-1.5] * 25, [*[1.0] * 5, *[0.0] * 20], [1.0, 1.0, 0.5, *np.linspace(-0.4, 0.4, 200)],
    ],
)  # fmt: skip
def test_copies_that_one_krylov_space_does_not_hold_are_found(values: list[float], which: str) -> None:
    expected = sorted(values, key={"largest": lambda x: -x, "smallest": float, "magnitude": lambda x: -abs(x)}[which])
    for k in (2, 3):
        top = top_eigenvalues(MatrixOperator(symmetric(values)), k=k, which=which, rtol=1e-4)
        assert np.allclose(top.eigenvalues, expected[:k], rtol=1e-3, atol=1e-9)


def test_softmax_regression_at_zero_has_each_eigenvalue_as_often_as_classes_less_one() -> None:
    """At weights 0 the Hessian is (I / C - 11' / C^2) times X'X / n (Kronecker product), with 1 / C (C - 1) times."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4, bias=False).double(), torch.randn(30, 6).double()
    nn.init.zeros_(model.weight)
    top = top_eigenvalues(Objective(model, cross_entropy, (x, torch.arange(30) % 4)), k=5)
    moments = np.linalg.eigvalsh((x.T @ x).numpy() / 30)[::-1] / 4
    assert np.allclose(top.eigenvalues, np.repeat(moments, 3)[:5], rtol=1e-5)
    assert top.status == ("ok",) * 5


@pytest.mark.parametrize("which", WHICH)
def test_more_vectors_than_are_wanted_mislead_no_warm_start(which: str) -> None:
    """Eigenvectors of the other end, say: their residuals are 0, and they are not what was asked for."""
    values = np.linspace(-1.0, 1.2, 40)
    matrix = MatrixOperator(symmetric(values))
    vectors = torch.from_numpy(np.linalg.eigh(symmetric(values))[1].T)
    expected = {"largest": [1.2], "smallest": [-1.0], "magnitude": [1.2]}[which]
    for chosen in ((10, 20, 30), (39, 38, 37), (0, 1, 2), (38, 39), (1, 0)):
        top = top_eigenvalues(matrix, which=which, start=[{"x": vectors[i]} for i in chosen])
        assert np.allclose(top.eigenvalues, expected, rtol=1e-3), chosen


def test_the_whole_spectrum_of_a_small_matrix_and_a_matrix_of_zeros() -> None:
    values = np.array([2.0, 1.0, -1.0])
    assert np.allclose(top_eigenvalues(MatrixOperator(symmetric(values)), k=3).eigenvalues, values)
    zero = top_eigenvalues(MatrixOperator(np.zeros((5, 5))), k=2)
    assert zero.converged
    assert zero.eigenvalues.tolist() == [0, 0]


def test_what_is_not_converged_says_so() -> None:
    operator = MatrixOperator(symmetric(np.linspace(0, 1, 400)))
    top = top_eigenvalues(operator, rtol=1e-8, max_matvecs=12)
    assert (top.matvecs, operator.matvecs) == (12, 12)
    assert not top.converged
    assert top.status == (NOT_CONVERGED,)
    assert {row.quantity: row.status for row in top.rows(3)} == {
        "top_eigenvalue": NOT_CONVERGED, "top_eigenvalue_residual": "ok", "top_eigenvalue_matvecs": "ok",
    }  # fmt: skip


def test_the_gradient_is_where_it_begins_and_a_misleading_one_does_no_harm() -> None:
    matrix = symmetric(np.concatenate([np.linspace(0, 1, 300), [4.0]]))
    vectors = np.linalg.eigh(matrix)[1]
    matvecs = {}
    for name, gradient in {"none": None, "right": vectors[:, -1], "wrong": vectors[:, -2]}.items():
        top = top_eigenvalues(MatrixOperator(matrix, gradient))
        assert top.eigenvalues[0] == pytest.approx(4)
        matvecs[name] = top.matvecs
    assert matvecs["right"] < matvecs["none"]


def test_a_warm_start_is_cheaper_and_says_when_it_is_lost() -> None:
    values = np.concatenate([np.linspace(0, 1, 300), [3.0, 4.0]])
    matrix = symmetric(values)
    cold = top_eigenvalues(MatrixOperator(matrix), k=2)
    moved = matrix + 1e-2 * symmetric(np.linspace(-1, 1, 302), seed=1)
    warm = top_eigenvalues(MatrixOperator(moved), k=2, start=cold)
    assert warm.matvecs < cold.matvecs
    assert np.allclose(warm.eigenvalues, np.linalg.eigvalsh(moved)[:-3:-1], rtol=1e-5)
    assert (cold.lost, warm.lost) == (None, False)
    elsewhere = top_eigenvalues(MatrixOperator(symmetric(values, seed=2)), k=2, start=cold.eigenvectors)
    assert elsewhere.lost is True
    assert np.allclose(elsewhere.eigenvalues, [4, 3], rtol=1e-5)


def test_a_warm_start_at_a_lesser_eigenvector_still_finds_the_largest() -> None:
    """What starts in an eigenvector has a residual of 0 at once; the random share leads out of it."""
    matrix = symmetric(np.concatenate([np.linspace(0, 1, 100), [3.0, 4.0]]))
    _, vectors = np.linalg.eigh(matrix)
    second = top_eigenvalues(MatrixOperator(matrix), start=[{"x": torch.as_tensor(vectors[:, -2].copy())}])
    assert second.eigenvalues[0] == pytest.approx(4)
    assert second.lost is True


def test_blocks_have_their_own_eigenvalues() -> None:
    model, batch = _network(nn.BatchNorm1d(8))
    hessian = dense_hessian(model, cross_entropy, batch)
    top = top_eigenvalues(Objective(model, cross_entropy, batch), names=["3"], rtol=1e-6)
    assert top.eigenvalues[0] == pytest.approx(np.linalg.eigvalsh(hessian[-36:, -36:])[-1], rel=1e-6)
    assert set(top.eigenvectors[0]) == {"3.weight", "3.bias"}


def test_linear_regression_has_the_eigenvalues_of_its_moments() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64)
    model = nn.Linear(6, 1, bias=False).double()
    objective = Objective(model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), (x, y))
    expected = np.linalg.eigvalsh((2 * x.T @ x / 50).numpy())
    assert np.allclose(top_eigenvalues(objective, k=6, rtol=1e-8).eigenvalues, expected[::-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: expected between 1 and the number of parameters, 5, got 0"),
        ({"k": 6}, "k: expected between 1 and the number of parameters, 5, got 6"),
        ({"which": "top"}, "which: expected one of"),
        ({"rtol": 0.0}, "rtol: expected a number above 0"),
        ({"rtol": float("nan")}, "rtol: expected a number above 0"),
        ({"k": 3, "max_matvecs": 2}, "max_matvecs: expected at least k = 3"),
        ({"start": [{"y": torch.ones(5)}]}, "missing"),
    ],
)
def test_wrong_calls_get_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(CallError, match=message):
        top_eigenvalues(MatrixOperator(np.eye(5)), **options)


def test_an_operator_that_is_not_symmetric_is_refused() -> None:
    matrix = np.random.default_rng(0).normal(size=(30, 30))
    with pytest.raises(RefusedError, match="expected a symmetric operator"):
        top_eigenvalues(MatrixOperator(matrix), max_matvecs=20)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(loss: float) -> None:
    model = nn.Linear(3, 1).double()
    objective = Objective(model, lambda model, x: model(x).sum() * loss, torch.eye(3).double())
    with pytest.raises(RefusedError, match="expected a finite loss"):
        top_eigenvalues(objective)


def test_kinks_on_the_route_of_differences_are_no_eigenvalue() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 4))
    objective = Objective(model, cross_entropy, (torch.randn(64, 20), torch.arange(64) % 4))
    top = top_eigenvalues(CurvatureOperator(objective, route="difference"), max_matvecs=10)
    assert not top.converged
    assert "two step lengths disagree" in top.status[0]
