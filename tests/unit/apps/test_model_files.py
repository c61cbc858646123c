"""A file becomes a model that is served only after it was opened, and asked for its golden rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.graphs import graph, mlp
from trilane.apps.config import Config, load_config
from trilane.apps.model_files import add, listed, switch
from trilane.errors import ConflictError, DefinitionError, ModelError, UnavailableError
from trilane.models.wishes import Wishes

ROWS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "trilane.toml").write_text("")
    return load_config(tmp_path / "project", environment={})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "negate.onnx"
    path.write_bytes(graph("Neg", "FP32", (-1, 4)))
    return path


def nobody(method: str, path: str) -> Any:
    raise UnavailableError("no server answers")


def _json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_a_file_is_added_as_the_next_version(config: Config, file: Path) -> None:
    assert [add(config, file).version for _ in range(2)] == ["1", "2"]
    assert (config.models / "negate" / "2" / "model.onnx").read_bytes() == file.read_bytes()
    assert sorted(one.name for one in config.models.iterdir()) == ["negate"]
    rows = listed(config, nobody)
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [
        ("negate", "2", "ON DISK"),
        ("negate", "1", "ON DISK"),
    ]


def test_golden_rows_get_the_outputs_that_the_model_gives(config: Config, file: Path, tmp_path: Path) -> None:
    done = add(config, file, golden=_json(tmp_path / "rows.json", ROWS))
    written = json.loads((done.path / "golden.json").read_text())
    assert written["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [-1, -2, -3, -4]}]
    assert add(config, file, golden=done.path / "golden.json").version == "2"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            {**ROWS, "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]},
            "golden rows is",
        ),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}, "do not fit"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ["a", 2, 3, 4]}]}, "do not fit"),
        ({"rows": []}, "unknown field"),
    ],
)
def test_rows_that_do_not_fit_leave_nothing_behind(
    config: Config, file: Path, tmp_path: Path, rows: object, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        add(config, file, golden=_json(tmp_path / "rows.json", rows))
    assert list(config.models.iterdir()) == []


def test_what_is_no_model_is_refused_and_leaves_nothing_behind(config: Config, file: Path, tmp_path: Path) -> None:
    broken, picture = tmp_path / "broken.onnx", tmp_path / "cat.png"
    broken.write_bytes(file.read_bytes()[:40])
    picture.write_bytes(b"\x89PNG")
    for path, told in ((broken, "no ONNX model"), (picture, "no file of a model"), (tmp_path / "none.onnx", "no such")):
        with pytest.raises(ModelError, match=told) as refused:
            add(config, path)
        assert refused.value.where == str(path)
    with pytest.raises(DefinitionError, match="no name of a model"):
        add(config, file, name="../elsewhere")
    assert not config.models.exists() or list(config.models.iterdir()) == []


def test_files_that_hold_code_are_added_only_with_trust(config: Config, tmp_path: Path) -> None:
    code, pickled = tmp_path / "plus.py", tmp_path / "forest.joblib"
    code.write_text("def predict(inputs):\n    return {'y': inputs['x'] + 1}\n")
    pickled.write_bytes(b"")
    for path in (code, pickled):
        with pytest.raises(ModelError, match="runs the code in it"):
            add(config, path)
    side = 'name = "{}"\ndatatype = "FP32"\nshape = [-1, 4]\n'
    options = tmp_path / "options.toml"
    options.write_text("[[inputs]]\n" + side.format("x") + "[[outputs]]\n" + side.format("y"))
    with pytest.raises(ModelError, match="nothing says what this code takes"):
        add(config, code, trust=True)
    assert add(config, code, trust=True, options=options).version == "1"


def test_weights_beside_a_file_go_along(config: Config, tmp_path: Path) -> None:
    model = onnx.load_from_string(mlp(width=64, layers=1))
    onnx.save(model, tmp_path / "wide.onnx", save_as_external_data=True, location="wide.weights", size_threshold=1)
    done = add(config, tmp_path / "wide.onnx")
    assert sorted(one.name for one in done.path.iterdir()) == ["model.onnx", "wide.weights"]
    (tmp_path / "wide.weights").unlink()
    with pytest.raises(ModelError, match="are not there"):
        add(config, tmp_path / "wide.onnx")


def test_a_model_without_versions_is_not_given_any(config: Config, file: Path) -> None:
    (config.models / "negate").mkdir(parents=True)
    (config.models / "negate" / "model.onnx").write_bytes(file.read_bytes())
    with pytest.raises(ConflictError, match="no folders for versions"):
        add(config, file)


def test_without_a_server_a_wish_is_noted(config: Config, file: Path) -> None:
    add(config, file)
    assert not switch(config, "negate", nobody, on=False)
    assert Wishes(config.state / "models").all()["negate"].off
    assert not switch(config, "negate", nobody, on=True)
    assert not Wishes(config.state / "models").all()["negate"].off
    with pytest.raises(DefinitionError, match="no model 'nobody'"):
        switch(config, "nobody", nobody, on=True)


def test_a_broken_model_is_listed_with_the_reason(config: Config) -> None:
    (config.models / "empty").mkdir(parents=True)
    (row,) = listed(config, nobody)
    assert (row["name"], row["state"]) == ("empty", "UNAVAILABLE")
    assert "no file of a model" in row["reason"]


def test_a_folder_that_no_model_can_have_by_its_name_is_listed_with_the_reason(config: Config, file: Path) -> None:
    add(config, file)
    for name in ("my model", ".hidden"):
        (config.models / name).mkdir()
    assert [(row["name"], row["state"]) for row in listed(config, nobody)] == [
        ("negate", "ON DISK"),
        ("my model", "UNAVAILABLE"),
    ]
    assert "letters, digits" in listed(config, nobody)[1]["reason"]
