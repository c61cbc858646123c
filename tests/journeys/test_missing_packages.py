"""A Python that has the core's packages alone: who asks for more is told of the extra that brings it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers import free_port

# As none of these were installed, in each process that is started: they cannot be imported, and no finder has them.
_ABSENT = """
import sys
sys.modules.update(dict.fromkeys(
    ["grpc", "joblib", "lightgbm", "opentelemetry", "pyspark", "skl2onnx", "sklearn", "xgboost"]
))
"""

Told = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trilane(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Runs a command in a project that `init` made, and gives the error, or what else it told."""
    bare, folder = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("shop")
    (bare / "sitecustomize.py").write_text(_ABSENT)
    path = os.pathsep.join([str(bare), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments: str, status: int = 4, **environment: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "trilane", *arguments, "--json"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stdout + done.stderr
        told = json.loads(done.stdout)
        return dict(told["error"] if status else told)

    run("init", status=0)
    run("apply", status=0)
    run("ingest", "payments", "data/payments.ndjson", "--history", status=0)
    for name in ("risk.txt", "risk.json", "risk.joblib"):
        (folder / name).write_text("{}")
    return run


def test_training_names_the_extra_that_brings_what_the_train_function_imports(trilane: Told) -> None:
    error = trilane("train", "fraud")
    assert error["what"] == "the train function needs sklearn, which is not installed"
    assert "pip install 'trilane[train]'" in error["remedy"]


@pytest.mark.parametrize(
    ("file", "extra"), [("risk.txt", "lightgbm"), ("risk.json", "xgboost"), ("risk.joblib", "train")]
)
def test_a_model_from_a_file_names_the_extra_that_opens_it(trilane: Told, file: str, extra: str) -> None:
    error = trilane("models", "add", file, "--trust")
    assert "which is not installed" in error["what"]
    assert f"pip install 'trilane[{extra}]'" in error["remedy"]


@pytest.mark.parametrize("command", ["serve", "up"])
@pytest.mark.parametrize(("key", "extra"), [("TRACES", "otel"), ("GRPC_PORT", "grpc")])
def test_a_server_tells_before_it_starts(trilane: Told, command: str, key: str, extra: str) -> None:
    value = "http://127.0.0.1:4318" if key == "TRACES" else str(free_port())
    error = trilane(command, "--port", str(free_port()), **{f"TRILANE_{key}": value})
    assert error["where"] == key.lower()
    assert f"pip install 'trilane[{extra}]'" in error["remedy"]


def test_a_warehouse_of_spark_names_its_extra(trilane: Told) -> None:
    error = trilane("materialize", "all", TRILANE_OFFLINE="spark://.trilane/warehouse")
    assert "pip install 'trilane[spark]'" in error["remedy"]
