"""Bad input at every door: one line from alidade.errors, nothing left behind, and no tensor printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.snapshot import snapshot
from torch import nn

import alidade
from alidade.core.probes import ActivationsProbe, CovariateShiftProbe, LineProfileProbe
from alidade.core.schedule import Every, First, Logarithmic
from alidade.core.spec import OptimizerSpec
from alidade.errors import AlidadeError, CallError, WorkError
from alidade.probes.theorem import lipschitz_reduction


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def _loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return model(batch).square().mean()


BATCH = torch.arange(24.0).reshape(6, 4) / 24


def _objective(model: nn.Module) -> alidade.Objective:
    return alidade.Objective(model, _loss, BATCH)


def _along(change: Callable[[torch.Tensor], Any]) -> Callable[[nn.Module], object]:
    def profiled(model: nn.Module) -> object:
        direction = {name: p.detach().clone() for name, p in model.named_parameters()}
        direction["0.weight"] = change(direction["0.weight"])
        return alidade.line_profile(_objective(model), [0.1], direction=direction)

    return profiled


def _going(direction: Any) -> Callable[[nn.Module], object]:
    return lambda model: alidade.line_profile(_objective(model), [0.1], direction=direction)


def _at(sizes: Any) -> Callable[[nn.Module], object]:
    return lambda model: alidade.line_profile(_objective(model), sizes)


def _value(loss_fn: Any) -> Callable[[nn.Module], object]:
    return lambda model: alidade.Objective(model, loss_fn, BATCH).value()


def _losses_only(loss_fn: Any) -> Callable[[nn.Module], object]:
    def profiled(model: nn.Module) -> object:
        direction = {name: p.detach().clone() for name, p in model.named_parameters()}
        objective = alidade.Objective(model, loss_fn, BATCH)
        return alidade.line_profile(objective, [0.1], direction=direction, gradients=False)

    return profiled


def _shift(**changed: Any) -> Callable[[nn.Module], object]:
    def shifted(model: nn.Module) -> object:
        state = dict(model.state_dict())
        arguments = {"before": state, "after": state} | changed
        return alidade.covariate_shift(model, _loss, BATCH, **arguments)

    return shifted


class _Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lazy = nn.LazyLinear(3)


def _objective_of(make: Callable[[], Any]) -> Callable[[nn.Module], object]:
    with torch.random.fork_rng():
        made = make()
    return lambda model: alidade.Objective(made, _loss, BATCH)


def _a_thousand(*_: Any) -> list[float]:
    return [float("nan")] * 1000


CALLS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "text for numbers": (_at("abc"), "step_sizes: expected a non-empty list of finite numbers, got 'abc'"),
    "numbers in text": (_at(["0.1"]), "step_sizes: expected finite numbers, got '0.1' among them"),
    "complex": (_at([1j]), "got 1j"),
    "truth": (_at([True]), "got True"),
    "truth array": (_at(np.array([True])), "got True"),
    "one number": (_at(0.1), "got 0.1"),
    "a tensor of two axes": (_at(torch.ones(100, 100)), r"got a float32 Tensor of shape \(100, 100\)"),
    "a 0-d tensor": (_at(torch.ones(())), "got a float32 Tensor of shape"),
    "nothing": (_at([]), "non-empty"),
    "an empty generator": (_at(eta for eta in ()), "non-empty"),
    "many nan": (_at(_a_thousand()), r"got \[nan, nan"),
    "a mapping": (_at({0.1: 1}), "non-empty list"),
    "lists along": (_along(lambda t: t.tolist()), r"direction\['0.weight'\]: expected a Tensor, got \[\["),
    "precision along": (_along(lambda t: t.double()), "expected dtype float32, got float64"),
    "shape along": (_along(lambda t: t[:1]), r"expected shape \(5, 4\), got \(1, 4\)"),
    "a number beyond all floats": (_at([10**400]), "non-empty list of finite numbers"),
    "sparse along": (_along(lambda t: t.to_sparse()), "expected a dense Tensor, got layout sparse_coo"),
    "a seed": (lambda m: alidade.line_profile(_objective(m), [0.1], "random", seed="x"), "seed: expected .*got 'x'"),
    "a large seed": (lambda m: alidade.line_profile(_objective(m), [0.1], "random", seed=2**64), "of at most 64 bits"),
    "a model for an objective": (
        lambda m: alidade.line_profile(m, [0.1]),
        r"alidade.Objective\(model, loss_fn, batch\)",
    ),
    "no objective": (lambda m: alidade.layer_scalars(None), r"alidade.Objective\(model, loss_fn, batch\), got None"),
    "elsewhere": (lambda m: _objective(m).value({"x": torch.ones(1)}), r"at: expected.*unknown \['x'\]"),
    "elsewhere, in part": (
        lambda m: _objective(m).gradient({"0.weight": torch.ones(5, 4)}),
        r"at: expected one tensor per trainable parameter, missing \['0.bias'",
    ),
    "meta": (_objective_of(lambda: nn.Linear(2, 2, device="meta")), "'weight' on the meta device; load it first"),
    "a complex state": (
        lambda m: _shift(after=dict(m.state_dict()) | {"0.weight": torch.zeros(5, 4) * 1j})(m),
        r"after\['0.weight'\]: expected real numbers, got complex64",
    ),
    "a number of activations": (lambda m: alidade.activation_statistics(m, _loss, BATCH, 3), "list of names.*got 3"),
    "numbers of activations": (lambda m: alidade.activation_statistics(m, _loss, BATCH, [1]), r"got \[1\]"),
    "a true rate": (lambda m: alidade.layer_scalars(_objective(m), lr=True), "lr: expected a finite number"),
    "device along": (_along(lambda t: t.to("meta")), "expected device cpu, got meta"),
    "nan along": (_along(lambda t: t * float("nan")), "expected finite numbers, got NaN"),
    "a tensor along": (
        lambda m: alidade.line_profile(_objective(m), [0.1], direction=BATCH),
        "dict of tensors, got a f",
    ),
    "a list along": (
        lambda m: alidade.line_profile(_objective(m), [0.1], direction=[BATCH]),
        "None, 'random' or a dict",
    ),
    "update without survey": (lambda m: alidade.line_profile(_objective(m), [0.1], direction="update"), "'random'"),
    "coordinates": (lambda m: alidade.line_profile(_objective(m), [0.1], coordinates=BATCH), "'raw' or 'relative'"),
    "hvp": (lambda m: _objective(m).hvp([1.0]), r"direction: expected a dict.*got \[1.0\]"),
    "no model": (_objective_of(lambda: None), "model: expected a torch.nn.Module, got None"),
    "a function": (_objective_of(lambda: _loss), "model: expected a torch.nn.Module, got <function"),
    "lazy": (_objective_of(_Lazy), "lazy 'lazy.weight'; run one forward pass first"),
    "complex weights": (
        _objective_of(lambda: nn.ParameterList([torch.zeros(2, dtype=torch.complex64)])),
        "real trainable.*complex64",
    ),
    "frozen": (_objective_of(lambda: nn.Linear(2, 2).requires_grad_(False)), "at least one parameter"),
    "no loss": (_value(None), "loss_fn: expected loss_fn"),
    "a criterion": (_value(nn.CrossEntropyLoss()), "got the criterion CrossEntropyLoss"),
    "a vector": (_value(lambda m, b: m(b)), r"scalar Tensor, got shape \(6, 2\)"),
    "a number": (_value(lambda m, b: 1.0), "got float"),
    "a complex loss": (_value(lambda m, b: _loss(m, b) * 1j), "expected a real loss, got complex64"),
    "detached": (_value(lambda m, b: _loss(m, b).detach()), "depends on the parameters"),
    "counted": (_value(lambda m, b: (m(b) > 0).sum()), "depends on the parameters"),
    "ignored": (_value(lambda m, b: b.sum()), "depends on the parameters"),
    "ignored, with a graph": (
        _value(lambda m, b: torch.ones((), requires_grad=True) * 2),
        "none of them enters",
    ),
    "ignored, losses only": (_losses_only(lambda m, b: b.sum()), "depends on the parameters"),
    "ignored, losses only, with a graph": (
        _losses_only(lambda m, b: torch.ones((), requires_grad=True) * 2),
        "none of them enters",
    ),
    "detached, losses only": (_losses_only(lambda m, b: _loss(m, b).detach()), "depends on the parameters"),
    "statistics": (lambda m: alidade.Objective(m, _loss, BATCH, "some"), "None, 'batch' or 'running'"),
    "untracked": (lambda m: alidade.Objective(m, _loss, BATCH, "running"), "has tracked no batch"),
    "no state": (_shift(before=3), "before: expected a state dictionary"),
    "half a state": (_shift(after={}), r"missing \['0.weight'"),
    "an unknown layer": (_shift(layers=["nine"]), "got 'nine'; there are 0, 1, 3"),
    "no layer": (_shift(layers=[]), "non-empty list"),
    "an unknown activation": (
        lambda m: alidade.activation_statistics(m, _loss, BATCH, ["nine"]),
        "got 'nine'; those with parameters are 0, 1, 3",
    ),
    "an unknown norm": (lambda m: lipschitz_reduction(_objective(m), ["0"]), r"\(1\), got '0'"),
    "one norm as text": (lambda m: lipschitz_reduction(_objective(m), "1"), "non-empty list of names, got '1'"),
    "one sample": (
        lambda m: lipschitz_reduction(alidade.Objective(m, _loss, BATCH[:1])),
        "at least 2 samples per unit of layer '1', got 1",
    ),
    "lr": (lambda m: alidade.layer_scalars(_objective(m), lr=-1.0), "lr: expected a finite number >= 0"),
    "update": (lambda m: alidade.layer_scalars(_objective(m), update=[1]), "expected a dict"),
}


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_one_line_and_nothing_touched(call: str) -> None:
    model = _model()
    act, message = CALLS[call]
    before = snapshot(model)
    with pytest.raises(CallError, match=message) as caught:
        act(model)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert snapshot(model) == before


def test_scripted_modules_are_refused() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(nn.Linear(4, 2))
    for model in (scripted, nn.Sequential(scripted, nn.Linear(2, 2))):
        with pytest.raises(CallError, match="expected plain modules, got a scripted one") as caught:
            alidade.Objective(model, _loss, BATCH)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sizes",
    [
        (eta for eta in (0.1, 0)),
        np.array([0.1, 0.0]),
        torch.tensor([0.1, 0.0]).double(),
        (np.float32(0.1), 0),
        {0.1: 0}.keys(),
    ],
    ids=["generator", "array", "tensor", "mixed", "keys"],
)
def test_any_iterable_of_numbers_is_a_list_of_step_sizes(sizes: Any) -> None:
    profile = alidade.line_profile(_objective(_model()), sizes)
    assert profile.step_sizes.tolist() == pytest.approx([0.1, 0.0][: profile.step_sizes.size], rel=1e-7)


SURVEYS: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model: expected a torch.nn.Module, got None"),
    ({"model": _Lazy()}, "run one forward pass first"),
    ({"optimizer": torch.optim.SGD}, "expected a torch.optim.Optimizer"),
    ({"schedule": "often"}, "schedule: expected Every.*got 'often'"),
    ({"schedule": 0}, "Every: interval: input should be greater than or equal to 1, got 0"),
    ({"schedule": True}, "schedule: expected"),
    ({"recorders": [3]}, r"recorders: expected a list of objects with record\(segment, rows\), got 3"),
    ({"recorders": 3}, "recorders: expected"),
    ({"probes": 3}, "probes: expected a list"),
    ({"probes": [3]}, "probes: expected one of update_profile, .*got 3"),
    ({"probes": "sharpness"}, "probes: expected one of update_profile, .*got 'sharpness'"),
    ({"budget": "all"}, "budget: expected a share above 0"),
    ({"budget": True}, "budget: expected a share above 0"),
    ({"config": [1]}, "config: expected a dict"),
    ({"config": {"x": torch.zeros(10, 10)}}, "config: expected a dict"),
    ({"out": 3}, "out: expected the path"),
    ({"out": ""}, "out: expected the path"),
]


@pytest.mark.parametrize(("changed", "message"), SURVEYS, ids=[f"{c}" for c, _ in SURVEYS])
def test_a_survey_refuses_in_one_line(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = {"model": model, "loss_fn": _loss, "optimizer": optimizer, "out": tmp_path / "s"} | changed
    with pytest.raises(CallError, match=message) as caught:
        alidade.Survey(**arguments)
    assert "\n" not in str(caught.value)
    assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 0
    assert not (tmp_path / "s").exists()


def test_one_probe_and_a_number_of_steps_will_do(tmp_path: Path) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with alidade.Survey(model, _loss, optimizer, tmp_path / "s", "layer_scalars", schedule=2, budget=None) as survey:
        for _ in range(5):
            survey.observe(BATCH)
            _loss(model, BATCH).backward()
            optimizer.step()
    frame = alidade.load(tmp_path / "s")
    assert sorted(set(frame.filter(quantity="weight_norm")["step"])) == [0, 2, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LineProfileProbe(step_sizes=()), "LineProfileProbe: step_sizes: tuple should have at least 1 item"),
        (lambda: LineProfileProbe(), "step_sizes: field required"),
        (lambda: LineProfileProbe(step_sizes=(1, 1)), "step sizes must differ"),
        (lambda: LineProfileProbe(step_sizes=(1,), direction="up", often=1), "direction: .*; often: extra inputs"),
        (lambda: ActivationsProbe(layers=3), "ActivationsProbe: layers"),
        (lambda: CovariateShiftProbe(layers=("a",), groups={"b": ("c",)}), "expected layers or groups, got both"),
        (lambda: Logarithmic(base=1.0), "Logarithmic: base"),
        (lambda: First(count=-1), "First: count"),
        (lambda: Every(interval="x"), "Every: interval: .*got 'x'"),
        (lambda: OptimizerSpec(learning_rate=-1), "OptimizerSpec: learning_rate: .*greater than 0, got -1"),
    ],
)
def test_a_specification_refuses_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(CallError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_nothing_to_load(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for path, kind in (
        (3, CallError), (None, CallError), (tmp_path / "nowhere", CallError), (tmp_path / "file", CallError),
        (tmp_path / "empty", WorkError), (str(tmp_path / "empty"), WorkError),
    ):  # fmt: skip
        with pytest.raises(kind, match="expected") as caught:
            alidade.load(path)
        assert isinstance(caught.value, AlidadeError)
        assert "\n" not in str(caught.value)
