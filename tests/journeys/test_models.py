"""Models from files behind a real server of two processes, asked by Triton's client, changed while they answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import pytest
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from tests.graphs import graph
from tests.servers import X_TO_Y, Running, running, until
from trilane.apps.config import load_config
from trilane.apps.model_files import listed

NEGATE, SAME = graph("Neg", "FP32", (-1, 4)), graph("Abs", "FP32", (-1, 4))
PYTHON = """
import os
def predict(inputs):
    if inputs["x"][0] == 13:
        os._exit(1)
    return {"y": inputs["x"] + 1}
"""


def _put(folder: Path, name: str, content: bytes) -> None:
    path = folder / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(".draft")
    draft.write_bytes(content)
    draft.replace(path)


def _trees() -> bytes:
    rows = np.random.default_rng(0).normal(size=(100, 4))
    data = lightgbm.Dataset(rows, rows[:, 0] > 0)
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 5).model_to_string().encode()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "trilane.toml").write_text("workers = 2\n")
    _put(folder, "negate/1/model.onnx", NEGATE)
    _put(folder, "plus/model.py", PYTHON.encode())
    _put(folder, "plus/model.toml", X_TO_Y.encode())
    _put(folder, "broken/model.onnx", NEGATE[:40])
    _put(folder, "lazy/model.onnx", NEGATE)
    _put(folder, "trees/model.txt", _trees())
    with running(folder, {"serve": []}) as found:
        until(lambda: found.get("/v2/health/ready").status_code == 200, "the server")
        yield found


def _ask(up: Running, model: str, value: float) -> float:
    """By a connection of its own, so that either process may answer."""
    shape, kind = ([1, 4], "FP32") if model == "negate" else ([1], "FP64")
    tensor = triton.InferInput("x", shape, kind)
    tensor.set_data_from_numpy(np.full(shape, value, np.float32 if kind == "FP32" else np.float64))
    with triton.InferenceServerClient(f"127.0.0.1:{up.port}") as client:
        return float(client.infer(model, [tensor]).as_numpy("y").reshape(-1)[0])


def test_models_are_answered_by_name_whatever_runs_them(up: Running) -> None:
    assert {_ask(up, "negate", 2.0) for _ in range(8)} == {-2.0}
    assert {_ask(up, "plus", 2.0) for _ in range(8)} == {3.0}


def test_one_that_cannot_be_opened_is_told_and_the_others_answer(up: Running) -> None:
    with pytest.raises(InferenceServerException, match="cannot open"):
        _ask(up, "broken", 1.0)
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        _ask(up, "nobody", 1.0)
    assert _ask(up, "negate", 2.0) == -2.0


def test_a_model_that_ends_its_process_costs_its_own_answer(up: Running) -> None:
    with pytest.raises(InferenceServerException, match="its process died"):
        _ask(up, "plus", 13.0)
    assert _ask(up, "negate", 2.0) == -2.0

    def back() -> bool:
        try:
            return _ask(up, "plus", 1.0) == 2.0
        except InferenceServerException:
            return False

    until(back, "the model to be started again")


def test_a_version_that_is_loaded_by_one_process_answers_in_all_and_so_does_being_unloaded(up: Running) -> None:
    _put(up.folder, "negate/2/model.onnx", SAME)
    assert up.post("/v2/repository/models/negate/load", {}).status_code == httpx.codes.OK
    until(lambda: {_ask(up, "negate", 2.0) for _ in range(12)} == {2.0}, "all processes to follow")
    assert up.post("/v2/repository/models/negate/unload", {}).status_code == httpx.codes.OK
    for _ in range(12):
        with pytest.raises(InferenceServerException, match="it was unloaded"):
            _ask(up, "negate", 2.0)
    up.post("/v2/repository/models/negate/load", {})
    assert {_ask(up, "negate", 2.0) for _ in range(12)} == {2.0}


def test_what_each_model_does_is_told_as_metrics_of_all_processes(up: Running) -> None:
    def told(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(up.get("/metrics").text)
        samples = [one for family in families for one in family.samples if one.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    before = told("trilane_model_questions_total", model="negate", result="answered")
    for _ in range(8):
        _ask(up, "negate", 2.0)
    with pytest.raises(InferenceServerException):
        _ask(up, "broken", 1.0)
    until(lambda: told("trilane_model_questions_total", model="negate", result="answered") >= before + 8, "the count")
    until(lambda: told("trilane_model_questions_total", model="broken", result="failed") > 0, "the failure")
    assert told("trilane_model_loads_total", model="broken", result="failed") > 0
    assert told("trilane_model_loaded", model="negate") in (1, 2)
    assert told("trilane_model_memory_bytes", model="negate") > 0
    assert told("trilane_model_rows_total", model="negate") >= told("trilane_model_batches_total", model="negate") > 0
    assert told("trilane_model_questions_total", model="nobody") == 0


def test_to_list_models_loads_none_and_tells_what_the_loaded_ones_take(up: Running) -> None:
    _ask(up, "negate", 2.0)

    def found() -> dict[str, dict[str, Any]]:
        rows = listed(load_config(up.folder, environment={}), lambda _, path: up.post(path, {}).json())
        return {row["name"]: row for row in rows if row["name"] != "negate" or row["state"] == "LOADED"}

    until(lambda: "negate" in found(), "a process that loaded it")  # either of two may tell
    assert found()["lazy"]["state"] == "READY"
    assert found()["lazy"]["memory_mib"] is None
    loaded = next(row for _ in range(99) if (row := found().get("negate")))
    assert loaded["memory_mib"] > 0
    assert loaded["load_ms"] > 0
    for _ in range(8):
        (lazy,) = (one for one in up.post("/v2/repository/index", {}).json() if one["name"] == "lazy")
        assert "memory_bytes" not in lazy


def test_a_library_that_a_models_kind_needs_is_no_part_of_the_first_models_memory(up: Running) -> None:
    tensor = {"name": "features", "datatype": "FP64", "shape": [1, 4], "data": [0.0] * 4}
    assert up.post("/v2/models/trees/infer", {"inputs": [tensor]}).status_code == httpx.codes.OK

    def found() -> int:
        index = up.post("/v2/repository/index", {}).json()
        return next(int(one.get("memory_bytes", 0)) for one in index if one["name"] == "trees")

    assert until(found, "the process that loaded it to tell") < 20 << 20  # with its library 80 MiB and more


def test_the_statistics_of_a_model_are_those_of_all_processes_whichever_tells_them(up: Running) -> None:
    _put(up.folder, "counted/model.py", PYTHON.encode())
    _put(up.folder, "counted/model.toml", X_TO_Y.encode())

    def told() -> tuple[int, int]:
        """By a connection of its own."""
        with triton.InferenceServerClient(f"127.0.0.1:{up.port}") as client:
            all_of_them = client.get_inference_statistics()["model_stats"]
            found = next((one for one in all_of_them if one["name"] == "counted"), None)
            if found is None:  # it never asked it, and the others have not told yet
                return 0, 0
            assert client.get_inference_statistics("counted")["model_stats"][0]["version"] == found["version"]
            counted = found["inference_stats"]
            assert counted["success"]["count"] == counted["compute_infer"]["count"] == found["inference_count"]
            return counted["success"]["count"], sum(one["compute_infer"]["count"] for one in found["batch_stats"])

    for _ in range(8):
        _ask(up, "counted", 1.0)
    until(lambda: {told() for _ in range(8)} == {(8, 8)}, "the counts of all processes")
