"""What is told of models in the protocol's words."""

from __future__ import annotations

from typing import Any

from trilane.models.tensor import TensorSpec
from trilane.serving.inference import About, Statistics
from trilane.serving.protocol.oip_facts import configuration, statistics


def _about(*inputs: TensorSpec, max_rows: int = 64) -> About:
    return About("m", "1", ("1",), "any", inputs, (TensorSpec("score", "FP64", (-1,)),), max_rows)


def test_a_configuration_leaves_the_axis_of_rows_out() -> None:
    told: dict[str, Any] = configuration(_about(TensorSpec("features", "FP32", (-1, 3))), {"runtime": "onnx"})
    assert (told["max_batch_size"], told["dynamic_batching"], told["backend"]) == (64, {}, "onnx")
    assert told["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": [3]}]
    assert told["output"] == [{"name": "score", "data_type": "TYPE_FP64", "dims": [1], "reshape": {"shape": []}}]


def test_a_model_with_an_input_that_has_no_other_axis_is_told_whole() -> None:
    told: dict[str, Any] = configuration(
        _about(TensorSpec("features", "FP32", (-1, 3)), TensorSpec("card", "BYTES", (-1,))), {}
    )
    assert told["max_batch_size"] == 0
    assert "dynamic_batching" not in told
    assert [one["dims"] for one in (*told["input"], *told["output"])] == [[-1, 3], [-1], [-1]]
    assert told["input"][1]["data_type"] == "TYPE_STRING"
    assert told["parameters"] == {"max_rows": {"string_value": "64"}}


def test_a_model_that_counts_no_rows_is_told_whole() -> None:
    told: dict[str, Any] = configuration(_about(TensorSpec("image", "UINT8", (8, 8)), max_rows=0), {})
    assert (told["max_batch_size"], told["input"][0]["dims"], told["parameters"]) == (0, [8, 8], {})


def test_all_parts_of_computing_count_the_same() -> None:
    found = Statistics(
        "m",
        "1",
        last_inference_ms=9,
        inferences=7,
        executions=2,
        succeeded=3,
        failed=1,
        success_ns=90,
        fail_ns=5,
        queue_ns=20,
        compute_ns=40,
        by_batch={3: (1, 10), 4: (1, 30)},
    )
    facts: dict[str, Any] = statistics([found])
    (told,) = facts["model_stats"]
    parts = told["inference_stats"]
    # What `perf_analyzer` ends at if it is not so.
    assert {parts[f"compute_{part}"]["count"] for part in ("input", "infer", "output")} == {3}
    assert [one["count"] for one in (parts["success"], parts["queue"], parts["fail"])] == [3, 3, 1]
    assert parts["compute_infer"]["ns"] == 40
    for batch in told["batch_stats"]:
        assert {batch[f"compute_{part}"]["count"] for part in ("input", "infer", "output")} == {1}
