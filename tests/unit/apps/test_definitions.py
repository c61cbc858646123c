"""Definitions are read without traces, frozen by digest, and refused with file and line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from trilane.apps.definitions import load_definitions, load_snapshot, snapshot
from trilane.errors import DefinitionError, SetupError


def test_all_that_is_declared_or_referred_to_belongs(folder: Path) -> None:
    found = load_definitions(folder / "definitions.py")
    assert {kind: list(getattr(found, kind)) for kind in ("sources", "tables", "entities", "models", "endpoints")} == {
        "sources": ["visits"],
        "tables": ["labels"],
        "entities": ["user"],
        "models": ["stays"],
        "endpoints": ["ask"],
    }
    assert sorted(found.views) == ["daily", "recent"]
    assert sorted(found.files) == ["definitions.py", "schema.py"]


def test_what_only_a_model_refers_to_belongs_too(folder: Path) -> None:
    text = (folder / "definitions.py").read_text()
    (folder / "declared.py").write_text(text)
    (folder / "definitions.py").write_text("from declared import tl_endpoint")
    found = load_definitions(folder / "definitions.py")
    assert sorted(found.views) == ["daily", "recent"]
    assert sorted(found.sources) == ["visits"]


def test_reading_leaves_no_trace_in_the_process_or_the_folder(folder: Path) -> None:
    modules, path = set(sys.modules), list(sys.path)
    load_definitions(folder / "definitions.py")
    assert "schema" not in sys.modules
    assert not {name for name in set(sys.modules) - modules if name.startswith("definitions")}
    assert sys.path == path
    assert not list(folder.rglob("__pycache__"))


def test_two_projects_may_have_modules_of_one_name(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "schema.py").write_text("import trilane as tl\nplace = tl.Entity('place', place=tl.String)")
    (other / "definitions.py").write_text("from schema import place")
    assert list(load_definitions(folder / "definitions.py").entities) == ["user"]
    assert list(load_definitions(other / "definitions.py").entities) == ["place"]


@pytest.mark.parametrize("name", ["places.py", "places/__init__.py"])
def test_a_module_of_the_folder_is_read_though_another_of_its_name_was_imported(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ModuleType("places")
    monkeypatch.setitem(sys.modules, "places", other)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("import trilane as tl\nplace = tl.Entity('place', place=tl.String)")
    (tmp_path / "definitions.py").write_text("from places import place")
    assert list(load_definitions(tmp_path / "definitions.py").entities) == ["place"]
    assert sys.modules["places"] is other


def test_a_frozen_copy_reads_like_the_original_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    found = load_definitions(folder / "definitions.py")
    frozen = snapshot(found, tmp_path / "frozen")
    (folder / "schema.py").write_text("raise SystemExit")
    again = load_snapshot(frozen)
    assert again.digest == found.digest
    assert again.specs() == found.specs()
    assert frozen.name == found.digest[:16]


def test_freezing_twice_changes_nothing(folder: Path, tmp_path: Path) -> None:
    found = load_definitions(folder / "definitions.py")
    frozen = snapshot(found, tmp_path / "frozen")
    before = frozen.stat().st_mtime_ns
    assert snapshot(found, tmp_path / "frozen") == frozen
    assert frozen.stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "frozen").iterdir()] == [frozen.name]


def test_any_changed_byte_changes_the_digest(folder: Path) -> None:
    before = load_definitions(folder / "definitions.py").digest
    with (folder / "schema.py").open("a") as file:
        file.write("# a comment\n")
    assert load_definitions(folder / "definitions.py").digest != before


def test_a_frozen_copy_that_was_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    frozen = snapshot(load_definitions(folder / "definitions.py"), tmp_path / "frozen")
    with (frozen / "schema.py").open("a") as file:
        file.write("# a comment\n")
    with pytest.raises(SetupError, match="changed after they were frozen") as caught:
        load_snapshot(frozen)
    assert "trilane apply" in caught.value.remedy


def test_a_lost_frozen_copy_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        load_snapshot(tmp_path / "0123456789abcdef")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no definitions file"):
        load_definitions(tmp_path / "definitions.py")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("x = 1\ny = 1 / 0\n", 2, "ZeroDivisionError"),
        ("x = 1\n\ndef f(:\n", 3, "SyntaxError"),
        ("import nowhere_at_all\n", 1, "nowhere_at_all"),
        ("raise SystemExit(1)\n", 1, "SystemExit"),
        ("import trilane as tl\ne = tl.Entity('e')\n", 2, "at least one key"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = tmp_path / "definitions.py"
    path.write_text(text)
    with pytest.raises(DefinitionError, match=what) as caught:
        load_definitions(path)
    assert caught.value.facts["file"] == f"{path}:{line}"
    assert caught.value.remedy


def test_an_error_in_an_imported_module_names_that_module(folder: Path) -> None:
    (folder / "schema.py").write_text("import trilane\n\nundefined\n")
    with pytest.raises(DefinitionError) as caught:
        load_definitions(folder / "definitions.py")
    assert caught.value.facts["file"] == f"{folder / 'schema.py'}:3"


def test_two_things_of_one_name_are_refused(folder: Path) -> None:
    with (folder / "definitions.py").open("a") as file:
        file.write("other = tl.Entity('user', user_id=tl.Int64)\n")
    with pytest.raises(DefinitionError, match="two different things are called 'user'"):
        load_definitions(folder / "definitions.py")


def test_a_source_and_a_table_share_one_space_of_names(folder: Path) -> None:
    with (folder / "definitions.py").open("a") as file:
        file.write("other = tl.TableSource('visits', schema=Label, path='x.csv', event_time='at')\n")
    with pytest.raises(DefinitionError, match="'visits'"):
        load_definitions(folder / "definitions.py")


def test_a_module_imported_from_above_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "story"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "schema.py").touch()
    (package / "definitions.py").write_text("import story.schema\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DefinitionError, match="not imported from there") as caught:
        load_definitions(package / "definitions.py")
    assert caught.value.remedy == "Import it as 'schema'"
