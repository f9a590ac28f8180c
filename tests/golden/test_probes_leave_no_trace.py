"""Whatever is measured, and whenever: the training is the same to the last bit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import polars as pl
import pytest
import torch
from tests.studies import run_spec

from alidade.core.probes import (
    ActivationsProbe,
    AnyProbe,
    CovariateShiftProbe,
    CurvatureProbe,
    EvaluationProbe,
    LayerScalarsProbe,
    LineProfileProbe,
    RescalingProbe,
    TheoremProbe,
)
from alidade.core.schedule import Every, First, Logarithmic
from alidade.core.spec import NormName, RunSpec
from alidade.data import load
from alidade.store import Segments
from alidade.train.loop import train

DIGITS = load("digits", train_examples=64)
ETAS = (0.001, 0.1, 0.4)
Trained = tuple[pl.DataFrame, dict[str, torch.Tensor], tuple[torch.Tensor, ...]]


def _probes(schedule: Every | First | Logarithmic) -> list[AnyProbe]:
    return [
        LineProfileProbe(step_sizes=ETAS, schedule=schedule),
        LineProfileProbe(step_sizes=ETAS, schedule=schedule, coordinates="relative"),
        LineProfileProbe(step_sizes=ETAS, schedule=schedule, direction="random"),
        EvaluationProbe(examples=50, schedule=schedule),
        LineProfileProbe(step_sizes=ETAS, schedule=schedule, direction="update"),
        CovariateShiftProbe(schedule=schedule),
        ActivationsProbe(schedule=schedule),
        LayerScalarsProbe(schedule=schedule),
        RescalingProbe(step_sizes=ETAS, factors=(0.5, 2.0), schedule=schedule),
        TheoremProbe(schedule=schedule),
        CurvatureProbe(looks=("eigenvalues", "gradient_overlap", "density"), density_steps=3, schedule=schedule),
        CurvatureProbe(looks=("step_sharpness", "trace"), max_matvecs=2, schedule=schedule),
    ]


SURVEYS: dict[str, list[AnyProbe]] = {
    "every step": _probes(Every(interval=1)),
    "every third": _probes(Every(interval=3)),
    "first only": _probes(First(count=1)),
    "rare, other order": _probes(Logarithmic(base=3.0))[::-1],
    "evaluation only": _probes(Every(interval=2))[3:4],
}


def _trained(spec: RunSpec, probes: Sequence[AnyProbe] = ()) -> Trained:
    """The training segment, every tensor of the trained model, and the random state that is left behind."""
    segments = Segments()
    model = train(spec, DIGITS, probes, segments)
    assert segments.names[-2:] == ("training", "timing") or "timing" in segments.names
    return segments.frame("training"), model.state_dict(), (torch.get_rng_state(),)


def _assert_identical(one: Trained, other: Trained) -> None:
    assert one[0].equals(other[0], null_equal=True)
    assert one[1].keys() == other[1].keys()
    for name, tensor in one[1].items():
        assert tensor.numpy().tobytes() == other[1][name].numpy().tobytes(), name
    assert all(map(torch.equal, one[2], other[2]))


@pytest.mark.filterwarnings("ignore:probe .* failed")  # where there is no norm, some have nothing to measure
@pytest.mark.parametrize("norm", ["none", "batch", "noisy", "noise", "linf"])
@pytest.mark.parametrize("survey", SURVEYS)
def test_a_probed_training_is_the_unprobed_one(norm: NormName, survey: str) -> None:
    spec = run_spec(norm=norm, steps=8)  # 4 batches an epoch: two epochs
    _assert_identical(_trained(spec), _trained(spec, SURVEYS[survey]))


def test_a_probe_that_raises_leaves_no_trace_either() -> None:
    spec = run_spec(norm="noisy", steps=4)
    nowhere: list[AnyProbe] = [ActivationsProbe(layers=("nowhere",), schedule=Every(interval=1))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _assert_identical(_trained(spec), _trained(spec, nowhere))


def test_what_was_drawn_before_does_not_matter() -> None:
    spec = run_spec(norm="noisy")
    first = _trained(spec)
    torch.manual_seed(987)
    torch.rand(13)
    _assert_identical(first, _trained(spec))


def test_other_seeds_norms_and_rates_train_otherwise() -> None:
    specs = [
        run_spec(),
        run_spec(seed=101),
        run_spec(norm="batch"),
        run_spec(norm="noisy"),
        run_spec(learning_rate=0.2),
    ]
    losses = [tuple(_trained(spec)[0]["value"].to_list()) for spec in specs]
    assert len(set(losses)) == len(specs)


def test_what_a_probe_says_does_not_depend_on_the_others() -> None:
    spec = run_spec(norm="noisy", steps=6)
    together, alone = Segments(), Segments()
    every = _probes(Every(interval=2))
    train(spec, DIGITS, every, together)
    train(spec, DIGITS, every[1:2], alone)
    assert alone.frame(every[1].probe_id).equals(together.frame(every[1].probe_id), null_equal=True)
