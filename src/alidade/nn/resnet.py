"""Residual networks for images of 32 x 32 (He et al. 2016, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from alidade.core.errors import CallError
from alidade.nn.norm import CENTRING
from alidade.nn.norm import norm as make_norm
from alidade.nn.weights import initialize

#: Channels of the three stages; each stage after the first begins by halving the image.
STAGES = (16, 32, 64)


class ResidualBlock(nn.Module):
    """Two convolutions 3x3 with norms, added to the input: relu(x + norm2(conv2(relu(norm1(conv1(x))))))."""

    def __init__(self, channels: int, out: int, norm: str, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(channels, out, norm, stride), make_norm(norm, out)
        self.conv2, self.norm2 = _convolution(out, out, norm), make_norm(norm, out)
        self.stride, self.added = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(branch + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """The input without parameters: every stride-th pixel, and zeros for the channels it does not have."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


class ResNet(nn.Module):
    """A convolution, residual blocks in three stages, the mean over all positions, one linear head.

    Layers are named ``conv``, ``norm``, ``blocks.block1.conv1``, ``blocks.block1.norm1``, ..., ``head``.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, blocks: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.conv, self.norm, self.blocks, self.head = conv, norm, blocks, head

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        features = self.blocks(F.relu(self.norm(self.conv(images_NCHW))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def resnet(
    depth: int = 20,
    width: float = 1.0,
    norm: str = "batch",
    init: str = "he",
    in_channels: int = 3,
    classes: int = 10,
) -> ResNet:
    """A residual network with ``depth`` = 6 n + 2 layers, initialized from torch's global random state.

    Args:
        depth: 8, 14, 20, ...: n blocks in each of three stages, two convolutions in a block.
        width: factor on the channels 16, 32, 64.
        norm: see :func:`alidade.nn.norm.norm`; behind every convolution. Convolutions have no bias where the norm
            would subtract it again.
        init: "he" or "glorot", see :func:`alidade.nn.weights.initialize`.
        in_channels: of the images.
        classes: number of logits.

    Raises:
        CallError: a depth that is not 6 n + 2, an unknown norm or init.

    >>> sum(p.numel() for p in resnet(20).parameters())  # 0.27 million in He et al. 2016, Table 6
    269722
    """
    if depth < 8 or depth % 6 != 2:
        raise CallError(f"depth: expected 6 n + 2 (8, 14, 20, ...), got {depth!r}")
    first, *_, last = channels = [max(1, round(stage * width)) for stage in STAGES]
    blocks = nn.Sequential()
    for number, block in enumerate(_blocks(channels, (depth - 2) // 6, norm), start=1):
        blocks.add_module(f"block{number}", block)
    network = ResNet(_convolution(in_channels, first, norm), make_norm(norm, first), blocks, nn.Linear(last, classes))
    initialize(network, init)
    return network


def _blocks(stages: list[int], blocks_per_stage: int, norm: str) -> Iterator[ResidualBlock]:
    channels = stages[0]
    for stage, out in enumerate(stages):
        for number in range(blocks_per_stage):
            yield ResidualBlock(channels, out, norm, stride=2 if stage and not number else 1)
            channels = out


def _convolution(channels: int, out: int, norm: str, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, padding=1, bias=norm not in CENTRING)
