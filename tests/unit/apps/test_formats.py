"""A source whose values are no JSON: JSON at its door is written in its schema, and every lane makes the same of it."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from tests.shop import DEFINITIONS, MINUTE, T0, event, make_project
from trilane.apps import deploy, evolution, letters
from trilane.apps.config import load_config
from trilane.apps.event_file import ingest
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.errors import ContractError, SetupError
from trilane.lanes.batch.archive import archive
from trilane.sources.dead_letters import QUARANTINED
from trilane.sources.formats.declaration import RELEASED_MARK

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "note", "type": {"type": "map", "values": "string"}, "default": {}},
        {"name": "shop", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "amount", "type": ["null", "double"], "default": None},
    ],
}
SMALL = 'rules=[tl.rule("small", lambda t: t.amount < 100, action="quarantine")]'
FORM = f'disorder="10m", format=tl.avro("schemas/order.avsc"), {SMALL})'
AVRO = DEFINITIONS.replace('disorder="10m")', FORM)


def _opened(folder: Path, text: str) -> Project:
    folder.mkdir()
    make_project(folder, apply=False).close()
    (folder / "schemas").mkdir()
    (folder / "schemas" / "order.avsc").write_text(json.dumps(SCHEMA))
    (folder / "definitions.py").write_text(text)
    project = Project(load_config(folder, environment={}), clock=SimulatedClock(T0 + 5 * MINUTE))
    deploy.apply(project)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with _opened(tmp_path / "avro", AVRO) as opened:
        yield opened


def _run(project: Project) -> int:
    worker = Worker(project)
    while worker.step():
        pass
    worker.close()
    return archive(project.log, project.warehouse, project.definitions.sources["orders"], schemas=project.schemas)


def _ingest(project: Project, texts: list[bytes], **options: Any) -> Any:
    path = project.config.root / "events.ndjson"
    path.write_bytes(b"\n".join(texts))
    return ingest(project, project.definitions.sources["orders"], str(path), **options)


def _tiles(project: Project) -> list[tuple[bytes, bytes]]:
    [view] = [view for view in project.definitions.views.values() if view.name == "shop_now"]
    writer = project.online.writer("nearline")
    with writer.transaction() as transaction:
        found = sorted(transaction.scan(view.space))
    writer.close()
    return found


@pytest.mark.parametrize("history", [False, True])
def test_json_at_the_door_of_an_avro_source_gives_the_tiles_of_json(
    project: Project, tmp_path: Path, history: bool
) -> None:
    texts = [event(n, at=T0 + n * 1_000_003, amount=None if n % 5 == 0 else n * 0.1) for n in range(60)]
    with _opened(tmp_path / "json", DEFINITIONS) as plain:
        for one in (project, plain):
            assert _ingest(one, texts, history=history).accepted == 60
            assert _run(one) == 60
        assert _tiles(project) == _tiles(plain) != []
    value = project.log.read("orders", 0, 0, 1).column("value")[0].as_py()
    fact: Any = fastavro.schemaless_reader(io.BytesIO(value), fastavro.parse_schema(SCHEMA), None)
    assert {**fact, "at": T0} == {**json.loads(texts[0]), "note": {}, "at": T0}


@pytest.mark.parametrize("kind", ["arrow", "stream.arrow", "avro"])
def test_files_of_arrow_and_avro_are_ingested(project: Project, kind: str) -> None:
    path = project.config.root / f"events.{kind}"
    facts = [{**json.loads(event(n, at=T0)), "at": dt.datetime(2026, 3, 2, tzinfo=dt.UTC)} for n in range(3)]
    with path.open("wb") as file:
        if kind == "avro":
            fastavro.writer(file, fastavro.parse_schema(SCHEMA), facts, codec="deflate")
        else:
            table = pa.Table.from_pylist(facts)
            make = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
            with make(file, table.schema) as writer:
                writer.write_table(table)
    source = project.definitions.sources["orders"]
    assert ingest(project, source, str(path)).accepted == 3
    assert _run(project) == 3
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises((ContractError, SetupError), match=r"no sound|cannot be read"):
        ingest(project, source, str(path), history=True)
    path.write_bytes(b"nonsense")
    with pytest.raises(ContractError, match="no sound"):
        ingest(project, source, str(path))


def test_the_schema_is_frozen_with_the_definitions(project: Project) -> None:
    (project.config.root / "schemas" / "order.avsc").write_text("{}")
    with Project(project.config, clock=project.clock) as again:
        assert again.definitions.files["schemas/order.avsc"] == json.dumps(SCHEMA).encode()


def test_a_letter_is_shown_mended_and_written_back_in_its_schema(project: Project) -> None:
    assert _ingest(project, [event(1, at=T0), b'{"order_id": 7}', b"[]", b"{"]).rejected == 3
    out = io.BytesIO()
    late = {**json.loads(event(2, at=T0)), "at": 3 * 10**15, "note": {"a": "b"}}
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), late)
    project.log.append("orders", 0, [out.getvalue(), b"\xff"], T0)
    assert _run(project) == 1
    found = {letter.code: letter for letter in project.dead_letters.read("orders", limit=2)}
    broken, wrong = found["avro"], found["future"]
    assert letters.said(project, broken, broken.payload) == "base64:/w=="
    assert json.loads(letters.said(project, wrong, wrong.payload))["note"] == {"a": "b"}
    mended = letters.fix(project, wrong.id or 0, ['at="2026-03-02T00:00:00Z"'], None)
    assert json.loads(letters.said(project, mended, mended.text))["at"] == "2026-03-02T00:00:00Z"
    done = {one.id: one.done for one in letters.replay(project, [mended, broken])}
    assert done == {mended.id: True, broken.id: False}
    assert _run(project) == 1


def test_an_event_in_quarantine_is_released_by_a_mark_behind_it(project: Project) -> None:
    _ingest(project, [event(1, at=T0, amount=500.0), event(2, at=T0, amount=5.0)])
    assert _run(project) == 2
    [aside] = project.dead_letters.read("orders", states=(QUARANTINED,))
    assert [one.done for one in letters.replay(project, [aside], release=True)] == [True]
    _run(project)
    value = project.log.read("orders", 0, 2, 1).column("value")[0].as_py()
    assert value == aside.payload + RELEASED_MARK
    assert project.dead_letters.read("orders") == []
    with project.warehouse.connect(threads=1) as connection:
        sql = f"SELECT count(*) FROM {project.warehouse.events_sql(project.definitions.sources['orders'])}"
        [row] = connection.query(sql).fetchall()
    assert row == (2,)  # the first stands there twice, and counts where it is released


def test_another_format_or_schema_is_refused_while_the_log_has_events(project: Project) -> None:
    _ingest(project, [event(1, at=T0)])
    changed = json.dumps({**SCHEMA, "doc": "another"})
    (project.config.root / "schemas" / "order.avsc").write_text(changed)
    with Project(project.config, clock=project.clock) as again:
        [found] = evolution.refusals(again, again.working)
        assert found.forcible
        assert found.what == "a declared schema goes, in which events of the log may be written"
    (project.config.root / "definitions.py").write_text(DEFINITIONS)
    with Project(project.config, clock=project.clock) as again:
        [found] = [one for one in evolution.refusals(again, again.working) if "format" in one.what]
        assert not found.forcible
        assert "format changes from avro (bare) to json (bare)" in found.what


def test_a_schema_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.avsc"
    outside.write_text(json.dumps(SCHEMA))
    with pytest.raises(Exception, match="lies outside of the definitions' folder"):
        _opened(tmp_path / "avro", AVRO.replace("schemas/order.avsc", str(outside)))
