"""A model scores a table by itself, as a server would have it answer, and the job goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.graphs import graph
from tests.scored import make_scored_shop
from tests.servers import command
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.scoring.scoring_job import Asking, Scored, score
from trilane.errors import ConflictError, ContractError, DefinitionError, ModelError
from trilane.models.artifact import load
from trilane.models.runtime.onnx import open_onnx

NEGATE, ABSOLUTE = graph("Neg", "FP32", (-1, 4)), graph("Abs", "FP32", (-1, 4))
PYTHON = """
import os
import numpy as np
def predict(inputs):
    if "crash" in [name.decode() for name in inputs["name"]]:
        os._exit(1)
    if (inputs["amount"] < 0).any():
        raise ValueError("no amount below zero")
    return {"double": inputs["amount"] * 2, "greeting": np.array([b"hello " + one for one in inputs["name"]], object)}
"""
SPECS = """
max_rows = 5
[[inputs]]
name = "name"
datatype = "BYTES"
shape = [-1]
[[inputs]]
name = "amount"
datatype = "FP64"
shape = [-1]
[[outputs]]
name = "double"
datatype = "FP64"
shape = [-1]
[[outputs]]
name = "greeting"
datatype = "BYTES"
shape = [-1]
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "trilane.toml").write_text('name = "files"\n')
    with Project(load_config(tmp_path, environment={})) as opened:
        yield opened


def put(project: Project, name: str, content: bytes | str, *, file: str = "model.onnx", options: str = "") -> Path:
    path = project.config.models / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if options:
        (project.config.models / name / "model.toml").write_text(options)
    return path


def ask(project: Project, model: str, input: Path, output: Path, **options: Any) -> Scored:
    return score(project, Asking(model=model, input=str(input), output=output, **{"workers": 1, **options}))


def read(output: Path) -> pa.Table:
    return ds.dataset(output).to_table().sort_by([("file", "ascending"), ("row", "ascending")])


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.parquet"))}


def write_matrix(path: Path, rows: int, *, seed: int = 0) -> np.ndarray[Any, Any]:
    """Columns `a` to `d` and `id`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    columns: dict[str, Any] = {name: matrix[:, place] for place, name in enumerate("abcd")}
    pq.write_table(pa.table({"id": [f"{seed}/{row}" for row in range(rows)], **columns}), path, row_group_size=50)
    return matrix


def test_a_model_from_a_file_scores_named_columns_in_the_order_of_their_names(project: Project, tmp_path: Path) -> None:
    put(project, "negate", NEGATE)
    matrix = write_matrix(tmp_path / "in.parquet", 20_000)
    done = ask(
        project, "negate", tmp_path / "in.parquet", tmp_path / "out", features=("d", "a", "b", "c"), keep=("id",)
    )
    found = read(tmp_path / "out")
    assert (done.scored, done.rejected, done.job.model, done.job.model_version) == (20_000, 0, "negate", "1")
    assert found.column_names == ["file", "row", "id", "y"]
    assert np.array(found["y"].to_pylist(), np.float32).tolist() == (-matrix[:, [3, 0, 1, 2]]).tolist()
    facts = pq.read_schema(tmp_path / "out" / "part-00000.parquet").metadata
    assert (facts[b"trilane.model"], facts[b"trilane.digest"].decode()) == (b"negate", done.job.model_digest)
    [run] = project.metadata.runs(kind="score")
    edges = {(edge.relation, edge.source) for edge in project.metadata.edges() if edge.run == run.id}
    assert ("reads", f"trilane://model/negate@{done.job.model_digest[:16]}") in edges


def test_lists_are_its_matrix_and_workers_give_the_same_bytes(project: Project, tmp_path: Path) -> None:
    put(project, "negate", NEGATE)
    for number in range(3):
        matrix = np.random.default_rng(number).normal(size=(60, 4)).astype(np.float32)
        path = tmp_path / "in" / f"{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"x": matrix.tolist()}), path)
    ask(project, "negate", tmp_path / "in", tmp_path / "one")
    ask(project, "negate", tmp_path / "in", tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert read(tmp_path / "one").num_rows == 180


def test_a_job_goes_on_with_its_own_version_and_not_with_changed_files(project: Project, tmp_path: Path) -> None:
    first = put(project, "m", NEGATE, file="1/model.onnx")
    for number in range(3):
        write_matrix(tmp_path / "in" / f"{number}.parquet", 30, seed=number)
    names: dict[str, Any] = {"features": tuple("abcd")}
    ask(project, "m", tmp_path / "in", tmp_path / "out", **names)
    whole = files(tmp_path / "out")
    put(project, "m", ABSOLUTE, file="2/model.onnx")
    (tmp_path / "out" / "part-00001.parquet").unlink()
    done = ask(project, "m", tmp_path / "in", tmp_path / "out", **names)
    assert (done.new, done.job.model_version) == (1, "1")
    assert files(tmp_path / "out") == whole
    assert ask(project, "m", tmp_path / "in", tmp_path / "new", **names).job.model_version == "2"
    with pytest.raises(ConflictError, match="model_version, model_digest differs"):
        ask(project, "m", tmp_path / "in", tmp_path / "out", version="2", **names)
    with pytest.raises(ConflictError, match="features differs"):
        ask(project, "m", tmp_path / "in", tmp_path / "out", features=tuple("dcba"))
    first.write_bytes(ABSOLUTE)
    with pytest.raises(ConflictError, match="its files changed since the job began"):
        ask(project, "m", tmp_path / "in", tmp_path / "out", **names)


def test_a_row_that_python_fails_or_dies_on_is_refused_alone(project: Project, tmp_path: Path) -> None:
    put(project, "greet", PYTHON, file="model.py", options=SPECS)
    table = {"name": ["a", "b", None, "d", "crash", "f", "g"], "amount": [1.0, -2.0, 3.0, None, 5.0, 6.0, 7.0]}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    done = ask(project, "greet", tmp_path / "in.parquet", tmp_path / "out", keep=("name",))
    found = read(tmp_path / "out").to_pylist()
    rejects = pq.read_table(tmp_path / "out" / "_rejects" / "part-00000.parquet").to_pylist()
    assert (done.scored, done.rejected) == (3, 4)
    assert [(one["row"], one["double"], one["greeting"]) for one in found] == [
        (0, 2.0, b"hello a"),
        (5, 12.0, b"hello f"),
        (6, 14.0, b"hello g"),
    ]
    assert [(one["row"], one["path"]) for one in rejects] == [(1, "$"), (2, "$.name"), (3, "$"), (4, "$")]
    assert "no amount below zero" in rejects[0]["reason"]
    assert "NaN" in rejects[2]["reason"]
    assert "its process died" in rejects[3]["reason"]


def test_a_model_that_answers_no_row_fails_the_job(project: Project, tmp_path: Path) -> None:
    put(project, "greet", PYTHON, file="model.py", options=SPECS)
    pq.write_table(pa.table({"name": ["a"] * 200, "amount": [-1.0] * 200}), tmp_path / "in.parquet")
    with pytest.raises(ModelError, match="no amount below zero"):
        ask(project, "greet", tmp_path / "in.parquet", tmp_path / "out")
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize("folder", ["whole", "lists"])
def test_a_trained_model_scores_its_features_by_their_names(tmp_path: Path, folder: str) -> None:
    with make_scored_shop(tmp_path) as project:
        bundle = project.bundles()["is_big"]
        artifact = load(project.models_folder / "big" / bundle.model_digest[:16])
        runtime = open_onnx(artifact)
        names = [column.name for column in runtime.signature.inputs]
        matrix = np.random.default_rng(0).normal(size=(300, len(names))).astype(np.float32)
        columns = {name: matrix[:, place] for place, name in reversed(list(enumerate(names)))}
        table = pa.table({"features": matrix.tolist()} if folder == "lists" else columns)
        pq.write_table(table, tmp_path / "in.parquet")
        done = ask(project, "big", tmp_path / "in.parquet", tmp_path / "out")
        assert done.job.model_digest == bundle.model_digest
        assert read(tmp_path / "out")["score"].to_pylist() == runtime.predict(matrix).tolist()
        again = ask(project, "big", tmp_path / "in.parquet", tmp_path / "out", version=bundle.model_digest[:16])
        assert (again.new, again.job) == (0, done.job)
        other = ask(project, "big", tmp_path / "in.parquet", tmp_path / "other", version=bundle.model_digest[:8])
        assert other.job == done.job
        runtime.close()


def test_what_is_not_there_is_named(project: Project, tmp_path: Path) -> None:
    write_matrix(tmp_path / "in.parquet", 5)
    with pytest.raises(DefinitionError, match=r"there is no model 'm'.*There are none yet"):
        ask(project, "m", tmp_path / "in.parquet", tmp_path / "out")
    put(project, "m", NEGATE)
    with pytest.raises(DefinitionError, match=r"'m' has no version '7'.*There are 1"):
        ask(project, "m", tmp_path / "in.parquet", tmp_path / "out", version="7")
    with pytest.raises(ContractError, match=r"column 'x': the column is missing.*--features"):
        ask(project, "m", tmp_path / "in.parquet", tmp_path / "out")
    with pytest.raises(ContractError, match="column 'e': the column is missing, expected FP32"):
        ask(project, "m", tmp_path / "in.parquet", tmp_path / "out", features=tuple("abce"))
    with pytest.raises(DefinitionError, match="'y' is a name of the output"):
        ask(project, "m", tmp_path / "in.parquet", tmp_path / "out", features=tuple("abcd"), keep=("y",))
    put(project, "fixed", graph("Neg", "FP32", (4,)))
    with pytest.raises(ModelError, match="the first axis of its tensors is no number of rows"):
        ask(project, "fixed", tmp_path / "in.parquet", tmp_path / "out")
    put(project, "broken", NEGATE[:40])
    with pytest.raises(ModelError, match=r"model\.onnx"):
        ask(project, "broken", tmp_path / "in.parquet", tmp_path / "out")
    assert not [*(tmp_path / "out").glob("*.parquet")]


def test_the_command_line_scores_by_a_model_and_refuses_what_is_an_endpoints(project: Project, tmp_path: Path) -> None:
    put(project, "negate", NEGATE)
    write_matrix(tmp_path / "in.parquet", 200)
    line = ["score", "--model", "negate", "--input", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out")]
    done = command(tmp_path, *line, "--features", "a, b,c,d", "--keep", "id", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "200 rows scored by model negate, version 1." in done.stdout
    for words, message in (
        (["is_big"], "both an endpoint and --model are named"),
        (["--bundle", "abcdef"], "--bundle, --at and --point-in-time are an endpoint's"),
    ):
        done = command(tmp_path, *line, *words, "--json")
        assert done.returncode != 0
        assert message in done.stdout
    done = command(tmp_path, "score", *line[3:], "--json")
    assert "there is nothing to score by" in done.stdout
