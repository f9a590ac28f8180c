"""What a checked statement is: its two sides, the scale of its terms, and where it applies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from alidade.core.errors import CallError

Form = Literal["printed v3", "printed v5", "corrected"]
Kind = Literal["identity", "bound"]

TOLERANCE = 1e-9
"""An identity is violated above, a bound below minus, this fraction of the sum of absolute terms."""

STATUSES = (
    "ok",
    "gamma is 0: the layer's output does not depend on its input",
    "sigma is 0: the input is constant over the batch (to rounding)",
    "m is 1: one value has no spread",
    "not finite: an input is inf or NaN",
    "a hypothesis does not hold for this instance",
    "every term is 0: nothing to compare",
)
OK, GAMMA_ZERO, SIGMA_ZERO, ONE_SAMPLE, NOT_FINITE, NOT_COVERED, NOTHING = range(len(STATUSES))


@dataclass(frozen=True, eq=False)
class Bound:
    """The two sides of a statement for a batch of instances; unpacks as `lhs, rhs, slack`.

    Where the status is not "ok" the numbers are 0 and mean nothing: read them through `ok`.
    """

    lhs: Tensor  # (instances,) the measured side
    rhs: Tensor  # (instances,) the side that the statement predicts
    scale: Tensor  # (instances,) sum of the absolute values of the terms, for a bound those of both sides
    code: Tensor  # (instances,) int64, an index into STATUSES
    kind: Kind  # identity: lhs = rhs; bound: lhs <= rhs

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.lhs, self.rhs, self.slack))

    @property
    def slack(self) -> Tensor:
        """Right side minus left side, (instances,)."""
        return self.rhs - self.lhs

    @property
    def ok(self) -> Tensor:
        """True where the statement applies, (instances,) bool."""
        return self.code == OK

    @property
    def status(self) -> tuple[str, ...]:
        """One reason per instance; "ok" where the statement applies."""
        return tuple(STATUSES[code] for code in self.code.tolist())

    @property
    def relative_slack(self) -> Tensor:
        """Slack over the sum of absolute terms, (instances,); 0 where not ok."""
        return self.slack / torch.where(self.ok, self.scale, 1.0)

    @property
    def violated(self) -> Tensor:
        """True where the statement applies and is broken by more than TOLERANCE, (instances,) bool."""
        error = self.relative_slack.abs() if self.kind == "identity" else -self.relative_slack
        return self.ok & (error > TOLERANCE)


def weighted_sum(terms: Mapping[str, Tensor]) -> Tensor:
    """Add the named terms of a formula; the one place where a test can change a coefficient."""
    return torch.stack(torch.broadcast_tensors(*terms.values())).sum(dim=0)


def assemble(lhs: Tensor, terms: Mapping[str, Tensor], code: Tensor, kind: Kind, scale: Tensor | None = None) -> Bound:
    """Compare a measured side with the sum of named terms.

    Sides of shape (instances, ...) are compared entry by entry and the entry with the largest relative error
    stands for the instance.

    Args:
        lhs: The measured side, (instances, ...).
        terms: The terms of the predicted side, each broadcastable to the shape of `lhs`.
        code: Which instances the statement covers, (instances,), indices into STATUSES.
        kind: "identity" or "bound".
        scale: Sum of absolute terms of the right side, where the terms are themselves sums that cancel; None = the
            sum of abs(term).

    Returns:
        A Bound with sides of shape (instances,).
    """
    rhs = weighted_sum(terms)
    if scale is None:
        scale = weighted_sum({name: term.abs() for name, term in terms.items()})
    if kind == "bound":
        scale = scale + lhs.abs()
    lhs, rhs, scale = (_flat(side) for side in torch.broadcast_tensors(lhs, rhs, scale))
    worst = ((lhs - rhs).abs() / torch.where(scale > 0, scale, 1.0)).nan_to_num().argmax(dim=1, keepdim=True)
    lhs, rhs, scale = (side.gather(1, worst)[:, 0] for side in (lhs, rhs, scale))
    finite = torch.isfinite(lhs) & torch.isfinite(rhs) & torch.isfinite(scale)
    code = torch.where((code == OK) & ~finite, NOT_FINITE, code)
    code = torch.where((code == OK) & (scale == 0), NOTHING, code)
    zero = torch.zeros_like(lhs)
    lhs, rhs, scale = (torch.where(code == OK, side, zero) for side in (lhs, rhs, scale))
    return Bound(lhs, rhs, scale, code, kind)


def _flat(side: Tensor) -> Tensor:
    return side.reshape(len(side), -1)


def check_form(form: str, *allowed: Form) -> None:
    """Refuse a form that the statement does not have.

    Raises:
        CallError: `form` is not one of `allowed`.
    """
    known = allowed or get_args(Form)
    if form not in known:
        raise CallError(f"form: expected one of {', '.join(known)}; got {form!r}. Pass one of these.")


def check_batch(y: Tensor, **others: Tensor) -> None:
    """Refuse inputs that are not batches of vectors of one shape.

    Raises:
        CallError: `y` is not (instances, m) of floating point, or another vector differs from it in shape.
    """
    if y.ndim != 2 or not y.is_floating_point() or 0 in y.shape:
        raise CallError(
            f"y: expected a floating-point tensor of shape (instances, m); got {tuple(y.shape)} of {y.dtype}. "
            "Reshape it to one row per unit."
        )
    for name, other in others.items():
        if other.shape != y.shape:
            raise CallError(
                f"{name}: expected shape {tuple(y.shape)} like y; got {tuple(other.shape)}. Pass one row per unit."
            )


def check_gamma(gamma: Tensor, instances: int) -> None:
    """Refuse a gain that is not one number per instance.

    Raises:
        CallError: `gamma` is not of shape (instances,).
    """
    if gamma.shape != (instances,):
        raise CallError(
            f"gamma: expected shape ({instances},), one per instance; got {tuple(gamma.shape)}. "
            "Expand it to one number per unit."
        )
