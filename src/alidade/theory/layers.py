"""Theorem 4.1 for layers of real networks: by how much a normalization layer lowers the gradient, and by which term."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError
from alidade.theory.bounds import OK, STATUSES, check_batch, check_gamma
from alidade.theory.normalization import Epsilon, coverage, dot, moments, squared_norm

#: Layers with more values than this are summed without float64 copies of them.
LARGE = 1 << 16
#: Least share of a unit's mean square that must be variance for its sums to keep their digits.
WELL_SPREAD = 1e-3
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class LipschitzTerms:
    """Theorem 4.1 taken apart, one number per unit; after = factor (before - mean - alignment).

    Where the status is not "ok" the numbers are 0 and mean nothing: read them through `ok`.
    """

    before: Tensor  # (units,) norm(dL/dz)^2
    after: Tensor  # (units,) norm(dLhat/dy)^2, by the identity
    factor: Tensor  # (units,) gamma^2 / (var + eps)
    mean: Tensor  # (units,) <1, g>^2 / m
    alignment: Tensor  # (units,) (2 - q) <g, yhat>^2 / m
    code: Tensor  # (units,) int64, an index into STATUSES

    @property
    def ok(self) -> Tensor:
        """True where the theorem applies, (units,) bool."""
        return self.code == OK

    @property
    def status(self) -> tuple[str, ...]:
        """One reason per unit; "ok" where the theorem applies."""
        return tuple(STATUSES[code] for code in self.code.tolist())


def theorem_4_1_terms(g: Tensor, y: Tensor, gamma: Tensor, eps: Epsilon) -> LipschitzTerms:
    """The terms of Theorem 4.1 for a batch of units.

        norm(dLhat/dy)^2 = gamma^2 / (var + eps) [ norm(g)^2 - <1, g>^2 / m - (2 - q) <g, yhat>^2 / m ]

    with q = var / (var + eps). Source: Santurkar et al. (2018), Theorem 4.1, corrected and extended to eps > 0
    (`theorem_4_1`). Computed in float64.

    Args:
        g: dL/dz, the gradient at the layer's output, (units, m).
        y: The layer's input, (units, m).
        gamma: Gain, (units,).
        eps: What the layer adds to the variance, one number or (units,).

    Returns:
        Terms of shape (units,), with a status where sigma = 0, m = 1, gamma = 0 or an input is not finite.

    Raises:
        CallError: A shape is wrong.

    Example:
        >>> import torch
        >>> y, g = torch.tensor([[-1.0, 0.0, 1.0], [5.0, 5.0, 5.0]]), torch.tensor([[0.0, 0.0, 2.0], [1.0, 2.0, 3.0]])
        >>> terms = theorem_4_1_terms(g, y, torch.ones(2), 0.0)
        >>> [round(getattr(terms, name)[0].item(), 4) for name in ("before", "after", "factor", "mean", "alignment")]
        [4.0, 1.0, 1.5, 1.3333, 2.0]
        >>> terms.status[1]
        'sigma is 0: the input is constant over the batch (to rounding)'
    """
    g, y, gamma = (given.detach().double() for given in (g, y, gamma))
    check_batch(y, g=g)
    check_gamma(gamma, len(y))
    code = coverage(y, gamma, g)
    at = moments(y, eps)
    factor = (gamma / at.s[:, 0]).square()
    before, mean = squared_norm(g), g.sum(dim=1).square() / at.m
    alignment = (2 - at.fullness) * dot(g, at.yhat).square() / at.m
    after = factor * (before - mean - alignment).clamp(min=0)
    before, after, factor, mean, alignment = (
        torch.where(code == OK, term, 0.0) for term in (before, after, factor, mean, alignment)
    )
    return LipschitzTerms(before, after, factor, mean, alignment, code)


def layer_theorem_4_1_terms(layer: nn.Module, y: Tensor, g: Tensor) -> LipschitzTerms:
    """The terms of Theorem 4.1 for every unit of a batch normalization layer.

    Height, width and depth count as samples of the batch. For a loss that is a mean over the batch, `g` and so all
    gradients are those of that mean.

    Args:
        layer: A BatchNorm1d, BatchNorm2d or BatchNorm3d that normalizes with batch statistics.
        y: What went into the layer, (N, C) or (N, C, ...).
        g: The gradient of the loss at what came out, the same shape.

    Returns:
        Terms of shape (C,).

    Raises:
        CallError: The layer is not one of these, uses running statistics, or the shapes do not fit it.

    Example:
        >>> import torch
        >>> layer, y = torch.nn.BatchNorm2d(2), torch.arange(16.0).reshape(2, 2, 2, 2).requires_grad_()
        >>> z = layer(y)
        >>> u, g = torch.autograd.grad((z**3).sum(), (y, z))
        >>> terms = layer_theorem_4_1_terms(layer, y, g)
        >>> bool(torch.allclose(terms.after.float(), u.square().sum(dim=(0, 2, 3)), rtol=1e-3))
        True
    """
    if not isinstance(layer, BATCH_NORMS):
        raise CallError(
            f"layer: expected a BatchNorm1d, BatchNorm2d or BatchNorm3d; got {type(layer).__name__}. "
            "Theorem 4.1 is about batch normalization: name one of these layers."
        )
    if not layer.training and layer.running_mean is not None:
        raise CallError(
            "layer: expected batch statistics; got a layer in eval mode, which normalizes with running statistics. "
            "Put it in train mode."
        )
    if y.shape != g.shape or y.ndim < 2 or y.shape[1] != layer.num_features:
        raise CallError(
            f"y, g: expected two tensors of shape (N, {layer.num_features}, ...); got {tuple(y.shape)} and "
            f"{tuple(g.shape)}. Pass the layer's input and the gradient at its output."
        )
    gamma = torch.ones(layer.num_features, device=y.device) if layer.weight is None else layer.weight
    quick = _from_sums(y.detach(), g.detach(), gamma.detach().double(), layer.eps) if y.numel() > LARGE else None
    if quick is not None:
        return quick
    return theorem_4_1_terms(g.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1), gamma, layer.eps)


def _from_sums(y: Tensor, g: Tensor, gamma: Tensor, eps: float) -> LipschitzTerms | None:
    """The same from five sums per example in the tensors' own precision, added up in float64: no copies.

    None where that could lose digits or a unit is not covered: where a variance is small beside the squared mean,
    gamma is 0, or something is not finite.
    """
    y, g = (tensor.reshape(*tensor.shape[:2], -1) for tensor in (y, g))
    m = y.shape[0] * y.shape[2]
    sum_y, sum_g = (tensor.sum(dim=2).double().sum(dim=0) for tensor in (y, g))
    mean, square = sum_y / m, _dots(y, y) / m
    variance = square - mean.square()
    before, along = _dots(g, g), _dots(g, y) - mean * sum_g
    covered = (variance > WELL_SPREAD * square) & torch.isfinite(before) & torch.isfinite(gamma) & (gamma != 0)
    if m == 1 or not bool(covered.all()):
        return None
    factor = gamma.square() / (variance + eps)
    mean_term = sum_g.square() / m
    alignment = (2 - variance / (variance + eps)) * along.square() / (variance + eps) / m
    after = factor * (before - mean_term - alignment).clamp(min=0)
    return LipschitzTerms(before, after, factor, mean_term, alignment, torch.full_like(before, OK, dtype=torch.int64))


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Inner products per unit of (N, C, positions): each example's in its own precision, their sum in float64."""
    n, c, positions = left.shape
    if positions < 16:
        return (left * right).sum(dim=2).double().sum(dim=0)
    products = torch.bmm(left.reshape(n * c, 1, positions), right.reshape(n * c, positions, 1))
    return products.double().view(n, c).sum(dim=0)
