"""Outputs of modules that ran before a boundary, handed out again instead of being computed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alidade.landscape.randomness import RandomState
from alidade.landscape.watch import replace_forward, tensors_in, versions

_PRIMITIVES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class PrefixCache:
    """Keeps what modules return in one evaluation, for others that agree with it up to a boundary.

    An output is kept if it is a nesting of plain tensors that share no storage with the module's inputs, and if the
    call changed none of these. Random numbers go on as if the module had drawn its own. An output that was seen
    to be changed in place is handed out as a copy; one that turns out to have been changed is computed anew. What
    had a gradient is handed out as a leaf that wants one: some kernels choose their sums by that.

    Args:
        model: the root module.
        randomness: the random state that every evaluation starts from.
    """

    def __init__(self, model: nn.Module, randomness: RandomState) -> None:
        self._model = model
        self._start = randomness
        self._kept: dict[nn.Module, _Kept] = {}
        self._called: set[nn.Module] = set()

    def keep(self, modules: Iterable[nn.Module], changed_in_place: Collection[nn.Module]) -> None:
        """Keep what these modules return in this evaluation; to be called inside ``isolated``."""
        for module in modules:
            replace_forward(module, self._computed, module in changed_in_place)

    def hand_out(self, ends: Mapping[nn.Module, float], boundary: float) -> None:
        """Hand out what was kept of modules that returned before the boundary; to be called inside ``isolated``.

        The boundary must not fall from one evaluation to the next: what is inside a module handed out is dropped.
        """
        self._called.clear()
        for module in list(self._kept):
            if module in self._kept and ends.get(module, math.inf) < boundary:
                for inside in module.modules():
                    if inside is not module:
                        self._kept.pop(inside, None)
        for module in self._kept:
            if ends.get(module, math.inf) < boundary:
                replace_forward(module, self._replayed)

    def _computed(
        self, module: nn.Module, original: Callable[..., Any], copied: bool, *args: Any, **kwargs: Any
    ) -> Any:
        inputs = list(tensors_in((args, kwargs)))
        then = versions(inputs)
        output = original(*args, **kwargs)
        given = list(tensors_in((args, kwargs)))
        untouched = then is not None and then == versions(given) and [*map(id, inputs)] == [*map(id, given)]
        if untouched and _can_be_kept(output) and not _share_storage(inputs, output):
            state = self._start.now(self._model)
            self._kept[module] = _Kept(
                output=_rebuilt(output, lambda tensor: tensor.detach().clone() if copied else tensor.detach()),
                wanted=[tensor.requires_grad for tensor in tensors_in(output)],
                copied=copied,
                randomness=None if state.same_as(self._start) else state,
            )
        return output

    def _replayed(self, module: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kept = self._kept.get(module)
        if kept is None or module in self._called or not kept.intact:
            self._kept.pop(module, None)
            return original(*args, **kwargs)
        self._called.add(module)
        return kept.handed_out()


class _Kept:
    """What a module returned; ``copied``: nobody else holds these tensors, and nobody shall."""

    def __init__(self, output: Any, wanted: list[bool], copied: bool, randomness: RandomState | None) -> None:
        self._output, self._copied = output, copied
        self._wanted = wanted  # by tensor: whether it had a gradient
        self._versions = versions(list(tensors_in(output)))
        self._randomness = randomness  # after the call; None where it is still that of the start

    @property
    def intact(self) -> bool:
        return self._versions == versions(list(tensors_in(self._output)))

    def handed_out(self) -> Any:
        if self._randomness is not None:
            self._randomness.install()
        wanted = iter(self._wanted)

        def leaf(tensor: Tensor) -> Tensor:
            tensor = tensor.detach().requires_grad_(next(wanted))
            return tensor.clone() if self._copied else tensor

        return _rebuilt(self._output, leaf)


def _can_be_kept(output: Any) -> bool:
    if isinstance(output, Tensor):
        return type(output) in (Tensor, nn.Parameter) and not output.is_inference()
    if isinstance(output, tuple | list):
        return (isinstance(output, tuple) or type(output) is list) and all(map(_can_be_kept, output))
    if isinstance(output, dict):
        return type(output) in (dict, OrderedDict) and all(map(_can_be_kept, output.values()))
    return isinstance(output, _PRIMITIVES)


def _share_storage(inputs: list[Tensor], output: Any) -> bool:
    try:
        there = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        return any(tensor.untyped_storage().data_ptr() in there for tensor in tensors_in(output))
    except (RuntimeError, NotImplementedError):  # a tensor without storage, such as a sparse one
        return True


def _rebuilt(structure: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with new containers and changed tensors."""
    if isinstance(structure, Tensor):
        return change(structure)
    if isinstance(structure, tuple | list):
        parts = [_rebuilt(part, change) for part in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    if isinstance(structure, dict):
        return type(structure)((key, _rebuilt(value, change)) for key, value in structure.items())
    return structure
