"""Triton's own load generator against a real server.

It is a program that wants a newer system than others here do, so `TRILANE_TEST_PERF_ANALYZER` names it; without it
these tests are skipped.
"""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Running, speaking_grpc

PROGRAM = os.environ.get("TRILANE_TEST_PERF_ANALYZER", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="TRILANE_TEST_PERF_ANALYZER names no perf_analyzer")
QUESTIONS = 200


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, int]]:
    with speaking_grpc(tmp_path_factory.mktemp("shop")) as found:
        yield found


def _measured(up: tuple[Running, int], model: str, tmp_path: Path, *words: str, count: int = QUESTIONS) -> float:
    """Its inferences/s; fails if it does not measure, or if what it measured is not what the server counts."""
    running, port = up
    address = f"127.0.0.1:{port if 'grpc' in words else running.port}"
    line = [PROGRAM, "-m", model, "-u", address, "--request-count", str(count), "-f", str(tmp_path / "told.csv")]
    before = _succeeded(running, model)
    done = subprocess.run([*line, *words], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = csv.DictReader((tmp_path / "told.csv").read_text().splitlines())
    assert _succeeded(running, model) - before >= count
    return float(told["Inferences/Second"])


def _succeeded(running: Running, model: str) -> int:
    (told,) = running.get(f"/v2/models/{model}/stats").json()["model_stats"]
    assert told["inference_stats"]["fail"]["count"] == 0
    return int(told["inference_stats"]["success"]["count"])


@pytest.mark.parametrize("pace", ["--concurrency-range=4", "--request-rate-range=200"])
@pytest.mark.parametrize("calls", ["--sync", "--async"])
@pytest.mark.parametrize(
    "protocol", [("-i", "http"), ("-i", "grpc"), ("--input-tensor-format=json", "--output-tensor-format=json")]
)
def test_it_measures_a_model(
    up: tuple[Running, int], tmp_path: Path, protocol: tuple[str, ...], calls: str, pace: str
) -> None:
    poisson = ("--request-distribution", "poisson") if "rate" in pace else ()
    assert _measured(up, "big", tmp_path, *protocol, calls, pace, *poisson, "--shared-memory", "none") > 0


def test_it_measures_batches_and_a_stream(up: tuple[Running, int], tmp_path: Path) -> None:
    assert _measured(up, "big", tmp_path, "-b", "16") > 0
    assert _measured(up, "big", tmp_path, "-i", "grpc", "-b", "16", "--grpc-compression-algorithm", "gzip") > 0
    assert _measured(up, "big", tmp_path, "-i", "grpc", "--streaming", "--async") > 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_it_measures_an_endpoint_whose_inputs_have_no_axis_but_that_of_rows(
    up: tuple[Running, int], tmp_path: Path, protocol: str
) -> None:
    shapes = ("--shape", "shop:2", "--shape", "basket:2", "--string-data", "a")
    assert _measured(up, "is_big", tmp_path, "-i", protocol, *shapes) > 0
