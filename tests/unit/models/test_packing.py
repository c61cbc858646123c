"""What a train function returned opens elsewhere with the same numbers, whatever library or code it is made of."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from trilane.apps.module_files import import_files, name_elsewhere
from trilane.errors import ModelError
from trilane.models.packing import packed
from trilane.models.runtime.protocol import Runtime
from trilane.models.runtime.trained import open_files
from trilane.models.signature import Matrix, Signature

SIGNATURE = Signature.of(("a", "b", "c", "d"))
AUTHORS = """
import numpy as np
import rules

class Careful:
    def __init__(self, weight):
        self.weight = weight
    def load(self):
        self.ready = 1.0
    def preprocess(self, matrix):
        return np.nan_to_num(matrix, nan=rules.INSTEAD)
    def predict(self, matrix):
        return matrix.sum(axis=1) * self.weight * self.ready
    def postprocess(self, scores):
        return np.minimum(scores, 3.0)

def logged(matrix):
    return np.log1p(np.abs(matrix))

def hidden():
    return lambda matrix: matrix[:, 0]
"""


@pytest.fixture
def target(rows: Matrix) -> Any:
    return rows[:, 0] > 0


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    """Opens packed files, and closes what it opened."""
    with contextlib.ExitStack() as stack:

        def open_(files: dict[str, bytes], runtime: str, **options: Any) -> Runtime:
            for name, content in files.items():
                (tmp_path / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "kept" / name).write_bytes(content)
            found = open_files(tmp_path / "kept", SIGNATURE, name="m", runtime=runtime, **options)
            return stack.enter_context(contextlib.closing(found))

        yield open_


@pytest.fixture
def authors(tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """The author's module, and what `packed` wants to know of his files."""
    (tmp_path / "authors.py").write_text(AUTHORS)
    (tmp_path / "rules.py").write_text("INSTEAD = 0.25\n")
    found = import_files(tmp_path / "authors.py")
    return found.module, {"code": found.files, "name_of": lambda module: name_elsewhere(module, found.files)}


def test_lightgbm_in_its_own_format_gives_its_own_numbers(
    rows: Matrix, target: Any, opened: Callable[..., Runtime]
) -> None:
    fitted = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(rows, target)
    files = packed(fitted, SIGNATURE, runtime="lightgbm")
    scores = opened(files, "lightgbm").predict(rows)
    assert list(files) == ["model.txt"]
    assert scores.tobytes() == np.asarray(fitted.booster_.predict(rows.astype(np.float64), num_threads=1)).tobytes()


def test_xgboost_is_kept_up_to_its_best_iteration(rows: Matrix, target: Any, opened: Callable[..., Runtime]) -> None:
    fitted = xgboost.XGBClassifier(n_estimators=60, learning_rate=1.0, n_jobs=1, early_stopping_rounds=2)
    fitted.fit(rows[:200], target[:200], eval_set=[(rows[200:], ~target[200:])], verbose=False)
    assert fitted.best_iteration + 1 < fitted.get_booster().num_boosted_rounds()
    scores = opened(packed(fitted, SIGNATURE, runtime="xgboost"), "xgboost").predict(rows)
    assert np.array_equal(scores, fitted.predict_proba(rows)[:, 1].astype(np.float64))


def test_an_estimator_is_kept_as_it_is_and_scores_each_row_alike_in_every_batch(
    rows: Matrix, target: Any, opened: Callable[..., Runtime]
) -> None:
    fitted = make_pipeline(FunctionTransformer(np.tanh), LogisticRegression()).fit(rows, target)
    runtime = opened(packed(fitted, SIGNATURE, runtime="python"), "python")
    together = runtime.predict(rows[:64])
    assert np.allclose(together, fitted.predict_proba(rows[:64])[:, 1])
    assert together[7:8].tobytes() == runtime.predict(rows[7:8]).tobytes()
    assert runtime.predict(rows[:0]).shape == (0,)


def test_threads_of_an_ensemble_do_not_change_its_last_bits(
    rows: Matrix, target: Any, opened: Callable[..., Runtime]
) -> None:
    fitted = make_pipeline(RandomForestClassifier(40, n_jobs=4, random_state=0)).fit(rows, target)
    runtime = opened(packed(fitted, SIGNATURE, runtime="python"), "python", row_wise=True)
    assert {runtime.predict(rows[:50]).tobytes() for _ in range(5)} == {runtime.predict(rows[:50]).tobytes()}


def test_an_authors_class_goes_along_with_its_files_and_its_processing(
    rows: Matrix, authors: tuple[Any, dict[str, Any]], opened: Callable[..., Runtime], tmp_path: Path
) -> None:
    module, known = authors
    files = packed(module.Careful(np.float32(2.0)), SIGNATURE, runtime="python", **known)
    assert sorted(files) == ["code/authors.py", "code/rules.py", "model.pkl"]
    (tmp_path / "authors.py").unlink()
    matrix = rows[:3].copy()
    matrix[1, 1:] = np.nan
    expected = np.minimum(np.nan_to_num(matrix, nan=0.25).sum(axis=1) * 2.0, 3.0)
    assert np.allclose(opened(files, "python").predict(matrix), expected)
    assert not list((tmp_path / "kept").rglob("__pycache__"))


def test_a_function_of_the_author_inside_of_an_estimator_is_found_again(
    rows: Matrix, target: Any, authors: tuple[Any, dict[str, Any]], opened: Callable[..., Runtime]
) -> None:
    module, known = authors
    fitted = make_pipeline(FunctionTransformer(module.logged), LinearRegression()).fit(rows, target)
    found = opened(packed(fitted, SIGNATURE, runtime="python", **known), "python").predict(rows[:5])
    assert np.allclose(found, fitted.predict(rows[:5]))
    plain = packed(LinearRegression().fit(rows, target), SIGNATURE, runtime="python", **known)
    assert list(plain) == ["model.pkl"]


def test_what_cannot_be_kept_is_refused_with_what_to_do(
    rows: Matrix, target: Any, authors: tuple[Any, dict[str, Any]]
) -> None:
    module, known = authors
    many = LogisticRegression().fit(rows, np.arange(len(rows)) % 3)
    three = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(rows, np.arange(len(rows)) % 3)
    for fitted, runtime, reason in (
        (many, "lightgbm", "no model that can be kept as 'lightgbm'"),
        (many, "xgboost", "no model that can be kept as 'xgboost'"),
        (three, "lightgbm", "gives 3 numbers"),
        (many, "python", "knows 3 classes"),
        (LinearRegression().fit(rows[:, :2], target), "python", "of 2 columns cannot score 4"),
        (object(), "python", "cannot be asked"),
        (module.Careful, "python", "is a class"),
        (module.hidden(), "python", "inside of a function"),
        (module.Careful(threading.Lock()), "python", "cannot be kept: TypeError"),
    ):
        with pytest.raises(ModelError, match=reason) as caught:
            packed(fitted, SIGNATURE, runtime=runtime, **known)
        assert caught.value.remedy
