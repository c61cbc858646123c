"""Runs the roles of one machine as child processes, and brings back what dies.

Laws: each role runs once; one that dies returns at once the first time, then after ever longer pauses, until it has
lived for a while; a stop request is passed on, then waited for, then enforced, and no process is left behind,
whatever killed whom. One state has one supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import msgspec

from trilane.apps.processes import PARENT
from trilane.errors import ConflictError, SetupError
from trilane.plugins import make_folder

__all__ = ["PIDS_FILE", "Event", "Role", "supervise"]

PIDS_FILE = "pids.json"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds, doubled each time; the first restart has no pause
_SETTLED = 10.0  # seconds of life after which a death counts as the first again
_READY_POLL = 0.1


@dataclass(frozen=True, kw_only=True)
class Role:
    """A process to keep: its name, its command, and, where it can be asked, whether it is ready."""

    name: str
    command: Sequence[str]
    ready: Callable[[], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened to a role, for the operator: `started`, `ready`, `died`, `stopping`, `killed` or `stopped`."""

    role: str
    what: str
    pid: int | None = None
    detail: str = ""


@dataclass
class _Child:
    role: Role
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restart_at: float = 0.0
    deaths: int = 0
    ready: bool = field(default=False)


def supervise(
    roles: Sequence[Role],
    *,
    state: Path,
    say: Callable[[Event], None],
    environment: Mapping[str, str] | None = None,
    grace: float = 15.0,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Keeps `roles` running until SIGTERM, SIGINT or SIGHUP; `grace` is how many seconds they get to end.

    `prepare` is called once the state is ours and before anything starts. While it runs, `state`/pids.json maps
    each role to its process id. Raises ConflictError if another supervisor holds this state.
    """
    with _owned(state), _wakeups() as wakeup:
        if prepare is not None:
            prepare()
        family = _Family(roles, state=state, say=say, environment=environment)
        try:
            while not wakeup.stopping:
                family.tend()
                wakeup.wait(family.next_turn())
        finally:
            family.end(grace)


class _Family:
    def __init__(
        self,
        roles: Sequence[Role],
        *,
        state: Path,
        say: Callable[[Event], None],
        environment: Mapping[str, str] | None,
    ) -> None:
        self._children = [_Child(role) for role in roles]
        self._pids = state / PIDS_FILE
        self._say = say
        self._environment = {**os.environ, **(environment or {}), PARENT: str(os.getpid())}

    def tend(self) -> None:
        """Buries the dead, starts what is due, notices what became ready."""
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._bury(child, child.process)
            if child.process is None and time.monotonic() >= child.restart_at:
                self._start(child)
            elif child.process is not None and not child.ready and child.role.ready is not None:
                child.ready = child.role.ready()
                if child.ready:
                    self._say(Event(role=child.role.name, what="ready", pid=child.process.pid))

    def next_turn(self) -> float | None:
        """Seconds until `tend` has something to do though no signal comes."""
        now = time.monotonic()
        waits = [child.restart_at - now for child in self._children if child.process is None]
        waits += [_READY_POLL for child in self._children if child.process and child.role.ready and not child.ready]
        return max(min(waits), 0.0) if waits else None

    def end(self, grace: float) -> None:
        """Asks all to end, waits, and kills what stays."""
        running = [(child, child.process) for child in self._children if child.process is not None]
        for child, process in running:
            self._tell(child, "stopping")
            process.terminate()
        deadline = time.monotonic() + grace
        for child, process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.0))
            if process.poll() is None:
                self._tell(child, "killed", f"did not end within {grace:.0f} s")
            _kill_group(process)
            process.wait()
            self._tell(child, "stopped")
        self._pids.unlink(missing_ok=True)

    def _start(self, child: _Child) -> None:
        try:
            child.process = subprocess.Popen(
                list(child.role.command),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env=self._environment,
                process_group=0,  # so that Ctrl-C in a terminal reaches the supervisor alone
            )
        except OSError as error:
            what = f"the role {child.role.name!r} cannot be started: {error}"
            raise SetupError(what, where=child.role.command[0]) from error
        child.started, child.ready = time.monotonic(), False
        self._write_pids()  # before anybody is told, so that whoever is told may read it
        self._tell(child, "started")

    def _bury(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        _kill_group(process)  # what it started must not outlive it
        if time.monotonic() - child.started > _SETTLED:
            child.deaths = 0
        pause = min(_FIRST_PAUSE * 2 ** (child.deaths - 1), _LONGEST_PAUSE) if child.deaths else 0.0
        child.deaths += 1
        child.restart_at = time.monotonic() + pause
        again = f"again in {pause:g} s" if pause else "starting it again"
        self._tell(child, "died", f"{_cause(process.returncode)}; {again}")
        child.process = None
        self._write_pids()

    def _tell(self, child: _Child, what: str, detail: str = "") -> None:
        pid = child.process.pid if child.process else None
        self._say(Event(role=child.role.name, what=what, pid=pid, detail=detail))

    def _write_pids(self) -> None:
        pids = {child.role.name: child.process.pid for child in self._children if child.process}
        draft = self._pids.with_suffix(".draft")
        draft.write_bytes(msgspec.json.encode({"supervisor": os.getpid(), **pids}))
        draft.replace(self._pids)


def _cause(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class _Wakeups:
    """Signals as something that can be waited for."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self.stopping = False

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.stopping = self.stopping or number != signal.SIGCHLD

    def wait(self, seconds: float | None) -> None:
        if not self.stopping and select.select([self._pipe], [], [], seconds)[0]:
            os.read(self._pipe, 4096)


@contextlib.contextmanager
def _wakeups() -> Iterator[_Wakeups]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wakeups = _Wakeups(reading)
    former_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    former = {number: signal.signal(number, wakeups.note) for number in _SIGNALS}
    try:
        yield wakeups
    finally:
        for number, before in former.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(former_pipe)
        os.close(reading)
        os.close(writing)


@contextlib.contextmanager
def _owned(state: Path) -> Iterator[None]:
    path = make_folder(state) / "up.lock"
    try:
        file = path.open("a+")
    except OSError as error:
        raise SetupError(f"the lock file cannot be opened: {error}", where=str(path)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConflictError(
                f"this project is up already, under process {file.read().strip() or 'unknown'}",
                where=str(state),
                remedy="Stop that one first, or look at it with `trilane status`",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
