"""Bulk scoring gives each row the answer that a request would have, once, and goes on where it was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.scored import NOW, make_scored_shop, write_rows
from tests.shop import MINUTE
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.scoring.job import Job
from trilane.apps.scoring.opening import open_scorer
from trilane.apps.scoring.output import Output
from trilane.apps.scoring.scoring_job import Asking, Scored, score
from trilane.apps.server.compiling import compile_bundle
from trilane.clock import SimulatedClock
from trilane.errors import ConflictError, ContractError, DefinitionError, SetupError, UnavailableError
from trilane.models.artifact import load
from trilane.training.build import values_at


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_scored_shop(folder).close()
    return folder


@pytest.fixture
def project(shop: Path) -> Iterator[Project]:
    with Project(load_config(shop, environment={}), clock=SimulatedClock(NOW)) as opened:
        yield opened


def ask(project: Project, input: Path | str, output: Path, **options: Any) -> Scored:
    asking = Asking(endpoint="is_big", input=str(input), output=output, **{"workers": 1, **options})
    return score(project, asking)


def read(output: Path) -> pa.Table:
    return ds.dataset(output).to_table().sort_by([("file", "ascending"), ("row", "ascending")])


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.parquet"))}


def answered(project: Project, table: pa.Table) -> list[float]:
    """What requests with these rows are answered at `NOW`."""
    engine = compile_bundle(project, project.bundles()["is_big"])
    kind = engine.endpoint.contract.struct
    rows = [kind(shop=row["shop"], basket=row["basket"]) for row in table.to_pylist()]
    return [float(engine.answer([row], now=NOW, id="x").scores[0]) for row in rows]


def test_every_row_gets_the_bits_that_a_request_would(project: Project, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "in.parquet", 300)
    done = ask(project, tmp_path / "in.parquet", tmp_path / "out", keep=("note",))
    found = read(tmp_path / "out")
    assert (done.scored, done.rejected, done.new) == (300, 0, 1)
    assert found.column_names == ["file", "row", "shop", "note", "score", "positive", "rung", "degraded", "why"]
    assert found["row"].to_pylist() == list(range(300))
    assert found["note"].to_pylist() == table["note"].to_pylist()
    expected = answered(project, table)
    assert found["score"].to_pylist() == expected
    assert found["positive"].to_pylist() == [one >= 0.5 for one in expected]
    assert set(found["rung"].to_pylist()) == {"fresh"}
    assert not done.degraded


def test_a_file_says_what_made_it(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 5)
    done = ask(project, tmp_path / "in.parquet", tmp_path / "out")
    facts = pq.read_schema(tmp_path / "out" / "part-00000.parquet").metadata
    bundle = project.bundles()["is_big"]
    assert facts[b"trilane.bundle"].decode() == bundle.digest
    assert facts[b"trilane.model"].decode() == bundle.model_digest
    assert facts[b"trilane.input"] == b"in.parquet"
    assert facts[b"trilane.job"].decode() == done.job.digest
    [run] = [one for one in project.metadata.runs(kind="score") if one.facts.get("job") == done.job.digest]
    edges = {(edge.relation, edge.source, edge.target) for edge in project.metadata.edges() if edge.run == run.id}
    assert ("reads", f"trilane://bundle/is_big@{bundle.digest[:16]}", f"trilane://run/{run.id}") in edges
    assert ("writes", f"trilane://run/{run.id}", f"trilane://scores/is_big@{done.job.digest[:16]}") in edges


def test_a_folder_is_scored_by_several_workers_as_by_one(project: Project, tmp_path: Path) -> None:
    for number in range(4):
        write_rows(tmp_path / "in" / f"day={number}" / "rows.parquet", 60, seed=number)
    write_rows(tmp_path / "in" / "_temporary" / "rows.parquet", 9)
    one = ask(project, tmp_path / "in", tmp_path / "one")
    ask(project, tmp_path / "in", tmp_path / "two", workers=2)
    assert one.scored == 240
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert set(read(tmp_path / "one")["file"].to_pylist()) == {f"day={n}/rows.parquet" for n in range(4)}


def test_a_job_goes_on_with_what_is_missing_and_the_bytes_are_the_same(project: Project, tmp_path: Path) -> None:
    for number in range(3):
        write_rows(tmp_path / "in" / f"{number}.parquet", 40, seed=number)
    ask(project, tmp_path / "in", tmp_path / "out", keep=("asked_at",))
    whole = files(tmp_path / "out")
    lines = (tmp_path / "out" / "_parts.ndjson").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "_parts.ndjson").write_bytes(lines[0] + lines[1][:-9])  # torn in the second line
    (tmp_path / "out" / ".part-00002.parquet.77.draft").write_bytes(b"half")
    kept = (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns
    project.clock.move_to(NOW + MINUTE)  # type: ignore[attr-defined]
    done = ask(project, tmp_path / "in", tmp_path / "out", keep=("asked_at",))
    assert (done.parts, done.new, done.scored) == (3, 2, 120)
    assert files(tmp_path / "out") == whole
    assert (tmp_path / "out" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert ask(project, tmp_path / "in", tmp_path / "out", keep=("asked_at",)).new == 0


def test_a_part_that_was_damaged_or_removed_is_made_again(project: Project, tmp_path: Path) -> None:
    for number in range(3):
        write_rows(tmp_path / "in" / f"{number}.parquet", 30, seed=number)
    ask(project, tmp_path / "in", tmp_path / "out")
    whole = files(tmp_path / "out")
    (tmp_path / "out" / "part-00001.parquet").unlink()
    with (tmp_path / "out" / "part-00002.parquet").open("r+b") as file:
        file.write(b"XXXX")
    assert ask(project, tmp_path / "in", tmp_path / "out").new == 2
    assert files(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("change", "named"),
    [({"at": NOW - MINUTE}, "at"), ({"strict": True}, "strict"), ({"keep": ("note",)}, "keep")],
)
def test_the_folder_of_another_job_is_left_alone(
    project: Project, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    write_rows(tmp_path / "in.parquet", 20)
    ask(project, tmp_path / "in.parquet", tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(ConflictError, match=f"the output of another job: {named} differs"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out", **change)
    assert files(tmp_path / "out") == before


def test_input_that_changed_since_the_job_began_is_another_job(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 20)
    ask(project, tmp_path / "in.parquet", tmp_path / "out")
    write_rows(tmp_path / "in.parquet", 21)
    with pytest.raises(ConflictError, match="another job: inputs, parts differs"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out")


def test_a_folder_with_anything_else_in_it_is_left_alone(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("three years")
    with pytest.raises(ConflictError, match="something here that is no output"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_two_processes_do_not_score_into_one_folder(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 20)
    with Output(tmp_path / "out").held(), pytest.raises(ConflictError, match="another process is scoring"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out")


@pytest.mark.parametrize("output", ["in", "in/out", "."])
def test_an_output_among_the_input_is_refused(project: Project, tmp_path: Path, output: str) -> None:
    write_rows(tmp_path / "in" / "rows.parquet", 20)
    with pytest.raises((DefinitionError, ConflictError), match=r"lie in one another|no output"):
        ask(project, tmp_path / "in", tmp_path / output)


def bad_rows(path: Path) -> pa.Table:
    table = pa.table(
        {
            "shop": ["a", "b", None, "c", "a", "b"],
            "basket": [1.0, float("nan"), 2.0, float("inf"), None, 3.0],
            "asked_at": pa.array([NOW] * 6, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, path)
    return table


def test_rows_that_break_the_contract_go_to_the_rejects_and_the_rest_is_scored(
    project: Project, tmp_path: Path
) -> None:
    table = bad_rows(tmp_path / "in.parquet")
    done = ask(project, tmp_path / "in.parquet", tmp_path / "out")
    assert (done.scored, done.rejected) == (2, 4)
    found = read(tmp_path / "out")
    assert found["row"].to_pylist() == [0, 5]
    assert found["score"].to_pylist() == answered(project, table.take([0, 5]))
    rejects = pq.read_table(tmp_path / "out" / "_rejects" / "part-00000.parquet").to_pylist()
    assert [(one["row"], one["path"]) for one in rejects] == [
        (1, "$.basket"),
        (2, "$.shop"),
        (3, "$.basket"),
        (4, "$.basket"),
    ]
    assert rejects[0]["reason"] == "nan is no finite number"


def test_with_strict_the_first_of_them_fails_the_job(project: Project, tmp_path: Path) -> None:
    bad_rows(tmp_path / "in.parquet")
    with pytest.raises(ContractError, match=r"in.parquet, row 1, \$.basket: nan is no finite number"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out", strict=True)
    assert files(tmp_path / "out") == {}


def test_a_row_that_spoils_a_request_view_is_degraded_alone_and_says_why(project: Project, tmp_path: Path) -> None:
    pq.write_table(pa.table({"shop": ["a", "b"], "basket": [-1.0, 2.0]}), tmp_path / "in.parquet")
    done = ask(project, tmp_path / "in.parquet", tmp_path / "out")
    found = read(tmp_path / "out")
    assert done.degraded == 1
    assert found["degraded"].to_pylist() == [True, False]
    assert found["rung"].to_pylist() == ["stale", "fresh"]
    assert "a basket of minus one" in found["why"][0].as_py()
    assert found["why"][1].as_py() is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"shop": ["a"]}, r"column 'basket': the column is missing, expected float64"),
        ({"shop": ["a"], "basket": ["1"]}, r"column 'basket': expected a column of float64, got string"),
    ],
)
def test_a_file_of_other_columns_is_refused_before_any_work(
    project: Project, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    write_rows(tmp_path / "in" / "a.parquet", 5)
    pq.write_table(pa.table(columns), tmp_path / "in" / "b.parquet")
    with pytest.raises(ContractError, match=rf"b.parquet, {message}"):
        ask(project, tmp_path / "in", tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_an_empty_file_and_a_torn_one_are_named(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "whole.parquet", 50)
    (tmp_path / "in.parquet").write_bytes(b"")
    with pytest.raises(ContractError, match=r"in.parquet: this is no whole Parquet file"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out")
    (tmp_path / "in.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(ContractError, match=r"in.parquet: this is no whole Parquet file"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out")


def test_a_page_that_is_damaged_fails_its_part_and_names_it(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 5_000, group=5_000)
    content = bytearray((tmp_path / "in.parquet").read_bytes())
    content[100:4_000] = bytes(3_900)
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(ContractError, match=r"in.parquet, row groups 0 to 0: it cannot be read"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out", keep=("note",))
    assert files(tmp_path / "out") == {}


def test_a_table_without_rows_gives_one_without_rows(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 0)
    done = ask(project, tmp_path / "in.parquet", tmp_path / "out")
    assert (done.scored, done.parts) == (0, 1)
    assert read(tmp_path / "out").num_rows == 0


def test_what_is_not_there_is_named(project: Project, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"there is no file, no folder and no table 'nothing'.*Declared tables: asks"):
        ask(project, "nothing", tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(SetupError, match="there is no Parquet file in this folder"):
        ask(project, tmp_path / "in", tmp_path / "out")
    write_rows(tmp_path / "in.parquet", 5)
    with pytest.raises(DefinitionError, match="nothing is deployed as endpoint 'ask'"):
        score(project, Asking(endpoint="ask", input=str(tmp_path / "in.parquet"), output=tmp_path / "out"))
    with pytest.raises(DefinitionError, match="'colour' is no column of the input"):
        ask(project, tmp_path / "in.parquet", tmp_path / "out", keep=("colour",))


def test_a_named_bundle_is_found_by_its_first_digits(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 5)
    digest = project.bundles()["is_big"].digest
    assert ask(project, tmp_path / "in.parquet", tmp_path / "out", bundle=digest[:8]).job.bundle == digest
    with pytest.raises(ConflictError, match="no bundles of it begin with 'ffffff'"):
        ask(project, tmp_path / "in.parquet", tmp_path / "other", bundle="ffffff")


def test_a_declared_table_is_scored_where_it_lies(project: Project, tmp_path: Path) -> None:
    done = ask(project, "asks", tmp_path / "out")
    assert done.scored == 200
    assert done.job.inputs[0].path == str(project.config.root / "asks.parquet")
    assert read(tmp_path / "out")["score"].to_pylist() == answered(
        project, pq.read_table(project.config.root / "asks.parquet")
    )


def test_point_in_time_gives_the_scores_of_what_training_joins(project: Project, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "in.parquet", 80)
    done = ask(project, tmp_path / "in.parquet", tmp_path / "out", event_time="asked_at")
    bundle = project.bundles()["is_big"]
    engine = compile_bundle(project, bundle)
    model, artifact = engine.endpoint.model, load(project.models_folder / "big" / bundle.model_digest[:16])
    values = values_at(
        model.plan,
        table.select(["shop", "basket", "asked_at"]),
        event_time="asked_at",
        warehouse=project.warehouse,
        root=project.config.root,
        priors=artifact.manifest.priors,
    )
    expected = engine.runtime.predict(values.astype(np.float32))
    assert done.scored == 80
    assert read(tmp_path / "out")["score"].to_pylist() == expected.tolist()


def test_a_row_without_an_instant_is_refused_where_it_is_asked_for(project: Project, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "in.parquet", 3)
    at = pa.array([None, NOW, NOW], pa.timestamp("us", "UTC"))
    pq.write_table(table.set_column(3, "asked_at", at), tmp_path / "in.parquet")
    done = ask(project, tmp_path / "in.parquet", tmp_path / "out", event_time="asked_at")
    assert (done.scored, done.rejected) == (2, 1)


def test_where_the_store_cannot_be_read_the_part_waits_instead_of_being_answered_worse(
    shop: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shop, folder)
    write_rows(tmp_path / "in.parquet", 10)
    with Project(load_config(folder, environment={}), clock=SimulatedClock(NOW)) as opened:
        asking = Asking(endpoint="is_big", input=str(tmp_path / "in.parquet"), output=tmp_path / "out", workers=1)
        done = score(opened, asking)
        whole = files(tmp_path / "out")
        output = Output(tmp_path / "out")
        scorer = open_scorer(opened, done.job, output, progress=lambda _: None)
        opened.online.close()
        with pytest.raises(UnavailableError, match="the online store cannot be read"):
            scorer.score(done.job.parts[0])
    assert files(tmp_path / "out") == whole


def test_a_job_says_all_of_itself_in_its_digest(project: Project, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.parquet", 5)
    first = ask(project, tmp_path / "in.parquet", tmp_path / "one").job
    again = Output(tmp_path / "one").job()
    assert isinstance(again, Job)
    assert again.digest == first.digest
    assert ask(project, tmp_path / "in.parquet", tmp_path / "two", at=NOW - MINUTE).job.digest != first.digest
