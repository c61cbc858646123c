"""Questions to models, from files and of endpoints, go by the server's policy over REST and gRPC, as decisions do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from tests.graphs import graph
from tests.servers import X_TO_Y, Running, free_port, running, trained, until
from tests.shop import make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.serving.admission import CALLER, TIER

POLICY = """
policy = tl.Policy(
    callers=[
        tl.Caller("poor", rate=0.001, burst=2),
        tl.Caller("poorer", rate=0.001, burst=2),
        tl.Caller("poorest", rate=0.001, burst=2),
        *(tl.Caller(name, rate=0.001, burst=1) for name in ("early", "earlier", "earliest")),
        tl.Caller("vital", up_to="critical"),
    ],
    limit=4,
)
"""
WAITS = """
import pathlib, time
def predict(inputs):
    name = str(int(inputs["x"][0]))
    pathlib.Path("FOLDER", f"begun-{name}").touch()
    while not pathlib.Path("FOLDER", "go").exists():
        time.sleep(0.005)
    return {"y": inputs["x"]}
"""
OPTIONS = f'tier = "sheddable"\nbatching = false\ntimeout = "100s"\n{X_TO_Y}'


def _put(folder: Path, name: str, content: bytes) -> None:
    path = folder / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    folder, port = tmp_path_factory.mktemp("shop"), free_port()
    make_project(folder, replay=True).close()
    with (folder / "definitions.py").open("a") as file:
        file.write(POLICY)
    with (folder / "trilane.toml").open("a") as file:
        file.write(f"grpc_port = {port}\n")
    with Project(load_config(folder, environment={})) as project:
        deploy.apply(project)
    trained(folder, "big")
    _put(folder, "negate/model.onnx", graph("Neg", "FP32", (-1, 4)))
    _put(folder, "waits/model.py", WAITS.replace("FOLDER", str(folder)).encode())
    _put(folder, "waits/model.toml", OPTIONS.encode())
    with running(folder, {"serve": ["--replay"]}) as found:
        until(lambda: found.get("/v2/health/ready").status_code == 200, "the endpoint")
        address = f"127.0.0.1:{port}"
        with triton.InferenceServerClient(address) as client:
            until(lambda: _live(client), "gRPC")
        yield found, address


def _live(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_live())
    except InferenceServerException:
        return False


def _ask(up: Running, model: str, values: Any, kind: str = "FP32", **headers: str) -> httpx.Response:
    array = np.asarray(values, float)
    tensor = {"name": "features" if model == "big" else "x", "datatype": kind, "shape": array.shape}
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = {"inputs": [{**tensor, "data": array.reshape(-1).tolist()}]}
    with httpx.Client(base_url=str(up.client.base_url), timeout=60) as client:
        return client.post(f"/v2/models/{model}/infer", json=body, headers=named)


def _refused(up: Running, **labels: str) -> float:
    families = text_string_to_metric_families(up.get("/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == "trilane_refused_total"]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_a_quota_that_is_used_up_is_429_with_when_to_come_again_whatever_model_is_asked(
    up: tuple[Running, str],
) -> None:
    for caller, model, width in (("poor", "negate", 4), ("poorer", "big", 10)):
        before = _refused(up[0], reason="quota")
        first = _ask(up[0], model, np.ones((5, width)), x_trilane_caller=caller)  # into debt
        assert first.status_code == 200
        refused = _ask(up[0], model, np.ones((1, width)), x_trilane_caller=caller)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 3_000
        assert "quota" in refused.json()["error"]
        assert _refused(up[0], reason="quota") == before + 1
        assert _ask(up[0], model, np.ones((1, width))).status_code == 200
        asked = _ask(up[0], "negate", np.ones((1, 4)), x_trilane_caller=caller)
        assert asked.status_code == 429  # one quota, whatever is asked


@pytest.mark.parametrize(("caller", "model"), [("early", "negate"), ("earlier", "big"), ("earliest", "is_big")])
def test_over_rest_a_question_is_refused_before_its_body_is_read(
    up: tuple[Running, str], caller: str, model: str
) -> None:
    header = {"x-trilane-caller": caller}
    _ask(up[0], "negate", np.ones((1, 4)))  # it is loaded
    before, refused = up[0].get(f"/v2/models/{model}/stats").json()["model_stats"], _refused(up[0], reason="quota")
    assert up[0].client.post("/v1/decide/is_big", json={"shop": "a", "basket": 60.0}, headers=header).is_success
    with socket.create_connection(("127.0.0.1", up[0].port), timeout=60) as connection:
        lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "host: x", "content-length: 1000000", f"{CALLER}: {caller}"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + b'{"inputs"')  # and no more
        answer = connection.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 429")
    assert "retry-after: " in answer
    assert "quota" in answer
    assert _refused(up[0], reason="quota") == refused + 1
    (after,) = up[0].get(f"/v2/models/{model}/stats").json()["model_stats"]
    assert after["inference_stats"]["fail"]["count"] == before[0]["inference_stats"]["fail"]["count"] + 1


def test_over_rest_a_tier_that_is_none_and_a_model_that_is_none_are_told_by_the_head_alone(
    up: tuple[Running, str],
) -> None:
    for model, tier, status in (("negate", "urgent", "400"), ("nobody", "batch", "404")):
        with socket.create_connection(("127.0.0.1", up[0].port), timeout=60) as connection:
            lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "host: x", "content-length: 1000000", f"{TIER}: {tier}"]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            assert connection.recv(65_536).decode().startswith(f"HTTP/1.1 {status}")


def test_a_quota_and_a_tier_hold_over_grpc(up: tuple[Running, str]) -> None:
    tensor = triton.InferInput("x", [3, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((3, 4), np.float32))
    with triton.InferenceServerClient(up[1]) as client:
        assert client.infer("negate", [tensor], headers={"x-trilane-caller": "poorest"}).as_numpy("y")[0, 0] == -1
        with pytest.raises(InferenceServerException, match=r"RESOURCE_EXHAUSTED.*quota"):
            client.infer("negate", [tensor], headers={"x-trilane-caller": "poorest"})
        before = _refused(up[0], tier="batch")
        headers = {"x-trilane-caller": "poorest", "x-trilane-tier": "batch"}
        with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
            client.infer("negate", [tensor], headers=headers)
        assert _refused(up[0], tier="batch") == before + 1
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*no tier"):
            client.infer("negate", [tensor], headers={"x-trilane-tier": "urgent"})


def test_a_sheddable_question_that_waits_is_put_out_for_a_critical_one_and_a_second_finds_no_room(
    up: tuple[Running, str],
) -> None:
    server, folder = up[0], up[0].folder
    with ThreadPoolExecutor(4) as pool:

        def asked(value: int, **headers: str) -> Future[httpx.Response]:
            return pool.submit(_ask, server, "waits", [value], "FP64", **headers)

        try:
            runs = asked(1)
            until((folder / "begun-1").exists, "the model to work")
            waits = asked(2)
            until(lambda: _waiting(server, "sheddable") == 1, "the second to wait")
            full = _ask(server, "waits", [3], "FP64")
            assert full.status_code == 429  # half of the limit, and nobody lower
            assert _ask(server, "negate", np.ones((1, 4))).status_code == 200  # others have the rest
            vital = asked(4, x_trilane_caller="vital", x_trilane_tier="critical")
            put_out = waits.result(60)
            assert put_out.status_code == 429
            assert "made room" in put_out.json()["error"]
            assert int(put_out.headers["retry-after"]) >= 1
        finally:
            (folder / "go").touch()
        assert runs.result(60).json()["outputs"][0]["data"] == [1.0]
        assert vital.result(60).json()["outputs"][0]["data"] == [4.0]
    assert not (folder / "begun-2").exists()
    assert not (folder / "begun-3").exists()


def _waiting(up: Running, tier: str) -> int:
    return int(up.get("/v1/policy").json()["tiers"][tier]["waiting"])
