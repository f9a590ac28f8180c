"""activation_statistics against its naive twin, closed forms, its choice of layers and units, and law 1."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import CASES, Case, cross_entropy
from tests.reference import activations as naive
from tests.snapshot import snapshot
from torch import Tensor, nn

from alidade import Objective
from alidade.core.activations import PROBABILITIES, ActivationStatistics
from alidade.core.errors import AlidadeError, CallError
from alidade.core.records import NON_FINITE, OK, UNDEFINED
from alidade.landscape.conditions import Part, conditions_now
from alidade.landscape.layers import ROOT
from alidade.nn import NoisyBatchNorm, vgg
from alidade.probes import activations as module_under_test
from alidade.probes.activations import activation_statistics, activations_of

CALLED = [case for case in CASES if case.name != "sliced"]  # its one layer, a list, is never called
#: torch.Generator has no deep copy, and a loss with gradients in it cannot be evaluated without, as the twin does.
TWINS = [case for case in CALLED if case.name not in ("own_generator", "gradient_penalty")]


def _built(case: Case, seed: int = 0) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(seed)
    return case.build()


def _run(model: nn.Module, batch: Any) -> Tensor:
    output = model(batch)
    return output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_it_is_its_naive_twin(case: Case) -> None:
    model, loss_fn, batch = _built(case)
    kept = naive.keep_everything(model, loss_fn, batch)
    found = activation_statistics(model, loss_fn, batch)
    assert found.layers
    # float64 from the output on. torch folds the matrix products of attention in another way where no weight asks for
    # a gradient, which rounds its float32 outputs (of size 1) anew; all other outputs are the same to the bit.
    rtol, atol = (1e-4, 1e-5) if case.name == "attention" else (1e-8, 1e-12)
    for name, layer in found.by_layer.items():
        values = naive.by_unit(kept[name], layer.unit_axis)
        assert layer.units.count == values.shape[1]
        assert layer.calls == len(kept[name])
        for moment, expected in naive.moments(values).items():
            got = getattr(layer.units, moment)
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=f"{name} {moment}")
        exact = naive.quantiles(values)
        np.testing.assert_allclose(layer.quantiles(), exact, rtol=2**-8, atol=atol)
        assert layer.histogram.total == values.size


def test_gaussian_inputs_of_a_linear_layer() -> None:
    """Second witness: w'x + b of standard normal x is normal with mean b and variance |w|^2."""
    torch.manual_seed(0)
    n = 200_000
    model = nn.Linear(4, 3).double()
    layer = activation_statistics(model, lambda model, x: model(x).sum(), torch.randn(n, 4).double())[ROOT]
    variance = model.weight.detach().square().sum(1).numpy()
    # Five standard errors: var / n, 2 var^2 / n, 6 / n, 24 / n are the variances of the four estimates.
    assert (np.abs(layer.units.mean - model.bias.detach().numpy()) < 5 * np.sqrt(variance / n)).all()
    assert (np.abs(layer.units.variance / variance - 1) < 5 * np.sqrt(2 / n)).all()
    assert (np.abs(layer.units.skewness) < 5 * np.sqrt(6 / n)).all()
    assert (np.abs(layer.units.kurtosis - 3) < 5 * np.sqrt(24 / n)).all()


def test_batch_norm_makes_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, eps=1e-200)).double()
    batch = torch.randn(6, 2, 8, 8).double()
    norm = activation_statistics(model, lambda model, x: model(x).sum(), batch)["1"]
    np.testing.assert_allclose(norm.units.mean, 0, atol=1e-14)
    np.testing.assert_allclose(norm.units.variance, 1, rtol=1e-12)
    assert norm.units.count == 6 * 36


def test_uniform_outputs_have_the_moments_of_a_uniform_distribution() -> None:
    n = 100_001
    model = nn.Embedding(n, 1)
    model.weight.data[:, 0] = torch.linspace(-1, 1, n)
    layer = activation_statistics(model, lambda model, x: model(x).sum(), torch.arange(n))[ROOT]
    # An even grid of n points: relative deviations from the integrals are O(1/n).
    assert layer.units.variance[0] == pytest.approx(1 / 3, rel=3 / n)
    assert layer.units.kurtosis[0] == pytest.approx(9 / 5, rel=3 / n)
    np.testing.assert_allclose(layer.quantiles(), 2 * np.array(PROBABILITIES) - 1, atol=2**-8)


@pytest.mark.parametrize("slab", [1, 7, 100])
def test_slabs_do_not_show(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = nn.Conv2d(2, 5, 3), torch.randn(3, 2, 6, 6)
    loss_fn = lambda model, x: model(x).sum()  # noqa: E731
    whole = activation_statistics(model, loss_fn, batch)[ROOT]
    monkeypatch.setattr(module_under_test, "SLAB", slab)
    sizes = [piece.size for piece in module_under_test._slabs(model(batch).detach(), 1)]
    assert max(sizes) <= max(slab, 5)  # one sample of each unit is the least
    assert sum(sizes) == 3 * 5 * 16
    pieces = activation_statistics(model, loss_fn, batch)[ROOT]
    for name in ("mean", "m2", "m3", "m4", "minimum", "maximum"):
        np.testing.assert_allclose(getattr(pieces.units, name), getattr(whole.units, name), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(pieces.histogram.counts, whole.histogram.counts)
    assert (pieces.units.count, pieces.calls) == (whole.units.count, 1)


def test_the_result_does_not_grow_with_the_batch() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    sizes = [
        len(pickle.dumps(activation_statistics(model, lambda model, x: model(x).sum(), torch.randn(n, 3))))
        for n in (1_000, 300_000)
    ]
    # All bins that a float32 normal can fill: 2 signs x 128 per octave x 24 octaves, 16 bytes each.
    assert sizes[1] < 2 * 128 * 24 * 16


class _Twice(nn.Module):
    """Uses its layers in another order than it registers them, one of them twice and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)
        self.token = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.first(x) + self.token))


def _twice(layers: list[str] | None = None) -> ActivationStatistics:
    torch.manual_seed(0)
    return activation_statistics(_Twice(), lambda model, x: model(x).sum(), torch.randn(5, 4), layers)


def test_layers_come_in_order_of_first_use_and_calls_are_pooled() -> None:
    found = _twice()
    assert found.layers == ("first", "last")  # not the network itself, which owns a token around them
    assert (found["first"].calls, found["first"].units.count) == (2, 10)
    assert found["last"].calls == 1


def test_named_layers_come_as_named() -> None:
    assert _twice(["last", "first"]).layers == ("last", "first")
    assert _twice([""])[ROOT].units.mean.shape == (2,)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["gone"], "last, unused, first"),
        (["unused"], "forward pass calls"),
        ([], "non-empty list of names"),
        ("first", "non-empty list of names"),
    ],
)
def test_bad_layers_are_refused_in_one_line(layers: Any, said: str) -> None:
    model, batch = _Twice(), torch.randn(5, 4)
    before = snapshot(model)
    with pytest.raises(CallError, match=said) as caught:
        activation_statistics(model, lambda model, x: model(x).sum(), batch, layers)
    assert "\n" not in str(caught.value)
    assert snapshot(model) == before


class _Chooses(nn.Module):
    def __init__(self, index: bool) -> None:
        super().__init__()
        self.weight, self.index = nn.Parameter(torch.ones(3)), index

    def forward(self, x: Tensor) -> Any:
        return x.argmax(1) if self.index else {"first": (x.argmax(1), [self.weight * x])}


def test_the_first_floating_tensor_of_an_output_is_measured() -> None:
    x = torch.randn(4, 3)
    loss_fn = lambda model, x: model(x)["first"][1][0].sum()  # noqa: E731
    found = activation_statistics(_Chooses(index=False), loss_fn, x, [ROOT])[ROOT]
    np.testing.assert_allclose(found.units.mean, x.double().mean(0).numpy(), rtol=1e-12)
    with pytest.raises(CallError, match="floating-point output"):
        activation_statistics(_Chooses(index=True), lambda model, x: model(x), x, [ROOT])
    with pytest.raises(CallError, match="forward pass calls"):
        activation_statistics(_Chooses(index=True), lambda model, x: model(x), x)


class _Owner(nn.Module):
    """A module of an unknown kind with parameters of given shapes; its output is its input."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.own = nn.ParameterList([torch.ones(shape) for shape in shapes])
        for index, shape in enumerate(shapes):
            self.register_parameter(f"own_{index}", nn.Parameter(torch.ones(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.own_0.sum() / self.own_0.numel()


@pytest.mark.parametrize(
    ("module", "batch", "axis", "units"),
    [
        (nn.Linear(3, 4), torch.randn(2, 5, 3), 2, 4),
        (nn.Linear(3, 4), torch.randn(3), 0, 4),
        (nn.Conv1d(3, 4, 2), torch.randn(2, 3, 6), 1, 4),
        (nn.Conv2d(3, 4, 2), torch.randn(3, 6, 6), 0, 4),  # without a batch axis
        (nn.ConvTranspose2d(3, 4, 2), torch.randn(2, 3, 6, 6), 1, 4),
        (nn.Conv2d(3, 4, 2), torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last), 1, 4),
        (nn.BatchNorm1d(3), torch.randn(2, 3, 6), 1, 3),
        (nn.GroupNorm(1, 4), torch.randn(2, 4, 6, 4), 1, 4),
        (nn.LayerNorm(6), torch.randn(2, 3, 6), 2, 6),
        (nn.LayerNorm((3, 5, 6)), torch.randn(2, 3, 5, 6), 1, 3),
        (nn.RMSNorm(6), torch.randn(2, 3, 6), 2, 6),
        (nn.Embedding(7, 3), torch.arange(6).reshape(2, 3), 2, 3),
        (nn.LSTM(3, 6), torch.randn(2, 5, 3), 2, 6),
        (_Owner((6,)), torch.randn(2, 3, 6), 2, 6),
        (_Owner((3,)), torch.randn(2, 3, 6), 1, 3),
        (_Owner((9, 6), (6,)), torch.randn(2, 9, 6), 2, 6),  # the vector decides before the matrix
        (_Owner((9, 6)), torch.randn(2, 5, 6), 2, 6),
        (_Owner((7,)), torch.randn(2, 3, 6), 1, 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_axis_that_counts_units(module: nn.Module, batch: Tensor, axis: int, units: int) -> None:
    found = activation_statistics(nn.Sequential(module), lambda model, x: _run(model, x).sum(), batch)
    layer = found["0"]
    assert (layer.unit_axis, layer.units.mean.size) == (axis, units)


def test_attention_and_parametrized_layers_are_layers() -> None:
    attention = CASES[[case.name for case in CASES].index("attention")]
    found = activation_statistics(*_built(attention))
    assert found.layers == ("self_attn", "norm1", "linear1", "linear2", "norm2")
    torch.manual_seed(0)
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False)))
    assert activation_statistics(model, lambda model, x: model(x).sum(), torch.randn(3, 5)).layers == ("0",)


def test_attention_in_eval_mode_runs_layer_by_layer() -> None:
    """The fused path of nn.TransformerEncoderLayer would pass its layers by."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = activation_statistics(model, lambda model, x: model(x).sum(), torch.randn(3, 5, 8))
    assert "linear1" in found.layers


def test_noise_after_the_norm_is_seen_at_the_module_that_holds_both() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), NoisyBatchNorm(3), nn.ReLU())
    found = activation_statistics(model, lambda model, x: model(x).sum(), torch.randn(8, 1, 9, 9), ["1.0", "1"])
    assert np.abs(found["1.0"].units.mean).max() < 1e-6
    assert np.abs(found["1"].units.mean).max() > 0.01


def test_it_sees_the_random_numbers_of_the_step() -> None:
    """Law 3: what it measured is what the training's own forward pass computes next."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 4))
    batch = (torch.randn(8, 5), torch.arange(8) % 4)
    found = activation_statistics(model, cross_entropy, batch)
    output = model(batch[0]).detach().double().numpy()
    np.testing.assert_array_equal(found["2"].units.minimum, output.min(0))


def test_statistics_precision_and_batch_size_are_recorded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    batch, loss_fn = torch.randn(8, 5), lambda model, x: model(x).square().mean()
    model(batch)
    found = {mode: activation_statistics(model, loss_fn, batch, ["1"], mode) for mode in ("batch", "running")}
    assert [found[mode].provenance.statistics for mode in found] == ["batch", "running"]
    assert found["batch"].provenance.batch_size == 8
    assert np.abs(found["batch"]["1"].units.mean).max() < 1e-6 < np.abs(found["running"]["1"].units.mean).max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert activation_statistics(model, loss_fn, batch).provenance.dtype == "bfloat16"
    with pytest.raises(CallError, match="statistics"):
        activation_statistics(model, loss_fn, batch, statistics="both")
    with pytest.raises(CallError, match="tracked no batch"):
        activation_statistics(nn.BatchNorm1d(5), loss_fn, batch, statistics="running")


def test_micro_batches_merge_to_the_whole_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 4)).double()
    x, loss_fn = torch.randn(12, 5).double(), lambda model, x: model(x).square().mean()
    whole = activation_statistics(model, loss_fn, x)
    parts = [Part(piece, conditions_now(model), len(piece) / 12) for piece in x.split([4, 3, 5])]
    pooled = activations_of(Objective.of_parts(model, loss_fn, parts))
    merged = activation_statistics(model, loss_fn, x[:4]).merge(activation_statistics(model, loss_fn, x[4:]))
    for name in whole.layers:
        for other in (pooled[name], merged[name]):
            np.testing.assert_allclose(other.units.mean, whole[name].units.mean, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(other.units.kurtosis, whole[name].units.kurtosis, rtol=1e-10)
            np.testing.assert_array_equal(other.histogram.counts, whole[name].histogram.counts)
    assert (merged.provenance.batch_size, whole.provenance.batch_size) == (None, 12)


def test_merging_what_does_not_belong_together_is_refused() -> None:
    torch.manual_seed(0)
    model, loss_fn = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)), lambda model, x: model(x).square().mean()
    batch = torch.randn(8, 5)
    model(batch)
    first = activation_statistics(model, loss_fn, batch, statistics="batch")
    with pytest.raises(CallError, match="statistics 'batch'"):
        first.merge(activation_statistics(model, loss_fn, batch, statistics="running"))
    with pytest.raises(CallError, match="7 units"):
        first.merge(activation_statistics(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), loss_fn, batch))
    with pytest.raises(CallError, match="same layers"):
        first.change(activation_statistics(model, loss_fn, batch, ["0"]))
    with pytest.raises(CallError, match="7 units"):
        first.change(activation_statistics(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), loss_fn, batch))
    with pytest.raises(CallError, match="expected one of '0', '1'"):
        first["2"]


def test_change_and_drift() -> None:
    """Closed form: a shift of the bias moves the means, a factor on the weights the variances."""
    torch.manual_seed(0)
    model, batch = nn.Linear(4, 2, bias=True).double(), torch.randn(50, 4).double()
    loss_fn = lambda model, x: model(x).sum()  # noqa: E731
    model.bias.data.zero_()
    batch -= batch.mean(0)
    before = activation_statistics(model, loss_fn, batch)
    model.bias.data.copy_(torch.tensor([0.5, -0.25]))
    model.weight.data.mul_(0.5)
    change = before.change(activation_statistics(model, loss_fn, batch))[ROOT]
    np.testing.assert_allclose(change.mean_drift, [0.5, -0.25], rtol=1e-12)
    np.testing.assert_allclose(change.mean_change, [0.5, 0.25], rtol=1e-12)
    np.testing.assert_allclose(change.variance_drift, -0.75 * before[ROOT].units.variance, rtol=1e-12)
    np.testing.assert_allclose(change.variance_change, 0.75 * before[ROOT].units.variance, rtol=1e-12)


def test_rows_say_what_was_measured() -> None:
    model, loss_fn, batch = _built(CASES[1])
    found = activation_statistics(model, loss_fn, batch)
    rows = list(found.rows(30))
    assert {row.layer for row in rows} == {"0", "1", "3"}
    assert {row.step_size for row in rows} == {None}
    assert {(row.step, row.statistics, row.dtype, row.status) for row in rows} == {(30, "batch", "float64", OK)}
    by_name = {row.quantity: row for row in rows if row.layer == "0"}
    assert "activation_quantile_0.25" in by_name
    kept = naive.by_unit(naive.keep_everything(model, loss_fn, batch)["0"], 1)
    assert by_name["activation_mean"].value == pytest.approx(kept.mean())
    assert by_name["activation_mean"].value == pytest.approx(kept.mean(1).mean())
    assert by_name["activation_variance"].value == pytest.approx(kept.var(1).mean())
    assert by_name["activation_kurtosis"].value == pytest.approx(naive.moments(kept.reshape(1, -1))["kurtosis"][0])
    assert (by_name["activation_variance"].unit, by_name["activation_quantile_0.5"].unit) == ("a^2", "a")
    changes = {row.quantity: row for row in found.change(found).rows(31)}
    assert {row.value for row in changes.values()} == {0.0}
    assert set(changes) == {f"activation_{m}_{c}" for m in ("mean", "variance") for c in ("change", "drift")}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_counted_and_has_a_status(value: float) -> None:
    model = nn.Linear(1, 2, bias=False)
    model.weight.data.fill_(1.0)
    batch = torch.tensor([[1.0], [value], [2.0], [3.0]])
    found = activation_statistics(model, lambda model, x: model(x).sum(), batch)
    layer = found[ROOT]
    np.testing.assert_array_equal(layer.units.non_finite, [1, 1])
    assert np.isnan(layer.units.mean).all()
    assert layer.status == (NON_FINITE, NON_FINITE)
    rows = {row.quantity: row for row in found.rows(0)}
    assert (rows["activation_non_finite"].value, rows["activation_non_finite"].status) == (2.0, OK)
    assert rows["activation_mean"].status == rows["activation_kurtosis"].status == NON_FINITE
    quantile = rows["activation_quantile_0.5"]
    assert (quantile.status == OK) == (not np.isnan(value))  # infinities have a place in the order
    assert {row.status for row in found.change(found).rows(0)} == {NON_FINITE}


def test_a_constant_layer_is_undefined_not_gaussian() -> None:
    model = nn.Linear(2, 3)
    model.weight.data.zero_()
    found = activation_statistics(model, lambda model, x: model(x).sum(), torch.randn(9, 2), [ROOT])
    np.testing.assert_array_equal(found[ROOT].units.variance, 0)
    assert np.isnan(found[ROOT].units.kurtosis).all()
    model.bias.data.fill_(0.1)
    rows = {r.quantity: r for r in activation_statistics(model, lambda m, x: m(x).sum(), torch.randn(9, 2)).rows(0)}
    assert rows["activation_variance"].value == 0.0
    assert rows["activation_skewness"].status == rows["activation_kurtosis"].status == UNDEFINED
    assert rows["activation_quantile_0.01"].value == pytest.approx(0.1, rel=1e-7)


def test_a_layer_without_samples_is_undefined() -> None:
    found = activation_statistics(nn.Linear(2, 3), lambda model, x: model(x[:0]).sum(), torch.ones(4, 2))
    assert found[ROOT].status == (UNDEFINED,) * 3
    assert {row.status for row in found.rows(0) if row.quantity != "activation_non_finite"} == {UNDEFINED}


# Law 1


def _trained_once(case: Case) -> tuple[nn.Module, Any, Any, torch.optim.Optimizer]:
    model, loss_fn, batch = _built(case, 1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    loss_fn(model, batch).backward()
    optimizer.step()
    return model, loss_fn, batch, optimizer


@pytest.mark.parametrize("case", CALLED, ids=lambda case: case.name)
@pytest.mark.parametrize("statistics", [None, "batch"])
def test_nothing_changes(case: Case, statistics: str | None) -> None:
    model, loss_fn, batch, optimizer = _trained_once(case)
    before = snapshot(model, optimizer)
    activation_statistics(model, loss_fn, batch, statistics=statistics)
    after = snapshot(model, optimizer)
    assert {key for key in before if before[key] != after.get(key)} == set()
    assert set(after) == set(before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["in a layer", "in the loss"])
def test_nothing_changes_when_it_raises(error: type[BaseException], where: str) -> None:
    model, loss_fn, batch, optimizer = _trained_once(CASES[1])

    def fails(*anything: Any) -> None:
        raise error("in the middle")

    if where == "in a layer":
        model[2].register_forward_hook(fails)
    failing: Callable[..., Any] = lambda model, batch: fails(loss_fn(model, batch))  # noqa: E731
    before = snapshot(model, optimizer)
    with pytest.raises(error):
        activation_statistics(model, failing if where == "in the loss" else loss_fn, batch)
    assert snapshot(model, optimizer) == before
    assert all(len(module._forward_hooks) == (module is model[2] and where == "in a layer") for module in model)


def test_a_watched_training_is_bit_identical() -> None:
    def train(watched: bool) -> list[Tensor]:
        torch.manual_seed(2)
        model = vgg(8, width=1 / 16, norm="noisy", in_channels=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        batch = (torch.randn(8, 1, 32, 32), torch.arange(8) % 4)
        for _ in range(3):
            if watched:
                activation_statistics(model, cross_entropy, batch)
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()
            optimizer.step()
        return [*model.parameters(), *model.buffers()]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))


def test_users_hooks_act_and_stay() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(2, 3)), torch.randn(4, 2)
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    doubled = activation_statistics(model, lambda model, x: model(x).sum(), batch)["0"]
    np.testing.assert_allclose(doubled.units.maximum, model(batch).max(0).values.detach().double().numpy())
    assert len(model[0]._forward_hooks) == 1


def test_every_error_is_alidades_own() -> None:
    with pytest.raises(AlidadeError):
        activation_statistics(nn.Identity(), lambda model, x: model(x).sum(), torch.randn(2, 2))
    with pytest.raises(AlidadeError):
        activation_statistics(nn.Linear(2, 2), "cross entropy", torch.randn(2, 2))  # type: ignore[arg-type]


class _CarriesItsLoss(nn.Module):
    """As from a model hub: the loss comes first in the output, and the model owns a parameter itself."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.scale, self.alone = nn.Parameter(torch.tensor([2.0, 3.0])), alone

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.scale * x
        return {"loss": y.mean()} if self.alone else {"loss": y.mean(), "count": torch.tensor(2), "logits": y}


def test_the_loss_in_an_output_is_no_activation_unless_it_is_all_there_is() -> None:
    x = torch.tensor([[1.0, 1.0], [3.0, 1.0]])
    found = activation_statistics(_CarriesItsLoss(False), lambda model, x: model(x)["loss"], x)["(model)"]
    assert found.units.mean.tolist() == [4.0, 3.0]
    alone = activation_statistics(_CarriesItsLoss(True), lambda model, x: model(x)["loss"], x)["(model)"]
    assert alone.units.mean.tolist() == [3.5]
