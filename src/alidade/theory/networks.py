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

from alidade.theory.normalization import batch_norm

INPUTS, UNITS, WIDTH, OUTPUTS = 4, 3, 3, 3

# The tail is scaled so that its gradients keep their digits: a saturated softmax, or a second normalization that
# projects a unit away altogether, would leave rounding where the Hessian should be.
TAIL_EPS = 0.5  # of the second normalization
HIDDEN_SIZE = 2.0  # largest value in the second layer
OUTPUT_DECADES = (-1.0, 0.6)  # largest output, as a power of ten


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

    def activate(self, z: Tensor) -> Tensor:
        """The activation of each network, (n, m, any) -> the same shape."""
        return (torch.stack([z.tanh(), z.relu(), z], dim=-1) * self.activation[:, None, None, :]).sum(dim=-1)

    def hidden(self, z: Tensor) -> Tensor:
        """The second layer before its normalization, (n, m, h) -> (n, m, r)."""
        return self.activate(z) @ self.V

    def output(self, z: Tensor) -> Tensor:
        """What the network computes from the first layer's units after their normalization, (n, m, h) -> (n, m, k)."""
        hidden = self.hidden(z)
        centred = hidden - hidden.mean(dim=1, keepdim=True)
        normalized = centred / (centred.square().mean(dim=1, keepdim=True) + TAIL_EPS).sqrt()
        deep = self.deep[:, None, None]
        return self.activate(deep * normalized + (1 - deep) * hidden) @ self.U

    def loss(self, z: Tensor) -> Tensor:
        """The loss as a function of the first layer's units after their normalization, (n, m, h) -> (n,)."""
        output = self.output(z)
        squared = (output - self.target).square().mean(dim=(1, 2))
        entropy = -output.log_softmax(dim=2).gather(2, self.label[:, :, None]).mean(dim=(1, 2))
        return self.squared * squared + (1 - self.squared) * entropy

    def with_tail_scales(self, hidden: float, output: Tensor) -> "Networks":
        """The same networks with V and U scaled to give the hidden and output values these largest sizes, (n,)."""
        units = self.X @ self.W
        z = torch.stack(
            [batch_norm(units[:, :, j], self.gamma[:, j], self.beta[:, j]) for j in range(units.shape[2])], dim=2
        )
        scaled = replace(self, V=self.V * _ratio(torch.full_like(output, hidden), self.hidden(z)))
        return replace(scaled, U=scaled.U * _ratio(output, scaled.output(z)))


def _ratio(wanted: Tensor, values: Tensor) -> Tensor:
    """Factor that gives `values` the largest size `wanted`, (n, 1, 1); 1 where all values are 0."""
    size = values.abs().amax(dim=(1, 2))
    return (wanted / torch.where(size > 0, size, wanted))[:, None, None]


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
        networks = Networks(
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
        return networks.with_tail_scales(HIDDEN_SIZE, decades(*OUTPUT_DECADES))


DENSE = (4, 8, 16)  # batch sizes whose Hessians are checked as matrices

GENERAL = Family("general")
GENERAL_EPS = Family("general, eps > 0", with_eps=True)
DENSE_GENERAL = Family("dense", sizes=DENSE)
DENSE_EPS = replace(DENSE_GENERAL, name="dense, eps > 0", with_eps=True)
QUADRATIC = Family("quadratic", activations=(2,), deep=False, losses=(1,), gain=lambda x: 10 ** (2 * x - 1))
QUADRATIC_LOW = replace(QUADRATIC, name="quadratic, gamma <= sigma", gain=lambda x: 10 ** (-2 * x**3))
QUADRATIC_3 = replace(QUADRATIC, name="quadratic, gamma = 3 sigma", gain=lambda x: 3 + 0 * x)
CONVEX = replace(
    QUADRATIC, name="convex, gamma <= sigma", sizes=DENSE, gain=lambda x: 1 - x / 2, sigma_decades=(-3.0, 1.0)
)
ENTROPY = Family("cross-entropy", activations=(0, 1, 2), deep=False, losses=(0,), gain=lambda x: 10 ** (x - 0.5))
