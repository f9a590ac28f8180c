from __future__ import annotations

import math
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from tests.studies import run_spec
from torch.nn import functional as F

from alidade.core.probes import AnyProbe, EvaluationProbe, LineProfileProbe
from alidade.core.schedule import Every
from alidade.core.spec import RunSpec
from alidade.data import batch_indices, load
from alidade.nn import vgg
from alidade.store import Segments
from alidade.train.build import build_loss, build_model, l2_penalty
from alidade.train.loop import Progress, train

DIGITS = load("digits", train_examples=64)
LINE = LineProfileProbe(step_sizes=(0.05, 0.1), schedule=Every(interval=3))


def _train(spec: RunSpec, *probes: AnyProbe) -> tuple[Segments, torch.nn.Module]:
    segments = Segments()
    return segments, train(spec, DIGITS, probes, segments)


def _series(frame: pl.DataFrame, quantity: str) -> dict[int, float]:
    rows = frame.filter(pl.col("quantity") == quantity)
    return dict(zip(rows["step"].to_list(), rows["value"].to_list(), strict=True))


def test_training_is_plain_gradient_descent() -> None:
    """A second route: the loop written down here, with its own optimizer step."""
    spec = run_spec(norm="batch", steps=5)
    segments, trained = _train(spec)
    torch.manual_seed(spec.seed)
    model = vgg(8, 0.02, "batch", "he", in_channels=1)
    losses, accuracies = [], []
    for step in range(5):
        chosen = batch_indices(64, spec.batch_size, spec.seed, step)
        images, labels = DIGITS.train_images[chosen], DIGITS.train_labels[chosen]
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
        losses.append(loss.item())
        accuracies.append(float((logits.argmax(1) == labels).double().mean()))
    found = segments.frame("training")
    # The optimizer may fuse the product and the difference: one rounding per weight and step, grown by the training.
    assert list(_series(found, "train_loss").values()) == pytest.approx(losses, rel=1e-4)
    assert list(_series(found, "train_accuracy").values()) == pytest.approx(accuracies, abs=1 / 16)
    assert losses[0] == _series(found, "train_loss")[0]
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=1e-3, atol=1e-4)


def test_there_is_a_row_for_every_step_and_a_probe_after_the_last() -> None:
    evaluation = EvaluationProbe(schedule=Every(interval=2))
    segments, trained = _train(run_spec(steps=6), LINE, evaluation)
    assert set(_series(segments.frame("training"), "train_loss")) == set(range(6))
    assert segments.frame(LINE.probe_id)["step"].unique().to_list() == [0, 3, 6]
    accuracy = _series(segments.frame(evaluation.probe_id), "test_accuracy")
    assert set(accuracy) == {0, 2, 4, 6}
    trained.eval()
    last = (trained(DIGITS.test_images).argmax(1) == DIGITS.test_labels).double().mean()
    assert accuracy[6] == float(last)  # of the final weights


def test_a_probe_before_a_step_sees_the_batch_of_that_step() -> None:
    segments, _ = _train(run_spec(steps=6, norm="noisy"), LINE)
    at_start = segments.frame(LINE.probe_id).filter(pl.col("step_size") == 0)
    training = _series(segments.frame("training"), "train_loss")
    # The same forward pass with the same noise; a pass at other tensors may order its sums in its own way.
    for step in (0, 3):
        assert _series(at_start, "loss")[step] == pytest.approx(training[step], rel=1e-5)


def test_every_second_of_measuring_is_noted_and_marked_as_time() -> None:
    segments, _ = _train(run_spec(steps=6), LINE)
    timing = segments.frame("timing")
    assert set(timing["quantity"]) == {"line_profile_raw_seconds", "training_seconds"}
    assert timing.filter(pl.col("quantity") == "line_profile_raw_seconds").height == 3
    assert (timing["value"] > 0).all()
    assert timing["unit"].unique().to_list() == ["s"]


def test_progress_is_reported_after_every_step() -> None:
    seen: list[Progress] = []
    train(run_spec(steps=4), DIGITS, (), Segments(), report=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4]
    assert all(0 <= progress.accuracy <= 1 and progress.loss > 0 for progress in seen)


def test_the_l2_term_is_half_lambda_times_the_squared_norm() -> None:
    spec = run_spec(norm="batch", steps=3, l2=0.3)
    segments, _ = _train(spec)
    frame = segments.frame("training")
    torch.manual_seed(spec.seed)
    model = build_model(spec, 1, 10)
    half_square = 0.5 * sum(float(p.detach().double().square().sum()) for p in model.parameters())
    loss, objective = _series(frame, "train_loss"), _series(frame, "train_objective")
    # Float32 sums: of the order of 1e-6 of the whole.
    assert objective[0] == pytest.approx(loss[0] + 0.3 * half_square, rel=1e-5)
    assert float(l2_penalty(model, 0.3).detach()) == pytest.approx(0.3 * half_square, rel=1e-5)
    batch = (DIGITS.train_images[:16], DIGITS.train_labels[:16])
    difference = build_loss(spec)(model, batch) - build_loss(run_spec(norm="batch"))(model, batch)
    assert float(difference.detach()) == pytest.approx(0.3 * half_square, rel=1e-4)  # of a difference
    assert _series(_train(run_spec(norm="batch", steps=3))[0].frame("training"), "train_objective") == {}


def test_the_l2_term_decays_the_weights() -> None:
    """Without a gradient of the loss a step multiplies the weights by 1 - lr lambda; with one it comes on top."""
    plain, decayed = (_train(run_spec(steps=1, l2=l2))[1] for l2 in (0.0, 0.5))
    torch.manual_seed(100)
    start = build_model(run_spec(), 1, 10)
    for name, parameter in decayed.named_parameters():
        expected = plain.get_parameter(name) - 0.1 * 0.5 * start.get_parameter(name)
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)  # float32, three roundings


def test_a_probe_that_fails_is_recorded_with_its_reason_and_training_goes_on() -> None:
    failing = LineProfileProbe(step_sizes=(1.0,), direction="update", schedule=Every(interval=1))
    with pytest.warns(UserWarning, match="failed at step 0: direction='update'") as caught:
        segments, _ = _train(run_spec(steps=4), failing, LINE)
    assert len([w for w in caught if "failed at step" in str(w.message)]) == 1
    rows = segments.frame(failing.probe_id)
    assert rows["step"].to_list() == [0, 1, 2, 3, 4]
    assert rows["value"].is_nan().all()
    assert rows["status"].str.starts_with("failed: direction='update': expected").all()
    assert set(_series(segments.frame("training"), "train_loss")) == set(range(4))
    assert (segments.frame(LINE.probe_id)["status"] == "ok").any()


@pytest.mark.parametrize("norm", ["none", "batch", "noisy"])
def test_a_run_that_diverges_finishes_and_says_so(norm: str) -> None:
    spec = run_spec(norm=norm, learning_rate=1e6, steps=6)  # type: ignore[arg-type]
    relative = LineProfileProbe(step_sizes=(0.1,), coordinates="relative", schedule=Every(interval=3))
    evaluation = EvaluationProbe(examples=50, schedule=Every(interval=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segments, _ = _train(spec, LINE, relative, evaluation)
    frame = pl.concat([segments.frame(name) for name in segments.names])
    wrong = frame.filter((pl.col("status") == "ok") & ~pl.col("value").is_finite())
    assert wrong.height == 0
    assert set(_series(segments.frame("training"), "train_loss")) == set(range(6))
    if norm == "none":
        losses = _series(segments.frame("training"), "train_loss")
        assert not math.isfinite(losses[5])
        assert "non_finite" in set(segments.frame("training")["status"])
        assert "non_finite" in set(segments.frame(LINE.probe_id)["status"])


def test_random_states_of_others_are_seeded_too() -> None:
    """A model of the spec may draw from NumPy or Python."""
    import random

    _train(run_spec(steps=1))
    first = (np.random.random(), random.random())
    _train(run_spec(steps=1))
    assert (np.random.random(), random.random()) == first
