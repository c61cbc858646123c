"""The demo, as a stranger starts it: it holds what it promises, may be run again, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from examples.flights.closing import Results
from examples.flights.prepare import fetch
from trilane import SetupError

pytestmark = pytest.mark.timeout(900)

FIGURES = {
    "auc_batch_request",
    "auc_three_lanes",
    "auc_served_week",
    "decisions",
    "decisions_per_s",
    "p50_ms",
    "p99_ms",
    "events",
    "events_per_s",
    "freshness_p99_s",
    "values_checked",
    "values_mismatched",
    "lost_events",
    "seconds",
}


@pytest.fixture(scope="module", autouse=True)
def _flights(repository: Path) -> None:
    try:
        fetch(repository / ".cache")
    except SetupError as error:
        pytest.skip(f"the flights cannot be had here: {error}")


def _demo(repository: Path, folder: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "examples.flights.demo", "--quick", "--folder", str(folder)]
    return subprocess.Popen(line, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait(condition: Callable[[], bool], demo: subprocess.Popen[str]) -> None:
    while not condition():
        assert demo.poll() is None, demo.communicate()[0]
        time.sleep(0.05)  # between two looks at the condition itself


def _processes(folder: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode((folder / "state" / "pids.json").read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupted_demo_leaves_nothing_running_and_the_next_one_holds_all_it_claims(
    repository: Path, tmp_path: Path
) -> None:
    interrupted = _demo(repository, tmp_path)
    _wait(lambda: len(_processes(tmp_path)) == 4, interrupted)
    running = _processes(tmp_path)
    interrupted.send_signal(signal.SIGINT)
    told = interrupted.communicate()[0]
    assert interrupted.returncode == 130, told
    assert "nothing was left running" in told
    assert not [role for role, process in running.items() if _lives(process)]

    demo = _demo(repository, tmp_path)
    told = demo.communicate()[0]
    assert demo.returncode == 0, told
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == FIGURES
    assert summary["values_mismatched"] == summary["lost_events"] == 0
    assert summary["values_checked"] > 20_000
    assert summary["auc_three_lanes"] > summary["auc_batch_request"] > 0.5
    assert all(status in told for status in ("fresh", "stale", "batch", "All of it holds")), told
    assert not _processes(tmp_path)


def test_the_figures_have_the_names_that_are_promised() -> None:
    assert {name for name, field in Results.__dataclass_fields__.items() if field.repr} == FIGURES
