"""The exceptions that Alidade raises on purpose; each message is one line: expected, came, what to do."""

from alidade.core.errors import AlidadeError as AlidadeError
from alidade.core.errors import CallError as CallError
from alidade.core.errors import RefusedError as RefusedError
from alidade.core.errors import WorkError as WorkError
