"""The ONNX runtime refuses what is no model, and what does not answer as it did when it was packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from trilane.errors import ModelError
from trilane.models.artifact import FeatureColumn, Golden, load, make_golden, pack
from trilane.models.export import to_onnx
from trilane.models.runtime.onnx import OnnxRuntime, open_onnx, verify_golden
from trilane.models.runtime.session import SHARED_BYTES
from trilane.models.signature import Matrix, Signature
from trilane.models.stamps import Stamps


def golden_that_is_off_by(error: float, golden: Golden, **changes: Any) -> Golden:
    scores = golden.expected()
    scores[3] += error
    return msgspec.structs.replace(golden, scores=scores.tobytes(), **changes)


def test_an_artifact_opens_and_answers(root: Path, parts: dict[str, Any], rows: Matrix) -> None:
    artifact = pack(root, **parts)
    runtime = open_onnx(artifact)
    assert verify_golden(runtime, artifact)
    np.testing.assert_array_equal(runtime.predict(rows[:31]), artifact.golden().expected()[:31])


def test_another_answer_on_the_same_machine_is_refused_to_the_last_bit(root: Path, parts: dict[str, Any]) -> None:
    golden = golden_that_is_off_by(1e-15, parts["golden"])
    with pytest.raises(ModelError, match=r"golden row 3 scores .* on the machine that packed it.*Train and pack"):
        open_onnx(pack(root, **{**parts, "golden": golden}))


@pytest.mark.parametrize("elsewhere", [{"machine": "a museum"}, {"libraries": {"onnxruntime": "0.1"}}])
def test_elsewhere_the_last_digits_may_differ_but_no_more(
    root: Path, parts: dict[str, Any], elsewhere: dict[str, Any]
) -> None:
    near = pack(root, **{**parts, "golden": golden_that_is_off_by(1e-7, parts["golden"], **elsewhere)})
    assert not verify_golden(open_onnx(near), near)
    far = pack(root, **{**parts, "golden": golden_that_is_off_by(1e-3, parts["golden"], **elsewhere)})
    with pytest.raises(ModelError, match=r"golden row 3 scores .* it was packed on"):
        open_onnx(far)
    open_onnx(far, verify=False)


@pytest.mark.parametrize("model", [b"", b"this is no model"])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(ModelError, match="cannot open the model"):
        OnnxRuntime(model, Signature.of(["a"]))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx"):
        OnnxRuntime(str(tmp_path / "gone.onnx"), Signature.of(["a"]))


def test_a_model_of_another_width_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"does not take `features` \[n, 2\]"):
        OnnxRuntime(parts["files"]["model.onnx"], Signature.of(["a", "b"]))


def test_a_large_artifact_scores_with_the_same_bits_mapped_or_read(tmp_path: Path) -> None:
    onnx = to_onnx(_wide_scorer(), Signature.of([f"f{at}" for at in range(_WIDE)]))
    signature = Signature.of([f"f{at}" for at in range(_WIDE)])
    rows = np.random.default_rng(5).normal(size=(40, _WIDE)).astype(np.float32)
    golden = make_golden(rows, OnnxRuntime(onnx, signature).predict)
    names = [FeatureColumn(f"f{at}", "view", "1") for at in range(_WIDE)]
    artifact = pack(
        tmp_path,
        name="wide",
        files={"model.onnx": onnx},
        signature=signature,
        features=names,
        training_set="",
        code="",
        metrics={},
        golden=golden,
    )
    assert artifact.model_path.stat().st_size >= SHARED_BYTES
    for weights in (None, tmp_path / "weights"):
        open_onnx(artifact, weights=weights).close()  # it raises if a bit of the golden scores differs
    assert len(list((tmp_path / "weights").iterdir())) == 1
    assert load(artifact.path, stamps=Stamps(tmp_path / "stamps")).digest == artifact.digest


_WIDE = 2_100


def _wide_scorer() -> bytes:
    """Linear algebra with 17 MiB of weights: `features` in, `score` out."""
    random = np.random.default_rng(0)
    hidden = (random.standard_normal((_WIDE, _WIDE), np.float32) / np.float32(np.sqrt(_WIDE))).astype(np.float32)
    last = random.standard_normal((_WIDE, 1), np.float32)
    nodes = [
        helper.make_node("MatMul", ["features", "hidden"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "last"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", _WIDE])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(hidden, "hidden"), numpy_helper.from_array(last, "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return bytes(model.SerializeToString())
