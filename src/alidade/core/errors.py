"""Two kinds of failure, so that a program can tell a wrong call from work that failed."""

from __future__ import annotations

from typing import Any

#: The longest piece of a value that a message quotes.
_LONGEST = 80


class AlidadeError(Exception):
    """Base of every error that Alidade raises on purpose; the message is one line.

    The line says what was expected, what came, and what to do.
    """


class CallError(AlidadeError, ValueError):
    """The call is wrong: an unknown name, a bad shape, options that exclude each other (exit code 2)."""


class WorkError(AlidadeError, RuntimeError):
    """The call is right and the work failed: a damaged file, a full disk, nothing to report (exit code 1)."""


class RefusedError(AlidadeError, RuntimeError):
    """A number could be computed but would not mean what it says (law 4: refuse rather than guess)."""


def brief(value: Any) -> str:
    """A value for a message: one short line, and of an array its type, shape and precision instead of its numbers.

    >>> brief("abc"), brief([1.0] * 1000)[-9:]
    ("'abc'", '1.0, 1...')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a {kind} {type(value).__name__} of shape {tuple(value.shape)}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of the user's own may fail, and the message is about something else
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
