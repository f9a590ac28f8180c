"""What autograd measures on networks: gradients and Hessian products before and after batch normalization.

Nothing here knows a closed form. y is a leaf, z = batch_norm(y), and all derivatives with respect to y go through
that computation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alidade.theory.networks import Networks
from alidade.theory.normalization import batch_norm


@dataclass(frozen=True, eq=False)
class Probes:
    """Random numbers that some statements need besides a network."""

    vectors: Tensor  # (2, n, m) standard normal
    weights: Tensor  # (n, units, d) standard normal
    fractions: Tensor  # (2, n) uniform in [0, 1)

    @staticmethod
    def draw(networks: Networks, generator: torch.Generator) -> "Probes":
        """Draw them for each network; the global random numbers are not touched."""
        n, m, _ = networks.X.shape
        return Probes(
            torch.randn(2, n, m, dtype=torch.float64, generator=generator),
            torch.randn(networks.W.mT.shape, dtype=torch.float64, generator=generator),
            torch.rand(2, n, dtype=torch.float64, generator=generator),
        )


class Observation:
    """Networks seen at unit 0 of their normalized layer.

    Args:
        networks: The networks.
        probes: Random numbers for the statements that need some.
        differentiable: Keep the graph, so that the observed numbers can be differentiated with respect to the
            networks' tensors.
    """

    def __init__(self, networks: Networks, probes: Probes, differentiable: bool = False) -> None:
        self.networks, self.probes = networks, probes
        self.differentiable = differentiable
        self.gamma, self.beta, self.eps = networks.gamma[:, 0], networks.beta[:, 0], networks.eps
        units = networks.X @ networks.W
        normalized = [
            batch_norm(units[:, :, j], networks.gamma[:, j], networks.beta[:, j]) for j in range(1, units.shape[2])
        ]
        self._others = torch.stack(normalized, dim=2)
        self._y = units[:, :, 0].detach().requires_grad_()
        self._z = batch_norm(self._y, self.gamma, self.beta, self.eps)
        self._u, self._g = torch.autograd.grad(self.loss_at(self._z).sum(), (self._y, self._z), create_graph=True)

    def _out(self, tensor: Tensor) -> Tensor:
        return tensor if self.differentiable else tensor.detach()

    @property
    def y(self) -> Tensor:
        """Input of the layer at the unit, (n, m)."""
        return self._y.detach()

    @property
    def z(self) -> Tensor:
        """Output of the layer at the unit, (n, m)."""
        return self._out(self._z)

    @property
    def g(self) -> Tensor:
        """dL/dz at the unit, (n, m)."""
        return self._out(self._g)

    @property
    def u(self) -> Tensor:
        """dLhat/dy at the unit, (n, m)."""
        return self._out(self._u)

    def loss_at(self, z: Tensor) -> Tensor:
        """The loss as a function of the unit's values after the layer, (n, m) -> (n,)."""
        return self.networks.loss(torch.cat([z[:, :, None], self._others], dim=2))

    def product_z(self, v: Tensor) -> Tensor:
        """Product of d2L/dz2 of the unit with v, (n, m)."""
        return self._product(self._g, self._z, v)

    def product_y(self, v: Tensor) -> Tensor:
        """Product of d2Lhat/dy2 of the unit with v, (n, m), by differentiating through the normalization twice."""
        return self._product(self._u, self._y, v)

    def _product(self, gradient: Tensor, at: Tensor, v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(
            gradient, at, grad_outputs=v, retain_graph=True, create_graph=self.differentiable
        )
        return product

    def hessian_z(self) -> Tensor:
        """d2L/dz2 of the unit, column by column, (n, m, m)."""
        return torch.stack([self.product_z(basis) for basis in self._basis()], dim=2)

    def hessian_y(self) -> Tensor:
        """d2Lhat/dy2 of the unit, column by column, (n, m, m)."""
        return torch.stack([self.product_y(basis) for basis in self._basis()], dim=2)

    def _basis(self) -> list[Tensor]:
        n, m = self._y.shape
        return list(torch.eye(m, dtype=self._y.dtype)[:, None, :].expand(m, n, m))

    def jacobian_row(self, sample: Tensor) -> Tensor:
        """dz_b/dy with b = sample, (n,) -> (n, m)."""
        picked = self._z.gather(1, sample[:, None]).sum()
        (row,) = torch.autograd.grad(picked, self._y, retain_graph=True, create_graph=self.differentiable)
        return row

    def vanilla_gradient(self, at: Tensor) -> Tensor:
        """Gradient of the network without the layer at this unit, at the activations `at`, (n, m)."""
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss_at(at).sum(), at, create_graph=self.differentiable)
        return gradient

    def gradient_through(self, layer_output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients at y and at z of the loss, for another layer z of the leaf y: (dLhat/dy, dL/dz)."""
        u, g = torch.autograd.grad(self.loss_at(layer_output).sum(), (y, layer_output))
        return u, g

    def weight_gradient(self, X: Tensor, w: Tensor, eps: Tensor) -> Tensor:
        """Gradient with respect to the unit's weights w, (n, d), at the layer's input X, (n, m, d)."""
        w = w.detach().requires_grad_()
        z = batch_norm((X @ w[:, :, None])[:, :, 0], self.gamma, self.beta, eps)
        (gradient,) = torch.autograd.grad(self.loss_at(z).sum(), w)
        return gradient
