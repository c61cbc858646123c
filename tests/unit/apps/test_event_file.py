"""Every row of a file is appended or kept with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.apps.conftest import START, Opener
from trilane.apps import deploy, event_file
from trilane.apps.project import Project
from trilane.errors import ConflictError, ContractError, DefinitionError, SetupError

GOOD = [
    {"id": f"v{n}", "user": "u1", "at": f"2026-03-10T1{n}:00:00Z"}
    for n in (1, 0)  # not in order of event time
]


@pytest.fixture
def project(opened: Opener) -> Project:
    deploy.apply(opened())
    return opened()


def _ndjson(path: Path, *rows: object) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def _ingest(project: Project, path: str, *, history: bool = False) -> event_file.Ingested:
    return event_file.ingest(project, project.definitions.sources["visits"], path, history=history)


def _logged(project: Project) -> list[tuple[int, str]]:
    batch = project.log.read("visits", 0, 0, 100)
    ids = [json.loads(value)["id"] for value in batch.column("value").to_pylist()]
    return list(zip(batch.column("arrived_at").to_pylist(), ids, strict=True))


def test_events_arrive_now_in_the_order_of_the_file(project: Project, tmp_path: Path) -> None:
    done = _ingest(project, _ndjson(tmp_path / "a.ndjson", *GOOD))
    assert (done.accepted, done.rejected) == (2, 0)
    assert _logged(project) == [(START, "v1"), (START, "v0")]


def test_history_arrives_when_it_happened_in_order_of_event_time(project: Project, tmp_path: Path) -> None:
    _ingest(project, _ndjson(tmp_path / "a.ndjson", *GOOD), history=True)
    hour = 3_600_000_000
    assert _logged(project) == [(START - 2 * hour, "v0"), (START - hour, "v1")]


def test_history_older_than_the_log_is_refused(project: Project, tmp_path: Path) -> None:
    _ingest(project, _ndjson(tmp_path / "a.ndjson", *GOOD))
    with pytest.raises(ConflictError, match="cannot follow events that arrived"):
        _ingest(project, _ndjson(tmp_path / "b.ndjson", *GOOD), history=True)
    assert len(_logged(project)) == 2


def test_bad_rows_become_dead_letters_and_the_rest_is_accepted(project: Project, tmp_path: Path) -> None:
    future = {"id": "v8", "user": "u1", "at": "2027-01-01T00:00:00Z"}
    path = _ndjson(tmp_path / "a.ndjson", GOOD[0], "{not json\n", {"id": "v9", "at": "2026-03-10T10:00:00Z"}, future)
    done = _ingest(project, path)
    assert (done.accepted, done.rejected) == (1, 3)
    assert {code for code, _, _ in done.reasons} == {"json", "type", "future"}
    letters = project.dead_letters.read("visits")
    assert {letter.code for letter in letters} == {"json", "type", "future"}
    assert b"{not json" in {letter.payload for letter in letters}


def test_csv_cells_take_the_declared_types_and_shifted_rows_are_refused(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,user,at\nv1,u1,2026-03-10T10:00:00Z\nv2,u1,2026-03-10T10:00:00Z,surplus\nv3,u1\n")
    done = _ingest(project, str(path))
    assert (done.accepted, done.rejected) == (1, 2)
    assert [id for _, id in _logged(project)] == ["v1"]


def test_parquet_rows_are_events(project: Project, tmp_path: Path) -> None:
    at = pa.array([START], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"id": ["v1"], "user": ["u1"], "at": at}), tmp_path / "a.parquet")
    assert _ingest(project, str(tmp_path / "a.parquet")).accepted == 1


def test_a_broken_parquet_file_is_refused(project: Project, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ContractError, match="no sound Parquet file"):
        _ingest(project, str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(("name", "what"), [("a.xlsx", "cannot be ingested"), ("none.csv", "cannot be read")])
def test_a_file_that_cannot_be_read_is_refused(project: Project, tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(SetupError, match=what):
        _ingest(project, str(tmp_path / name))


def test_an_unknown_source_is_refused_with_those_there_are(project: Project) -> None:
    with pytest.raises(DefinitionError, match="no event source 'visit'") as caught:
        event_file.source_named(project.definitions.sources, "visit")
    assert "visits" in caught.value.remedy
