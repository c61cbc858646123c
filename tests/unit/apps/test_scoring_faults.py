"""A row that a model fails on, or dies of, costs no other row its answer, and a file may lack what may be null."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from trilane.apps import deploy, training_job
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.scoring.patient import PATIENCE, ForgivingRuntime, PatientRuntime
from trilane.apps.scoring.scoring_job import Asking, Scored, score
from trilane.errors import ModelError, UnavailableError
from trilane.models.signature import Matrix, Scores, Signature

DEFINITIONS = """
import os
import numpy as np
import trilane as tl

NUMBERS = {"amount": tl.Float64, "tip": tl.Float64 | None}
meals = tl.TableSource(
    "meals", schema={**NUMBERS, "at": tl.Timestamp, "y": tl.Float64}, path="m.parquet", event_time="at"
)


@tl.request(inputs=NUMBERS, features=NUMBERS)
def meal(request):
    return request


class Sums:
    def predict(self, matrix):
        if (matrix[:, 0] == -1).any():
            raise ValueError("no amount below zero")
        if (matrix[:, 0] == -2).any():
            os._exit(3)
        return matrix[:, 0] + np.nan_to_num(matrix[:, 1])


def train(training_set):
    return Sums()


sums = tl.Model("sums", features=[meal], spine=meals, label="y", train=train, runtime=tl.python())
kind = tl.Endpoint("kind", model=sums, deadline="1s", fallback=[tl.constant(-5.0)])
strict = tl.Endpoint("strict", model=sums, deadline="1s")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    (folder / "trilane.toml").write_text('name = "sums"\n')
    (folder / "definitions.py").write_text(DEFINITIONS)
    numbers, at = np.arange(100.0), pa.array(1_767_225_600_000_000 + np.arange(100), pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"amount": numbers, "tip": numbers, "at": at, "y": numbers}), folder / "m.parquet")
    with Project(load_config(folder, environment={})) as project:
        deploy.apply(project)
        training_job.train(project, "sums")
        deploy.apply(project)
    return folder


@pytest.fixture
def project(folder: Path) -> Iterator[Project]:
    with Project(load_config(folder, environment={})) as opened:
        yield opened


def ask(project: Project, endpoint: str, folder: Path, **files: dict[str, Any]) -> tuple[Scored, pa.Table]:
    (folder / "in").mkdir()
    for name, columns in files.items():
        pq.write_table(pa.table(columns), folder / "in" / f"{name}.parquet")
    done = score(project, Asking(endpoint=endpoint, input=str(folder / "in"), output=folder / "out", workers=1))
    return done, ds.dataset(folder / "out").to_table()


@pytest.mark.parametrize(
    ("bad", "reason"), [(-1.0, "ValueError: no amount below zero"), (-2.0, "its process died: it ended with status 3")]
)
@pytest.mark.parametrize("endpoint", ["kind", "strict"])
def test_rows_that_a_model_fails_on_cost_no_others_their_scores(
    project: Project, tmp_path: Path, endpoint: str, bad: float, reason: str
) -> None:
    amounts = np.arange(200.0)
    amounts[[20, 21, 22, 23, 150]] = bad
    done, found = ask(project, endpoint, tmp_path, rows={"amount": amounts, "tip": np.zeros(200)})
    if endpoint == "kind":
        assert (done.scored, done.rejected, done.degraded) == (200, 0, 5)
        assert found["score"].to_pylist() == np.where(amounts < 0, -5.0, amounts).tolist()
        whys = [None if amount >= 0 else f"model: {reason}" for amount in amounts]
        assert found["why"].to_pylist() == whys
    else:
        assert (done.scored, done.rejected, done.degraded) == (195, 5, 0)
        assert found["score"].to_pylist() == amounts[amounts >= 0].tolist()
        rejects = pq.read_table(tmp_path / "out" / "_rejects")
        assert rejects["row"].to_pylist() == [20, 21, 22, 23, 150]
        assert all(reason in one for one in rejects["reason"].to_pylist())


@pytest.mark.parametrize("first", ["with", "without"])
def test_a_file_may_lack_a_column_that_may_be_null_and_no_other_loses_it(
    project: Project, tmp_path: Path, first: str
) -> None:
    whole: dict[str, Any] = {"amount": [1.0, 2.0], "tip": [10.0, None]}
    files = {"a": whole, "b": {"amount": [1.0, 2.0]}}
    done, found = ask(project, "kind", tmp_path, **(files if first == "with" else {"b": whole, "a": files["b"]}))
    assert done.scored == 4
    assert found["score"].to_pylist() == ([11.0, 2.0, 1.0, 2.0] if first == "with" else [1.0, 2.0, 11.0, 2.0])


class Moody:
    """A runtime that is away for `away` questions, and fails on what is below zero."""

    signature = Signature.of(["x"])

    def __init__(self, away: int = 0, *, again: float | None = None) -> None:
        self.away, self._again = away, again

    def predict(self, matrix: Matrix) -> Scores:
        if self.away:
            self.away -= 1
            raise UnavailableError("it is started anew", retry_after_s=self._again)
        if (matrix < 0).any():
            raise ModelError("below zero")
        return matrix[:, 0].astype(np.float64)

    def close(self) -> None:
        """Nothing is held."""


def test_a_model_that_is_started_anew_is_waited_for() -> None:
    lost, slept = list[UnavailableError](), list[float]()
    runtime = PatientRuntime(Moody(3, again=0.5), lost=lost.append, sleep=slept.append)
    assert runtime.predict(np.ones((2, 1), np.float32)).tolist() == [1.0, 1.0]
    assert (slept, lost) == ([0.5] * 3, [])


@pytest.mark.parametrize(("again", "waits"), [(0.5, PATIENCE), (None, 0)])
def test_one_that_stays_away_is_told_of(again: float | None, waits: int) -> None:
    lost, slept = list[UnavailableError](), list[float]()
    runtime = PatientRuntime(Moody(1_000, again=again), lost=lost.append, sleep=slept.append)
    with pytest.raises(UnavailableError):
        runtime.predict(np.ones((2, 1), np.float32))
    assert (len(slept), len(lost)) == (waits, 1)


def test_a_smaller_model_gives_no_score_to_the_rows_that_it_fails_on_alone() -> None:
    matrix = np.array([[1], [-1], [2], [3], [-1]], np.float32)
    scores = ForgivingRuntime(Moody()).predict(matrix)
    assert np.array_equal(scores, [1.0, np.nan, 2.0, 3.0, np.nan], equal_nan=True)
