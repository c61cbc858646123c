"""Every runtime keeps the laws of its role, whatever model it runs."""

from __future__ import annotations

import functools

import lightgbm
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trilane.models.export import to_onnx
from trilane.models.runtime.laws import LAWS, Law
from trilane.models.runtime.onnx import OnnxRuntime
from trilane.models.signature import Matrix, Signature

WIDTH = 8
# A row of NaN is refused by the linear models below, as their authors meant; their graphs give NaN.
MODELS = {
    "200 trees": lightgbm.LGBMClassifier(n_estimators=200, num_leaves=15, verbose=-1, n_jobs=1),
    "200 trees of a regression": lightgbm.LGBMRegressor(n_estimators=200, num_leaves=15, verbose=-1, n_jobs=1),
    "trees with a logarithmic link": lightgbm.LGBMRegressor(objective="poisson", n_estimators=20, verbose=-1, n_jobs=1),
    "a linear model": make_pipeline(StandardScaler(), LogisticRegression()),
    "a model of many vectorised functions": GaussianNB(),
}


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return np.random.default_rng(7).normal(size=(1000, WIDTH)).astype(np.float32)


@functools.cache
def _onnx(name: str) -> bytes:
    random = np.random.default_rng(3)
    rows = random.normal(size=(1500, WIDTH))
    labels = (rows[:, 0] * rows[:, 1] + random.normal(size=1500) > 0).astype(int)
    return to_onnx(MODELS[name].fit(rows, labels), Signature.of([f"f{at}" for at in range(WIDTH)]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_runtime_keeps_the_law(law: Law, name: str, matrix: Matrix) -> None:
    law(OnnxRuntime(_onnx(name), Signature.of([f"f{at}" for at in range(WIDTH)])), matrix)
