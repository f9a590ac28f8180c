"""Watching one evaluation of the loss: which module runs when, and when each parameter is first used."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

#: Functions that take a tensor and make one that does not depend on its values.
_IGNORE_VALUES = {
    "new_zeros", "new_ones", "new_empty", "new_empty_strided", "new_full", "new_tensor",
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
}  # fmt: skip
#: Functions that read a tensor's values and return no tensor.
_READ_VALUES = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__"}


class Watch(TorchFunctionMode):
    """A clock that ticks at every call of a module and at every first use of a parameter.

    Entered as a context around the forward pass, it sees every function of torch that is called, and so finds a
    parameter's first use even where the module that owns it is never called (``out_proj`` of
    ``nn.MultiheadAttention``, the embedding that serves as the last layer). ``attach`` patches ``forward`` on the
    modules and belongs inside ``isolated``, which takes the patches away.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self._model = model
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._tensors = tensors  # kept alive, since they are recognized by identity
        self._clock = 0
        self._running: list[nn.Module] = []
        self._writers: set[nn.Module] = set()
        self._ends: dict[nn.Module, int] = {}
        self._outputs: list[tuple[nn.Module, list[Tensor], list[int] | None]] = []
        self._handles: list[RemovableHandle] = []
        self._over = False
        self.calls: Counter[nn.Module] = Counter()
        self.first_call: dict[nn.Module, int] = {}
        self.first_use: dict[str, int] = {}  # by the parameter's name
        self.users: dict[str, tuple[nn.Module, ...]] = {}  # the modules that were running then, outermost first
        self.changed_in_place: set[nn.Module] = set()  # modules whose output was changed after they returned it
        self.differentiated_inside = False  # gradients were taken during the forward pass, as by a gradient penalty
        self.called_in_backward = False  # as gradient checkpointing does

    def attach(self) -> None:
        """Watch the calls of all modules."""
        for module in self._model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                replace_forward(module, self._forward)

    def ends_of_calls(self) -> dict[nn.Module, int]:
        """When each module returned whose output may stand for its call.

        Those are modules that were called once, that set no attributes on themselves or on a module inside them,
        and that hold no module with forward hooks, which somebody expects to run.
        """
        return {
            module: end
            for module, end in self._ends.items()
            if self.calls[module] == 1 and self._writers.isdisjoint(module.modules()) and not _hooked_inside(module)
        }

    def __enter__(self) -> Watch:
        """Begin to watch the forward pass."""
        for tensor in self._tensors.values():
            self._notice_gradient(tensor)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """The forward pass is over; calls from here on are those of the backward pass."""
        super().__exit__(*error)
        self._over = True
        self.changed_in_place = {module for module, found, then in self._outputs if versions(found) != then}
        self._outputs.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note the parameters among its arguments."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tensors_in((args, kwargs)):
            name = self._names.get(id(tensor))
            if name is not None and name not in self.first_use and _depends_on_values(func, result):
                self._clock += 1
                self.first_use[name] = self._clock
                self.users[name] = tuple(self._running)
        return result

    def _forward(self, module: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._over:
            self.called_in_backward = True
            return original(*args, **kwargs)
        self._clock += 1
        self.calls[module] += 1
        self.first_call.setdefault(module, self._clock)
        self._running.append(module)
        own = not type(module).__module__.startswith("torch.nn.modules.")
        attributes = _attributes(module) if own else None
        result = original(*args, **kwargs)
        if own and attributes != _attributes(module):
            self._writers.add(module)
        self._running.pop()
        self._clock += 1
        self._ends[module] = self._clock
        returned = list(tensors_in(result))
        self._outputs.append((module, returned, versions(returned)))
        for tensor in returned:
            self._notice_gradient(tensor)
        return result

    def _notice_gradient(self, tensor: Tensor) -> None:
        def noticed(gradient: Tensor) -> None:
            self.differentiated_inside = True

        if tensor.requires_grad:
            self._handles.append(tensor.register_hook(noticed))


def replace_forward(module: nn.Module, stand_in: Callable[..., Any], *options: Any) -> None:
    """``stand_in(module, original, *options, *args, **kwargs)`` becomes ``forward``, with the original's signature."""
    original = module.forward
    vars(module)["forward"] = update_wrapper(partial(stand_in, module, original, *options), original)


def tensors_in(structure: Any) -> Iterator[Tensor]:
    """The tensors in a nesting of tuples, lists and dictionaries."""
    if isinstance(structure, Tensor):
        yield structure
    elif isinstance(structure, tuple | list):
        for part in structure:
            yield from tensors_in(part)
    elif isinstance(structure, dict):
        yield from tensors_in(list(structure.values()))


def versions(tensors: list[Tensor]) -> list[int] | None:
    """How often each tensor was changed in place; None where that is not counted."""
    return None if any(tensor.is_inference() for tensor in tensors) else [tensor._version for tensor in tensors]


def _depends_on_values(func: Any, result: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name in _READ_VALUES or (name not in _IGNORE_VALUES and next(tensors_in(result), None) is not None)


def _attributes(module: nn.Module) -> dict[str, tuple[int, int | None]]:
    """Identity of each attribute, the length of those that can grow, the version of tensors."""
    return {name: (id(value), _progress(value)) for name, value in vars(module).items()}


def _progress(value: Any) -> int | None:
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version
    return len(value) if isinstance(value, list | dict | set | deque) else None


def _hooked_inside(module: nn.Module) -> bool:
    inside = (child for child in module.modules() if child is not module)
    return any(child._forward_hooks or child._forward_pre_hooks for child in inside)
