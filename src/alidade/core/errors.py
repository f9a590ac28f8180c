"""Two kinds of failure, so that a program can tell a wrong call from work that failed."""


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
