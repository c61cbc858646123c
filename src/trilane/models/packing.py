"""From what a `train` function returned to the files of its artifact, for whichever runtime the model declares.

Laws: nothing is kept that could not be opened elsewhere: classes and functions of the author are kept by the name of
their module, and the files of the definitions go along; each row gets one score, so that a model of several classes is
refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeAlias

from trilane.errors import ModelError
from trilane.models.artifact import CODE, MODEL_FILES
from trilane.models.export import to_onnx
from trilane.models.own_process import ONNX, PYTHON
from trilane.models.runtime.pickled import attribute, scorer_of
from trilane.models.signature import Signature

__all__ = ["packed"]

# Neither library has a class that both of its faces share.
_Fitted: TypeAlias = Any
_NameOf: TypeAlias = Callable[[str], str | None]


def packed(
    fitted: object,
    signature: Signature,
    *,
    runtime: str = ONNX,
    code: Mapping[str, bytes] | None = None,
    name_of: _NameOf = lambda _: None,
) -> dict[str, bytes]:
    """The files, by name, of a fitted model as `runtime` opens it.

    `code`: the author's files, by relative path; `name_of` gives the name by which one of his modules is imported from
    them, None for any other. Raises ModelError for a model that cannot be kept so.
    """
    file = MODEL_FILES[runtime]
    if runtime == ONNX:
        return {file: to_onnx(fitted, signature)}
    if runtime == PYTHON:
        return _pickled(file, fitted, signature, code or {}, name_of)
    return {file: (_lightgbm if runtime == "lightgbm" else _xgboost)(fitted, signature)}


def _lightgbm(fitted: _Fitted, signature: Signature) -> bytes:
    booster: _Fitted = getattr(fitted, "booster_", fitted)
    if not _is_of(booster, "lightgbm") or not hasattr(booster, "model_to_string"):
        raise _not_kept(fitted, "lightgbm", "Return a fitted LightGBM estimator or Booster")
    _check(booster.num_feature(), booster.num_model_per_iteration(), signature)
    return str(booster.model_to_string()).encode()


def _xgboost(fitted: _Fitted, signature: Signature) -> bytes:
    booster = fitted.get_booster() if hasattr(fitted, "get_booster") else fitted
    if not _is_of(booster, "xgboost") or not hasattr(booster, "save_raw"):
        raise _not_kept(fitted, "xgboost", "Return a fitted XGBoost estimator or Booster")
    from trilane.models.runtime.xgboost import classes_of

    best = booster.attr("best_iteration")
    if best is not None:  # what came after it is no part of what the estimator predicts
        booster = booster[: int(best) + 1]
    _check(booster.num_features(), classes_of(booster), signature)
    return bytes(booster.save_raw("ubj"))


def _check(width: int, scores: int, signature: Signature) -> None:
    if width != signature.width:
        raise ModelError(
            f"the model was trained on {width} columns, its signature has {signature.width}",
            where="the fitted model",
            remedy="Train on exactly the feature columns of the training set, in their order",
        )
    if scores != 1:
        raise ModelError(
            f"the model gives {scores} numbers for a row, not one",
            where="the fitted model",
            remedy="Train it for two classes or one value, or choose among its numbers in a class of your own",
        )


def _pickled(
    file: str, fitted: object, signature: Signature, code: Mapping[str, bytes], name_of: _NameOf
) -> dict[str, bytes]:
    scorer_of(fitted, width=signature.width)
    content = io.BytesIO()
    pickler = _Pickler(content, name_of)
    try:
        pickler.dump(fitted)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"a {type(fitted).__qualname__} cannot be kept: {type(error).__name__}: {error}",
            where="the fitted model",
            remedy="Keep open files, connections and locks out of it, or open them in a method `load`",
        ) from error
    needed = {f"{CODE}/{name}": text for name, text in code.items()} if pickler.needs_code else {}
    return {file: content.getvalue(), **needed}


class _Pickler(pickle.Pickler):
    """Keeps the author's classes and functions by the names under which his files are imported elsewhere."""

    def __init__(self, file: io.BytesIO, name_of: _NameOf) -> None:
        super().__init__(file, protocol=5)
        self._name_of = name_of
        self.needs_code = False

    def reducer_override(self, found: object) -> Any:  # noqa: ANN401 - as pickle declares it
        if not isinstance(found, type | FunctionType):
            return NotImplemented
        module = self._name_of(found.__module__)
        if module is None:
            return NotImplemented
        if "<" in found.__qualname__:
            raise ModelError(
                f"{found.__qualname__!r} is defined inside of a function, where nobody else finds it",
                where="the fitted model",
                remedy="Define it at the top of a file",
            )
        self.needs_code = True
        return attribute, (module, found.__qualname__)


def _is_of(found: object, package: str) -> bool:
    return any(base.__module__.partition(".")[0] == package for base in type(found).__mro__)


def _not_kept(fitted: object, runtime: str, remedy: str) -> ModelError:
    kind = f"{type(fitted).__module__}.{type(fitted).__qualname__}"
    what = f"{kind} is no model that can be kept as {runtime!r}"
    return ModelError(what, where="the fitted model", remedy=remedy)
