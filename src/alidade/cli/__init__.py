"""The command line. Exit codes: 0 done (a refuted claim is a result), 1 the work failed, 2 the call is wrong."""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import sys

import typer

from alidade.cli.commands import app
from alidade.cli.study import StudyInterruptedError
from alidade.core.errors import AlidadeError, CallError

#: What typer raises for a wrong call; newer versions carry their own click, so it is found, not imported.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")  # type: ignore[assignment]

INTERRUPTED = 130  # 128 + SIGINT, as shells expect


def main() -> None:
    """Run the command line; every error becomes one line on standard error."""
    atexit.register(_skip_teardown)  # the first to be registered is the last to be called
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, OSError):
            _leave_output()
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as with `| head`
            sys.exit(1)
        message, code = _explain(error)
        _fail(message, code)
    sys.exit(code or 0)


def _explain(error: BaseException) -> tuple[str, int]:
    """The one line that is printed for an error, and the exit code."""
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted; repeat the command to go on", INTERRUPTED
        case StudyInterruptedError():
            return f"interrupted: {error}; to go on, repeat: {shlex.join(['alidade', *sys.argv[1:]])}", INTERRUPTED
        case _UsageError():
            return _explain_usage(error), 2
        case AlidadeError():
            return str(error), 2 if isinstance(error, CallError) else 1
        case OSError():
            return f"{error.filename or 'file'}: {error.strerror or error}; check the path and the free space", 1
    if "ALIDADE_TRACEBACK" in os.environ:
        raise error
    return f"unexpected {type(error).__name__}: {error}; for a report of it set ALIDADE_TRACEBACK=1 and repeat", 1


def _explain_usage(error: BaseException) -> str:
    message: str = error.format_message()  # type: ignore[attr-defined]
    known = ", ".join(command.callback.__name__ for command in app.registered_commands if command.callback)
    hint = f"known: {known}" if message.startswith("No such command") else "see 'alidade --help'"
    return f"{message.rstrip('.')}; {hint}"


def _leave_output() -> None:
    """What is still buffered for standard output cannot be written: do not try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_left: list[int] = []  # the exit code after Ctrl-C


def _skip_teardown() -> None:
    """After Ctrl-C nobody waits for torch to be taken apart, which lasts up to a second on a busy core."""
    if _left:
        os._exit(_left[0])


def _fail(message: str, code: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C has nothing more to stop
    if code == INTERRUPTED:
        _left.append(code)
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
