"""A batch load that cannot be made leaves what serves; one that is empty or a hundred times larger is still right."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.scrape import scrape
from trilane.apps import deploy
from trilane.apps.batch_job import land_version
from trilane.apps.config import load_config
from trilane.apps.control import Scheduler
from trilane.apps.project import Project
from trilane.clock import SimulatedClock, instant
from trilane.errors import ContractError, SetupError
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.stores.online.versions import Version, versions

NOW = instant("2026-03-10T12:00:00Z")
HOUR = 3_600_000_000
DAY = 24 * HOUR
TODAY = NOW // DAY * DAY

DEFINITIONS = """
import trilane as tl


class Sale:
    shop: tl.String
    at: tl.Timestamp
    amount: tl.Float64


sales = tl.TableSource("sales", schema=Sale, path="sales.parquet", event_time="at")
shop = tl.Entity("shop", shop=tl.String)


@tl.batch(sales, shop, features={"n_7d": tl.count(window="7d"), "sum_7d": tl.sum("amount", window="7d")})
def daily(sales):
    return sales
"""


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


@pytest.fixture
def project(tmp_path: Path, clock: SimulatedClock) -> Iterator[Project]:
    (tmp_path / "trilane.toml").write_text("")
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    _write(tmp_path, 100)
    with Project(load_config(tmp_path, environment={}), clock=clock) as project:
        deploy.apply(project)
        yield project


def _write(folder: Path, rows: int, *, amounts: str = "double") -> None:
    number = np.arange(rows)
    at = pa.array(TODAY - DAY + number % HOUR, pa.timestamp("us", "UTC"))
    amount = pa.array(np.ones(rows)).cast(amounts)
    shops = pa.array(np.array(["a", "b"])[number % 2])
    pq.write_table(pa.table({"shop": shops, "at": at, "amount": amount}), folder / "sales.parquet")


def _versions(project: Project) -> tuple[Version, ...]:
    return versions(project.online, project.definitions.views["daily"].space)


def _served(project: Project) -> list[float]:
    """What the newest version says of shop `a`."""
    view, version = project.definitions.views["daily"], _versions(project)[-1]
    [rows] = project.online.read([(version.space, [encode_key(("a",)) or b""])])
    found: list[float] = TileLayout(view).read(rows, np.array([version.boundary]))[0].tolist()
    return found


@pytest.mark.parametrize("harm", ["another type", "no table", "no Parquet"])
def test_a_table_that_cannot_be_read_leaves_the_version_that_serves_and_is_told(
    project: Project, clock: SimulatedClock, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, table = Scheduler(project), tmp_path / "sales.parquet"
    scheduler.step(0.0)
    before = _versions(project)
    assert _served(project) == [50, 50]
    assert scrape(project)("trilane_batch_failing", view="daily") == 0
    if harm == "another type":
        _write(tmp_path, 100, amounts="string")
    elif harm == "no Parquet":
        table.write_bytes(table.read_bytes()[:-50])
    else:
        table.unlink()
        table.mkdir()
        (table / "part.parquet").write_bytes(b"")
    clock.move_to(NOW + DAY)
    scheduler.step(2.0)
    assert _versions(project) == before
    assert _served(project) == [50, 50]
    assert scrape(project)("trilane_batch_failing", view="daily") == 1
    assert "daily at 2026-03-11T00:00:00Z could not be computed, next try in 1 s" in caplog.text
    if harm == "no table":
        (table / "part.parquet").unlink()
        table.rmdir()
    _write(tmp_path, 200)
    scheduler.step(4.0)
    assert _served(project) == [100, 100]
    assert scrape(project)("trilane_batch_failing", view="daily") == 0


@pytest.mark.parametrize("rows", [0, 1, 10_000])
def test_a_table_that_is_empty_or_grows_a_hundredfold_is_loaded_as_it_is(
    project: Project, clock: SimulatedClock, tmp_path: Path, rows: int
) -> None:
    scheduler = Scheduler(project)
    scheduler.step(0.0)
    _write(tmp_path, rows)
    clock.move_to(NOW + DAY)
    scheduler.step(2.0)
    assert len(_versions(project)) == 2
    assert _versions(project)[-1].rows == min(rows, 2)
    ones = (rows + 1) // 2
    assert _served(project) == pytest.approx([ones, ones if ones else float("nan")], nan_ok=True)


LOAD = """
import os, signal, sys
from pathlib import Path
from trilane.apps.batch_job import land_version
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import SimulatedClock

def half_way(stage, done, total):
    os.kill(os.getpid(), signal.SIGKILL)

with Project(load_config(Path(sys.argv[1]), environment={}), clock=SimulatedClock(int(sys.argv[2]))) as project:
    land_version(project, project.live_views()[sys.argv[3]], int(sys.argv[4]), progress=half_way)
"""


def test_a_load_killed_half_way_leaves_the_version_that_serves_and_its_run_is_told_as_dead(
    project: Project, clock: SimulatedClock, tmp_path: Path
) -> None:
    Scheduler(project).step(0.0)
    before = _versions(project)
    space = project.definitions.views["daily"].space
    line = [sys.executable, "-c", LOAD, str(tmp_path), str(NOW + DAY), space, str(TODAY + DAY)]
    assert subprocess.run(line, check=False).returncode == -signal.SIGKILL
    assert _versions(project) == before
    assert _served(project) == [50, 50]
    assert [run.status for run in project.metadata.runs(kind="materialize")] == ["running", "succeeded"]
    clock.move_to(NOW + DAY)
    Scheduler(project).step(0.0)  # whoever begins a job next finds the dead
    assert len(_versions(project)) == 2
    runs = project.metadata.runs(kind="materialize")
    assert [run.status for run in runs] == ["succeeded", "failed", "succeeded"]
    assert dict(runs[1].error or {})["code"] == "abandoned"
    assert "process" in str(dict(runs[1].error or {})["what"])


def test_a_load_waits_for_another_and_says_for_whom(project: Project) -> None:
    view = next(iter(project.live_views().values()))
    held, heard = project.online.writer("batch"), list[str]()

    def hear(stage: str, done: int, total: int) -> None:
        if stage.startswith("wait"):
            heard.append(stage)
            held.close()

    assert land_version(project, view, TODAY, progress=hear, patience=60.0) is not None
    assert "process" in heard[0]
    project.online.writer("batch").close()  # and it was given back


def test_a_load_that_may_not_wait_is_told_who_is_loading(project: Project) -> None:
    view = next(iter(project.live_views().values()))
    held = project.online.writer("batch")
    with pytest.raises(SetupError, match="already writing"):
        land_version(project, view, TODAY)
    held.close()
    assert land_version(project, view, TODAY) is not None


def test_a_table_that_lost_a_column_is_refused_with_its_name(project: Project, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "sales.parquet").drop_columns(["amount"])
    pq.write_table(table, tmp_path / "sales.parquet")
    with pytest.raises(ContractError, match="column 'amount' is missing"):
        land_version(project, next(iter(project.live_views().values())), TODAY)
    assert _versions(project) == ()
