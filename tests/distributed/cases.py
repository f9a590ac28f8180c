"""Models, data and everything that is measured on them, the same in one process and in several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alidade

Batch = tuple[Tensor, Tensor]


def _stack(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), norm(4), nn.Tanh(), nn.Linear(4, 4), norm(4), nn.GELU(), nn.Linear(4, 3))


def _convolutions() -> nn.Module:
    front = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh())
    return nn.Sequential(front, nn.Flatten(), nn.Linear(20, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: _stack(lambda width: nn.Identity()),
    "layer_norm": lambda: _stack(nn.LayerNorm),
    "convolutions": _convolutions,
    "batch_norm": lambda: _stack(nn.BatchNorm1d),
}


def model_named(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same weights in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MODELS[name]().to(dtype)


def synchronized(wrapper: nn.Module) -> nn.Module:
    """With SyncBatchNorm inside. The wrapper itself refuses to be made around one on a CPU."""
    nn.SyncBatchNorm.convert_sync_batchnorm(wrapper.module)
    return wrapper


def whole_batch(size: int, dtype: torch.dtype = torch.float64, step: int = 0) -> Batch:
    """Six examples for each of ``size`` processes."""
    generator = torch.Generator().manual_seed(11 + step)
    inputs = torch.randn(6 * size, 5, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(0, 3, (6 * size,), generator=generator)


def own_batch(rank: int, size: int, dtype: torch.dtype = torch.float64, step: int = 0) -> Batch:
    """The examples of one process."""
    inputs, labels = whole_batch(size, dtype, step)
    return inputs.chunk(size)[rank], labels.chunk(size)[rank]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def mean_of_losses(model: nn.Module, batches: list[Batch]) -> Tensor:
    """The naive twin of data parallelism: one process runs every process's batch by itself and takes the mean."""
    return torch.stack([cross_entropy(model, batch) for batch in batches]).mean()


def forward(model: nn.Module, batch: Batch) -> Tensor:
    found: Tensor = model(batch[0])
    return found


def criterion(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch[1])


def measured(model: nn.Module, loss_fn: Any, batch: Any, statistics: str | None = None) -> dict[str, Any]:
    """Everything that an objective says, as arrays by name."""
    objective = alidade.Objective(model, loss_fn, batch, statistics)
    gradient = objective.gradient()
    v = {name: torch.cos(torch.arange(g.numel(), dtype=g.dtype)).reshape(g.shape) for name, g in gradient.items()}
    found: dict[str, Any] = {"value": objective.value()}
    found |= {f"gradient {name}": g for name, g in gradient.items()}
    found |= {f"hvp {name}": g for name, g in objective.hvp(v).items()}
    for coordinates in ("raw", "relative"):
        profile = alidade.line_profile(objective, [-0.1, 0.05, 0.4], coordinates=coordinates)
        for name in ("losses", "gradient_distances", "gradient_cosines", "effective_smoothness", "loss", "slope"):
            found[f"{coordinates} {name}"] = torch.as_tensor(getattr(profile, name))
    top = alidade.top_eigenvalues(objective, k=2, rtol=1e-5)
    assert top.converged
    found["eigenvalues"] = torch.as_tensor(top.eigenvalues)
    found["trace"] = torch.as_tensor(alidade.hessian_trace(objective, max_matvecs=6).value)
    scalars = alidade.layer_scalars(objective, lr=0.1)
    found["scalars"] = torch.as_tensor(np.array([scalars.norm, scalars.gradient_norm, scalars.update_ratio]))
    surface = alidade.loss_surface(objective, "random", points=3, extent=0.3)
    found["surface"] = torch.as_tensor(surface.losses)
    return found


def shift_measured(model: nn.Module, loss_fn: Any, batch: Any) -> dict[str, Any]:
    """Internal covariate shift over a made-up step."""
    inner = getattr(model, "module", model)
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    after = {name: 0.9 * value if value.is_floating_point() else value for name, value in before.items()}
    shift = alidade.covariate_shift(model, loss_fn, batch, before, after)
    return {
        "layers": shift.layers,
        **{name: torch.as_tensor(getattr(shift, name)) for name in ("l2", "cosine", "relative", "gradient_norm")},
    }
