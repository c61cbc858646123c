"""Files of any cut and of differing columns are scored as one table, and none that changed meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.graphs import graph
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.scoring import job as jobs
from trilane.apps.scoring.job import PART_ROWS, PORTION, Job, Part, cut, stamp
from trilane.apps.scoring.portions import Portions
from trilane.apps.scoring.scoring_job import Asking, Scored, score
from trilane.apps.scoring.waiting import Waiting
from trilane.errors import ConflictError, ContractError, DefinitionError


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """With a model that negates its one number, `x`."""
    (tmp_path / "trilane.toml").write_text('name = "files"\n')
    with Project(load_config(tmp_path, environment={})) as opened:
        path = opened.config.models / "negate" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(graph("Neg", "FP32", (-1,)))
        yield opened


def ask(project: Project, input: Path, output: Path, **options: Any) -> Scored:
    return score(project, Asking(model="negate", input=str(input), output=output, **{"workers": 1, **options}))


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.parquet"))}


def fits(schema: pa.Schema, *, where: str) -> None:
    """Every file does."""


def write(path: Path, rows: int, *, group: int | None = None, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.arange(rows, dtype=np.float32)
    pq.write_table(
        pa.table({"x": x, "id": [f"row {row}" for row in range(rows)], **columns}), path, row_group_size=group
    )
    return path


def test_row_groups_are_put_together_up_to_a_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "PART_ROWS", 100)
    write(tmp_path / "in.parquet", 230, group=40)
    _, parts = cut([tmp_path / "in.parquet"], fits)
    assert [(part.first, part.stop, part.first_row, part.rows) for part in parts] == [
        (0, 2, 0, 80),
        (2, 4, 80, 80),
        (4, 6, 160, 70),
    ]


def test_a_large_row_group_is_cut_into_parts_of_whole_portions(tmp_path: Path) -> None:
    large = 2 * PART_ROWS + 1
    sizes = [10, large, 20, 30]
    schema = pa.schema([("x", pa.int8())])
    with pq.ParquetWriter(tmp_path / "in.parquet", schema) as writer:
        for size in sizes:
            writer.write_table(pa.table({"x": pa.array(np.zeros(size, np.int8))}), row_group_size=size)
    _, parts = cut([tmp_path / "in.parquet"], fits)
    step = -(-large // 3 // PORTION) * PORTION
    assert [(part.first, part.stop, part.first_row, part.rows, part.skip) for part in parts] == [
        (0, 1, 0, 10, 0),
        (1, 2, 10, step, 0),
        (1, 2, 10 + step, step, step),
        (1, 2, 10 + 2 * step, large - 2 * step, 2 * step),
        (2, 4, 10 + large, 50, 0),
    ]
    assert not step % PORTION
    _, joined = cut([tmp_path / "in.parquet"], fits, largest=large)
    assert [part.rows for part in joined] == [10, large, 50]


def test_a_portion_holds_the_same_rows_whoever_reads_it(tmp_path: Path) -> None:
    rows = 3 * PART_ROWS - 5
    write(tmp_path / "in.parquet", rows, group=rows)
    inputs, parts = cut([tmp_path / "in.parquet"], fits)
    job = Job(at=0, event_time="", keep=(), strict=False, source="", root=str(tmp_path), inputs=inputs, parts=parts)
    after, found = Portions(job, ["x", "id", "not there"], whole=False), []
    for part in parts:
        alone = Portions(job, ["x", "id"], whole=False)
        together = Portions(job, ["x", "id"], whole=True)
        portions = [*after.of(part)]
        assert portions == [*alone.of(part)]
        assert [len(one) for one in portions[:-1]] == [PORTION] * (len(portions) - 1)
        assert [*together.of(part)] == [pa.concat_tables(portions)]
        found += portions
        alone.close()
        together.close()
    assert pa.concat_tables(found).equals(pq.read_table(tmp_path / "in.parquet"))
    assert [*after.of(parts[0])] == found[: len(found) // 3]  # and again from its beginning
    after.close()


def test_whoever_is_at_a_row_group_gets_its_next_part_and_a_free_one_the_group_that_nobody_is_at() -> None:
    places = [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1), (1, 0)]
    parts = [Part(number, file, group, group + 1, 0, 1) for number, (file, group) in enumerate(places)]
    waiting = Waiting(parts)
    assert waiting.next() is parts[0]
    assert waiting.next() is parts[3]
    assert waiting.next(parts[3]) is parts[4]
    assert waiting.next(parts[4]) is parts[5]
    assert waiting.next(parts[5]) is parts[1]  # no other group is left: it reads over what another has
    assert waiting.next(parts[0]) is parts[2]
    assert waiting.next(parts[2]) is None
    assert Waiting([]).next() is None


def test_several_workers_at_one_row_group_give_the_bytes_of_one(project: Project, tmp_path: Path) -> None:
    rows = 3 * PART_ROWS + 7
    write(tmp_path / "in.parquet", rows, group=rows)
    one = ask(project, tmp_path / "in.parquet", tmp_path / "one", keep=("id",))
    ask(project, tmp_path / "in.parquet", tmp_path / "two", keep=("id",), workers=2)
    assert (one.scored, one.parts) == (rows, 4)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    found = ds.dataset(tmp_path / "one").to_table()
    assert found["row"].to_pylist() == [*range(rows)]
    assert np.array_equal(found["y"].to_numpy(), -np.arange(rows, dtype=np.float32))
    (tmp_path / "two" / "part-00002.parquet").unlink()
    assert ask(project, tmp_path / "in.parquet", tmp_path / "two", keep=("id",)).new == 1
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("change", ["written anew", "removed"])
def test_a_file_that_changes_under_a_job_fails_it(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "in.parquet", 3 * PORTION)
    inputs, parts = cut([path], fits)
    job = Job(at=0, event_time="", keep=(), strict=False, source="", root=str(path), inputs=inputs, parts=parts)
    portions = Portions(job, ["x"], whole=False)
    begun = portions.of(parts[0])
    next(begun)
    if change == "removed":
        path.unlink()
    else:
        write(tmp_path / "other.parquet", 3 * PORTION + 1).rename(path)
        assert stamp(path) != inputs[0]
    told = "it cannot be found any more" if change == "removed" else "it changed since the job began"
    with pytest.raises(ConflictError, match=rf"in.parquet: {told}.*Put it back as it was"):
        list(begun)
    with pytest.raises(ConflictError, match=told):
        list(portions.of(parts[0]))
    portions.close()


def test_kept_columns_are_as_in_the_first_file_where_others_fit(project: Project, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", 2, n=pa.array([1, 2], pa.int64()), t=pa.array(["a", "b"]))
    write(
        tmp_path / "in" / "b.parquet", 2, n=pa.array([3, None], pa.int8()), t=pa.array(["c", None]).dictionary_encode()
    )
    write(tmp_path / "in" / "c.parquet", 1, n=pa.nulls(1), t=pa.array(["d"], pa.large_string()))
    ask(project, tmp_path / "in", tmp_path / "out", keep=("n", "t"))
    found = ds.dataset(tmp_path / "out").to_table()
    assert found["n"].to_pylist() == [1, 2, 3, None, None]
    assert found["t"].to_pylist() == ["a", "b", "c", None, "d"]
    assert (found.schema.field("n").type, found.schema.field("t").type) == (pa.int64(), pa.string())


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({}, "the column, which is kept, is missing"),
        ({"n": ["one", "two"]}, "the column, which is kept, is string"),
        ({"n": [0.5, 1.5]}, "the column, which is kept, is double"),
    ],
)
def test_kept_columns_that_do_not_fit_are_refused_before_anything_is_scored(
    project: Project, tmp_path: Path, columns: dict[str, Any], told: str
) -> None:
    write(tmp_path / "in" / "a.parquet", 2, n=[1, 2])
    write(tmp_path / "in" / "b.parquet", 2, **columns)
    with pytest.raises(ContractError, match=rf"b.parquet, column 'n': {told}.*it is int64 in .*a.parquet"):
        ask(project, tmp_path / "in", tmp_path / "out", keep=("n",))
    assert files(tmp_path / "out") == {}


def test_a_kept_number_that_the_first_files_type_does_not_have_fails_the_job(project: Project, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", 2, n=[1.5, 2.5])
    write(tmp_path / "in" / "b.parquet", 2, n=[1, 2**62 + 1])
    with pytest.raises(ContractError, match=r"b.parquet, column 'n': what is kept cannot be double"):
        ask(project, tmp_path / "in", tmp_path / "out", keep=("n",))


def test_a_column_that_is_there_twice_cannot_be_kept(project: Project, tmp_path: Path) -> None:
    x = pa.array([1.0, 2.0], pa.float32())
    pq.write_table(pa.Table.from_arrays([x, x, x], names=["x", "q", "q"]), tmp_path / "in.parquet")
    assert ask(project, tmp_path / "in.parquet", tmp_path / "out").scored == 2
    with pytest.raises(DefinitionError, match="'q' is there twice in the input"):
        ask(project, tmp_path / "in.parquet", tmp_path / "kept", keep=("q",))


def test_progress_tells_the_rows_a_second_since_the_first_were_done(project: Project, tmp_path: Path) -> None:
    ticks = list[tuple[str, int, int]]()
    write(tmp_path / "in.parquet", rows := 3 * PORTION)
    asking = Asking(model="negate", input=str(tmp_path / "in.parquet"), output=tmp_path / "out", workers=1)
    score(project, asking, progress=lambda *tick: ticks.append(tick))
    told = [done for _, done, all_ in ticks if all_ == rows]
    assert (told, told[-1], len(ticks) - len(told)) == (sorted(set(told)), rows, 2)
    assert [stage for stage, *_ in ticks][:3] == ["look at the input", "start", "begun"]
    assert all(re.fullmatch(r"[\d,]+ rows/s, \d+ s left", stage) for stage, *_ in ticks[3:])
