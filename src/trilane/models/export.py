"""Fitted models as ONNX with one contract: `features` float32 [n, columns] in, `score` [n] or [n, 1] out.

Laws: the score is the probability of the positive class of a classifier, the value of a regressor; the same fitted
model gives the same bytes (names are numbered anew, whatever tells of the maker is dropped); a graph that is known to
score each row alike wherever it stands in a batch says so (`ROW_WISE`), and any other is scored row by row by the
runtime.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

from trilane.errors import ModelError, SetupError
from trilane.models.signature import Signature
from trilane.models.trees import tree_nodes

__all__ = ["ROW_WISE", "to_onnx"]

# Neither family has a class of its own; what we need of them is asked of each.
_Estimator: TypeAlias = Any
_Onnx: TypeAlias = Any

ROW_WISE = "trilane.row_wise"
_INPUT, _OUTPUT = "features", "score"
_OPSETS = {"": 18, "ai.onnx.ml": 5}
# Trees walk and sum row by row; the others compute each value by itself, exactly rounded. Linear algebra is missing:
# a matrix of one row takes another kernel, which sums in another order. So are Exp, Sigmoid and their like: their
# vectorised form and the one for the rest of a batch differ in the last bit.
_VALUE_WISE_OPS = {
    *("Add", "And", "Cast", "Constant", "Div", "Equal", "Greater", "Identity", "Imputer", "IsNaN", "Less", "Mul"),
    *("Neg", "Not", "Or", "Scaler", "Sub", "Where"),
    *("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
}
# These keep rows apart in the graphs that we or skl2onnx write; in a stranger's they might not.
_ROW_WISE_OPS = _VALUE_WISE_OPS | {
    *("Concat", "Gather", "Pad", "Reshape", "Slice", "Softmax", "Split", "Squeeze", "Unsqueeze"),
}
_ACCEPTED = (
    "Return a scikit-learn classifier of two classes or regressor (or a Pipeline that ends in one), a LightGBM"
    " estimator or Booster, an onnx.ModelProto or its bytes"
)


def to_onnx(fitted: object, signature: Signature) -> bytes:
    """The ONNX bytes of a fitted scikit-learn or LightGBM model, or of an ONNX model, in this module's contract.

    Raises ModelError for a model of another kind, width or contract; SetupError if a package for it is not installed.
    """
    row_wise = _ROW_WISE_OPS
    if isinstance(fitted, bytes):
        model, row_wise = _parsed(fitted), _VALUE_WISE_OPS
    elif _kind(fitted) == ("onnx", "ModelProto"):
        model, row_wise = _parsed(fitted.SerializeToString()), _VALUE_WISE_OPS  # type: ignore[attr-defined]
    elif _is_lightgbm(fitted):
        model = _from_lightgbm(fitted, signature)
    elif callable(getattr(fitted, "get_params", None)):
        model = _from_sklearn(fitted, signature)
    else:
        kind = f"{type(fitted).__module__}.{type(fitted).__qualname__}"
        raise _not_accepted(f"{kind} is not a model that can be exported")
    _check_contract(model, signature)
    return _canonical(model, row_wise)


def _from_lightgbm(fitted: _Estimator, signature: Signature) -> _Onnx:
    booster: _Estimator = getattr(fitted, "booster_", fitted)
    _check_width(booster.num_feature(), signature)
    nodes, constants = tree_nodes(booster.dump_model(), source=_INPUT, target=_OUTPUT)
    return _model(nodes, constants, signature.width, double=True)


def _from_sklearn(fitted: _Estimator, signature: Signature) -> _Onnx:
    _check_fitted(fitted)
    _check_width(getattr(fitted, "n_features_in_", signature.width), signature)
    steps = getattr(fitted, "steps", None)
    if steps and _is_lightgbm(steps[-1][1]):
        return _from_pipeline_to_lightgbm(fitted, signature)
    if hasattr(fitted, "classes_"):
        return _from_classifier(fitted, signature)
    if not hasattr(fitted, "predict"):
        raise _not_accepted(f"{type(fitted).__name__} predicts nothing")
    model = _converted(fitted, signature)
    return _tail(model, model.graph.output[0].name, "Identity")


def _from_classifier(fitted: _Estimator, signature: Signature) -> _Onnx:
    if not hasattr(fitted, "predict_proba"):
        raise _not_accepted(f"{type(fitted).__name__} gives no probabilities")
    if len(fitted.classes_) != 2:
        raise _not_accepted(f"{type(fitted).__name__} knows {len(fitted.classes_)} classes, not two")
    model = _converted(fitted, signature, zipmap=False)
    return _tail(model, model.graph.output[1].name, "Gather")


def _from_pipeline_to_lightgbm(fitted: _Estimator, signature: Signature) -> _Onnx:
    """What comes before LightGBM by skl2onnx, in float32; its trees by our own hand."""
    model = _converted(fitted[:-1], signature)
    booster = getattr(fitted.steps[-1][1], "booster_", fitted.steps[-1][1])
    nodes, constants = tree_nodes(booster.dump_model(), source=model.graph.output[0].name, target=_OUTPUT)
    nodes, constants = [*model.graph.node, *nodes], [*model.graph.initializer, *constants]
    return _model(nodes, constants, signature.width, double=True)


def _converted(fitted: _Estimator, signature: Signature, **options: object) -> _Onnx:
    skl2onnx = _package("skl2onnx")
    types = _package("skl2onnx.common.data_types")
    try:
        return skl2onnx.convert_sklearn(
            fitted,
            initial_types=[(_INPUT, types.FloatTensorType([None, signature.width]))],
            target_opset={"": _OPSETS[""], "ai.onnx.ml": 3},
            options=options or None,
        )
    except Exception as error:
        raise _not_accepted(f"skl2onnx cannot convert {type(fitted).__name__}: {error}") from error


def _tail(model: _Onnx, source: str, operation: str) -> _Onnx:
    """The graph of `model` with one output: what `source` holds, of probabilities the second column."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    last = next(output for output in model.graph.output if output.name == source)
    double = last.type.tensor_type.elem_type == TensorProto.DOUBLE
    inputs, options, constants = [source], dict[str, Any](), list[Any]()
    if operation == "Gather":
        inputs, options = [source, "second_class"], {"axis": 1}
        constants = [numpy_helper.from_array(np.array([1]), "second_class")]
    node = helper.make_node(operation, inputs, [_OUTPUT], **options)
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    nodes, constants = _reached([*model.graph.node, node]), [*model.graph.initializer, *constants]
    return _model(nodes, constants, width, double=double, opsets=opsets)


def _reached(nodes: Sequence[Any]) -> list[Any]:
    """The nodes, in order, that the last one needs; a classifier's label is not among them."""
    wanted = set(nodes[-1].output)
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _model(
    nodes: Sequence[Any], constants: Sequence[Any], width: int, *, double: bool, opsets: dict[str, int] = _OPSETS
) -> _Onnx:
    from onnx import TensorProto, helper

    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        _OUTPUT,
        [helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info(_OUTPUT, element, ["rows", 1])],
        [constant for constant in constants if constant.name in used],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def _check_contract(model: _Onnx, signature: Signature) -> None:
    from onnx import TensorProto

    constants = {constant.name for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise _not_accepted(f"the ONNX model has {len(inputs)} inputs and {len(outputs)} outputs, not one of each")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT or len(tensor.shape.dim) != 2 or tensor.shape.dim[0].dim_value:
        raise _not_accepted(f"the input {inputs[0].name!r} is not float32 with two dimensions, the first one free")
    _check_width(tensor.shape.dim[1].dim_value or signature.width, signature)
    tensor.shape.dim[1].dim_value = signature.width
    tensor = outputs[0].type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE) or shape[1:] not in ([], [0], [1]):
        raise _not_accepted(f"the output {outputs[0].name!r} is not float32 or float64 of shape [n] or [n, 1]")


def _canonical(model: _Onnx, row_wise_ops: set[str]) -> bytes:
    """The model without what tells of its maker, its names numbered in order of appearance, as fixed bytes."""
    nested = any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute)
    names = {"": ""} if nested else _numbered(model.graph)
    for node in model.graph.node:
        node.name = node.doc_string = ""
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name, value.doc_string = names.get(value.name, value.name), ""
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        model.ClearField(field)
    model.graph.name, model.graph.doc_string = _OUTPUT, ""
    del model.graph.value_info[:]
    domains = sorted((opset.domain, opset.version) for opset in model.opset_import)
    for opset, (domain, version) in zip(model.opset_import, domains, strict=True):
        opset.domain, opset.version = domain, version
    row_wise = not nested and row_wise_ops.issuperset(node.op_type for node in model.graph.node)
    model.metadata_props.add(key=ROW_WISE, value=str(int(row_wise)))
    return bytes(model.SerializeToString(deterministic=True))


def _numbered(graph: _Onnx) -> dict[str, str]:
    constants = {constant.name for constant in graph.initializer}
    first = next(value.name for value in graph.input if value.name not in constants)
    names = {"": "", first: _INPUT, graph.output[0].name: _OUTPUT}
    for constant in graph.initializer:
        names.setdefault(constant.name, f"c{len(names)}")
    for node in graph.node:
        for name in (*node.input, *node.output):
            names.setdefault(name, f"v{len(names)}")
    return names


def _parsed(content: bytes) -> _Onnx:
    import onnx

    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:
        raise _not_accepted(f"this is no valid ONNX model: {error}") from error
    if any(constant.data_location == onnx.TensorProto.EXTERNAL for constant in model.graph.initializer):
        raise _not_accepted("the ONNX model keeps its weights in another file")
    return model


def _check_fitted(fitted: _Estimator) -> None:
    validation = _package("sklearn.utils.validation")
    exceptions = _package("sklearn.exceptions")
    try:
        validation.check_is_fitted(fitted)
    except (exceptions.NotFittedError, TypeError) as error:
        raise _not_accepted(f"{type(fitted).__name__} is not a fitted estimator: {error}") from error


def _check_width(width: int, signature: Signature) -> None:
    if width != signature.width:
        raise ModelError(
            f"the model was trained on {width} columns, its signature has {signature.width}",
            where="the fitted model",
            remedy="Train on exactly the feature columns of the training set, in their order",
        )


def _is_lightgbm(fitted: object) -> bool:
    return any(base.__module__.startswith("lightgbm.") for base in type(fitted).__mro__)


def _kind(fitted: object) -> tuple[str, str]:
    return type(fitted).__module__.partition(".")[0], type(fitted).__name__


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SetupError(
            f"exporting this model needs {name.partition('.')[0]}: {error}",
            where="the fitted model",
            remedy="Install it with `pip install 'trilane[train]'`",
        ) from error


def _not_accepted(what: str) -> ModelError:
    return ModelError(what, where="the fitted model", remedy=_ACCEPTED)
