"""LightGBM's trees as one ONNX TreeEnsemble, so that both give the same numbers.

Laws: thresholds and leaf values stay float64 and are summed as float64 in tree order, as LightGBM does, so that an
input in float32 takes the same way and gets the same score (converters that round thresholds to float32 send values
next to one the other way, and lose 1e-7 of a probability, or all digits after the sixth of a regression). The last
step to a probability works on each row alone: ONNX Runtime's Sigmoid gives other bits at other places of a batch,
its Softmax over the pair (0, margin) does not, and is the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trilane.errors import ModelError

__all__ = ["Trees", "tree_nodes"]

_LEQ, _MEMBER = 0, 6
_SIGMOID = ("binary", "cross_entropy", "xentropy")
_EXP = ("poisson", "gamma", "tweedie")
_PLAIN = (
    *("regression", "regression_l1", "huber", "fair", "quantile", "mape"),
    *("lambdarank", "rank_xendcg", "custom"),
)


class Trees:
    """The nodes and leaves of a dumped booster, laid out as TreeEnsemble (ai.onnx.ml 5) wants them."""

    def __init__(self, dump: Mapping[str, Any]) -> None:
        self.features: list[int] = []
        self.modes: list[int] = []
        self.splits: list[float] = []
        self.missing_true: list[int] = []
        # For each node its true and its false branch: (index, is it a leaf).
        self.branches: list[list[tuple[int, int]]] = []
        self.members: list[float] = []
        self.leaves: list[float] = []
        self.roots = [self._root(tree["tree_structure"]) for tree in dump["tree_info"]]

    def _root(self, node: Mapping[str, Any]) -> int:
        if "split_feature" in node:
            return self._branch(node)[0]
        # A tree that is one leaf: a split whose both ways lead to it.
        leaf = self._leaf(node)
        return self._split(0, _LEQ, 0.0, 0, [leaf, leaf])

    def _branch(self, node: Mapping[str, Any]) -> tuple[int, int]:
        if "split_feature" not in node:
            return self._leaf(node)
        categorical = node["decision_type"] == "=="
        threshold = 0.0 if categorical else float(node["threshold"])
        at = self._split(
            node["split_feature"],
            _MEMBER if categorical else _LEQ,
            threshold,
            0 if categorical else _missing_goes_left(node, threshold),
            [],
        )
        if categorical:
            self.members += [*map(float, node["threshold"].split("||")), np.nan]
        self.branches[at] += [self._branch(node["left_child"]), self._branch(node["right_child"])]
        return at, 0

    def _split(
        self, feature: int, mode: int, threshold: float, missing_true: int, branches: list[tuple[int, int]]
    ) -> int:
        self.features.append(feature)
        self.modes.append(mode)
        self.splits.append(threshold)
        self.missing_true.append(missing_true)
        self.branches.append(branches)
        return len(self.features) - 1

    def _leaf(self, node: Mapping[str, Any]) -> tuple[int, int]:
        if node.get("leaf_coeff"):
            raise _unsupported("linear trees", "Train with linear_tree=False")
        self.leaves.append(float(node["leaf_value"]))
        return len(self.leaves) - 1, 1

    def attributes(self, scale: float) -> dict[str, Any]:
        """The attributes of the TreeEnsemble; leaves are multiplied by `scale`."""
        from onnx import numpy_helper

        def tensor(values: list[Any], dtype: str) -> object:
            return numpy_helper.from_array(np.array(values, dtype))

        true, false = ([branches[side] for branches in self.branches] for side in (0, 1))
        found = {
            "aggregate_function": 1,  # SUM
            "post_transform": 0,  # NONE
            "n_targets": 1,
            "tree_roots": self.roots,
            "nodes_featureids": self.features,
            "nodes_modes": tensor(self.modes, "uint8"),
            "nodes_splits": tensor(self.splits, "float64"),
            "nodes_missing_value_tracks_true": self.missing_true,
            "nodes_truenodeids": [index for index, _ in true],
            "nodes_trueleafs": [leaf for _, leaf in true],
            "nodes_falsenodeids": [index for index, _ in false],
            "nodes_falseleafs": [leaf for _, leaf in false],
            "leaf_targetids": [0] * len(self.leaves),
            "leaf_weights": tensor([value * scale for value in self.leaves], "float64"),
        }
        if self.members:
            found["membership_values"] = tensor(self.members, "float64")
        return found


def tree_nodes(dump: Mapping[str, Any], *, source: str, target: str) -> tuple[list[Any], list[Any]]:
    """The ONNX nodes and constants that turn the float32 matrix `source` [n, features] into `target` [n, 1].

    The target is float64; `dump` is `Booster.dump_model()`. Raises ModelError where it would not give LightGBM's own
    numbers.
    """
    from onnx import TensorProto, helper, numpy_helper

    objective, scale = _objective(dump)
    if dump.get("average_output"):
        scale /= len(dump["tree_info"])
    nodes = [
        helper.make_node("Cast", [source], ["features64"], to=TensorProto.DOUBLE),
        helper.make_node(
            "TreeEnsemble", ["features64"], ["margin"], domain="ai.onnx.ml", **Trees(dump).attributes(scale)
        ),
    ]
    if objective in _EXP:
        return [*nodes, helper.make_node("Exp", ["margin"], [target])], []
    if objective in _PLAIN:
        return [*nodes, helper.make_node("Identity", ["margin"], [target])], []
    constants = [
        numpy_helper.from_array(np.array([0, 1, 0, 0]), "one_column_before"),
        numpy_helper.from_array(np.array([1]), "second"),
    ]
    nodes += [
        helper.make_node("Pad", ["margin", "one_column_before"], ["pair"]),
        helper.make_node("Softmax", ["pair"], ["probabilities"], axis=1),
        helper.make_node("Gather", ["probabilities", "second"], [target], axis=1),
    ]
    return nodes, constants


def _objective(dump: Mapping[str, Any]) -> tuple[str, float]:
    """The name of the objective and the factor on its margin."""
    if not dump["tree_info"]:
        raise _unsupported("a booster without trees", "Train it for at least one round")
    if dump["num_tree_per_iteration"] != 1:
        raise _unsupported(f"{dump['num_tree_per_iteration']} scores a row", "Train one model for each class")
    name, *options = str(dump.get("objective", "custom")).split()
    if name not in (*_SIGMOID, *_EXP, *_PLAIN) or "sqrt" in options:
        raise _unsupported(
            f"the objective {name!r}", "Use binary, cross_entropy, regression or one of its kin, or give ONNX"
        )
    steepness = dict(option.split(":", 1) for option in options if ":" in option).get("sigmoid", "1")
    return name, float(steepness) if name == "binary" else 1.0


def _missing_goes_left(node: Mapping[str, Any], threshold: float) -> int:
    """Where LightGBM sends NaN (Tree::NumericalDecision): it is 0 to a split that saw none in training."""
    zero_left = threshold >= 0.0
    if node["missing_type"] == "None":
        return int(zero_left)
    if node["missing_type"] == "Zero" and zero_left != node["default_left"]:
        raise _unsupported("zero_as_missing", "Write missing values as NaN and train without it")
    return int(node["default_left"])


def _unsupported(what: str, remedy: str) -> ModelError:
    return ModelError(f"a LightGBM model with {what} cannot be exported", where="the fitted model", remedy=remedy)
