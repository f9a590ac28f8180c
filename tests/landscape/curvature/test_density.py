"""The density against all eigenvalues of a dense Hessian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import MatrixOperator, dense_hessian, symmetric, wasserstein
from torch import nn

from alidade import Objective, spectral_density
from alidade.core.errors import CallError

#: What the project promises, as a share of the spectrum's width; on a network of 5,000 parameters see the benchmark.
PROMISED = 0.02


def test_it_is_near_the_spectrum_of_a_dense_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Linear(24, 5)).double()
    batch = (torch.randn(64, 20, dtype=torch.float64), torch.arange(64) % 5)
    eigenvalues = np.linalg.eigvalsh(dense_hessian(model, cross_entropy, batch))
    spectrum = spectral_density(Objective(model, cross_entropy, batch), probes=4, steps=40)
    width = np.ptp(eigenvalues)
    assert spectrum.width == pytest.approx(width, rel=1e-3)
    pooled = spectrum.weights.reshape(-1) / len(spectrum.weights)
    assert wasserstein(spectrum.nodes.reshape(-1), pooled, eigenvalues) < PROMISED * width
    cell = spectrum.grid[1] - spectrum.grid[0]
    assert wasserstein(spectrum.grid, spectrum.density * cell, eigenvalues) < PROMISED * width
    assert (spectrum.density * cell).sum() == pytest.approx(1, abs=1e-3)
    assert spectrum.matvecs == 160


def test_the_band_covers_the_smoothed_truth() -> None:
    """At 512 points of the grid 95 % within two standard errors would be perfect; four vectors have heavy tails."""
    values = np.concatenate([np.random.default_rng(0).normal(size=500), [8.0]])
    spectrum = spectral_density(MatrixOperator(symmetric(values)), probes=8, steps=100, smoothing=0.02)
    gaps = (spectrum.grid[:, None] - values[None, :]) / spectrum.smoothing
    truth = np.exp(-(gaps**2) / 2).mean(1) / (spectrum.smoothing * np.sqrt(2 * np.pi))
    inside = truth > 0.05 * truth.max()  # where there is anything
    covered = np.abs(spectrum.density - truth) <= 2 * spectrum.standard_error + 0.01 * truth.max()
    assert covered[inside].mean() > 0.85


def test_outliers_are_counted_and_the_bulk_is_not() -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(0, 1, 300), [5.0, 6.0, 8.0, -3.0]])
    spectrum = spectral_density(MatrixOperator(symmetric(values)))
    assert np.allclose(spectrum.outliers, [8, 6, 5, -3], atol=1e-3)
    flat = spectral_density(MatrixOperator(symmetric(values[:300])))
    assert flat.outliers.size == 0
    counted = {row.quantity: row.value for row in spectrum.rows(1)}
    assert counted["spectral_outliers"] == 4


@pytest.mark.parametrize("level", [0.0, 2.0])
def test_one_eigenvalue_only(level: float) -> None:
    spectrum = spectral_density(MatrixOperator(level * np.eye(20)))
    assert np.allclose(spectrum.nodes, level)
    assert spectrum.width == pytest.approx(0, abs=1e-12)
    assert spectrum.grid[np.argmax(spectrum.density)] == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize("options", [{"probes": 1}, {"steps": 0}, {"grid_points": 1}, {"smoothing": 0.0}])
def test_wrong_calls_get_one_line(options: dict[str, float]) -> None:
    with pytest.raises(CallError, match="spectral_density: expected"):
        spectral_density(MatrixOperator(np.eye(5)), **options)
