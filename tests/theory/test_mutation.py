"""No check passes vacuously: change any one coefficient of any formula that holds by 1 %, and its row fails."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from alidade.theory import bounds
from alidade.theory.adversary import drive
from alidade.theory.observation import Observation, Probes
from alidade.theory.rows import ROWS, Row

from .test_verdicts import FAILING

# The right side is 0, so there is no coefficient; `test_orthogonality_fails_once_eps_breaks_it` stands in.
WITHOUT_TERMS = {"Scale invariance, <w, grad> = 0"}
HOLDING = [row for row in ROWS if (row.statement, row.form) not in FAILING and row.statement not in WITHOUT_TERMS]
weighted_sum = bounds.weighted_sum


def observe(row: Row) -> Observation:
    """Networks that the statement covers; for a bound, driven to where it is tight."""
    generator = torch.Generator().manual_seed(11)
    networks = row.family.draw(96, row.family.sizes[0], generator)
    probes = Probes.draw(networks, generator)
    if row.adversarial and row.evidence(Observation(networks, probes)).kind == "bound":
        for _ in range(5):
            networks = drive(networks, probes, row.evidence)
    return Observation(networks, probes)


def violations_when(monkeypatch: pytest.MonkeyPatch, row: Row, observation: Observation, name: str, by: float) -> int:
    def mutated(terms: Mapping[str, Tensor]) -> Tensor:
        return weighted_sum({key: term * (by if key == name else 1.0) for key, term in terms.items()})

    monkeypatch.setattr(bounds, "weighted_sum", mutated)
    return int(row.evidence(observation).violated.sum())


def term_names(monkeypatch: pytest.MonkeyPatch, row: Row, observation: Observation) -> list[str]:
    names: list[str] = []

    def recording(terms: Mapping[str, Tensor]) -> Tensor:
        names.extend(name for name in terms if name not in names)
        return weighted_sum(terms)

    monkeypatch.setattr(bounds, "weighted_sum", recording)
    row.evidence(observation)
    return names


@pytest.mark.parametrize("row", HOLDING, ids=lambda row: f"{row.statement} [{row.form}]")
def test_one_percent_on_any_coefficient_is_noticed(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    observation = observe(row)
    names = term_names(monkeypatch, row, observation)
    assert names
    for name in names:
        assert violations_when(monkeypatch, row, observation, name, by=1.0) == 0
        for by in (0.99, 1.01):
            broken = violations_when(monkeypatch, row, observation, name, by)
            if row.evidence(observation).kind == "identity":
                assert broken > 48, (name, by, broken)
        # A bound is broken by whichever change lowers its right side.
        assert max(violations_when(monkeypatch, row, observation, name, by) for by in (0.99, 1.01)) > 0, name


def test_orthogonality_fails_once_eps_breaks_it() -> None:
    from alidade.theory.evidence import orthogonal
    from alidade.theory.networks import GENERAL_EPS

    generator = torch.Generator().manual_seed(5)
    networks = GENERAL_EPS.draw(96, 4, generator)
    observation = Observation(networks, Probes.draw(networks, generator))
    assert orthogonal("printed v3")(observation).violated.float().mean() > 0.9
    assert not orthogonal("corrected")(observation).violated.any()


def test_the_adversary_makes_a_false_statement_worse() -> None:
    row = next(row for row in ROWS if row.statement == "Theorem 4.2, second form" and row.form == "printed v3")
    generator = torch.Generator().manual_seed(2)
    networks = row.family.draw(64, 8, generator)
    probes = Probes.draw(networks, generator)
    before = row.evidence(Observation(networks, probes)).relative_slack
    after = row.evidence(Observation(drive(networks, probes, row.evidence), probes)).relative_slack
    assert after.mean() < before.mean()
