"""A small model, packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from trilane.models.artifact import FeatureColumn, make_golden
from trilane.models.export import to_onnx
from trilane.models.runtime.onnx import OnnxRuntime
from trilane.models.signature import Matrix, Signature


@pytest.fixture(scope="session")
def rows() -> Matrix:
    return np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def parts(rows: Matrix) -> dict[str, Any]:
    """What `pack` wants beside the root."""
    names = ("a", "b", "c", "d")
    signature = Signature.of(names)
    fitted = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(rows, rows[:, 0] > 0)
    onnx = to_onnx(fitted, signature)
    return {
        "name": "late",
        "files": {"model.onnx": onnx},
        "signature": signature,
        "features": [FeatureColumn(name=name, view="v", version="1") for name in names],
        "training_set": "t" * 64,
        "code": "c" * 64,
        "metrics": {"auc": 0.1 + 0.2},
        "golden": make_golden(rows, OnnxRuntime(onnx, signature).predict),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path
