"""Cost of covariate_shift for all layers against the naive way: one full forward and backward pass per layer.

Reach: at most 0.6 for nine layers or more, aim at 0.4. The naive way is timed as plain training passes, without
the loading of states that it would need as well. The numbers that come out are compared with it, too.

    OMP_NUM_THREADS=1 python benchmarks/covariate_shift.py
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from side_by_side import interleaved, ratio, write
from torch import Tensor, nn
from torch.nn import functional as F

import alidade

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONVOLUTIONS = range(1, 9)


class Block(nn.Module):
    """Two convolutions around a shortcut, with everything in place that can be (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


def resnet(width: int = 8) -> nn.Module:
    """A ResNet-14 for images of 32 x 32."""
    widths = [(width, width, 1)] * 2 + [(width, 2 * width, 2), (2 * width, 2 * width, 1)]
    widths += [(2 * width, 4 * width, 2), (4 * width, 4 * width, 1)]
    stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(*stem, *(Block(*shape) for shape in widths), *head)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _states(model: nn.Module, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Before and after a step of plain SGD at learning rate 0.1."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss_fn(model, batch).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return before, {name: value.clone() for name, value in model.state_dict().items()}


def _plain_passes(model: nn.Module, batch: Any, n: int) -> None:
    for _ in range(n):
        model.zero_grad()
        loss_fn(model, batch).backward()


def _largest_difference(model: nn.Module, batch: Any, before: Any, after: Any, shift: Any, groups: Any) -> float:
    """Of the l2 of any group from the naive way, in units of the group's gradient norm."""
    twin, updated, differences = copy.deepcopy(model), dict(before), []
    for index, group in enumerate(groups):
        names = [name for name in dict(twin.named_parameters()) if name.rpartition(".")[0] in group]
        gradients = []
        for state in (before, updated):
            twin.load_state_dict(state)
            _plain_passes(twin, batch, 1)
            gradients.append(torch.cat([twin.get_parameter(name).grad.double().flatten() for name in names]))
        l2 = float((gradients[0] - gradients[1]).norm())
        differences.append(abs(l2 - shift.l2[index]) / shift.gradient_norm[index])
        updated |= {key: value for key, value in after.items() if key.rpartition(".")[0] in group}
    return max(differences)


def _measured(model: nn.Module, groups: Sequence[Sequence[str]] | None) -> dict[str, Any]:
    torch.manual_seed(1)
    model = model.to(DEVICE)
    batch = torch.randn(128, 3, 32, 32, device=DEVICE), torch.randint(0, 10, (128,), device=DEVICE)
    before, after = _states(model, batch)
    shift = alidade.covariate_shift(model, loss_fn, batch, before, after, groups)
    n = len(shift.layers)
    seconds = interleaved(
        {
            "covariate_shift": lambda: alidade.covariate_shift(model, loss_fn, batch, before, after, groups),
            "naive": lambda: _plain_passes(model, batch, n),
        },
        rounds=15,
    )
    listed = groups or [[layer] for layer in shift.layers]
    return {
        "layers": n,
        "covariate_shift / n forward+backward": ratio(seconds, "covariate_shift", "naive"),
        "largest difference of l2 / gradient norm": _largest_difference(model, batch, before, after, shift, listed),
    }


def _settings() -> dict[str, tuple[nn.Module, Sequence[Sequence[str]] | None]]:
    torch.manual_seed(0)
    narrow = {norm: alidade.nn.vgg(8, width=0.125, norm=norm) for norm in ("none", "batch")}
    grouped = [[f"features.conv{k}", f"features.norm{k}"] for k in CONVOLUTIONS] + [["head"]]
    return {
        "vgg-11": (narrow["none"], None),
        "vgg-11 with batch norm, all layers": (narrow["batch"], None),
        "vgg-11 with batch norm, convolution and norm together": (copy.deepcopy(narrow["batch"]), grouped),
        "resnet-14, all layers": (resnet(), None),
    }


if __name__ == "__main__":
    write(__file__, {name: _measured(*setting) for name, setting in _settings().items()})
