"""All statements on thousands of networks: one row of the table each, with its verdict."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch

from alidade.core.errors import CallError, WorkError
from alidade.theory.adversary import drive
from alidade.theory.bounds import Bound, Form, Kind
from alidade.theory.networks import Family, Networks
from alidade.theory.observation import Observation, Probes
from alidade.theory.rows import ROWS, Row

CHUNK = 32_768  # samples in flight at once: small enough to stay in the processor's cache
ADVERSARIAL_SHARE = 4  # every fourth network of a small batch is driven towards a violation
ADVERSARIAL_SIZE = 16  # the largest such batch
PATIENCE = 1_000  # draws before giving up on finding networks that a statement covers

Prepare = Callable[[Networks, Probes], Networks]


@dataclass(frozen=True, eq=False)
class StatementCheck:
    """One row of the table. Errors and slacks are relative to the sum of absolute terms of the statement."""

    statement: str
    form: Form
    kind: Kind
    instances: int
    violations: int  # instances broken by more than bounds.TOLERANCE
    max_relative_error: float | None  # identities: largest abs(lhs - rhs) / scale; None for bounds
    min_slack: float | None  # bounds: smallest (rhs - lhs) / scale; None for identities
    verdict: Literal["holds", "fails"]
    hypotheses: str
    ratio: np.ndarray = field(repr=False)  # lhs / rhs, float64, of the instances where that is a finite number

    def to_json(self) -> dict[str, str | int | float | None]:
        """The row without its distribution, ready for `json.dumps`; a number that does not apply is None."""
        return {name: value for name, value in vars(self).items() if name != "ratio"}


def check_all(instances: int, seed: int, progress: Callable[[int, int], None] | None = None) -> list[StatementCheck]:
    """Check every statement in every form on random and adversarial networks.

    Networks have batch sizes from 4 to 512 (4 to 16 where the Hessian is compared entry by entry), tanh, ReLU or
    linear tails with or without a second normalization, softmax cross-entropy or mean squared error, and gamma,
    beta, sigma over decades. One in four of the networks with m <= 16 is driven towards a violation by gradient
    ascent. Networks that a statement of their family does not cover are drawn again.

    Args:
        instances: Networks per statement, at least 1; failing statements are sure to show from about 50.
        seed: Of all random numbers; the same seed gives the same table. The global random numbers are not touched.
        progress: Called as progress(done, total) along the way.

    Returns:
        One StatementCheck per statement and form, in the order of the paper.

    Raises:
        CallError: `instances` is below 1 or `seed` below 0.
        WorkError: A statement covers hardly any of its networks.

    Example:
        >>> checks = check_all(instances=8, seed=7)
        >>> [(check.form, check.verdict) for check in checks if check.statement == "Theorem 4.1"]
        [('printed v3', 'fails'), ('printed v5', 'holds'), ('corrected', 'holds')]
    """
    if instances < 1 or seed < 0:
        raise CallError(f"expected instances >= 1 and seed >= 0; got {instances} and {seed}. Pass both in range.")
    families = list(dict.fromkeys(row.family for row in ROWS))
    groups = [
        (place, family, m, count)
        for place, family in enumerate(families)
        for m, count in zip(family.sizes, _shares(instances, len(family.sizes)), strict=True)
    ]
    seen: dict[Row, list[Bound]] = {row: [] for row in ROWS}
    for done, (place, family, m, count) in enumerate(groups):
        generator = torch.Generator().manual_seed(_derived_seed(seed, place, m))
        for row, bound in _check_group(family, m, count, generator):
            seen[row].append(bound)
        if progress is not None:
            progress(done + 1, len(groups))
    return [_summarize(row, bounds) for row, bounds in seen.items()]


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _derived_seed(*path: int) -> int:
    return int(np.random.SeedSequence(path).generate_state(1)[0])


def _check_group(family: Family, m: int, count: int, generator: torch.Generator) -> Iterator[tuple[Row, Bound]]:
    """Every statement of a family on `count` networks of one batch size."""
    rows = [row for row in ROWS if row.family is family]
    driven = count // ADVERSARIAL_SHARE if m <= ADVERSARIAL_SIZE else 0
    yield from _collect(rows, m, count - driven, generator)
    still = [row for row in rows if not row.adversarial]
    yield from _collect(still, m, driven, generator)
    for row in rows:
        if row.adversarial:
            yield from _collect([row], m, driven, generator, partial(drive, evidence=row.evidence))


def _collect(
    rows: list[Row], m: int, count: int, generator: torch.Generator, prepare: Prepare | None = None
) -> Iterator[tuple[Row, Bound]]:
    """Draw until `count` networks are covered by all of the rows, and evaluate the rows on them."""
    for _ in range(PATIENCE + count):
        if count == 0 or not rows:
            return
        networks = rows[0].family.draw(min(count, max(1, CHUNK // m)), m, generator)
        probes = Probes.draw(networks, generator)
        if prepare is not None:
            networks = prepare(networks, probes)
        observation = Observation(networks, probes)
        bounds = [row.evidence(observation) for row in rows]
        covered = torch.stack([bound.ok for bound in bounds]).all(dim=0)
        count -= int(covered.sum())
        yield from ((row, _select(bound, covered)) for row, bound in zip(rows, bounds, strict=True))
    raise WorkError(
        f"{rows[0].statement}: expected networks of batch size {m} that it covers; {PATIENCE} draws gave too few. "
        "Report this with the seed."
    )


def _select(bound: Bound, rows: torch.Tensor) -> Bound:
    lhs, rhs, scale, code = (side.detach()[rows] for side in (bound.lhs, bound.rhs, bound.scale, bound.code))
    return Bound(lhs, rhs, scale, code, bound.kind)


def _summarize(row: Row, bounds: list[Bound]) -> StatementCheck:
    kind = bounds[0].kind
    slack = torch.cat([bound.relative_slack for bound in bounds])
    violations = sum(int(bound.violated.sum()) for bound in bounds)
    lhs, rhs = (torch.cat([getattr(bound, side) for bound in bounds]).numpy() for side in ("lhs", "rhs"))
    with np.errstate(all="ignore"):
        ratio = lhs / rhs
    return StatementCheck(
        statement=row.statement,
        form=row.form,
        kind=kind,
        instances=len(slack),
        violations=violations,
        max_relative_error=slack.abs().max().item() if kind == "identity" else None,
        min_slack=slack.min().item() if kind == "bound" else None,
        verdict="fails" if violations else "holds",
        hypotheses=row.hypotheses,
        ratio=ratio[np.isfinite(ratio)],
    )


def to_json(checks: list[StatementCheck]) -> str:
    """The table as one JSON list, without distributions."""
    return json.dumps([check.to_json() for check in checks], indent=1, allow_nan=False)
