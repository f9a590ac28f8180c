"""A survey: the door for anybody's training loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alidade.core.errors import CallError, WorkError, brief
from alidade.core.probes import AnyProbe, probes_named
from alidade.core.records import Recorder, Row
from alidade.core.schedule import Schedule, schedule_of
from alidade.core.spec import SurveySpec
from alidade.landscape.arguments import check_model
from alidade.landscape.differentiation import Tensors
from alidade.landscape.isolation import unwrap
from alidade.landscape.loss import as_loss_function
from alidade.landscape.parallelism import spread_of
from alidade.landscape.ranks import Ranks
from alidade.landscape.shards import whole
from alidade.probes.agreement import require_alike
from alidade.probes.announced import Announced
from alidade.probes.budget import SURROUNDINGS, Budget
from alidade.probes.environment import describe_processes, describe_training, environment
from alidade.probes.hooks import (
    hookable,
    learning_rates,
    refuse_inside_backward,
    require_shared_parameters,
    trainable,
    was_skipped,
)
from alidade.probes.memory import reason_of
from alidade.probes.moment import Moment
from alidade.probes.recorders import Fan, recorders_of
from alidade.probes.saved import STATE_FORMAT, check_state
from alidade.probes.session import TIMING, Session
from alidade.store.live import LiveRun, SilentRun, folder_of

#: What a survey measures unless told otherwise.
DEFAULT_PROBES = ("update_profile", "relative_profile", "layer_scalars")


class Survey:
    r"""Probes along a training run of your own, bit-identical to the run without them.

    ``observe`` announces the data of the next optimizer step; the step itself is seen through the optimizer's
    own hooks, so closures, LBFGS and a Trainer that steps for you work alike. A probe looks at the parameters
    :math:`\theta_t` before the step, on the step's data, under the random numbers, autocast and modes of its real
    forward pass; the optimizer's update is :math:`\theta_t - \theta_{t+1}`, so step size 1 along it is the step
    really taken. Probes never read ``.grad``.

    Under DistributedDataParallel and ``fully_shard`` every process makes a survey and calls it alike; the numbers are
    those of the mean of all losses, the first process decides what the budget allows, and it alone writes.

    Args:
        model: any module, also compiled or wrapped.
        loss_fn: ``loss_fn(model, batch)`` returns a scalar Tensor; or a pair (forward, criterion).
        optimizer: a torch optimizer over the model's parameters, or a wrapper that keeps one as ``.optimizer``.
        out: an empty or new folder; what is measured is written there as it comes. A folder with an earlier part of
            this very run is refused at the first ``observe``, unless its state was loaded.
        probes: names or probe specifications, or a single one; None: profiles along the update and in relative
            coordinates, and scalars per layer.
        schedule: which steps may be probed where ``probes`` are names; a number n means every n steps, None every
            step (as the budget allows).
        budget: share of the training time that probes may take; None: no limit, so that the probed steps depend
            on the schedule alone and repeat.
        config: what you want to find again with the results; "seed" goes into the table.
        name: what the report calls this run; default: the folder's name.
        recorders: further receivers of the rows (``record(segment, rows)``), such as TensorBoard.

    Raises:
        CallError: an optimizer over other parameters, a folder that is not empty, an unknown probe, a model
            without trainable parameters, a config that is not JSON, processes that ask for different probes.

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
        out: str | PathLike[str],
        probes: str | AnyProbe | Iterable[str | AnyProbe] | None = None,
        schedule: Schedule | int | None = None,
        budget: float | None = 0.05,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        recorders: Iterable[Recorder] = (),
    ) -> None:
        check_model(unwrap(model))
        self._model, self._loss_fn = model, as_loss_function(loss_fn)
        self._optimizer = hookable(optimizer)
        require_shared_parameters(self._optimizer, model)
        wanted = probes_named(DEFAULT_PROBES if probes is None else probes, schedule_of(schedule))
        bucket, others, folder = Budget(budget), recorders_of(recorders), folder_of(out)
        spec = describe_training(model, self._optimizer, config, str(name or folder.name))
        where = {**environment(next(model.parameters()).device.type), **describe_processes(model)}
        self._ranks = spread_of(model).ranks
        require_alike(self._ranks, "probes, budget", ([probe.probe_id for probe in wanted], bucket.limited))
        self._run, self._live = _run_of(self._ranks, folder, spec, where)
        self._recorder = Fan(self._live, others if self._ranks.index == 0 else ())
        self._session = Session(wanted, self._recorder, bucket, self._ranks)
        self._session.look_ahead(0)
        self.step = 0  # optimizer steps seen
        self._around = 0.0  # seconds spent around the probes of this step
        self._announced = False  # whether the data of the next step are known
        self._chosen: list[str] = []  # probes that this step is to have
        self._data = Announced(model, self._loss_fn)
        self._start: Tensors | None = None
        self._obstacle = ""  # why the start of this step could not be kept
        self._began = self._checked = self._closed = False
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
            CallError: the survey is closed, its folder holds an earlier part of the run whose state was not loaded, or
                the weight is no finite number.
        """
        self._begin("observe")
        if weight is not None and not (isinstance(weight, Real) and abs(weight) < float("inf")):
            raise CallError(f"weight: expected a finite number or None, got {brief(weight)}")
        if not accumulate:
            self._drop()
        if not self._announced:
            self._announced, self._chosen = True, self._session.due(self.step)
        if self._chosen:
            began = time.perf_counter()
            self._data.add(batch, weight)
            self._around += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        """What a survey needs to go on where this one stands, after an optimizer step: save it with the checkpoint.

        Numbers, text and tensors only, so that ``torch.load(..., weights_only=True)`` reads it. What has been
        measured is written to the disk first.

        Raises:
            WorkError: it could not be.
        """
        if not self._closed:
            self._live.flush(at_once=True)
        return {"format": STATE_FORMAT, "run": self._run, "step": self.step, **self._session.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, in the same ``out`` or in a new one, before the first ``observe``.

        Rows of later steps than the state's are void, since these steps come again: each is in the table once.

        Raises:
            CallError: no such state or a damaged one, the state of another run (another config, model or optimizer) or
                of a newer version, or too late.
        """
        if self._closed or self._began:
            raise CallError("survey: expected load_state_dict() before the first observe(); make a new Survey")
        check_state(state, self._run)
        self._session.load(state)
        self._ranks.agreed(lambda: self._live.resume(state["step"]))
        self.step = state["step"]
        self._session.look_ahead(self.step)

    @property
    def overhead(self) -> float:
        """Seconds spent on probes as a share of the seconds that the training took."""
        return self._session.budget.spent / max(self._session.budget.training_seconds, 1e-9)

    def close(self) -> None:
        """Remove the hooks and write what is not written yet. A second call does nothing, unless there was no room.

        Raises:
            WorkError: the run could not be written. It is still in memory: free space and close again.
        """
        if not self._closed:
            self._end()
        if self._live.ready:
            self._live.close()

    def _end(self) -> None:
        self._closed = True
        self._drop()
        for handle in self._handles:
            handle.remove()
        budget = self._session.budget
        seconds = {"training_seconds": budget.training_seconds, "probes_seconds": budget.spent}
        if self._live.ready:
            self._recorder.record(TIMING, [Row(self.step, n, v, "s", dtype="float64") for n, v in seconds.items()])

    def __enter__(self) -> Survey:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _begin(self, call: str) -> None:
        if self._closed:
            raise CallError(f"survey: expected an open one, got {call}() after close(); make a new Survey")
        if not self._began:
            self._live.require_ready()
            self._began = True

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        refuse_inside_backward()
        self._begin("step")
        if not self._announced:
            self._chosen = self._session.due(self.step)  # due, and to be recorded as not measured
        if self._chosen:
            began = time.perf_counter()
            try:
                self._start = trainable(self._model)
            except Exception as error:  # no room for a copy is a failure of the probes, not of the training
                self._obstacle = reason_of(error)
            self._around += time.perf_counter() - began

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        skipped = any(self._ranks.gathered(lambda: was_skipped(optimizer))) if self._chosen else False
        try:
            if self._chosen and not skipped:
                self._measure()
        finally:  # also by Ctrl-C, after which a notebook may well go on
            self._drop()
            self.step += not skipped
        self._session.look_ahead(self.step)

    def _measure(self) -> None:
        began, before = time.perf_counter(), self._session.budget.spent
        try:
            moment = self._ranks.phase(self._moment)
        except Exception as error:  # the training must go on, whatever the loss function does
            self._session.fail(self.step, self._chosen, reason_of(error))
            return
        moment.check_deterministic, self._checked = not self._checked, True
        self._session.measure(moment, self._chosen)
        self._live.flush()
        self._around += time.perf_counter() - began - (self._session.budget.spent - before)

    def _moment(self) -> Moment:
        if self._obstacle:
            raise WorkError(self._obstacle)
        now = whole(trainable(self._model), self._ranks)
        start = now if self._start is None else whole(self._start, self._ranks)
        update = {name: start[name] - now[name] for name in start}
        rates = learning_rates(self._optimizer, self._model)
        parts, optimizer = self._data.parts(start), self._optimizer
        return Moment(self.step, self._model, self._loss_fn, parts, start, update, rates, optimizer=optimizer)

    def _drop(self) -> None:
        self._data.drop()
        if self._around:
            self._session.budget.charge(SURROUNDINGS, self._around)
            self._around = 0.0
        self._chosen, self._start, self._obstacle, self._announced = [], None, "", False


def _run_of(ranks: Ranks, folder: Path, spec: SurveySpec, where: Mapping[str, Any]) -> tuple[str, LiveRun | SilentRun]:
    """The id of the run, and who writes it: the first process."""
    own = ranks.agreed(lambda: LiveRun(folder, spec, where) if ranks.index == 0 else None)
    run, ready = ranks.gathered(lambda: (spec.run_id, own is not None and own.ready))[0]
    return run, own or SilentRun(folder, ready)
