from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "alidade"
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_BODY = 40
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(text: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """From the first statement after the docstring to the last line."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < MOST_LINES_OF_A_FILE
    assert [f.name for f in functions(text) if body_lines(f) >= MOST_LINES_OF_A_BODY] == []


def test_modules_say_what_they_hold() -> None:
    assert [path for path in FILES if {path.stem, path.parent.name} & NAMES_THAT_SAY_NOTHING] == []


def test_a_docstring_does_not_count_as_body() -> None:
    text = 'def f():\n    """One\n\n    two.\n    """\n    a = 1\n\n    return a\n\n\ndef g():\n    """Only."""\n'
    assert [body_lines(f) for f in functions(text)] == [3, 0]
