"""Batch normalization itself, from plain differentiable operations, and what its theorems need of a batch.

A batch of units is `y` of shape (instances, m): row i holds the m pre-activations of one unit. Everything here is
per row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alidade.core.errors import CallError
from alidade.theory.bounds import (
    GAMMA_ZERO,
    NOT_FINITE,
    OK,
    ONE_SAMPLE,
    SIGMA_ZERO,
    check_batch,
    check_gamma,
)

Epsilon = float | Tensor  # one number, or (instances,)


@dataclass(frozen=True, eq=False)
class Moments:
    """What batch normalization computes of one batch; s = sqrt(var + eps) with the biased variance."""

    m: int  # batch size
    mean: Tensor  # (instances, 1)
    s: Tensor  # (instances, 1) sqrt(var + eps); sigma where eps = 0
    yhat: Tensor  # (instances, m) (y - mean) / s
    fullness: Tensor  # (instances,) q = norm(yhat)^2 / m; 1 where eps = 0, less where eps > 0


def moments(y: Tensor, eps: Epsilon = 0.0) -> Moments:
    """Mean, spread and normalized values of each row.

    A row without any spread gets s = 1, so that no division fails; `coverage` marks it.

    Args:
        y: (instances, m).
        eps: What is added to the variance, one number or (instances,).

    Returns:
        Moments of each row.

    Example:
        >>> import torch
        >>> at = moments(torch.tensor([[1.0, 5.0, 1.0, 5.0]]), eps=12.0)
        >>> at.mean.item(), at.s.item(), at.yhat.tolist(), at.fullness.item()
        (3.0, 4.0, [[-0.5, 0.5, -0.5, 0.5]], 0.25)
    """
    mean = y.mean(dim=1, keepdim=True)
    variance = (y - mean).square().mean(dim=1, keepdim=True) + as_column(eps, y)
    s = torch.where(variance > 0, variance, 1.0).sqrt()
    yhat = (y - mean) / s
    return Moments(y.shape[1], mean, s, yhat, yhat.square().mean(dim=1))


def batch_norm(y: Tensor, gamma: Tensor, beta: Tensor, eps: Epsilon = 0.0) -> Tensor:
    """Batch normalization of each row over its m samples, z = gamma (y - mean) / sqrt(var + eps) + beta.

    This is the computation that the left-hand sides of the checks are differentiated through. Source: Ioffe and
    Szegedy (2015), Algorithm 1; Santurkar et al. (2018), section 4.1, takes eps = 0.

    Args:
        y: (instances, m).
        gamma: Gain, (instances,).
        beta: Shift, (instances,).
        eps: What is added to the variance, one number or (instances,).

    Returns:
        z, (instances, m).

    Raises:
        CallError: A shape is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[1.0, 2.0, 6.0, 7.0]], dtype=torch.float64)
        >>> batch_norm(y, torch.tensor([2.0]), torch.tensor([1.0]))
        tensor([[-1.3534, -0.5689,  2.5689,  3.3534]], dtype=torch.float64)
    """
    check_batch(y)
    check_gamma(gamma, len(y))
    return gamma[:, None] * moments(y, eps).yhat + beta[:, None]


def lp_scale(y: Tensor, p: float) -> Tensor:
    """The scale that lp normalization divides by, of the values before their mean is taken off, (instances, 1).

    s_1 = mean abs(y), s_2 = sqrt(mean y^2), s_inf = max abs(y). The paper (Santurkar et al. 2018, section 3.3) says
    "average of their lp-norm" and gives no formula; this is the reading that its Figure 6 supports.

    Args:
        y: (instances, m).
        p: 1, 2 or inf.

    Returns:
        (instances, 1).

    Raises:
        CallError: p is another number.

    Example:
        >>> import torch
        >>> [lp_scale(torch.tensor([[1.0, -7.0]]), p).item() for p in (1, 2, float("inf"))]
        [4.0, 5.0, 7.0]
    """
    if p == 1:
        return y.abs().mean(dim=1, keepdim=True)
    if p == 2:
        return y.square().mean(dim=1, keepdim=True).sqrt()
    if p == float("inf"):
        return y.abs().amax(dim=1, keepdim=True)
    raise CallError(f"p: expected 1, 2 or inf; got {p!r}. Other lp norms are not defined here.")


def lp_norm(y: Tensor, gamma: Tensor, beta: Tensor, p: float) -> Tensor:
    """Lp normalization of each row, z = gamma (y - mean) / s_p + beta, (instances, m).

    Args:
        y: (instances, m).
        gamma: Gain, (instances,).
        beta: Shift, (instances,).
        p: 1, 2 or inf.

    Returns:
        z, (instances, m).

    Raises:
        CallError: A shape is wrong, or p is another number.

    Example:
        >>> import torch
        >>> y, one = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> lp_norm(y, one, 0 * one, float("inf"))
        tensor([[-0.3333, -0.1667,  0.5000]], dtype=torch.float64)
    """
    check_batch(y)
    check_gamma(gamma, len(y))
    return gamma[:, None] * (y - y.mean(dim=1, keepdim=True)) / lp_scale(y, p) + beta[:, None]


def project(v: Tensor, at: Moments) -> Tensor:
    """Apply Q = I - 11'/m - yhat yhat'/m to each row; at eps = 0 it is the orthogonal projector P.

    Args:
        v: (instances, m).
        at: Moments of the batch.

    Returns:
        Q v, (instances, m).

    Example:
        >>> import torch
        >>> y, v = torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 6.0]])
        >>> project(v, moments(y)).round(decimals=3)
        tensor([[ 1., -2.,  1.]])
    """
    return v - v.mean(dim=1, keepdim=True) - at.yhat * dot(v, at.yhat)[:, None] / at.m


def coverage(y: Tensor, gamma: Tensor, *others: Tensor) -> Tensor:
    """Which instances the statements about batch normalization cover, as indices into STATUSES, (instances,).

    A row counts as constant when it spreads by no more than the rounding of its own values.
    """
    spread = y.amax(dim=1) - y.amin(dim=1)
    constant = spread <= 8 * torch.finfo(y.dtype).eps * y.abs().amax(dim=1)
    code = torch.full((len(y),), OK, device=y.device)
    code = torch.where(gamma == 0, GAMMA_ZERO, code)
    code = torch.where(constant, SIGMA_ZERO, code)
    if y.shape[1] == 1:
        code = torch.full_like(code, ONE_SAMPLE)
    finite = torch.isfinite(gamma)
    for rows in (y, *others):
        finite = finite & torch.isfinite(rows).reshape(len(y), -1).all(dim=1)
    return torch.where(finite, code, NOT_FINITE)


def as_column(value: Epsilon, like: Tensor) -> Tensor:
    """Turn one number or (instances,) into a column, (1, 1) or (instances, 1).

    Raises:
        CallError: The value is negative or of another shape.
    """
    column = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1)
    if len(column) not in (1, len(like)) or bool((column < 0).any()):
        raise CallError(
            f"eps: expected one number >= 0, or {len(like)} of them; got {len(column)} with smallest "
            f"{column.min().item()}. Pass the layer's eps."
        )
    return column


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row, (instances,)."""
    return (a * b).sum(dim=1)


def squared_norm(a: Tensor) -> Tensor:
    """Squared Euclidean norm of each row, (instances,)."""
    return a.square().sum(dim=1)
