"""Which Ray cluster is meant, and whether it answers: in bounded time, where Ray itself would wait for minutes."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

from alidade.core.errors import CallError, WorkError

#: Seconds that a cluster may take to answer: first its port, then Ray.
PORT_SECONDS, ANSWER_SECONDS = 3.0, 12.0
#: How we connect: what the nodes print stays in their logs, and a Ray of our own has no dashboard.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
#: Ray's settings by environment variable, where the caller has not chosen: nothing is reported, nobody is warned.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

_NONE_RUNS = "Could not find any running Ray instance"  # Ray's words
#: As we are about to do ourselves.
_KNOCK = f"import ray, sys; print(flush=True); ray.init(sys.argv[1], **{QUIET!r}); ray.shutdown()"


def found(address: str | None) -> str:
    """The address that ``ray.init`` is to get; somebody answers there, or it is "local".

    Args:
        address: "host:port" of a cluster that this machine belongs to, "ray://host:port" from outside, "auto" for the
            one that runs on this machine, "local" for a new one; None, as ``ray.init`` has it: RAY_ADDRESS, else the
            one that runs on this machine, else a new one.

    Raises:
        CallError: no address.
        WorkError: nobody answers, or no Ray that fits ours.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    wanted = os.environ.get("RAY_ADDRESS") or "auto" if address in (None, "auto") else str(address)
    if wanted == "local":
        return wanted
    if wanted != "auto":
        _require_port(wanted)
    reason = _why_not(wanted)
    if reason is None:
        return wanted
    if address is None and _NONE_RUNS in reason:
        return "local"
    raise _unreachable(wanted, reason)


def _require_port(address: str) -> None:
    """Somebody listens there."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise CallError(f"--ray-address: expected host:port, ray://host:port, auto or local, got {address!r}")
    try:
        socket.create_connection((host, port), timeout=PORT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from error


def _why_not(address: str) -> str | None:
    """Why Ray cannot be connected to; None when it can. A process of its own is asked: it can be stopped."""
    command, quiet = [sys.executable, "-c", _KNOCK, address], {**os.environ, "RAY_BACKEND_LOG_LEVEL": "fatal"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=quiet) as process:
        try:
            _ = process.stdout and process.stdout.readline()  # it has loaded Ray, which takes seconds on a busy machine
            _, said = process.communicate(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            return f"no answer in {ANSWER_SECONDS:g} seconds"
        finally:
            process.kill()
    lines = [line for line in said.splitlines() if line.strip()]
    if process.returncode == 0:
        return None
    return lines[-1].split(". Please")[0] if lines else f"exit code {process.returncode}"


def _unreachable(address: str, reason: str) -> WorkError:
    start = "start one with 'ray start --head', or name another address"
    return WorkError(f"--ray-address {address}: expected a Ray cluster that answers, got: {reason}; {start}")
