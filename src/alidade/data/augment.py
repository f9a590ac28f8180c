"""Augmentation as a pure function of seed and step: random shifts, and mirrored photographs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = 4  # pixels; He et al. 2016, section 4.2

_STREAM = 2  # tells these draws from the order of batches, which comes from [seed, epoch]


class Shifts:
    """Shifts every image by up to 4 pixels, zeros behind it, and mirrors half of them if ``mirrors``.

    The draws of a step depend on nothing but ``seed`` and the step, so that a batch can be made again.
    """

    def __init__(self, seed: int, mirrors: bool) -> None:
        self._seed, self._mirrors = seed, mirrors

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """Images (N, C, H, W) for this step, a new tensor of the same shape."""
        generator = np.random.Generator(np.random.PCG64([self._seed, step, _STREAM]))
        n, _, height, width = images.shape
        top, left = torch.from_numpy(generator.integers(0, 2 * PADDING + 1, (2, n, 1)))
        mirrored = torch.from_numpy(generator.random((n, 1)) < 0.5 if self._mirrors else np.zeros((n, 1), bool))
        columns = torch.arange(width).expand(n, -1)
        columns = left + torch.where(mirrored, columns.flip(1), columns)
        rows = top + torch.arange(height)
        padded = F.pad(images, (PADDING,) * 4)
        image = torch.arange(n)[:, None, None]
        moved = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2).contiguous()
