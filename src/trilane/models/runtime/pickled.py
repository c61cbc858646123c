"""A trained model that is a Python object, in its own process: an estimator, the author's own class, or a function.

What is asked is `predict_proba` of a classifier of two classes (of which the second counts), else `predict`, else the
object itself, with the float32 matrix of a batch, a copy of its own; `load()` is called once before,
`preprocess(matrix)` and `postprocess(scores)` around it, where they are there. Laws: each row is asked alone, unless
its author promises the same bits in every batch; what is not one number for each row is a ModelError; the author's
files are found before others of their name.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.errors import ModelError, TrilaneError
from trilane.models.artifact import CODE
from trilane.models.runtime.protocol import Arrays
from trilane.models.signature import Matrix, Scores
from trilane.models.tensor import TensorSpec

__all__ = ["PickledTensors", "attribute", "scorer_of"]

_Score: TypeAlias = Callable[[Matrix], object]


class PickledTensors:
    """The object in a file: `features` FP32 [rows, width] in, `score` FP64 [rows] out."""

    platform = "python"

    def __init__(self, path: Path, *, width: int, row_wise: bool) -> None:
        self.inputs = (TensorSpec("features", "FP32", (-1, width)),)
        self.outputs = (TensorSpec("score", "FP64", (-1,)),)
        if (path.parent / CODE).is_dir():
            sys.path.insert(0, str(path.parent / CODE))
            sys.dont_write_bytecode = True  # nothing is ever added to an artifact
        found = _unpickled(path)
        _one_thread(found)
        if callable(load := getattr(found, "load", None)):
            load()
        self._row_wise = row_wise
        self._score: _Score | None = scorer_of(found, width=width)

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        (matrix,) = inputs
        if self._score is None:
            raise ModelError("the runtime is closed", where="features", remedy="Open the artifact again")
        if self._row_wise and len(matrix):
            return [_scores(self._score(matrix), len(matrix))]
        found = np.empty(len(matrix), np.float64)
        for row in range(len(matrix)):
            found[row] = _scores(self._score(matrix[row : row + 1]), 1)[0]
        return [found]

    def close(self) -> None:
        self._score = None


def scorer_of(model: Any, *, width: int) -> _Score:  # noqa: ANN401 - what authors keep has no common kind
    """What is asked of a model for a matrix of `width` columns. Raises ModelError for what cannot be asked."""
    had = getattr(model, "n_features_in_", width)
    if had != width:
        raise _unfit(f"a {type(model).__qualname__} of {had} columns cannot score {width}", "Train it on all columns")
    classes = getattr(model, "classes_", None)
    if isinstance(model, type):
        raise _unfit(f"{model.__qualname__} is a class, not an object of it", f"Return {model.__qualname__}(...)")
    if classes is not None and callable(getattr(model, "predict_proba", None)):
        if len(classes) != 2:
            what = f"a {type(model).__qualname__} knows {len(classes)} classes, not two"
            raise _unfit(what, "Choose one of its numbers for each row in a class of your own with `predict`")
        score: _Score = functools.partial(_second, model)
    elif callable(getattr(model, "predict", None)):
        score = model.predict
    elif callable(model):
        score = model
    else:
        raise _unfit(f"a {type(model).__qualname__} cannot be asked", "Give it a method `predict(matrix)`")
    before, after = (getattr(model, name, None) for name in ("preprocess", "postprocess"))
    if not callable(before) and not callable(after):
        return score
    return functools.partial(_around, before or _as_it_is, score, after or _as_it_is)


def attribute(module: str, name: str) -> object:
    """What a module has under a dotted name; pickled models name the author's classes so."""
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _second(model: Any, matrix: Matrix) -> object:  # noqa: ANN401
    return model.predict_proba(matrix)[:, 1]


def _around(before: Callable[[Any], Any], score: _Score, after: Callable[[Any], object], matrix: Matrix) -> object:
    return after(score(before(matrix)))


def _as_it_is(values: object) -> object:
    return values


def _scores(found: object, rows: int) -> Scores:
    try:
        scores = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        raise _unfit(f"it gave a {type(found).__name__} instead of numbers", "Return one number for each row") from None
    if scores.shape not in ((rows,), (rows, 1)):
        what = f"it gave an array of shape {list(scores.shape)} for {rows} {'row' if rows == 1 else 'rows'}"
        raise _unfit(what, "Return one number for each row")
    return scores.reshape(rows)


def _unpickled(path: Path) -> object:
    try:
        with path.open("rb") as file:
            return pickle.load(file)
    except (MemoryError, TrilaneError):
        raise
    except Exception as error:
        raise ModelError(
            f"the model cannot be unpickled: {type(error).__name__}: {error}",
            where=str(path),
            remedy="Train it again with the libraries that are installed here; they differ from those it was made with",
        ) from error


def _one_thread(model: Any) -> None:  # noqa: ANN401
    """Threads of an ensemble add up their parts in any order, which changes the last bits of a score."""
    if callable(getattr(model, "get_params", None)) and callable(getattr(model, "set_params", None)):
        names = [name for name in model.get_params() if name.rpartition("__")[2] == "n_jobs"]
        model.set_params(**dict.fromkeys(names, 1))


def _unfit(what: str, remedy: str) -> ModelError:
    return ModelError(what, where="predict", remedy=remedy)
