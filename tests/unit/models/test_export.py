"""An exported model answers what the fitted one answers, and is the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trilane.errors import ModelError, SetupError
from trilane.models.export import to_onnx
from trilane.models.runtime.onnx import OnnxRuntime
from trilane.models.signature import Matrix, Scores, Signature

WIDTH = 5
SIGNATURE = Signature.of([f"f{at}" for at in range(WIDTH)])
RANDOM = np.random.default_rng(1)
ROWS: Matrix = RANDOM.normal(size=(800, WIDTH)).astype(np.float32)
WITH_NAN: Matrix = np.where(RANDOM.random(ROWS.shape) < 0.2, np.nan, ROWS).astype(np.float32)
WITH_NAN[0] = np.nan
LABELS = (ROWS[:, 0] * ROWS[:, 1] + RANDOM.normal(size=800) * 0.3 > 0).astype(int)
VALUES = ROWS[:, 0] * 1000 + 5000


QUICK: dict[str, Any] = {"n_estimators": 30, "verbose": -1, "n_jobs": 1}


def classifier(**options: Any) -> lightgbm.LGBMClassifier:
    return lightgbm.LGBMClassifier(**{**QUICK, **options})


def regressor(**options: Any) -> lightgbm.LGBMRegressor:
    return lightgbm.LGBMRegressor(**{**QUICK, **options})


def scored(fitted: object, rows: Matrix) -> Scores:
    return OnnxRuntime(to_onnx(fitted, SIGNATURE), SIGNATURE).predict(rows)


def expected(fitted: Any, rows: Matrix) -> Scores:
    wide = rows.astype(np.float64)
    found = fitted.predict_proba(wide)[:, 1] if hasattr(fitted, "predict_proba") else fitted.predict(wide)
    return np.asarray(found, np.float64)


@pytest.mark.parametrize(
    ("fitted", "rows"),
    [
        pytest.param(classifier().fit(WITH_NAN, LABELS), WITH_NAN, id="NaN in training"),
        pytest.param(classifier().fit(ROWS, LABELS), WITH_NAN, id="NaN only when asked"),
        pytest.param(classifier().fit(WITH_NAN, LABELS).booster_, WITH_NAN, id="booster"),
        pytest.param(classifier(sigmoid=2.0).fit(ROWS, LABELS), WITH_NAN, id="another steepness"),
        pytest.param(
            classifier(boosting_type="rf", bagging_freq=1, bagging_fraction=0.5).fit(ROWS, LABELS), ROWS, id="forest"
        ),
        pytest.param(classifier(n_estimators=2, num_leaves=2).fit(ROWS, ROWS[:, 0] > -3), ROWS, id="sure of it"),
        pytest.param(classifier(min_child_samples=1000).fit(ROWS, LABELS), ROWS, id="one leaf"),
        pytest.param(regressor().fit(WITH_NAN, VALUES), WITH_NAN, id="regression"),
        pytest.param(regressor(objective="poisson").fit(ROWS, VALUES), ROWS, id="poisson"),
        pytest.param(
            make_pipeline(StandardScaler(), classifier(n_estimators=5)).fit(ROWS, LABELS), ROWS, id="pipeline"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_lightgbm_gives_its_own_numbers(fitted: object, rows: Matrix) -> None:
    np.testing.assert_allclose(scored(fitted, rows), expected(fitted, rows), rtol=1e-14, atol=1e-15)


def test_thresholds_between_neighbouring_floats_part_them() -> None:
    places = RANDOM.integers(0, 64, 800)
    rows = np.repeat((np.float32(1) + places * np.float32(2**-23))[:, None], WIDTH, axis=1).astype(np.float32)
    fitted = classifier(min_child_samples=1).fit(rows, (places * 7) % 5 > 2)
    np.testing.assert_allclose(scored(fitted, rows), expected(fitted, rows), rtol=1e-14)


def test_categories_go_their_way_and_strange_ones_the_other() -> None:
    rows = ROWS.copy()
    rows[:, 0] = RANDOM.integers(0, 40, 800)
    fitted = classifier().fit(rows, (rows[:, 0] * 7) % 5 > 2, categorical_feature=[0])
    rows[::4, 0], rows[1::4, 0], rows[2::4, 0] = np.nan, -1, 99
    np.testing.assert_allclose(scored(fitted, rows), expected(fitted, rows), rtol=1e-14)


@pytest.mark.parametrize(
    "fitted",
    [
        LogisticRegression().fit(ROWS, LABELS),
        make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS),
        RandomForestClassifier(10, random_state=0).fit(ROWS, LABELS),
        RandomForestRegressor(10, random_state=0).fit(ROWS, ROWS[:, 0]),
        LinearRegression().fit(ROWS, ROWS[:, 0]),
        HistGradientBoostingClassifier(max_iter=10).fit(WITH_NAN, LABELS),
        HistGradientBoostingRegressor(max_iter=10).fit(WITH_NAN, ROWS[:, 0]),
    ],
    ids=lambda fitted: type(fitted).__name__,
)
def test_scikit_learn_gives_its_numbers_to_float32(fitted: object) -> None:
    rows = WITH_NAN if "Hist" in type(fitted).__name__ else ROWS
    np.testing.assert_allclose(scored(fitted, rows), expected(fitted, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fitted",
    [classifier().fit(ROWS, LABELS), RandomForestClassifier(5, random_state=0).fit(ROWS, LABELS)],
    ids=lambda fitted: type(fitted).__name__,
)
def test_the_same_model_is_the_same_bytes(fitted: object) -> None:
    first = to_onnx(fitted, SIGNATURE)
    assert to_onnx(fitted, SIGNATURE) == first
    assert b"skl2onnx" not in first


def given(*, width: int | str = WIDTH, outputs: int = 1, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A model of another maker: the first column, of an input that has any name."""
    names = [f"out{at}" for at in range(outputs)]
    nodes = [helper.make_node("Gather", ["the input", "first"], [name], axis=1, name=f"n {name}") for name in names]
    graph = helper.make_graph(
        nodes,
        "made by hand",
        [helper.make_tensor_value_info("the input", element, ["n", width])],
        [helper.make_tensor_value_info(name, element, ["n"]) for name in names],
        [helper.make_tensor("first", TensorProto.INT64, [], [0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="hand")


@pytest.mark.parametrize("width", [WIDTH, "any"])
def test_an_onnx_model_is_taken_as_it_is_or_as_bytes(width: int | str) -> None:
    model = given(width=width)
    assert to_onnx(model, SIGNATURE) == to_onnx(model.SerializeToString(), SIGNATURE)
    np.testing.assert_array_equal(scored(model, ROWS), ROWS[:, 0])
    assert model.producer_name == "hand"


def test_a_strangers_graph_runs_row_by_row_unless_it_only_computes_values() -> None:
    assert not OnnxRuntime(to_onnx(given(), SIGNATURE), SIGNATURE).row_wise
    assert OnnxRuntime(to_onnx(classifier().fit(ROWS, LABELS), SIGNATURE), SIGNATURE).row_wise


@pytest.mark.parametrize(
    ("fitted", "reason"),
    [
        ("no model", "builtins.str is not a model"),
        (b"no model", "no valid ONNX model"),
        (b"", "no valid ONNX model"),
        (given(outputs=2), "1 inputs and 2 outputs"),
        (given(element=TensorProto.DOUBLE), "not float32"),
        (LogisticRegression(), "not a fitted estimator"),
        (StandardScaler().fit(ROWS), "predicts nothing"),
        (RidgeClassifier().fit(ROWS, LABELS), "no probabilities"),
        (LogisticRegression().fit(ROWS, np.arange(800) % 3), "3 classes, not two"),
        (classifier().fit(ROWS, np.arange(800) % 3), "3 scores a row"),
        (classifier(linear_tree=True).fit(ROWS, LABELS), "linear trees"),
        (classifier(zero_as_missing=True).fit(np.nan_to_num(WITH_NAN), LABELS), "zero_as_missing"),
        (regressor(reg_sqrt=True).fit(ROWS, VALUES), "the objective 'regression'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_exported_is_refused_with_a_reason(fitted: object, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        to_onnx(fitted, SIGNATURE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "fitted", [classifier().fit(ROWS, LABELS), LinearRegression().fit(ROWS, VALUES), given(width=WIDTH)]
)
def test_a_model_of_another_width_is_refused(fitted: object) -> None:
    with pytest.raises(ModelError, match="trained on 5 columns, its signature has 2"):
        to_onnx(fitted, Signature.of(["a", "b"]))


def test_a_missing_package_is_named_with_the_command_that_brings_it() -> None:
    code = (
        "import sys; sys.modules['skl2onnx'] = None\n"
        "from sklearn.linear_model import LinearRegression\n"
        "from trilane.models.export import to_onnx\nfrom trilane.models.signature import Signature\n"
        "to_onnx(LinearRegression().fit([[0.], [1.]], [0., 1.]), Signature.of(['a']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert SetupError.__name__ in done.stderr
    assert "pip install 'trilane[train]'" in done.stderr
