"""Small ONNX graphs for tests, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["chosen", "graph", "mlp", "table"]

_TYPES = {
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "INT64": TensorProto.INT64,
}


def graph(op: str, datatype: str, shape: Sequence[int], **attributes: Any) -> bytes:
    """One operator from `x` to `y`, both of this type and shape; -1 is any length."""
    shown = ["n" if one == -1 else one for one in shape]
    given, answer = (helper.make_tensor_value_info(name, _TYPES[datatype], shown) for name in "xy")
    return _model([helper.make_node(op, ["x"], ["y"], **attributes)], given, answer, [])


def mlp(*, width: int, layers: int, scale: float = 1.0, seed: int = 0) -> bytes:
    """Layers of `width` by `width` weights between `x` and `y`."""
    random, weights, nodes = np.random.default_rng(seed), [], []
    for at in range(layers):
        weight = random.standard_normal((width, width), np.float32) * np.float32(scale / np.sqrt(width))
        weights.append(numpy_helper.from_array(weight, f"w{at}"))
        nodes.append(helper.make_node("MatMul", ["x" if not at else f"h{at}", f"w{at}"], [f"m{at}"]))
        nodes.append(helper.make_node("Relu", [f"m{at}"], ["y" if at == layers - 1 else f"h{at + 1}"]))
    given, answer = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in "xy")
    return _model(nodes, given, answer, weights)


def table(values: Sequence[float]) -> bytes:
    """The FP32 value `y` at each place `x`, INT64; both of shape [n]."""
    given, answer = (
        helper.make_tensor_value_info(name, kind, ["n"])
        for name, kind in (("x", TensorProto.INT64), ("y", TensorProto.FLOAT))
    )
    weights = [numpy_helper.from_array(np.array(values, np.float32), "w")]
    return _model([helper.make_node("Gather", ["w", "x"], ["y"])], given, answer, weights)


def chosen() -> bytes:
    """The FP32 numbers `y` of `x` where the BOOL `mask` is true, else 0; all of shape [n, m]."""
    given = [
        helper.make_tensor_value_info(name, kind, ["n", "m"])
        for name, kind in (("x", TensorProto.FLOAT), ("mask", TensorProto.BOOL))
    ]
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    weights = [numpy_helper.from_array(np.array(0, np.float32), "zero")]
    return _model([helper.make_node("Where", ["mask", "x", "zero"], ["y"])], given, answer, weights)


def _model(nodes: Any, given: Any, answer: Any, weights: Any) -> bytes:
    made = helper.make_graph(nodes, "g", given if isinstance(given, list) else [given], [answer], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return bytes(model.SerializeToString())
