"""The regression of the deep linear network: Gaussian inputs and a Gaussian linear map of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alidade.core.errors import CallError

#: Standard deviation of the entries of A. The paper gives none; the first loss that Fig. 3b plots without a norm,
#: 35,380, is about 1000 ||A||_F^2, which makes the variance 0.354.
ENTRY_DEVIATION = 0.595

_STREAM = 1  # tells these draws from those of the weights, which come from the seed itself


class Regression(NamedTuple):
    """Inputs x (examples, width) and targets A x (examples, width), float64."""

    inputs: Tensor
    targets: Tensor


def gaussian_regression(seed: int, examples: int = 1000, width: int = 10) -> Regression:
    r"""Inputs x from N(0, 1) and targets :math:`A x`, the entries of A from :math:`N(0, 0.595^2)`.

    The data of Santurkar et al. 2018, Appendix A, up to the deviation, which they do not give. A function of its
    arguments: no global random state is read or moved.

    Raises:
        CallError: a negative seed, no examples or no width.

    >>> data = gaussian_regression(seed=0)
    >>> tuple(data.inputs.shape), round(data.targets.square().sum().item())
    ((1000, 10), 28960)
    """
    if seed < 0 or examples < 1 or width < 1:
        raise CallError(f"expected a seed of at least 0, examples and width of at least 1, got {seed, examples, width}")
    generator = np.random.Generator(np.random.PCG64([seed, _STREAM]))
    inputs = generator.standard_normal((examples, width))
    matrix = ENTRY_DEVIATION * generator.standard_normal((width, width))
    return Regression(torch.from_numpy(inputs), torch.from_numpy(inputs @ matrix.T))
