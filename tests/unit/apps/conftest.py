"""A small project on disk, and what tests change in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trilane.apps.config import CONFIG_FILE, load_config
from trilane.apps.project import Project
from trilane.clock import SimulatedClock, instant

START = instant("2026-03-10T12:00:00Z")

DEFINITIONS = """
from typing import Any
import trilane as tl
from schema import Visit, Label

visits = tl.EventSource("visits", schema=Visit, event_time="at", event_id="id")
labels = tl.TableSource("labels", schema=Label, path="labels.csv", event_time="at")
user = tl.Entity("user", user=tl.String)

@tl.batch(visits, user, features={"visits_7d": tl.count(window="7d")})
def daily(visits: Any) -> Any:
    return visits

@tl.nearline(visits, user, freshness="60s", features={"visits_60m": tl.count(window="60m")},
             fallback=[tl.default()])
def recent(visits: Any) -> Any:
    return visits

def train(rows: Any) -> Any:
    from sklearn.tree import DecisionTreeClassifier
    return DecisionTreeClassifier(max_depth=2, random_state=0).fit(rows.matrix, rows.label)

stays = tl.Model("stays", features=[daily, recent], spine=labels, label="stays", train=train)
tl_endpoint = tl.Endpoint("ask", model=stays, deadline="50ms", fallback=[tl.constant(0.5)])
"""
SCHEMA = """
import trilane as tl

class Visit:
    id: tl.String
    user: tl.String
    at: tl.Timestamp

class Label:
    user: tl.String
    at: tl.Timestamp
    stays: tl.Bool | None
"""
LABELS = "user,at,stays\n" + "".join(
    f"u{n % 7},2026-03-0{1 + n % 9}T10:00:00Z,{'true' if n % 3 else 'false'}\n" for n in range(60)
)

Opener = Callable[[], Project]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's folder, nothing applied yet."""
    (tmp_path / CONFIG_FILE).write_text('name = "small"')
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "schema.py").write_text(SCHEMA)
    (tmp_path / "labels.csv").write_text(LABELS)
    return tmp_path


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(START)


@pytest.fixture
def opened(folder: Path, clock: SimulatedClock) -> Iterator[Opener]:
    """Opens the project anew, as another command would."""
    projects: list[Project] = []

    def open_() -> Project:
        projects.append(Project(load_config(folder, environment={}), clock=clock))
        return projects[-1]

    yield open_
    for project in projects:
        project.close()
