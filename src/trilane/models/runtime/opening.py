"""Which runtime opens which kind of file, and what an opened model must give to be what it says.

Laws: a kind is known by the name of its file; no library is loaded before a model needs it; what is missing is told
with the extra to install.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trilane.errors import ModelError, SetupError
from trilane.models.runtime.protocol import Arrays, TensorRuntime
from trilane.models.tensor import DATATYPES, TensorSpec

__all__ = ["FILES", "ISOLATED", "KINDS", "fit_answer", "load_library", "open_runtime"]

# The files by which a model's kind is known, in the order in which they are looked for.
FILES: Mapping[str, str] = {
    "model.onnx": "onnx",
    "model.txt": "lightgbm",
    "model.json": "xgboost",
    "model.ubj": "xgboost",
    "model.joblib": "sklearn",
    "model.pkl": "sklearn",
    "model.py": "python",
}
KINDS = tuple(dict.fromkeys(FILES.values()))
ISOLATED = frozenset(("python", "sklearn"))  # they run the author's own code, so each has a process of its own
_EXTRAS = {"lightgbm": "lightgbm", "xgboost": "xgboost", "sklearn": "train"}  # that bring what opens such a file
_LIBRARIES = {"onnx": "tensors", "lightgbm": "lightgbm", "xgboost": "xgboost"}  # the modules here that need them


def load_library(kind: str) -> None:
    """Loads what a kind of model needs into this process, so that it is no part of the first model's memory.

    Where it is not installed, `open_runtime` tells so.
    """
    if kind in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"trilane.models.runtime.{_LIBRARIES[kind]}")


def open_runtime(
    kind: str,
    path: Path,
    *,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    shared: bool | None = None,
    providers: Sequence[Any] = (),
) -> TensorRuntime:
    """Opens a file in this process; `inputs` and `outputs` are what its owner declared.

    Raises ModelError if it cannot be opened or does not fit, SetupError for a library that is not installed.
    """
    try:
        opened = _open(kind, path, inputs, outputs, shared, providers)
    except OSError as error:
        raise ModelError(f"the model cannot be read: {error.strerror or error}", where=str(path)) from error
    except ImportError as error:
        raise SetupError(
            f"this model needs {error.name or error}, which is not installed",
            where=str(path),
            remedy=f"Run `pip install 'trilane[{_EXTRAS[kind]}]'`" if kind in _EXTRAS else "Install it",
        ) from error
    for name, declared, there in (("inputs", inputs, opened.inputs), ("outputs", outputs, opened.outputs)):
        if declared and tuple(declared) != there:
            opened.close()
            raise ModelError(
                f"model.toml declares {name} {_shown(declared)}, the file has {_shown(there)}",
                where=str(path),
                remedy=f"Correct `{name}` in model.toml, or leave it out: this kind of file tells them itself",
            )
    return opened


def _open(
    kind: str,
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    shared: bool | None,
    providers: Sequence[Any],
) -> TensorRuntime:
    if kind == "onnx":
        from trilane.models.runtime.session import CPU
        from trilane.models.runtime.tensors import OnnxTensors

        return OnnxTensors(str(path), shared=shared, providers=tuple(providers) or CPU)
    if kind == "lightgbm":
        from trilane.models.runtime.lightgbm import LightGbmTensors

        return LightGbmTensors(path.read_bytes())
    if kind == "xgboost":
        from trilane.models.runtime.xgboost import XgboostTensors

        return XgboostTensors(path.read_bytes())
    if kind == "sklearn":
        from trilane.models.runtime.sklearn import SklearnTensors

        return SklearnTensors(path)
    if kind == "python":
        from trilane.models.runtime.python import PythonTensors

        return PythonTensors(path, inputs=inputs, outputs=outputs)
    raise ModelError(f"{kind!r} is no runtime", where=str(path), remedy=f"The runtimes are {', '.join(KINDS)}")


def fit_answer(answers: Arrays, outputs: Sequence[TensorSpec], *, rows: int | None, nan: bool, where: str) -> None:
    """Raises ModelError that says how `answers` are not what `outputs` promise; `rows`: that each must have, if known.

    `nan`: whether NaN is an answer.
    """
    if len(answers) != len(outputs):
        raise _unfit(f"it gave {len(answers)} outputs, and promises {len(outputs)}", where)
    for array, spec in zip(answers, outputs, strict=True):
        if array.dtype != DATATYPES[spec.datatype]:
            raise _unfit(f"its output {spec.name!r} is {array.dtype}, and promised as {spec.datatype}", where)
        want = spec.shape if rows is None or not spec.shape else (rows, *spec.shape[1:])
        if array.shape != want and not _fits(array.shape, want):
            raise _unfit(f"its output {spec.name!r} has shape {list(array.shape)} instead of {list(want)}", where)
        if not nan and array.dtype.kind == "f" and np.isnan(array).any():
            raise _unfit(f"its output {spec.name!r} has a NaN; `nan = true` in model.toml lets it pass", where)


def _fits(shape: Sequence[int], want: Sequence[int]) -> bool:
    return len(shape) == len(want) and all(n in (-1, m) for n, m in zip(want, shape, strict=True))


def _unfit(what: str, where: str) -> ModelError:
    return ModelError(what, where=where, remedy="Mend the model, or what model.toml says of it")


def _shown(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in specs)
