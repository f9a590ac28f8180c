"""Cost of the theorem_4_1 probe beside one plain forward and backward pass (asked for: at most 1.2 of them).

OMP_NUM_THREADS=1 python benchmarks/theorem.py
"""

from __future__ import annotations

import torch
from line_profile import loss_fn
from side_by_side import interleaved, ratio, write

import alidade
from alidade.probes.theorem import lipschitz_reduction

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _ratio(width: float, batch_size: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = alidade.nn.vgg(8, width=width, norm="batch").to(DEVICE)
    images = torch.randn(batch_size, 3, 32, 32, device=DEVICE)
    batch = (images, torch.randint(0, 10, (batch_size,), device=DEVICE))
    objective = alidade.Objective(model, loss_fn, batch, check_deterministic=False)

    def plain() -> None:
        model.zero_grad()
        loss_fn(model, batch).backward()

    work = {"probe": lambda: lipschitz_reduction(objective), "forward_backward": plain}
    return ratio(interleaved(work, rounds=25), "probe", "forward_backward")


if __name__ == "__main__":
    write(__file__, {f"vgg-11 width {width:g} batch {n}": _ratio(width, n) for width, n in ((0.125, 128), (0.25, 128))})
