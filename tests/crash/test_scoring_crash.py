"""A scoring job is killed at random points, workers and all: run again, it leaves the bytes of one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.scored import NOW, make_scored_shop, write_rows
from trilane.clock import format_instant

ROUNDS = 6
FILES = 24


def _make_input(folder: Path) -> None:
    make_scored_shop(folder).close()
    for number in range(FILES):
        write_rows(folder / "in" / f"{number:02}.parquet", 60, seed=number)


def _command(folder: Path, output: Path) -> list[str]:
    line = [sys.executable, "-m", "trilane", "score", "is_big", "--input", str(folder / "in"), "--output", str(output)]
    return [*line, "--at", format_instant(NOW), "--workers", "2", "--project", str(folder), "--json"]


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def _lines(output: Path) -> int:
    path = output / "_parts.ndjson"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.parquet"))}


def test_a_killed_job_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    _make_input(tmp_path)
    spoilt = write_rows(tmp_path / "in" / "zz.parquet", 10)
    pq.write_table(
        spoilt.set_column(2, "basket", pa.array([None, *range(9)], pa.float64())), tmp_path / "in/zz.parquet"
    )
    done = subprocess.run(_command(tmp_path, tmp_path / "whole"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    rng, output = random.Random(5), tmp_path / "out"
    for _ in range(ROUNDS):
        before = _lines(output)
        with _start(_command(tmp_path, output)) as process:
            wanted = min(before + rng.randrange(4), FILES)
            while process.poll() is None and _lines(output) < wanted:
                pass
            for _ in range(rng.randrange(20_000)):
                pass  # to some other place in the work
            # The command alone at times: its workers must then end by themselves.
            kill = os.killpg if rng.random() < 0.5 else os.kill
            if process.poll() is None:
                kill(process.pid, signal.SIGKILL)
    last = subprocess.run(_command(tmp_path, output), capture_output=True, check=False)
    assert last.returncode == 0, last.stderr
    assert _files(output) == _files(tmp_path / "whole")
    assert not [*output.rglob("*.draft")]
    assert _lines(output) == FILES + 1


def test_a_worker_that_is_killed_costs_only_its_part(tmp_path: Path) -> None:
    _make_input(tmp_path)
    output = tmp_path / "out"
    with _start(_command(tmp_path, output)) as process:
        workers: list[int] = []
        while process.poll() is None and not workers:
            if _lines(output):
                workers = _workers(process.pid)
        for worker in workers[:1]:
            os.kill(worker, signal.SIGKILL)
        told, _ = process.communicate()
    assert process.returncode == 0, told
    assert workers
    assert sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet")) == FILES * 60


def test_an_interrupted_command_says_how_it_goes_on(tmp_path: Path) -> None:
    _make_input(tmp_path)
    output = tmp_path / "out"
    with _start(_command(tmp_path, output)) as process:
        while process.poll() is None and not _lines(output):
            pass
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it, the workers too
        told, errors = process.communicate()
    assert (process.returncode, told) == (130, b"")
    *progress, last = errors.decode().splitlines()
    assert last == "Stopped. What is done stays done: run the same command to go on."
    assert all(line.startswith("score is_big: ") for line in progress)  # of a job that had begun long ago
    done = subprocess.run(_command(tmp_path, output), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet")) == FILES * 60


def _workers(parent: int) -> list[int]:
    """The scoring processes: those that multiprocessing spawned, but for the one that watches its resources."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                line = stat.with_name("cmdline").read_text()
                found += [int(stat.parent.name)] if "spawn_main" in line else []
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    return found
