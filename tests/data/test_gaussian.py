"""The regression of the deep linear network, its draws and its scale."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from alidade.core.errors import CallError
from alidade.data.gaussian import ENTRY_DEVIATION, gaussian_regression


def test_the_targets_are_a_linear_map_of_the_inputs() -> None:
    data = gaussian_regression(seed=3)
    x, y = data.inputs.numpy(), data.targets.numpy()
    assert (x.shape, y.shape, data.inputs.dtype, data.targets.dtype) == (
        (1000, 10), (1000, 10), torch.float64, torch.float64,
    )  # fmt: skip
    matrix, _, rank, singular = np.linalg.lstsq(x, y, rcond=None)
    assert rank == 10
    # Each output is a sum of 10 products, and the inputs' condition number is below 2: some ten roundings of 1.
    np.testing.assert_allclose(x @ matrix, y, rtol=0, atol=1e-13)
    assert singular[0] / singular[-1] < 2


def test_the_entries_have_the_stated_deviations() -> None:
    data = [gaussian_regression(seed) for seed in range(100)]
    inputs = torch.stack([d.inputs for d in data])
    matrices = np.stack([np.linalg.lstsq(d.inputs.numpy(), d.targets.numpy(), rcond=None)[0] for d in data])
    # Four standard errors: of a mean, deviation / sqrt n; of a deviation, deviation / sqrt(2 n). n = 10^6 and 10^4.
    assert inputs.mean() == pytest.approx(0, abs=4e-3)
    assert inputs.std() == pytest.approx(1, abs=4 / np.sqrt(2e6))
    assert matrices.mean() == pytest.approx(0, abs=4e-2 * ENTRY_DEVIATION)
    assert matrices.std() == pytest.approx(ENTRY_DEVIATION, rel=4 / np.sqrt(2e4))
    # Neither do they know of each other: a correlation of 100 x 10 pairs has the standard error 1 / sqrt(1000).
    first = np.corrcoef(inputs[:, 0].numpy().ravel(), matrices[:, 0].ravel())[0, 1]
    assert first == pytest.approx(0, abs=4 / np.sqrt(1000))


def test_the_first_loss_is_about_the_papers() -> None:
    """Outputs near 0 leave the sum of squares of the targets; Fig. 3b starts at 35,380."""
    losses = [float(gaussian_regression(seed).targets.square().sum()) for seed in range(100)]
    # 1000 ||A||^2 with 100 entries: relative deviation sqrt(2 / 100) a seed, 1.4 % for the mean of 100; four of these.
    assert np.mean(losses) == pytest.approx(35_380, rel=0.06)


def test_it_is_a_function_of_its_arguments() -> None:
    torch.manual_seed(0)
    first = gaussian_regression(7)
    torch.manual_seed(1)
    np.random.seed(1)
    again, other = gaussian_regression(7), gaussian_regression(8)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)


def test_no_global_random_state_is_moved() -> None:
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    gaussian_regression(0)
    assert random.getstate() == before[0]
    assert str(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_other_sizes() -> None:
    data = gaussian_regression(0, examples=3, width=2)
    assert (data.inputs.shape, data.targets.shape) == ((3, 2), (3, 2))
    assert torch.equal(data.inputs, gaussian_regression(0, 3, 2).inputs)


@pytest.mark.parametrize("arguments", [(-1, 10, 2), (0, 0, 2), (0, 10, 0)])
def test_what_makes_no_data_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(
        CallError, match="expected a seed of at least 0, examples and width of at least 1, got"
    ) as error:
        gaussian_regression(*arguments)
    assert str(arguments) in str(error.value)
