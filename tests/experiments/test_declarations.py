"""Experiments are data: what they plan is fixed, and fixed before any run."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from math import isfinite

import pytest

from alidade.core.errors import CallError
from alidade.core.probes import EvaluationProbe, LineProfileProbe, PlannedRun
from alidade.experiments import DEMO, EXPERIMENTS, experiments_named
from alidade.experiments.experiment import FIRST_SEED, Settings
from alidade.sweeps.plan import union

DIGITS = Settings(data="digits")
PAPER = Settings(scale="paper")
CLAIMS = [claim for experiment in EXPERIMENTS.values() for claim in experiment.claims]


def _plan(experiments: tuple[object, ...], settings: Settings) -> list[PlannedRun]:
    return union(run for experiment in experiments for run in experiment.runs(settings))  # type: ignore[attr-defined]


def test_declarations_need_no_torch() -> None:
    program = (
        "import sys; from alidade.experiments import EXPERIMENTS; from alidade.experiments.experiment import Settings;"
        "[e.runs(Settings()) for e in EXPERIMENTS.values()]; print(*{'torch', 'altair', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_the_demo_is_fifteen_runs() -> None:
    runs = _plan(DEMO, DIGITS)
    counts = Counter((run.spec.model.norm, run.spec.optimizer.learning_rate) for run in runs)
    assert counts == {("none", 0.1): 5, ("batch", 0.1): 5, ("noisy", 0.1): 5}
    assert {run.spec.seed for run in runs} == {100, 101, 102, 103, 104}
    assert {(run.spec.data.name, run.spec.model.init, run.spec.model.width) for run in runs} == {
        ("digits", "he", 0.125)
    }
    for run in runs:
        lines = {p.coordinates: p.step_sizes for p in run.probes if isinstance(p, LineProfileProbe)}
        assert {name: [round(size, 12) for size in sizes] for name, sizes in lines.items()} == {
            "raw": [0.001, 0.01, 0.05, 0.1, 0.2, 0.4],
            "relative": [0.01, 0.03, 0.1, 0.3],
        }
        assert any(isinstance(probe, EvaluationProbe) for probe in run.probes)


def test_the_papers_setting_is_the_papers() -> None:
    for run in _plan(experiments_named("all"), PAPER):
        spec = run.spec
        assert (spec.model.conv_layers, spec.model.width, spec.model.init) == (13, 1.0, "glorot")
        assert (spec.batch_size, spec.steps, spec.data.name, spec.data.train_examples) == (128, 15_000, "cifar10", None)
        for probe in run.probes:
            if isinstance(probe, LineProfileProbe):
                due = [step for step in range(spec.steps + 1) if probe.schedule.due(step)]
                assert due == list(range(0, 15_001, 100))
                assert len(due) == 151
    rates = {run.spec.optimizer.learning_rate for run in _plan(experiments_named("landscape"), PAPER)}
    assert rates == {0.1}


@pytest.mark.parametrize("settings", [DIGITS, Settings(), PAPER], ids=["digits", "cifar10", "paper"])
def test_all_is_the_union_with_each_training_once(settings: Settings) -> None:
    alone = [run for name in EXPERIMENTS for run in _plan(experiments_named(name), settings)]
    together = _plan(experiments_named("all"), settings)
    ids = [run.spec.run_id for run in together]
    assert len(ids) == len(set(ids)) < len(alone)
    wanted = {(run.spec.run_id, probe.probe_id) for run in alone for probe in run.probes}
    assert {(run.spec.run_id, probe.probe_id) for run in together for probe in run.probes} == wanted
    assert sum(len(run.probes) for run in together) == len(wanted)


@pytest.mark.parametrize("name", [*EXPERIMENTS, "all"])
def test_seeds_start_where_no_setting_was_chosen(name: str) -> None:
    assert FIRST_SEED == 100
    for count in (1, 3):
        seeds = Counter(run.spec.seed for run in _plan(experiments_named(name), Settings(seeds=count)))
        assert set(seeds) == set(range(100, 100 + count))
        assert len(set(seeds.values())) == 1  # pairs are whole


def test_choices_of_the_user_reach_every_run() -> None:
    runs = _plan(experiments_named("all"), Settings(init="glorot", l2=0.01, fingerprint="abc"))
    assert {(run.spec.model.init, run.spec.l2, run.spec.data.fingerprint) for run in runs} == {("glorot", 0.01, "abc")}
    he = {run.spec.run_id for run in _plan(experiments_named("all"), Settings())}
    assert he.isdisjoint(run.spec.run_id for run in _plan(experiments_named("all"), Settings(init="glorot")))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_says_what_it_tests(claim: object) -> None:
    words = [getattr(claim, part) for part in ("paper", "hypothesis", "statistic")]
    assert all(len(text) > 20 and text == text.strip() for text in words)
    assert claim.paper.startswith("Fig.")  # type: ignore[attr-defined]
    assert isfinite(claim.threshold)  # type: ignore[attr-defined]
    assert claim.threshold > 0 or claim.scale == "linear"  # type: ignore[attr-defined]
    assert claim.experiment in EXPERIMENTS  # type: ignore[attr-defined]


def test_claim_ids_are_those_promised_and_differ() -> None:
    ids = [claim.id for claim in CLAIMS]
    assert len(ids) == len(set(ids))
    promised = {"faster_training", "larger_learning_rates", "noisy_norm_trains"}
    for name in ("loss_band", "gradient_band", "effective_smoothness"):
        promised |= {name, f"{name}_equal_loss", f"{name}_scale_free", f"{name}_scale_free_equal_loss"}
    assert promised <= set(ids)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CallError, match=r"expected one of training_speed, landscape, noisy_norm.* or all, got 'lr'"):
        experiments_named("lr")
