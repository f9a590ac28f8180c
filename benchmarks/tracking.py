"""Hessian products of a tracked top eigenvalue, started from the last eigenvector and from the gradient alone.

Narrow VGG networks with and without BatchNorm, on mini-batches and on one fixed batch, a look every 10 steps at
rtol 1e-2. Both searches see the same objectives. Counts are exact; seconds are of one busy core.

    python benchmarks/tracking.py [--steps 120] [--out benchmarks/tracking.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.core.probes import CurvatureProbe
from alidade.data import load
from alidade.landscape.objective import Objective
from alidade.nn import vgg
from alidade.probes.environment import environment
from alidade.probes.spectrum import SpectrumTracker

EVERY, RTOL, BATCH = 10, 1e-2, 64
#: Norm, learning rate, whether every step has the same batch.
SETTINGS = [("batch", 0.1, False), ("none", 0.1, False), ("batch", 0.02, True), ("none", 0.02, True)]


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def tracker() -> SpectrumTracker:
    return SpectrumTracker(CurvatureProbe(looks=("eigenvalues",), rtol=RTOL))


def tracked(norm: str, rate: float, fixed: bool, steps: int) -> dict[str, object]:
    torch.manual_seed(0)
    data, draws = load("digits"), torch.Generator().manual_seed(1)
    model = vgg(8, 0.125, norm, "he", 1, 10)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    products, seconds = defaultdict(list), defaultdict(float)
    warm, chosen = tracker(), torch.arange(BATCH)
    for step in range(steps + 1):
        if not fixed:
            chosen = torch.randint(0, len(data.train_labels), (BATCH,), generator=draws)
        batch = (data.train_images[chosen], data.train_labels[chosen])
        if step % EVERY == 0:
            for name, search in (("warm", warm), ("cold", tracker())):
                began = time.process_time()
                rows = search.rows(step, Objective(model, loss_fn, batch, check_deterministic=False))
                seconds[name] += time.process_time() - began
                for row in rows:
                    if row.quantity == "top_eigenvalue_matvecs":
                        products[f"{name}, {row.statistics} statistics"].append(int(row.value))
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    return {
        "norm": norm, "learning_rate": rate, "one_batch": fixed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean_products": {name: round(mean(counts), 2) for name, counts in products.items()},
        "products": dict(products),
        "cpu_seconds": {name: round(spent, 2) for name, spent in seconds.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    results = [tracked(*setting, chosen.steps) for setting in SETTINGS]
    by_start = {
        start: round(mean(n for r in results for name, ns in r["products"].items() if start in name for n in ns), 2)  # type: ignore[attr-defined]
        for start in ("warm", "cold")
    }
    said = {"every": EVERY, "rtol": RTOL, "batch": BATCH, "mean_products": by_start, "settings": results}
    chosen.out.write_text(json.dumps(said | {"environment": environment("cpu")}, indent=1) + "\n")
    print(json.dumps(by_start))


if __name__ == "__main__":
    main()
