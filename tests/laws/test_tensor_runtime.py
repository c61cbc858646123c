"""Every runtime of named tensors keeps the laws of its role, in this process and in one of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from tests.graphs import graph, mlp
from trilane.models.export import to_onnx
from trilane.models.runtime.laws import TENSOR_LAWS, TensorLaw
from trilane.models.runtime.onnx import OnnxRuntime
from trilane.models.runtime.opening import open_runtime
from trilane.models.runtime.protocol import Arrays, TensorRuntime
from trilane.models.runtime.supervised import Opening, Supervised
from trilane.models.runtime.tensors import ScoreTensors
from trilane.models.signature import Signature
from trilane.models.tensor import DATATYPES, TensorSpec

WIDTH = 6
DOUBLE = """
def preprocess(inputs):
    return {"x": inputs["x"] + 1}

def predict(inputs):
    return {"y": inputs["x"] * 2, "big": [bool(x.sum() > 3) for x in inputs["x"]]}
"""
IN, OUT = (
    (TensorSpec("x", "FP32", (-1, WIDTH)),),
    (TensorSpec("y", "FP32", (-1, WIDTH)), TensorSpec("big", "BOOL", (-1,))),
)


@functools.cache
def _rows() -> tuple[Any, Any]:
    random = np.random.default_rng(3)
    rows = random.normal(size=(300, WIDTH))
    return rows, (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 0)


def _trees(folder: Path) -> TensorRuntime:
    rows, labels = _rows()
    fitted = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(rows, labels > 0)
    signature = Signature.of([f"f{at}" for at in range(WIDTH)])
    return ScoreTensors(OnnxRuntime(to_onnx(fitted, signature), signature))


def _mlp(folder: Path) -> TensorRuntime:
    (folder / "model.onnx").write_bytes(mlp(width=WIDTH, layers=2))
    return open_runtime("onnx", folder / "model.onnx")


def _text(folder: Path) -> TensorRuntime:
    (folder / "model.onnx").write_bytes(graph("Identity", "BYTES", (-1, 2)))
    return open_runtime("onnx", folder / "model.onnx")


def _lightgbm(folder: Path) -> TensorRuntime:
    rows, labels = _rows()
    settings = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    lightgbm.train(settings, lightgbm.Dataset(rows, labels), 5).save_model(folder / "model.txt")
    return open_runtime("lightgbm", folder / "model.txt")


def _xgboost(folder: Path, name: str = "model.json") -> TensorRuntime:
    rows, labels = _rows()
    settings = {"objective": "binary:logistic", "nthread": 1}
    xgboost.train(settings, xgboost.DMatrix(rows, labels > 0), 5).save_model(folder / name)
    return open_runtime("xgboost", folder / name)


def _sklearn(folder: Path) -> TensorRuntime:
    rows, labels = _rows()
    joblib.dump(LogisticRegression().fit(rows, np.array(["none", "one", "two"])[labels]), folder / "model.joblib")
    return open_runtime("sklearn", folder / "model.joblib")


def _forest(folder: Path) -> TensorRuntime:
    rows, labels = _rows()
    joblib.dump(RandomForestRegressor(5, n_jobs=1).fit(rows, labels), folder / "model.joblib")
    return open_runtime("sklearn", folder / "model.joblib")


def _python(folder: Path) -> TensorRuntime:
    (folder / "model.py").write_text(DOUBLE)
    return open_runtime("python", folder / "model.py", inputs=IN, outputs=OUT)


class InItsOwnProcess:
    """A supervised model, asked from a thread that has no loop running."""

    def __init__(self, folder: Path, runtime: str, file: str) -> None:
        self._loop, self._threads = asyncio.new_event_loop(), ThreadPoolExecutor(2)
        inputs, outputs = (IN, OUT) if runtime == "python" else ((), ())
        opening = Opening(runtime=runtime, path=str(folder / file), inputs=inputs, outputs=outputs)
        self._model = self._loop.run_until_complete(Supervised.start("m", opening, self._threads))
        self.platform, self.inputs, self.outputs = self._model.platform, self._model.inputs, self._model.outputs

    def run(self, inputs: Arrays) -> list[Any]:
        return self._loop.run_until_complete(self._model.run(inputs))

    def close(self) -> None:
        self._loop.run_until_complete(self._model.close())

    def end(self) -> None:
        self.close()
        self._loop.close()
        self._threads.shutdown()


def _python_apart(folder: Path) -> TensorRuntime:
    _python(folder).close()
    return InItsOwnProcess(folder, "python", "model.py")


def _text_apart(folder: Path) -> TensorRuntime:
    _text(folder).close()
    return InItsOwnProcess(folder, "onnx", "model.onnx")


def _sklearn_apart(folder: Path) -> TensorRuntime:
    _sklearn(folder).close()
    return InItsOwnProcess(folder, "sklearn", "model.joblib")


RUNTIMES: dict[str, Callable[[Path], TensorRuntime]] = {
    "an artifact": _trees,
    "linear algebra in ONNX": _mlp,
    "text in ONNX": _text,
    "LightGBM, three classes": _lightgbm,
    "XGBoost, JSON": _xgboost,
    "XGBoost, UBJSON": functools.partial(_xgboost, name="model.ubj"),
    "a classifier with text for labels": _sklearn,
    "a forest": _forest,
    "Python": _python,
    "Python in its own process": _python_apart,
    "text in ONNX in its own process": _text_apart,
    "a classifier in its own process": _sklearn_apart,
}


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorRuntime]:
    opened = RUNTIMES[request.param](tmp_path)
    yield opened
    if isinstance(opened, InItsOwnProcess):
        opened.end()


def _given(spec: TensorSpec, rows: int = 12) -> Any:
    shape = (rows, *spec.shape[1:])
    values = np.random.default_rng(7).normal(size=shape)
    if spec.datatype != "BYTES":
        return values.astype(DATATYPES[spec.datatype])
    texts = np.empty(values.size, object)
    texts[:] = [f"{value:.2f} ü".encode() for value in values.reshape(-1)]
    return texts.reshape(shape)


@pytest.mark.parametrize("law", TENSOR_LAWS, ids=lambda law: law.__name__)
def test_a_runtime_of_tensors_keeps_the_law(law: TensorLaw, runtime: TensorRuntime) -> None:
    law(runtime, [_given(spec) for spec in runtime.inputs])
