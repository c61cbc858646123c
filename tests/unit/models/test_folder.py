"""A folder of models is looked at, and what is wrong with one hides no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trilane.errors import ModelError
from trilane.models.folder import ModelFolder
from trilane.models.options import Options, read_options


def _put(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def test_a_file_tells_its_kind_and_versions_are_numbers(tmp_path: Path) -> None:
    _put(tmp_path, "a/model.onnx", "b/2/model.txt", "b/10/model.ubj", "b/notes/model.onnx", "c/model.py", "loose.onnx")
    _put(tmp_path, ".draft/model.onnx", "d e/model.onnx")
    folder = ModelFolder(tmp_path)
    assert folder.names() == ["a", "b", "c"]
    found = {name: folder.find(name) for name in folder.names()}
    told = {name: {v: one.runtime for v, one in listed.versions.items()} for name, listed in found.items() if listed}
    assert told == {"a": {"1": "onnx"}, "b": {"10": "xgboost", "2": "lightgbm"}, "c": {"1": "python"}}
    assert list(told["b"]) == ["10", "2"]


def test_a_folder_that_is_not_there_has_no_models(tmp_path: Path) -> None:
    assert ModelFolder(tmp_path / "none").names() == []
    assert ModelFolder(tmp_path / "none").find("a") is None


@pytest.mark.parametrize("name", ["..", "../a", "a/b", "", ".hidden", "x" * 201, "a\n"])
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    _put(tmp_path, "model.onnx", "models/a/b/model.onnx", "models/.hidden/model.onnx")
    assert ModelFolder(tmp_path / "models").find(name) is None


def test_the_mark_changes_with_every_file_of_the_model(tmp_path: Path) -> None:
    _put(tmp_path, "a/1/model.onnx", "a/model.toml")
    (tmp_path / "a/model.toml").write_text("")
    marks = set[str]()
    for change in ("", "a/1/weights.bin", "a/golden.json", "a/1/model.onnx"):
        if change:
            _put(tmp_path, change)
            os.utime(tmp_path / change, ns=(1, len(marks)))
        listed = ModelFolder(tmp_path).find("a")
        assert listed is not None
        marks.add(listed.versions["1"].mark)
    assert len(marks) == 4


def test_a_broken_version_is_told_beside_the_whole_ones(tmp_path: Path) -> None:
    _put(tmp_path, "a/1/model.onnx", "a/2/readme.md")
    listed = ModelFolder(tmp_path).find("a")
    assert listed is not None
    assert list(listed.versions) == ["1"]
    assert "no file of a model" in str(listed.errors["2"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("batchin = true", "unknown key 'batchin'"),
        ("max_rows = 0", "max_rows"),
        ("timeout = 'soon'", "not a duration"),
        ("[[inputs]]\nname = 'x'\ndatatype = 'FLOAT'\nshape = [-1]", "no data type"),
        ("[[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [-2]", "shape"),
        ("a = [", "not TOML"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "model.toml").write_text(text)
    with pytest.raises(ModelError, match=told):
        read_options(tmp_path / "model.toml")


def test_no_options_are_the_defaults(tmp_path: Path) -> None:
    assert read_options(tmp_path / "model.toml") == Options()


def test_several_instances_need_a_process(tmp_path: Path) -> None:
    _put(tmp_path, "a/model.onnx")
    (tmp_path / "a/model.toml").write_text("instances = 2")
    listed = ModelFolder(tmp_path).find("a")
    assert listed is not None
    assert "no process of its own" in str(listed.errors["1"])
