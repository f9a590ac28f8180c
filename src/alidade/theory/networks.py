"""Random networks, many at once: the instances on which the statements are checked.

Each network is  X -> W -> batch normalization -> activation -> V -> (batch normalization) -> activation -> U -> loss.
Letters in comments: n networks, m samples, d inputs, h units, r rows of the second layer, k outputs. A statement
looks at unit 0 of the first layer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

INPUTS, UNITS, WIDTH, OUTPUTS = 4, 3, 3, 3
TAIL_EPS = 1e-5  # of the second normalization, the usual choice


@dataclass(frozen=True, eq=False)
class Networks:
    """n networks of one batch size; one-hot columns mix kinds of networks in one batch of tensors."""

    X: Tensor  # (n, m, d)
    W: Tensor  # (n, d, h)
    gamma: Tensor  # (n, h)
    beta: Tensor  # (n, h)
    eps: Tensor  # (n,)
    V: Tensor  # (n, h, r)
    U: Tensor  # (n, r, k)
    activation: Tensor  # (n, 3) one-hot: tanh, ReLU, identity
    deep: Tensor  # (n,) 1 where the tail normalizes again, so that H couples the samples, else 0
    squared: Tensor  # (n,) 1 for the mean squared error, 0 for softmax cross-entropy
    target: Tensor  # (n, m, k)
    label: Tensor  # (n, m) int64

    @property
    def size(self) -> int:
        """Number of networks."""
        return len(self.X)

    def select(self, rows: Tensor) -> "Networks":
        """The networks in `rows`, a mask or indices."""
        return Networks(**{name: tensor[rows] for name, tensor in vars(self).items()})

    def activate(self, z: Tensor) -> Tensor:
        """The activation of each network, (n, m, any) -> the same shape."""
        tanh, relu, identity = (column[:, None, None] for column in self.activation.T)
        return tanh * z.tanh() + relu * z.relu() + identity * z

    def loss(self, z: Tensor) -> Tensor:
        """The loss as a function of the first layer's normalized units, (n, m, h) -> (n,)."""
        hidden = self.activate(z) @ self.V
        centred = hidden - hidden.mean(dim=1, keepdim=True)
        normalized = centred / (centred.square().mean(dim=1, keepdim=True) + TAIL_EPS).sqrt()
        deep = self.deep[:, None, None]
        output = self.activate(deep * normalized + (1 - deep) * hidden) @ self.U
        squared = (output - self.target).square().mean(dim=(1, 2))
        entropy = -output.log_softmax(dim=2).gather(2, self.label[:, :, None]).mean(dim=(1, 2))
        return self.squared * squared + (1 - self.squared) * entropy


def join(parts: list[Networks]) -> Networks:
    """Networks of one batch size, one after the other."""
    return Networks(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


@dataclass(frozen=True)
class Family:
    """A way to draw networks: which tails, and how gamma, beta and eps lie to sigma."""

    name: str
    sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)  # batch sizes m
    activations: tuple[int, ...] = (0, 1, 2)  # columns of Networks.activation
    deep: bool = True  # whether half of the networks normalize twice
    losses: tuple[int, ...] = (0, 1)  # values of Networks.squared
    gain: Callable[[Tensor], Tensor] | None = None  # uniform numbers (n, h) -> gamma / sigma; None = gamma over decades
    with_eps: bool = False  # eps from 1e-3 to 10 variances, else 0
    sigma_decades: tuple[float, float] = (-2.0, 2.0)

    def draw(self, count: int, m: int, generator: torch.Generator) -> Networks:
        """Draw `count` networks of batch size `m`; the global random numbers are not touched."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, dtype=torch.float64, generator=generator)

        def decades(low: float, high: float, *shape: int) -> Tensor:
            return 10 ** (low + (high - low) * uniform(*shape))

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, dtype=torch.float64, generator=generator)

        def choose(values: tuple[int, ...]) -> Tensor:
            return torch.tensor(values)[torch.randint(len(values), (count,), generator=generator)]

        X = normal(m, INPUTS) + normal(1, INPUTS)
        W = normal(INPUTS, UNITS) * decades(*self.sigma_decades, 1, 1)
        sigma = (X @ W).std(dim=1, correction=0)
        ratio = uniform(UNITS)
        gamma = 10 ** (4 * ratio - 2) if self.gain is None else self.gain(ratio) * sigma
        shift = decades(-2, 0.5, UNITS) * (2 * torch.randint(2, (count, UNITS), generator=generator) - 1)
        return Networks(
            X=X,
            W=W,
            gamma=gamma,
            beta=gamma * shift,
            eps=sigma[:, 0].square() * decades(-3, 1) if self.with_eps else torch.zeros(count, dtype=torch.float64),
            V=normal(UNITS, WIDTH) / math.sqrt(UNITS),
            U=normal(WIDTH, OUTPUTS) / math.sqrt(WIDTH),
            activation=torch.nn.functional.one_hot(choose(self.activations), 3).double(),
            deep=choose((0, 1) if self.deep else (0,)).double(),
            squared=choose(self.losses).double(),
            target=normal(m, OUTPUTS),
            label=torch.randint(OUTPUTS, (count, m), generator=generator),
        )


DENSE = (4, 8, 16)  # batch sizes whose Hessians are checked as matrices

GENERAL = Family("general")
GENERAL_EPS = Family("general, eps > 0", with_eps=True)
DENSE_GENERAL = Family("dense", sizes=DENSE)
DENSE_EPS = replace(DENSE_GENERAL, name="dense, eps > 0", with_eps=True)
QUADRATIC = Family("quadratic", activations=(2,), deep=False, losses=(1,), gain=lambda x: 10 ** (2 * x - 1))
QUADRATIC_LOW = replace(QUADRATIC, name="quadratic, gamma <= sigma", gain=lambda x: 10 ** (-2 * x))
QUADRATIC_3 = replace(QUADRATIC, name="quadratic, gamma = 3 sigma", gain=lambda x: 3 + 0 * x)
CONVEX = replace(QUADRATIC_LOW, name="convex, gamma <= sigma", sizes=DENSE)
ENTROPY = Family("cross-entropy", activations=(0, 1, 2), deep=False, losses=(0,), gain=lambda x: 10 ** (x - 0.5))
