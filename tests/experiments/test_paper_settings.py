"""At the paper's scale every setting is the paper's, as the fact sheet has it."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.experiments.plans import DIGITS, PAPER, due_steps, networks_of, planned, probes_of, specs_of

from alidade.core.probes import (
    ActivationsProbe,
    CovariateShiftProbe,
    EvaluationProbe,
    LineProfileProbe,
    RescalingProbe,
    TheoremProbe,
)
from alidade.core.spec import RunSpec
from alidade.experiments import experiments_named
from alidade.experiments.covariate_shift import HEIGHTS
from alidade.experiments.experiment import Settings
from alidade.experiments.probing import QUICK_LAYERS
from alidade.nn import UnitNoise, deep_linear, vgg
from alidade.nn.vgg import PLANS


def test_the_papers_vgg_is_the_papers() -> None:
    """paper.md, 1: 13 convolutions, CIFAR-10 whole, plain SGD, 15,000 steps of 128, Glorot, no augmentation."""
    for spec in specs_of("all", PAPER, "vgg"):
        assert (spec.model.conv_layers, spec.model.width, spec.model.init) == (13, 1.0, "glorot")  # type: ignore[union-attr]
        assert (spec.batch_size, spec.steps, spec.data.name, spec.data.train_examples) == (128, 15_000, "cifar10", None)
        assert (spec.optimizer.name, spec.l2, spec.dtype) == ("sgd", 0.0, "float32")
        assert set(spec.optimizer.model_dump()) == {"name", "learning_rate"}  # no momentum
    augmented = {(s.model.norm, s.optimizer.learning_rate) for s in specs_of("all", PAPER, "vgg") if s.data.augment}
    assert augmented == {("none", 0.1), ("batch", 0.1)}


def test_the_papers_deep_linear_network_is_the_papers() -> None:
    """paper.md, 1: 25 layers of 10, 1000 examples at once, 10,000 steps, Glorot; float64 is advised in 6."""
    specs = specs_of("all", PAPER, "deep_linear")
    assert specs
    for spec in specs:
        model = spec.model.model_dump()
        assert (model["layers"], model["width"], model["init"]) == (25, 10, "glorot")
        assert (spec.batch_size, spec.data.train_examples, spec.steps, spec.dtype) == (1000, 1000, 10_000, "float64")
        assert (spec.data.name, spec.l2, spec.optimizer.name) == ("gaussian", 0.0, "sgd")


PAIRS = ("none", "batch")


@pytest.mark.parametrize(
    ("name", "vgg_networks", "linear_networks"),
    [
        ("training_speed", [(n, r) for n in PAIRS for r in (0.02, 0.05, 0.1, 0.1, 0.2, 0.5)], []),
        ("activations", [(n, 0.1) for n in (*PAIRS, "noisy", "l1", "l2", "linf")], [(n, 1e-6) for n in PAIRS]),
        ("noisy_norm", [(n, 0.1) for n in (*PAIRS, "noisy", "noise")], []),
        (
            "covariate_shift",
            [(n, r) for n in PAIRS for r in (0.1, 0.01)],
            [(n, r) for n in PAIRS for r in (1e-6, 1e-7)],
        ),
        ("rescaling_control", [("batch", 0.1)], []),
        ("landscape", [(n, 0.1) for n in PAIRS], []),
        ("glorot_start", [(n, 0.1) for n in PAIRS], []),
        ("lp_norms", [(n, 0.1) for n in (*PAIRS, "l1", "l2", "linf")], []),
        ("deep_linear", [], [(n, 1e-6) for n in (*PAIRS, "l1", "l2", "linf")]),
        ("theorems", [("batch", 0.1)], []),
    ],
)
@pytest.mark.parametrize("settings", [DIGITS, PAPER], ids=["digits", "paper"])
def test_every_figure_has_its_networks(
    name: str, vgg_networks: list[object], linear_networks: list[object], settings: Settings
) -> None:
    per_seed = Counter(vgg_networks), Counter(linear_networks)
    for kind, wanted in zip(("vgg", "deep_linear"), per_seed, strict=True):
        assert networks_of(name, settings, kind) == {network: 5 * count for network, count in wanted.items()}


@pytest.mark.parametrize(
    ("kind", "sizes", "more", "interval", "probes"),
    [
        ("vgg", (0.05, 0.1, 0.2, 0.4), (0.001, 0.01), 100, 151),
        ("deep_linear", (1e-8, 1e-7, 1e-6, 1e-5, 10**-4.5), (5e-7,), 50, 201),
    ],
)
def test_the_papers_line_profiles_are_those_of_figure_11(
    kind: str, sizes: tuple[float, ...], more: tuple[float, ...], interval: int, probes: int
) -> None:
    """paper.md, 0.5 and 0.6, and step sizes far below the list that 2.4 asks for."""
    found = probes_of("all", kind, LineProfileProbe)
    along_the_gradient = [(run, probe) for run, probe in found if probe.direction == "gradient"]
    assert {probe.coordinates for _, probe in along_the_gradient} == {"raw", "relative"}
    for run, probe in along_the_gradient:
        due = due_steps(run, probe)
        assert due == list(range(0, run.spec.steps + 1, interval))
        assert len(due) == probes
        if probe.coordinates == "raw":
            assert sorted(probe.step_sizes) == pytest.approx(sorted((*sizes, *more)), rel=1e-12)
    random = [(run, probe) for run, probe in found if probe.direction == "random"]
    assert bool(random) == (kind == "vgg")
    for _, probe in random:
        wanted = sizes if probe.coordinates == "raw" else (0.01, 0.03, 0.1, 0.3)
        assert probe.step_sizes == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "labels", "interval"), [("vgg", ["conv5", "conv10"], 100), ("deep_linear", ["linear9", "linear17"], 50)]
)
def test_the_papers_covariate_shift_is_that_of_figure_3(kind: str, labels: list[str], interval: int) -> None:
    found = probes_of("covariate_shift", kind, CovariateShiftProbe)
    assert len(found) == len(specs_of("covariate_shift", PAPER, kind))
    for run, probe in found:
        assert list(probe.groups) == labels
        assert due_steps(run, probe) == list(range(0, run.spec.steps + 1, interval))


@pytest.mark.parametrize(
    ("kind", "part", "numbers", "interval"),
    [("vgg", "features", (2, 3, 9, 11, 13), 100), ("deep_linear", "layers", (1, 11, 24), 50)],
)
def test_the_papers_activations_are_those_of_figures_1_to_9(
    kind: str, part: str, numbers: tuple[int, ...], interval: int
) -> None:
    """Fig. 8a shows changes between logged steps, which lie 100 apart (paper.md, 2.5)."""
    found = probes_of("activations", kind, ActivationsProbe)
    assert len(found) == len(specs_of("activations", PAPER, kind))
    for run, probe in found:
        assert probe.layers == tuple(f"{part}.norm{number}" for number in numbers)
        assert due_steps(run, probe) == list(range(0, run.spec.steps + 1, interval))


def test_the_papers_test_accuracy_is_taken_sixteen_times() -> None:
    for run, probe in probes_of("training_speed", "vgg", EvaluationProbe):
        assert due_steps(run, probe) == list(range(0, 15_001, 1000))
        assert probe.examples is None


def test_the_rescaling_control_goes_from_a_quarter_to_four() -> None:
    for _, probe in probes_of("rescaling_control", "vgg", RescalingProbe):
        assert (min(probe.factors), max(probe.factors)) == (0.25, 4.0)
        assert 0.1 in probe.step_sizes
        assert 0.1 in probe.relative_step_sizes


def test_quick_runs_look_at_every_layer() -> None:
    for kind, labels in (
        ("vgg", [f"conv{k}" for k in range(1, 9)]),
        ("deep_linear", [f"linear{k}" for k in range(1, 26)]),
    ):
        assert all(list(p.groups) == labels for _, p in probes_of("covariate_shift", kind, CovariateShiftProbe, DIGITS))
    layers = tuple(f"features.norm{number}" for number in QUICK_LAYERS)
    assert {probe.layers for _, probe in probes_of("activations", "vgg", ActivationsProbe, DIGITS)} == {layers}


def _modules(spec: RunSpec) -> set[str]:
    model = spec.model
    if model.kind == "vgg":
        return {name for name, _ in vgg(model.conv_layers, 0.02, model.norm, model.init).named_modules()}
    return {name for name, _ in deep_linear(model.layers, model.width, model.norm, model.init).named_modules()}


@pytest.mark.parametrize("settings", [DIGITS, PAPER], ids=["digits", "paper"])
def test_every_layer_that_a_probe_names_exists(settings: Settings) -> None:
    once = settings.model_copy(update={"seeds": 1})
    named = 0
    for run in planned(experiments_named("all"), once):
        modules = _modules(run.spec)
        for probe in run.probes:
            groups = probe.groups or {} if isinstance(probe, CovariateShiftProbe) else {}
            layers = probe.layers or () if isinstance(probe, ActivationsProbe) else ()
            wanted = {*layers, *(member for group in groups.values() for member in group)}
            assert wanted <= modules
            named += len(wanted)
            for label, members in groups.items():  # the norm belongs to the layer, where there is one
                assert members[0].rsplit(".", 1)[1] == label
                assert len(members) == (1 if run.spec.model.norm == "none" else 2)
    assert named > 50


def test_layers_are_counted_as_the_paper_counts_them() -> None:
    """Number k is the k-th convolution that an image passes, in the real network of 13, and likewise in the 25."""
    convolutions = [name for name, _ in vgg(13, 0.02, "batch").named_modules() if "conv" in name]
    assert convolutions == [f"features.conv{k}" for k in range(1, 14)]
    wide = vgg(13, 1.0, "none").features
    assert [getattr(wide, f"conv{k}").out_channels for k in (5, 10, 13)] == [256, 512, 512]
    assert [entry for entry in PLANS[13] if entry != "M"][4] == 256
    linears = [name for name, _ in deep_linear(norm="batch").named_modules() if "linear" in name]
    assert linears == [f"layers.linear{k}" for k in range(1, 26)]


def test_quick_heights_are_the_papers() -> None:
    """Layers 5 and 10 of 13 lie at 3.1 and 6.2 of 8."""
    for paper, height in ((5, "early"), (10, "late")):
        assert HEIGHTS[height] == {13: f"conv{paper}", 8: f"conv{round(paper / 13 * 8)}"}


def test_the_noise_has_the_constants_of_algorithm_1() -> None:
    """n_mu = 0.5, n_sigma = 1.25, r_mu = r_sigma = 0.1 (paper.md, 1.1), in every noisy layer that is planned."""
    for norm in ("noisy", "noise"):
        layers = [module for module in vgg(8, 0.02, norm).modules() if isinstance(module, UnitNoise)]
        constants = {(m.mean_range, m.scale_limit, m.mean_spread, m.scale_spread) for m in layers}
        assert (len(layers), constants) == (8, {(0.5, 1.25, 0.1, 0.1)})


def test_theorem_4_1_is_looked_at_where_there_is_a_batch_norm() -> None:
    norms = {run.spec.model.norm for run, _ in probes_of("all", "vgg", TheoremProbe)}
    assert norms == {"batch"}
    assert probes_of("all", "deep_linear", TheoremProbe) == []
