"""Where the edge of stability is drawn, against the formulas of the papers that found it."""

from __future__ import annotations

import pytest
from tests.report.synthetic import spec

from alidade.core.spec import DataSpec, DeepLinearSpec, OptimizerSpec, RunSpec, SurveySpec
from alidade.report.curvature_figures import edge_of, preconditioned_edge_of
from alidade.report.variants import variants


def of(*specs):
    return variants({run.run_id: run for run in specs})


def own(optimizer, **options):
    return SurveySpec(name="mine", model="Net", parameters=7, optimizer=optimizer, optimizer_defaults=options)


def full_batch(batch_size=1000):
    return RunSpec(
        model=DeepLinearSpec(norm="batch"), data=DataSpec(name="gaussian", train_examples=1000),
        optimizer=OptimizerSpec(learning_rate=1e-6), batch_size=batch_size, steps=100, seed=100, dtype="float64",
    )  # fmt: skip


def test_plain_descent_on_all_data_has_its_edge_at_two():
    edge = edge_of(of(full_batch()))
    assert (edge.level, edge.solid) == (2.0, True)


@pytest.mark.parametrize("other", [full_batch(500), spec("batch", 100), own("SGD", lr=0.1, momentum=0.0)])
def test_elsewhere_two_is_a_reference(other):
    edge = edge_of(of(other))
    assert (edge.level, edge.solid) == (2.0, False)


def test_one_network_of_mini_batches_makes_the_line_a_reference():
    assert not edge_of(of(full_batch(), spec("batch", 100))).solid


@pytest.mark.parametrize(("momentum", "level"), [(0.5, 3.0), (0.9, 3.8)])  # 2 + 2m: Cohen et al. 2021, equation 1
def test_heavy_ball_momentum_moves_the_edge(momentum, level):
    edge = edge_of(of(own("SGD", lr=0.1, momentum=momentum, nesterov=False)))
    assert edge.level == pytest.approx(level)
    assert f"m = {momentum:g}" in edge.words


def test_nesterov_has_another_formula_and_is_not_given_that_of_heavy_ball():
    assert edge_of(of(own("SGD", lr=0.1, momentum=0.9, nesterov=True))).level == 2.0


def test_adam_has_its_edge_at_38_with_the_usual_momentum():
    """(2 + 2 b1) / (1 - b1) with b1 = .9: Cohen et al. 2022 give 38 / learning rate."""
    assert preconditioned_edge_of(of(own("Adam", lr=1e-3, betas=[0.9, 0.999]))).level == pytest.approx(38.0)
    assert preconditioned_edge_of(of(own("RMSprop", lr=1e-3, alpha=0.99))).level == 2.0
