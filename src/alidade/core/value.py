"""Frozen values that check what they are made of, and say in one line what is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from alidade.core.errors import CallError, brief


class Value(BaseModel):
    """A frozen pydantic model whose constructor raises a CallError of one line.

    >>> class Size(Value):
    ...     width: int
    >>> Size(width="wide", depth=1)
    Traceback (most recent call last):
    alidade.core.errors.CallError: Size: width: input should be a valid integer, ..., got 'wide'; depth: extra ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise CallError(f"{type(self).__name__}: {one_line(error)}") from None


def one_line(error: ValidationError) -> str:
    """What pydantic found, place by place, in one line."""
    found = []
    for problem in error.errors(include_url=False):
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        message = " ".join((message[:1].lower() + message[1:]).split())
        known = problem["type"] in ("missing", "extra_forbidden", "value_error")
        found.append(f"{place}: {message}" + ("" if known else f", got {brief(problem['input'])}"))
    return "; ".join(found)
