"""A survey: the door for anybody's training loop."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alidade.core.errors import CallError
from alidade.core.probes import AnyProbe, probe_named
from alidade.core.records import Recorder, Row
from alidade.core.schedule import Every, Schedule
from alidade.core.spec import SurveySpec
from alidade.landscape.conditions import AutocastState
from alidade.landscape.differentiation import Tensors
from alidade.landscape.isolation import unwrap
from alidade.landscape.loss import as_loss_function
from alidade.landscape.objective import Objective, Part
from alidade.probes.budget import SURROUNDINGS, Budget
from alidade.probes.environment import environment
from alidade.probes.hooks import (
    ForwardWatch,
    autocast_of_the_caller,
    hookable,
    learning_rates,
    refuse_inside_backward,
    require_shared_parameters,
    trainable,
    was_skipped,
)
from alidade.probes.session import TIMING, Moment, Session
from alidade.store.live import LiveRun

#: What a survey measures unless told otherwise.
DEFAULT_PROBES = ("update_profile", "relative_profile", "layer_scalars")


@dataclass
class _Pending:
    """A micro-batch that was announced for the next optimizer step."""

    batch: Any
    weight: float | None
    watch: ForwardWatch


class Survey:
    r"""Probes along a training run of your own, bit-identical to the run without them.

    ``observe`` announces the data of the next optimizer step; the step itself is seen through the optimizer's
    own hooks, so closures, LBFGS and a Trainer that steps for you work alike. A probe looks at the parameters
    :math:`\theta_t` before the step, on the step's data, under the random numbers, autocast and modes of its real
    forward pass; the optimizer's update is :math:`\theta_t - \theta_{t+1}`, so step size 1 along it is the step
    really taken. Probes never read ``.grad``.

    Args:
        model: any module, also compiled or wrapped.
        loss_fn: ``loss_fn(model, batch)`` returns a scalar Tensor; or a pair (forward, criterion).
        optimizer: a torch optimizer over the model's parameters, or a wrapper that keeps one as ``.optimizer``.
        out: an empty or new folder; what is measured is written there as it comes.
        probes: names or probe specifications; None: profiles along the update and in relative coordinates,
            and scalars per layer.
        schedule: which steps may be probed; None: every step (as the budget allows) where ``probes`` are names.
        budget: share of the training time that probes may take; None: no limit, so that the probed steps depend
            on the schedule alone and repeat.
        config: what you want to find again with the results; "seed" goes into the table.
        name: what the report calls this run; default: the folder's name.
        recorders: further receivers of the rows (``record(segment, rows)``), such as TensorBoard.

    Raises:
        CallError: an optimizer over other parameters, a folder that is not empty, an unknown probe, a model
            without trainable parameters, a config that is not JSON.

    Cost: nothing but two empty hook calls on a step that is not probed; on one that is, a copy of the parameters
    and the passes of its probes.

    >>> import tempfile
    >>> model = nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loss_fn = lambda model, x: model(x).square().mean()
    >>> with Survey(model, loss_fn, optimizer, out=tempfile.mkdtemp(), budget=None) as survey:
    ...     for batch in torch.ones(3, 4, 2):
    ...         survey.observe(batch)
    ...         optimizer.zero_grad()
    ...         loss_fn(model, batch).backward()
    ...         optimizer.step()
    >>> survey.step
    3
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Any,
        optimizer: Any,
        out: str | Path,
        probes: Sequence[str | AnyProbe] | None = None,
        schedule: Schedule | None = None,
        budget: float | None = 0.05,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        recorders: Sequence[Recorder] = (),
    ) -> None:
        self._optimizer = hookable(optimizer)
        require_shared_parameters(self._optimizer, model)
        if budget is not None and not 0 < budget <= 1:
            raise CallError(f"budget: expected a share above 0 and up to 1, or None, got {budget!r}")
        self._model, self._loss_fn = model, as_loss_function(loss_fn)
        wanted = [probe_named(p, schedule or Every(interval=1)) for p in (DEFAULT_PROBES if probes is None else probes)]
        spec = _describe(model, self._optimizer, config, name or Path(out).name)
        self._live = LiveRun(Path(out), spec, environment(next(model.parameters()).device.type))
        self._session = Session(wanted, _Fan((self._live, *recorders)), Budget(budget))
        self._recorder = _Fan((self._live, *recorders))
        self.step = 0  # optimizer steps seen
        self._around = 0.0  # seconds spent around the probes of this step
        self._announced = False  # whether the data of the next step are known
        self._chosen: list[str] = []  # probes that this step is to have
        self._pending: list[_Pending] = []
        self._start: Tensors | None = None
        self._autocast: tuple[AutocastState, ...] | None = None
        self._checked = self._closed = False
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]

    def observe(self, batch: Any, accumulate: bool = False, weight: float | None = None) -> None:
        """Announce the data of the next optimizer step, before its forward pass.

        Args:
            batch: what ``loss_fn`` takes; kept until the step if a probe is due.
            accumulate: True adds a micro-batch to those announced; False starts a new step and drops what a
                skipped step left behind.
            weight: factor of this micro-batch's loss in the loss of the step; default 1 / number of micro-batches.

        Raises:
            CallError: the survey is closed.
        """
        if self._closed:
            raise CallError("survey: expected an open one, got observe() after close(); make a new Survey")
        if not accumulate:
            self._drop()
        if not self._announced:
            self._announced, self._chosen = True, self._session.due(self.step)
        if self._chosen:
            began = time.perf_counter()
            self._pending.append(_Pending(batch, weight, ForwardWatch(self._model)))
            self._around += time.perf_counter() - began

    @property
    def overhead(self) -> float:
        """Seconds spent on probes as a share of the seconds that the training took."""
        return self._session.budget.spent / max(self._session.budget.training_seconds, 1e-9)

    def close(self) -> None:
        """Remove the hooks and write what is not written yet. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._drop()
        for handle in self._handles:
            handle.remove()
        budget = self._session.budget
        seconds = {"training_seconds": budget.training_seconds, "probes_seconds": budget.spent}
        self._recorder.record(TIMING, [Row(self.step, n, v, "s", dtype="float64") for n, v in seconds.items()])
        self._live.close()

    def __enter__(self) -> Survey:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        refuse_inside_backward()
        if not self._announced:
            self._chosen = self._session.due(self.step)  # due, and to be recorded as not measured
        if self._chosen:
            began = time.perf_counter()
            self._start = trainable(self._model)
            self._around += time.perf_counter() - began

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        skipped = was_skipped(optimizer) if self._chosen else False
        if self._chosen and not skipped:
            self._measure()
        self._drop()
        self.step += not skipped

    def _measure(self) -> None:
        if not self._pending:
            reason = "no data were announced for this step; call survey.observe(batch) before its forward pass"
            self._session.fail(self.step, self._chosen, reason)
            return
        began, before = time.perf_counter(), self._session.budget.spent
        for pending in self._pending:
            pending.watch.stop()
        now = trainable(self._model)
        start = self._start or now
        update = {name: start[name] - now[name] for name in start}
        rates = learning_rates(self._optimizer, self._model)
        moment = Moment(self.step, self._model, self._loss_fn, self._parts(start), start, update, rates)
        moment.check_deterministic, self._checked = not self._checked, True
        self._session.measure(moment, self._chosen)
        self._live.flush()
        self._around += time.perf_counter() - began - (self._session.budget.spent - before)

    def _parts(self, start: Tensors) -> list[Part]:
        if self._autocast is None:
            first = self._pending[0]
            self._autocast = autocast_of_the_caller(
                first.watch,
                self._model,
                lambda conditions: Objective.of_parts(
                    self._model, self._loss_fn, [Part(first.batch, conditions)], start, check_deterministic=False
                ).value(),
            )
        default = 1.0 / len(self._pending)
        return [
            Part(p.batch, p.watch.conditions(self._autocast), default if p.weight is None else p.weight)
            for p in self._pending
        ]

    def _drop(self) -> None:
        for pending in self._pending:
            pending.watch.stop()
        if self._around:
            self._session.budget.charge(SURROUNDINGS, self._around)
            self._around = 0.0
        self._pending, self._chosen, self._start, self._announced = [], [], None, False


class _Fan:
    """Hands rows to several recorders."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = recorders

    def record(self, segment: str, rows: Sequence[Row]) -> None:
        for recorder in self._recorders:
            recorder.record(segment, rows)


def _describe(model: nn.Module, optimizer: torch.optim.Optimizer, config: Any, name: str) -> SurveySpec:
    plain = unwrap(model)
    plain_kinds = (int, float, str)
    defaults: dict[str, Any] = {k: v for k, v in optimizer.defaults.items() if isinstance(v, plain_kinds)}
    try:
        return SurveySpec(
            name=name,
            model=type(plain).__name__,
            parameters=sum(p.numel() for p in plain.parameters() if p.requires_grad),
            optimizer=type(optimizer).__name__,
            optimizer_defaults=defaults,
            config=dict(config or {}),
        )
    except (TypeError, ValueError) as error:
        raise CallError(f"config: expected a dict of what JSON can hold, got {config!r}") from error
