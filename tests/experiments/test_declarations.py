"""Experiments are data: what they plan is fixed, and fixed before any run."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from math import isfinite

import pytest
from tests.experiments.plans import DIGITS, PAPER, planned, specs_of

from alidade.core.errors import CallError
from alidade.core.probes import (
    EvaluationProbe,
    LineProfileProbe,
)
from alidade.experiments import DEMO, EXPERIMENTS, experiments_named
from alidade.experiments.experiment import FIRST_SEED, Settings

CLAIMS = [claim for experiment in EXPERIMENTS.values() for claim in experiment.claims]


def test_declarations_need_no_torch() -> None:
    program = (
        "import sys; from alidade.experiments import EXPERIMENTS; from alidade.experiments.experiment import Settings;"
        "[e.runs(Settings()) for e in EXPERIMENTS.values()]; print(*{'torch', 'altair', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_the_demo_is_fifteen_runs() -> None:
    runs = planned(DEMO, DIGITS)
    counts = Counter((run.spec.model.norm, run.spec.optimizer.learning_rate) for run in runs)
    assert counts == {("none", 0.1): 5, ("batch", 0.1): 5, ("noisy", 0.1): 5}
    assert {run.spec.seed for run in runs} == {100, 101, 102, 103, 104}
    assert {(run.spec.data.name, run.spec.model.init, run.spec.model.width) for run in runs} == {
        ("digits", "he", 0.125)
    }
    for run in runs:
        assert {probe.direction for probe in run.probes if isinstance(probe, LineProfileProbe)} == {"gradient"}
        lines = {p.coordinates: p.step_sizes for p in run.probes if isinstance(p, LineProfileProbe)}
        assert {name: [round(size, 12) for size in sizes] for name, sizes in lines.items()} == {
            "raw": [0.001, 0.01, 0.05, 0.1, 0.2, 0.4],
            "relative": [0.01, 0.03, 0.1, 0.3],
        }
        assert any(isinstance(probe, EvaluationProbe) for probe in run.probes)


def test_the_experiments_are_these_in_this_order() -> None:
    assert list(EXPERIMENTS) == [
        "training_speed", "activations", "noisy_norm", "covariate_shift", "rescaling_control", "landscape",
        "glorot_start", "lp_norms", "deep_linear", "curvature", "theorems",
    ]  # fmt: skip
    assert all(experiment.name == name for name, experiment in EXPERIMENTS.items())


@pytest.mark.parametrize("settings", [DIGITS, Settings(), PAPER], ids=["digits", "cifar10", "paper"])
def test_all_is_the_union_with_each_training_once(settings: Settings) -> None:
    alone = [run for name in EXPERIMENTS for run in planned(experiments_named(name), settings)]
    together = planned(experiments_named("all"), settings)
    ids = [run.spec.run_id for run in together]
    assert len(ids) == len(set(ids)) < len(alone)
    wanted = {(run.spec.run_id, probe.probe_id) for run in alone for probe in run.probes}
    assert {(run.spec.run_id, probe.probe_id) for run in together for probe in run.probes} == wanted
    assert sum(len(run.probes) for run in together) == len(wanted)


@pytest.mark.parametrize("name", [*EXPERIMENTS, "all"])
def test_seeds_start_where_no_setting_was_chosen(name: str) -> None:
    assert FIRST_SEED == 100
    for count in (1, 3):
        seeds = Counter(run.spec.seed for run in planned(experiments_named(name), Settings(seeds=count)))
        assert set(seeds) == set(range(100, 100 + count))
        assert len(set(seeds.values())) == 1  # pairs are whole


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in ("deep_linear", "glorot_start")])
def test_choices_of_the_user_reach_every_network_for_images(name: str) -> None:
    chosen = Settings(init="glorot", l2=0.01, fingerprint="abc")
    specs = specs_of(name, chosen, "vgg")
    assert {(spec.model.init, spec.l2, spec.data.fingerprint) for spec in specs} == {("glorot", 0.01, "abc")}
    ids, usual = ({spec.run_id for spec in specs_of(name, s, "vgg")} for s in (chosen, Settings()))
    assert ids.isdisjoint(usual)


def test_a_deep_linear_network_is_the_same_whatever_is_chosen_for_images() -> None:
    chosen = Settings(data="digits", init="he", l2=0.01, fingerprint="abc")
    ids = [{spec.run_id for spec in specs_of("all", settings, "deep_linear")} for settings in (chosen, Settings())]
    assert ids[0] == ids[1]


def test_the_glorot_start_is_glorots_whatever_is_chosen() -> None:
    for settings in (DIGITS, Settings(init="he"), PAPER):
        assert {spec.model.init for spec in specs_of("glorot_start", settings, "vgg")} == {"glorot"}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_says_what_it_tests(claim: object) -> None:
    words = [getattr(claim, part) for part in ("paper", "hypothesis", "statistic")]
    assert all(len(text) > 20 and text == text.strip() for text in words)
    where = ("Fig.", "Section", "Appendix", "Theorem", "Not in the paper")
    assert claim.paper.startswith(where)  # type: ignore[attr-defined]
    assert claim.relation in (">", "<")  # type: ignore[attr-defined]
    assert isfinite(claim.threshold)  # type: ignore[attr-defined]
    assert claim.threshold > 0 or claim.scale == "linear"  # type: ignore[attr-defined]
    assert claim.experiment in EXPERIMENTS  # type: ignore[attr-defined]


def test_claim_ids_are_those_promised_and_differ() -> None:
    ids = [claim.id for claim in CLAIMS]
    assert len(ids) == len(set(ids))
    promised = {
        "faster_training", "larger_learning_rates", "noisy_norm_trains", "noisy_norm_moves", "noise_without_norm",
        "covariate_shift_not_reduced", "lp_norms_smooth", "deep_linear_l1", "plateau_is_edge", "plateau_is_saturation",
        "rescaling_control", "plateau_looks_smooth",
    }  # fmt: skip
    for name in ("loss_band", "gradient_band", "effective_smoothness"):
        promised |= {name, f"{name}_equal_loss", f"{name}_scale_free", f"{name}_scale_free_equal_loss"}
    assert promised <= set(ids)


def test_every_band_has_a_twin_without_units() -> None:
    by_id = {claim.id: claim for claim in CLAIMS}
    raw = [claim for claim in CLAIMS if claim.twin]
    # 3 bands: of VGG and the deep linear network at equal step and loss, of three lp norms; all lp norms together, two
    # bands along random directions, the plateau.
    assert len(raw) == 21 + 1 + 2 + 1
    for claim in raw:
        twin = by_id[claim.twin]
        assert (twin.experiment, twin.threshold, twin.relation) == (claim.experiment, claim.threshold, claim.relation)
        assert "relative steps" in twin.statistic


def test_every_contrast_of_a_smoothness_carries_its_twin() -> None:
    """Scaling weights before a norm can make any raw contrast of bands with a network that has none."""
    for claim in CLAIMS:
        words = ("loss band", "gradient distance", "effective smoothness")
        contrast = claim.experiment not in ("rescaling_control",) and not claim.id.startswith("plateau_is")
        if contrast and any(word in claim.statistic for word in words):
            assert claim.twin or "_scale_free" in claim.id, claim.id


def test_a_statistic_says_whether_it_is_a_ratio() -> None:
    """What is judged in logarithms is written as a ratio: that is how tables tell it from a difference."""
    for claim in CLAIMS:
        assert claim.statistic.startswith("ratio") == (claim.scale == "log"), claim.id


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CallError, match=r"expected one of training_speed, activations, .*, theorems or all, got 'lr'"):
        experiments_named("lr")
