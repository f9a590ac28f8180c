"""What it looks like when memory is not enough, and how to go on."""

from __future__ import annotations

import gc

import torch

#: How torch says it outside of its own exception: the CPU's allocator, and libraries on the GPU.
_SAID = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory was not enough.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)


def release_memory() -> None:
    """Give back what nobody uses any more, so that the training finds room."""
    gc.collect()  # what a traceback held, in cycles
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line.

    >>> reason_of(MemoryError()), reason_of(ValueError("a line", 1)), reason_of(KeyError())
    ('out of memory', "('a line', 1)", 'KeyError')
    """
    said = " ".join(str(error).split())
    if is_out_of_memory(error) and not said.startswith("out of memory"):
        return f"out of memory: {said}" if said else "out of memory"
    return said or type(error).__name__
