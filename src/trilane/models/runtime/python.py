"""Any Python code as a runtime of named tensors: a `model.py` with a `predict`, or a class `Model` that has one.

`predict(inputs)` gets a dictionary of arrays by name and gives one; `load()` is called once before,
`preprocess(inputs)` and `postprocess(outputs)` around it, where they are there. A `processing.py` beside a model of
another kind may have these two as well. The code is trusted as installed code is; its process is where it can do no
harm to other answers.

Laws: arrays that come in cannot be written; numbers and lists that come out are made arrays of the declared type,
arrays must have it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from trilane.errors import ModelError
from trilane.models.runtime.protocol import Arrays, TensorRuntime
from trilane.models.tensor import DATATYPES, TensorSpec

__all__ = ["ProcessedTensors", "PythonTensors"]

_Step = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class PythonTensors:
    """A `model.py`; what it takes and gives is declared in `model.toml`."""

    platform = "python"

    def __init__(self, path: Path, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        if not inputs or not outputs:
            raise ModelError(
                "nothing says what this code takes and gives",
                where=str(path),
                remedy="Write `[[inputs]]` and `[[outputs]]` with name, datatype and shape into model.toml",
            )
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        module = _imported(path)
        model = module.Model() if hasattr(module, "Model") else module
        if not callable(getattr(model, "predict", None)):
            raise ModelError("there is no `predict`", where=str(path), remedy="Define `def predict(inputs):`")
        if callable(getattr(model, "load", None)):
            model.load()
        self._steps = [_step(model, name) for name in ("preprocess", "predict", "postprocess")]

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        if not self._steps:
            raise ModelError("the runtime is closed", where="inputs", remedy="Open the model again")
        found: Mapping[str, Any] = named(inputs, self.inputs)
        for step in self._steps:
            found = step(found)
        return typed(found, self.outputs)

    def close(self) -> None:
        self._steps = []


class ProcessedTensors:
    """A model with a `processing.py` beside it: `preprocess` before it and `postprocess` after it, where they are
    there.

    `inputs` and `outputs` are those of the whole; by default, those of the model.
    """

    def __init__(
        self, inner: TensorRuntime, path: Path, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        module = _imported(path)
        self.platform = inner.platform
        self.inputs, self.outputs = tuple(inputs) or inner.inputs, tuple(outputs) or inner.outputs
        self._inner, self._before, self._after = inner, _step(module, "preprocess"), _step(module, "postprocess")

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        given = typed(self._before(named(inputs, self.inputs)), self._inner.inputs)
        return typed(self._after(named(self._inner.run(given), self._inner.outputs)), self.outputs)

    def close(self) -> None:
        self._inner.close()


def named(arrays: Arrays, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The arrays by their names."""
    return {spec.name: array for spec, array in zip(specs, arrays, strict=True)}


def typed(found: object, specs: Sequence[TensorSpec]) -> list[npt.NDArray[Any]]:
    """What author's code gave, as arrays in the order of `specs`. Raises ModelError that says what is wrong with it."""
    if not isinstance(found, Mapping):
        what = f"it gave a {type(found).__name__}, not a dictionary of outputs by name"
        raise ModelError(what, where="predict", remedy=f"Return {', '.join(spec.name for spec in specs)}")
    strange = [str(name) for name in found if name not in {spec.name for spec in specs}]
    missing = [spec.name for spec in specs if spec.name not in found]
    if strange or missing:
        what = f"it gave an output {strange[0]!r}" if strange else f"it gave no output {missing[0]!r}"
        raise ModelError(what, where="predict", remedy=f"Return {', '.join(spec.name for spec in specs)}")
    return [_typed(found[spec.name], spec) for spec in specs]


def _typed(value: object, spec: TensorSpec) -> npt.NDArray[Any]:
    want = DATATYPES[spec.datatype]
    if isinstance(value, np.ndarray) and value.dtype == want and spec.datatype != "BYTES":
        return value
    if spec.datatype == "BYTES":
        texts = np.asarray(value, object)
        found = np.empty(texts.size, object)
        found[:] = [one if isinstance(one, bytes) else str(one).encode() for one in texts.reshape(-1).tolist()]
        return found.reshape(texts.shape)
    if isinstance(value, np.ndarray | np.generic):
        what = f"its output {spec.name!r} is {value.dtype}, and promised as {spec.datatype}"
        raise ModelError(what, where="predict", remedy=f"Return it with `.astype(numpy.{want.name})`")
    try:
        return np.asarray(value, want)
    except (TypeError, ValueError, OverflowError) as error:
        what = f"its output {spec.name!r} cannot be made {spec.datatype}: {error}"
        raise ModelError(what, where="predict", remedy="Return an array, a number or nested lists of them") from None


def _step(owner: object, name: str) -> _Step:
    found = getattr(owner, name, None)
    return found if callable(found) else _as_it_is


def _as_it_is(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModelError("this is no Python file", where=str(path))
    sys.path.insert(0, str(path.parent))  # so that it finds what lies beside it
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
