"""How the processes of one machine hold together: a child ends with its parent, and a port has one owner.

Laws: when a parent dies, even by SIGKILL, a child that called `die_with_parent` is told to end (SIGTERM); of the
servers of one state, one at a time has a port, from before it listens until its process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from trilane.errors import SetupError
from trilane.plugins import make_folder

__all__ = [
    "PARENT",
    "PROJECT",
    "SERVER",
    "check_port",
    "die_with_parent",
    "hold_port",
    "holder_of",
    "member_names",
    "stop_flag",
]

PARENT = "TRILANE_PARENT"  # the variable by which a supervisor tells its children its process id
PROJECT = "TRILANE_PROJECT"  # the variable that tells the processes of a server its project's folder
SERVER = "TRILANE_SERVER"  # the variable that tells a server's workers the process that they must not outlive
_PR_SET_PDEATHSIG = 1
_OTHER_PORT = "Stop that process, or choose another port: --port, TRILANE_PORT, or `port = ` in trilane.toml"


def die_with_parent(parent: int | None = None) -> None:
    """From now on, this process gets SIGTERM when process `parent` dies (default: the one named by the environment).

    Does nothing in a process that nobody supervises.
    """
    expected = int(os.environ.get(PARENT, "0")) if parent is None else parent
    if not expected:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(expected,), daemon=True).start()
    if os.getppid() != expected:  # it died before we asked to be told
        os.kill(os.getpid(), signal.SIGTERM)


def _watch(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def stop_flag() -> Iterator[threading.Event]:
    """A flag that SIGTERM and SIGINT set, for loops that end between two steps; a second SIGINT interrupts."""
    flag = threading.Event()

    def stop(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def member_names(member: str, count: int) -> list[str]:
    """The lasting names of this machine's workers: `member` (default: that of the host), with a number for several."""
    name = member or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "worker"
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def check_port(host: str, port: int) -> None:
    """Raises SetupError if nothing could listen at `host`:`port` now."""
    where = f"{host}:{port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = "another process listens on this port"
            raise SetupError(what, where=where, remedy=_OTHER_PORT, port=port) from None
        remedy = "Correct `host` and `port` in trilane.toml"
        raise SetupError(f"nothing can listen there: {error}", where=where, remedy=remedy) from error


def hold_port(state: Path, port: int) -> int:
    """Makes this process the one server of `state` at `port`: a descriptor, which a program that it becomes inherits.

    A listening server shows to `check_port`; one that is starting shows only here, for servers may share a port in
    order to share it among workers. Raises SetupError that names the holder.
    """
    path = _lock(state, port)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SetupError(f"the lock file cannot be opened: {error}", where=str(path)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        what = f"another server of this project has the port {port}, process {holder}"
        raise SetupError(what, where=str(path), remedy=_OTHER_PORT, port=port) from None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    os.set_inheritable(descriptor, True)
    return descriptor


def holder_of(state: Path, port: int) -> int | None:
    """The process that is the server of `state` at `port`; None if there is none."""
    try:
        with _lock(state, port).open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(_lock(state, port).read_text() or "0") or None
    except OSError:
        return None
    return None


def _lock(state: Path, port: int) -> Path:
    return make_folder(state) / f"serve-{port}.lock"
