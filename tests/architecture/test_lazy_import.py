from __future__ import annotations

import subprocess
import sys


def test_importing_alidade_loads_nothing_heavy() -> None:
    program = "import sys, alidade; print(*{'torch', 'altair', 'polars', 'scipy', 'sklearn'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
