from __future__ import annotations

import math
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from tests.studies import run_spec
from torch.nn import functional as F

from alidade.core.probes import AnyProbe, CovariateShiftProbe, EvaluationProbe, LineProfileProbe, TheoremProbe
from alidade.core.schedule import Every
from alidade.core.spec import DataSpec, DeepLinearSpec, NormName, OptimizerSpec, RunSpec
from alidade.data import batch_indices, load
from alidade.data.gaussian import gaussian_regression
from alidade.nn import deep_linear, vgg
from alidade.store import Segments
from alidade.train.build import Task, build_task, l2_penalty
from alidade.train.loop import Progress, train

DIGITS = load("digits", train_examples=64)
LINE = LineProfileProbe(step_sizes=(0.05, 0.1), schedule=Every(interval=3))


def _train(spec: RunSpec, *probes: AnyProbe) -> tuple[Segments, torch.nn.Module]:
    segments = Segments()
    return segments, train(spec, DIGITS, probes, segments)


def _task(spec: RunSpec) -> Task:
    """The task as training builds it: the network's weights come from the seed."""
    torch.manual_seed(spec.seed)
    return build_task(spec, DIGITS, "cpu")


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
    model = _task(spec).model
    half_square = 0.5 * sum(float(p.detach().double().square().sum()) for p in model.parameters())
    loss, objective = _series(frame, "train_loss"), _series(frame, "train_objective")
    # Float32 sums: of the order of 1e-6 of the whole.
    assert objective[0] == pytest.approx(loss[0] + 0.3 * half_square, rel=1e-5)
    assert float(l2_penalty(model, 0.3).detach()) == pytest.approx(0.3 * half_square, rel=1e-5)
    batch = (DIGITS.train_images[:16], DIGITS.train_labels[:16])
    difference = _task(spec).loss_fn(model, batch) - _task(run_spec(norm="batch")).loss_fn(model, batch)
    assert float(difference.detach()) == pytest.approx(0.3 * half_square, rel=1e-4)  # of a difference
    assert _series(_train(run_spec(norm="batch", steps=3))[0].frame("training"), "train_objective") == {}


def test_the_l2_term_decays_the_weights() -> None:
    """Without a gradient of the loss a step multiplies the weights by 1 - lr lambda; with one it comes on top."""
    plain, decayed = (_train(run_spec(steps=1, l2=l2))[1] for l2 in (0.0, 0.5))
    start = _task(run_spec()).model
    for name, parameter in decayed.named_parameters():
        expected = plain.get_parameter(name) - 0.1 * 0.5 * start.get_parameter(name)
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)  # float32, three roundings


def test_a_probe_that_fails_is_recorded_with_its_reason_and_training_goes_on() -> None:
    failing = TheoremProbe(schedule=Every(interval=1))  # of a network without BatchNorm
    with pytest.warns(UserWarning, match="failed at step 0: layers: expected a BatchNorm layer") as caught:
        segments, _ = _train(run_spec(steps=4), failing, LINE)
    assert len([w for w in caught if "failed at step" in str(w.message)]) == 1
    rows = segments.frame(failing.probe_id)
    assert rows["step"].to_list() == [0, 1, 2, 3, 4]
    assert rows["value"].is_nan().all()
    assert rows["status"].str.starts_with("failed: layers: expected a BatchNorm layer").all()
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


def test_a_probe_of_the_step_sees_where_it_started_and_where_it_ended() -> None:
    """The profile along the update at 1 is the loss of the same batch after the step; at 0 the one before it."""
    along = LineProfileProbe(step_sizes=(1.0,), direction="update", schedule=Every(interval=2))
    spec = run_spec(steps=5, norm="batch")
    segments, _ = _train(spec, along)
    rows = segments.frame(along.probe_id).filter(pl.col("quantity") == "update_loss")
    assert rows["step"].unique().sort().to_list() == [0, 2, 4]  # none after the last step
    training = _series(segments.frame("training"), "train_loss")
    at_start = _series(rows.filter(pl.col("step_size") == 0), "update_loss")
    at_end = _series(rows.filter(pl.col("step_size") == 1), "update_loss")
    task = _task(spec)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    for step in range(5):
        task.loss_fn(task.model, task.batches(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in at_end:
            assert at_start[step] == pytest.approx(training[step], rel=1e-5)
            after = float(task.loss_fn(task.model, task.batches(step)).detach())
            assert at_end[step] == pytest.approx(after, rel=1e-5)  # the point is theta - (theta - theta'), rounded


def test_the_covariate_shift_of_a_step_is_that_of_the_naive_way() -> None:
    groups = {"conv2": ("features.conv2", "features.norm2"), "head": ("head",)}
    probe = CovariateShiftProbe(groups=groups, schedule=Every(interval=3))
    spec = run_spec(steps=4, norm="batch").model_copy(update={"dtype": "float64"})
    segments, _ = _train(spec, probe)
    found = segments.frame(probe.probe_id).filter(pl.col("quantity") == "covariate_shift_l2", pl.col("step") == 3)
    task = _task(spec)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    states = []
    for step in range(4):
        states.append({name: value.clone() for name, value in task.model.state_dict().items()})
        optimizer.zero_grad()
        task.loss_fn(task.model, task.batches(step)).backward()
        optimizer.step()
    before, after = states[3], {name: value.clone() for name, value in task.model.state_dict().items()}
    norms = {}
    for label, members in groups.items():
        parameters = [name for name, _ in task.model.named_parameters()]
        own = [name for name in parameters if name.startswith(tuple(f"{member}." for member in members))]
        first = parameters.index(own[0])
        mixed = {name: (after if name in parameters[:first] else before)[name] for name in before}
        pair = []
        for state in (before, mixed):
            task.model.load_state_dict(state)
            loss = task.loss_fn(task.model, task.batches(3))
            pair.append(torch.autograd.grad(loss, [task.model.get_parameter(name) for name in own]))
        norms[label] = sum(float((a - b).square().sum()) for a, b in zip(*pair, strict=True)) ** 0.5
    values = dict(zip(found["layer"].to_list(), found["value"].to_list(), strict=True))
    assert values == pytest.approx(norms, rel=1e-9)  # float64; sums in another order


def test_the_deep_linear_network_descends_the_sum_of_squares() -> None:
    """A second route: the product of matrices and its gradient, written down in NumPy."""
    spec = _linear_spec(steps=3)
    segments, _ = _train(spec)
    data = gaussian_regression(spec.seed, 1000, 10)
    x, y = data.inputs.numpy(), data.targets.numpy()
    torch.manual_seed(spec.seed)
    weights = [p.detach().double().numpy() for p in deep_linear(25, 10, "none", "glorot").parameters()]
    losses = []
    for _ in range(3):
        heights = [x]
        for w in weights:
            heights.append(heights[-1] @ w.T)
        error = 2 * (heights[-1] - y)
        losses.append(float(((heights[-1] - y) ** 2).sum()))
        gradients = []
        for w, below in zip(reversed(weights), reversed(heights[:-1]), strict=True):
            gradients.append(error.T @ below)
            error = error @ w
        weights = [w - 1e-6 * g for w, g in zip(weights, reversed(gradients), strict=True)]
    frame = segments.frame("training")
    # Float64, 25 products in another order; three steps do not grow 1e-14 past 1e-10.
    assert list(_series(frame, "train_loss").values()) == pytest.approx(losses, rel=1e-10)
    assert _series(frame, "train_accuracy") == {}
    assert frame["dtype"].unique().to_list() == ["float64"]


def _linear_spec(steps: int, norm: NormName = "none", learning_rate: float = 1e-6) -> RunSpec:
    return RunSpec(
        model=DeepLinearSpec(norm=norm),
        data=DataSpec(name="gaussian", train_examples=1000),
        optimizer=OptimizerSpec(learning_rate=learning_rate),
        batch_size=1000,
        steps=steps,
        seed=100,
        dtype="float64",
    )


def test_a_loss_that_explodes_is_recorded_as_divergence_at_its_step() -> None:
    segments, _ = _train(_linear_spec(steps=30, learning_rate=1e-2))
    frame = segments.frame("training")
    diverged = frame.filter(pl.col("quantity") == "diverged")
    losses = _series(frame, "train_loss")
    first = next(step for step, loss in losses.items() if not loss <= 1e3 * losses[0])
    assert diverged["step"].to_list() == [first]


def test_a_network_for_images_and_a_regression_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="a vgg network cannot learn gaussian"):
        RunSpec.model_validate(run_spec().model_dump() | {"data": {"name": "gaussian"}})


def test_random_states_of_others_are_seeded_too() -> None:
    """A model of the spec may draw from NumPy or Python."""
    import random

    _train(run_spec(steps=1))
    first = (np.random.random(), random.random())
    _train(run_spec(steps=1))
    assert (np.random.random(), random.random()) == first
