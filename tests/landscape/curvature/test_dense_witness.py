"""Eigenvalues, trace and density against a dense Hessian that knows first derivatives only.

Central differences of step 1e-5 in float64 are off by 1e-10 of the third derivative and 1e-11 of the gradient, so that
an eigenvalue of the dense matrix is good to about 1e-8 of the spectrum's width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import dense_by_differences, wasserstein
from torch import nn

from alidade import Objective, hessian_trace, spectral_density, top_eigenvalues
from alidade.nn import norm

ACCURACY = 1e-6


def _convolutional(name: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 5, 3), norm(name, 5), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(45, 3)
    )  # fmt: skip


def _dense_layers(name: str) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), norm(name, 3, 1), nn.Softplus(), nn.Linear(3, 3))


BUILD: dict[str, Callable[[str], nn.Module]] = {"convolutional": _convolutional, "dense": _dense_layers}


@pytest.mark.parametrize("training", [True, False], ids=["batch", "running"])
@pytest.mark.parametrize("name", ["none", "batch", "noisy", "group", "l2"])
@pytest.mark.parametrize("kind", BUILD)
def test_three_estimators_of_one_spectrum(kind: str, name: str, training: bool) -> None:
    torch.manual_seed(11)
    model = BUILD[kind](name).double()
    batch = (torch.randn(10, 1, 8, 8, dtype=torch.float64), torch.arange(10) % 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    model.train(training)
    objective = Objective(model, cross_entropy, batch)
    state = torch.get_rng_state()  # the noise that the objective saw
    values = np.linalg.eigvalsh(dense_by_differences(model, cross_entropy, batch))
    torch.set_rng_state(state)
    width = np.ptp(values)
    ends = {"largest": values[::-1], "smallest": values, "magnitude": values[np.argsort(-np.abs(values))]}
    for which, expected in ends.items():
        top = top_eigenvalues(objective, k=2, which=which, rtol=1e-5)
        assert top.converged
        assert np.allclose(top.eigenvalues, expected[:2], rtol=0, atol=ACCURACY * width), which
    trace = hessian_trace(objective, rtol=0.02, atol=0.02 * width)
    assert trace.converged
    # Four standard errors: missed once in 10,000 by chance with a right one.
    assert abs(trace.value - values.sum()) < 4 * trace.standard_error + ACCURACY * width
    spectrum = spectral_density(objective, probes=4, steps=50)
    pooled = spectrum.weights.reshape(-1) / len(spectrum.weights)
    assert wasserstein(spectrum.nodes.reshape(-1), pooled, values) < 0.02 * width
    assert spectrum.nodes.max() == pytest.approx(values[-1], abs=1e-3 * width)
