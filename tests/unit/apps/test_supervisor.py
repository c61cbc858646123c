"""What dies comes back; what is told to end ends; nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from trilane.apps.supervisor import PIDS_FILE, Role, supervise
from trilane.errors import ConflictError

# A supervisor whose role notes each of its lives, and one line per event.
DRIVER = """
import sys
from pathlib import Path
from trilane.apps.supervisor import Role, supervise
supervise(
    [Role(name="worker", command=[sys.executable, "-c", sys.argv[2]])],
    state=Path(sys.argv[1]),
    say=lambda event: print(event.what, event.pid, event.detail, flush=True),
    grace=float(sys.argv[3]),
)
"""
POLITE = """
import signal
from trilane.apps.processes import die_with_parent
die_with_parent()
while True: signal.pause()
"""
DEAF = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("{ready}", "w").close()
while True: signal.pause()
"""
DYING = "raise SystemExit(3)"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *, grace: float = 20.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path), textwrap.dedent(code), str(grace)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


def _next(process: subprocess.Popen[str], what: str) -> int:
    """The process id of the next event called `what`."""
    lines: IO[str] | None = process.stdout
    for line in lines or ():
        if line.split()[0] == what:
            return int(line.split()[1])
    raise AssertionError(f"it ended without {what}")


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def _wait_gone(pid: int) -> None:
    """Blocks until a process that is no child of ours has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    try:
        assert select.select([handle], [], [], 60)[0], f"{pid} still runs"
    finally:
        os.close(handle)


def test_a_role_killed_by_sigkill_comes_back_with_another_process(
    up: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    supervisor = up(POLITE)
    first = _next(supervisor, "started")
    assert json.loads((tmp_path / PIDS_FILE).read_text())["worker"] == first
    os.kill(first, signal.SIGKILL)
    assert _next(supervisor, "died") == first
    second = _next(supervisor, "started")
    assert second != first
    assert json.loads((tmp_path / PIDS_FILE).read_text()) == {"supervisor": supervisor.pid, "worker": second}


def test_sigterm_ends_all_and_leaves_no_process_and_no_file(
    up: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    supervisor = up(POLITE)
    child = _next(supervisor, "started")
    supervisor.terminate()
    assert _next(supervisor, "stopped") == child
    assert supervisor.wait(30) == 0
    assert _is_gone(child)
    assert not (tmp_path / PIDS_FILE).exists()


def test_a_role_that_ignores_the_request_is_killed_after_the_grace_time(
    up: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    pipe = tmp_path / "ready"
    os.mkfifo(pipe)
    supervisor = up(DEAF.format(ready=pipe), grace=0.05)
    child = _next(supervisor, "started")
    pipe.open().close()  # blocks until the role no longer listens to SIGTERM
    supervisor.terminate()
    assert _next(supervisor, "killed") == child
    assert supervisor.wait(30) == 0
    assert _is_gone(child)


def test_children_notice_when_the_supervisor_itself_is_killed(
    up: Callable[..., subprocess.Popen[str]],
) -> None:
    supervisor = up(POLITE)
    child = _next(supervisor, "started")
    supervisor.kill()
    supervisor.wait(30)
    _wait_gone(child)


def test_a_role_that_dies_at_once_is_started_again_after_pauses(
    up: Callable[..., subprocess.Popen[str]],
) -> None:
    supervisor = up(DYING)
    lines = supervisor.stdout
    assert lines is not None
    deaths = []
    for line in lines:
        if line.startswith("died"):
            deaths.append(line.split(maxsplit=2)[2].strip())
        if len(deaths) == 3:
            break
    assert deaths == [
        "ended with status 3; starting it again",
        "ended with status 3; again in 0.25 s",
        "ended with status 3; again in 0.5 s",
    ]


def test_a_state_has_one_supervisor(up: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    supervisor = up(POLITE)
    _next(supervisor, "started")
    with pytest.raises(ConflictError, match=f"up already, under process {supervisor.pid}"):
        supervise([Role(name="none", command=["none"])], state=tmp_path, say=lambda _: None)
