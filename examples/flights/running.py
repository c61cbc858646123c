"""Runs `trilane` as a user would: commands that end, and `trilane up`, which runs until it is told to stop.

Law: only processes that were started here are ever signalled, and none of them is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from examples.flights.client import HOST, Connection
from trilane import ConflictError, ContractError, SetupError, TrilaneError, UnavailableError

__all__ = ["Up", "command", "free_port", "refuse_if_up"]

_PATIENCE = 60.0  # seconds in which a process must come up, or end
_PAUSE = 0.02


def command(project: Path, *words: str) -> dict[str, Any]:
    """The JSON answer of `trilane WORDS`. Raises SetupError with what it told if it fails."""
    line = [sys.executable, "-m", "trilane", *words, "--project", str(project), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stdout.strip() or done.stderr.strip()).splitlines()
        raise SetupError(
            f"`trilane {' '.join(words)}` failed: {told[-1] if told else 'without a word'}", where=str(project)
        )
    answer: dict[str, Any] = msgspec.json.decode(done.stdout)
    return answer


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def refuse_if_up(state: Path) -> None:
    """Raises ConflictError if another `trilane up` runs on this state."""
    with contextlib.suppress(FileNotFoundError), (state / "up.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"`trilane up` runs here already, as process {lock.read().strip()}",
                where=str(state),
                remedy="Stop it, or give another folder with --folder",
            ) from None


class Up:
    """`trilane up` for a project, on a port of its own, with a clock that the caller moves."""

    def __init__(self, project: Path, *, start: str, workers: int) -> None:
        self.state = project / "state"
        self.port = free_port()
        self.started = time.perf_counter()
        self._log = project / "up.log"
        line = [sys.executable, "-m", "trilane", "up", "--replay", "--replay-start", start]
        line += ["--port", str(self.port), "--workers", str(workers), "--project", str(project)]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C must reach this process first, which then stops everything in order.
            self._process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def connect(self) -> Connection:
        """A connection to the server, as soon as it is ready to answer. Raises SetupError if it does not come up."""
        for _ in self.patiently("the server did not become ready"):
            with contextlib.suppress(TrilaneError):
                connection = Connection(self.port)
                connection.ask("GET", "/health/ready")
                return connection
        raise AssertionError  # patience ends with an error

    def explain(self, connection: Connection, decision: str) -> dict[str, Any]:
        """The record of a decision and its score made anew; records are written shortly after the answer."""
        for _ in self.patiently(f"decision {decision} was not recorded"):
            with contextlib.suppress(ContractError):
                explained: dict[str, Any] = connection.ask("GET", f"/v1/explain/{decision}")
                return explained
        raise AssertionError  # patience ends with an error

    def processes(self) -> dict[str, int]:
        """The process ids of the roles that run now."""
        with contextlib.suppress(FileNotFoundError):
            return msgspec.json.decode((self.state / "pids.json").read_bytes(), type=dict[str, int])
        return {}

    def kill(self, role: str) -> int:
        """Ends a role without warning, as a crash would; its process id."""
        process = self.processes()[role]
        os.kill(process, signal.SIGKILL)
        return process

    def stop(self) -> None:
        """Asks everything to end, and waits until it has."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def patiently(self, otherwise: str) -> Iterator[None]:
        """Turns in which to look for a condition. Raises SetupError, saying `otherwise`, when patience ends."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            yield
            time.sleep(_PAUSE)  # between two looks at the condition itself
        last = self._log.read_text(errors="replace").splitlines()[-3:]
        raise SetupError(f"{otherwise}: {' / '.join(last)}", where=str(self._log))


def caught_up(connection: Connection, now: str, *, patience: float = _PATIENCE) -> None:
    """Moves the clock to `now` and waits until all that was sent is servable. Raises UnavailableError if it is not."""
    body = msgspec.json.encode({"now": now, "wait_ms": int(patience * 1e3)})
    answer = connection.ask("POST", "/v1/clock", body)
    if not answer["caught_up"]:
        raise UnavailableError(
            f"the lanes did not catch up in {patience:.0f} s: {', '.join(answer['waiting_for'])}", where=f"clock {now}"
        )
