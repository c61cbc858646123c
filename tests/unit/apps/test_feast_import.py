"""`trilane import feast`: what it writes of Feast's own example repositories, and that it answers as Feast did.

The repositories, the facts that the reader told of them and Feast's answers are in `tests/feast` (see its README).
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import trilane as tl
from trilane.apps.cli.commands import app
from trilane.apps.definitions import Definitions, load_definitions
from trilane.apps.feast_import import facts
from trilane.apps.feast_import.facts import Repository
from trilane.apps.feast_import.translation import translate
from trilane.errors import DefinitionError, SetupError
from trilane.features.plan import FeaturePlan
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.training import values_at

FEAST = Path(__file__).parents[2] / "feast"
REPOSITORIES = ("everything", "local", "pytorch_nlp", "rag", "spark")


def _facts(name: str) -> Repository:
    return facts.decode((FEAST / name / "facts.json").read_bytes(), where=name)


def _text(found: Repository, folder: Path, **options: str) -> str:
    return translate(found, folder=folder, out=folder, **options).text


def _import(*arguments: str | Path) -> Any:
    done = CliRunner().invoke(app, ["import", "feast", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def _refused(*arguments: str | Path) -> tuple[int, dict[str, str]]:
    done = CliRunner().invoke(app, ["import", "feast", *map(str, arguments), "--json"])
    error: dict[str, str] = json.loads(done.stdout)["error"]
    return done.exit_code, error


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_repository_is_imported_and_its_definitions_can_be_planned(name: str, tmp_path: Path) -> None:
    told = _import(FEAST / name / "facts.json", "--out", tmp_path / "definitions.py")
    assert told["written"] == [str(tmp_path / "definitions.py"), str(tmp_path / "trilane.toml")]
    plan = CliRunner().invoke(app, ["plan", "--project", str(tmp_path), "--json"])
    assert plan.exit_code == 0, plan.output


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_report_has_a_row_for_every_object(name: str, tmp_path: Path) -> None:
    found = _facts(name)
    told = translate(found, folder=FEAST / name, out=tmp_path)
    things = [*found.entities, *found.sources, *found.views, *found.on_demand, *found.services, *found.labels]
    others = [one.name for one in found.others]
    assert sorted(row.name for row in told.rows) == sorted([*others, *(thing.name for thing in things)])
    assert all(row.became or row.notes for row in told.rows)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_what_is_written_is_formatted(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    out = tmp_path / "definitions.py"
    out.write_text(_text(_facts(name), FEAST / name))
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", "--diff", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["everything", "local"])
def test_imported_definitions_answer_as_feast_did(name: str, tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(translate(_facts(name), folder=FEAST / name, out=tmp_path).text)
    definitions = load_definitions(tmp_path / "definitions.py")
    answers = json.loads((FEAST / name / "answers.json").read_text())
    assert {one["how"] for one in answers} == {"historical", "online"}
    features = [*answers[0]["values"]]
    plan = FeaturePlan.of([_chosen(definitions, feature) for feature in features], where=name)
    landing = tl.duration("2h")
    columns = {field.name: [{**one["keys"], **one["request"]}[field.name] for one in answers] for field in plan.inputs}
    at = [tl.instant(one["boundary"]) + landing for one in answers]
    asks = pa.table({**columns, "_at": pa.array(at, pa.timestamp("us", "UTC"))})
    ours = values_at(plan, asks, event_time="_at", warehouse=DuckdbWarehouse(tmp_path / "warehouse"), root=tmp_path)
    theirs = np.array([[_number(one["values"][feature]) for feature in features] for one in answers])
    stored = [position for position, feature in enumerate(features) if feature.split(".")[0] in _stored(definitions)]
    assert np.isfinite(theirs[:, stored]).sum() > 50
    assert np.isnan(theirs[:, stored]).any()
    np.testing.assert_array_equal(ours[:, stored], theirs[:, stored])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # Feast computes on demand in float32


def _stored(definitions: Definitions) -> set[str]:
    return {view.name for view in definitions.views.values() if view.lane != "request"}


def _chosen(definitions: Definitions, feature: str) -> Any:
    view, _, name = feature.partition(".")
    return definitions.views[view][name]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def test_each_kind_of_object_becomes_what_the_table_of_counterparts_says(tmp_path: Path) -> None:
    told = translate(_facts("everything"), folder=FEAST / "everything", out=tmp_path)
    became = {(row.kind, row.name): row.became for row in told.rows}
    assert became["FeatureView", "spending"] == "@tl.batch spending"
    assert became["FeatureView", "customer-profile"] == "@tl.batch customer_profile"
    assert became["StreamFeatureView", "windows"] == "@tl.nearline windows"
    assert became["OnDemandFeatureView", "by_lists"] == "@tl.request by_lists"
    assert became["KafkaSource", "purchase stream"] == "tl.EventSource purchase_stream"
    assert became["SnowflakeSource", "warehouse"] == "tl.TableSource warehouse"
    assert became["FeatureService", "spending"] == "selection spending_features"
    assert became["Entity", "customer"] == "tl.Entity customer, customer_shop"
    nothing = {name for (_, name), what in became.items() if not what}
    assert nothing == {"lonely", "nowhere", "computed", "over_rows"}
    for words in ("Array(Float64)", "Bytes", "no last_10 of amount", "about no entity", "joined by other keys"):
        assert words in " ".join(note for row in told.rows for note in row.notes)


def test_what_is_told_of_a_view_and_its_source_is_kept(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(_text(_facts("everything"), FEAST / "everything"))
    definitions = load_definitions(tmp_path / "definitions.py")
    about = definitions.views["spending"].about
    assert (about.owner, about.tags) == ("till@example.org", ("team=till", "pii=no"))
    assert about.description == "What a customer last spent in a shop."
    assert definitions.tables["purchases"].about.description == "Every purchase."
    assert definitions.sources["purchase_stream"].disorder == tl.duration("5m")


def test_a_window_gets_a_hop_that_divides_it_and_the_schedule(tmp_path: Path) -> None:
    text = _text(_facts("everything"), FEAST / "everything", schedule="30m")
    assert 'tl.last("items", window="37h", hop="5m")' in text
    assert 'schedule="30m"' in text
    (tmp_path / "definitions.py").write_text(text)
    assert load_definitions(tmp_path / "definitions.py").views["spending"].schedule == tl.duration("30m")


def _changed(change: Callable[[dict[str, Any]], None], name: str = "everything") -> Repository:
    told = json.loads((FEAST / name / "facts.json").read_text())
    change(told)
    return facts.decode(json.dumps(told).encode(), where="changed")


def _view(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in told["views"] if one["name"] == name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda view: view.update(ttl=0.25), "rounded up to whole seconds"),
        (lambda view: view.update(unknown=["ghost"]), "does not declare its entities ghost"),
        (lambda view: view.update(derived_from=["visits"]), "derived from visits"),
        (lambda view: view.update(batch_source=None, source=None), "no source"),
        (lambda view: view.update(fields=[{"name": "not-a-name", "type": "Int64"}]), "no feature is left"),
        (lambda view: view.update(fields=[{"name": "odd", "type": "Quaternion"}]), "odd (Quaternion)"),
    ],
)
def test_a_view_that_does_not_fit_is_told_and_the_rest_loads(
    change: Callable[[dict[str, Any]], None], reason: str, tmp_path: Path
) -> None:
    found = _changed(lambda told: change(_view(told, "spending")))
    told = translate(found, folder=FEAST / "everything", out=tmp_path)
    (row,) = [row for row in told.rows if (row.kind, row.name) == ("FeatureView", "spending")]
    assert reason in " ".join(row.notes)
    (tmp_path / "definitions.py").write_text(told.text)
    assert "customer_profile" in load_definitions(tmp_path / "definitions.py").views


@pytest.mark.parametrize("name", ["class", "tl", "np", "purchases", "customer", "7 days", "größe", "by_row", 'a"\\b'])
def test_names_that_clash_or_are_none_are_changed(name: str, tmp_path: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        _view(told, "visits")["name"] = name
        told["entities"][0]["description"] = 'It\'s """quoted""" \\ twice\nand long'
        _view(told, "spending")["description"] = 'ends with a "quote"\\'

    (tmp_path / "definitions.py").write_text(_text(_changed(change), FEAST / "everything"))
    lanes = [view.lane for view in load_definitions(tmp_path / "definitions.py").views.values()]
    assert sorted(lanes) == ["batch"] * 3 + ["nearline"] + ["request"] * 3


def test_a_column_that_is_no_name_can_still_be_a_source_column(tmp_path: Path) -> None:
    found = _changed(lambda told: told["sources"][0].update(owner='o"wner', tags={'a"b': "c\nd"}))
    (tmp_path / "definitions.py").write_text(_text(found, FEAST / "everything"))
    load_definitions(tmp_path / "definitions.py")


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text("mine")
    status, error = _refused(FEAST / "local" / "facts.json", "--out", tmp_path / "definitions.py")
    assert (status, error["code"]) == (6, "conflict")
    assert (tmp_path / "definitions.py").read_text() == "mine"


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    status, error = _refused(tmp_path, "--out", tmp_path / "definitions.py")
    assert (status, error["what"]) == (4, "there is no feature_store.yaml")


@pytest.mark.parametrize("text", ["{", "[]", '{"feast": 1}', "\xff"])
def test_a_file_that_holds_no_facts_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_bytes(text.encode("latin-1"))
    status, error = _refused(tmp_path / "facts.json", "--out", tmp_path / "definitions.py")
    assert status == 4
    assert "no account of a Feast repository" in error["what"]
    assert not (tmp_path / "definitions.py").exists()


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: empty\n")
    (tmp_path / "facts.json").write_text('{"feast": "0.67.0", "project": "empty"}')
    status, error = _refused(tmp_path / "facts.json", "--out", tmp_path / "definitions.py")
    assert (status, error["what"]) == (2, "it declares nothing")


def test_an_interpreter_without_feast_or_without_existence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: empty\n")
    with pytest.raises(SetupError, match="cannot be started"):
        facts.read(tmp_path, python=str(tmp_path / "python"))
    with pytest.raises(SetupError, match=r"Feast cannot be imported.*--python"):
        facts.read(tmp_path, python=sys.executable)


# Feast is too heavy to install for each run of the tests: the real reader runs where an interpreter is named.
REAL = os.environ.get("TRILANE_TEST_FEAST")


@pytest.mark.skipif(REAL is None, reason="TRILANE_TEST_FEAST names no interpreter with Feast")
@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_reader_tells_the_facts_that_are_kept(name: str) -> None:
    assert facts.read(FEAST / name, python=REAL or "") == _facts(name)


@pytest.mark.skipif(REAL is None, reason="TRILANE_TEST_FEAST names no interpreter with Feast")
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = (\n", "SyntaxError"),
        ("\nimport nowhere_at_all\n", "ModuleNotFoundError"),
        ("\nraise SystemExit(1)\n", "SystemExit"),
        ("print('noise')\nfrom feast import Entity\nEntity()\n", "TypeError|Error"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_its_line(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: broken\n")
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(DefinitionError) as error:
        facts.read(tmp_path, python=REAL or "")
    assert re.search(what, error.value.what)
    assert re.search(r"broken\.py:[123]$", str(error.value.facts["file"]))
    assert facts.read(tmp_path, python=REAL or "", ignore=["broken.py"]).is_empty
