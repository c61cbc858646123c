"""What clients of others may ask for, over HTTP and gRPC alike: taken, or refused by what it is."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.servers import X_TO_Y, Running, speaking_grpc, until

WIDTH = 10
MOODY = "def predict(inputs):\n    raise ValueError('a bad day')\n"
ROW = {"shop": "a", "basket": 60.0}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "models" / "moody").mkdir(parents=True)
    (folder / "models" / "moody" / "model.py").write_text(MOODY)
    (folder / "models" / "moody" / "model.toml").write_text(X_TO_Y)
    with speaking_grpc(folder, more='slow = "1us"\n') as (found, port):
        address = f"127.0.0.1:{port}"
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield found, address


def _matrix(**parameters: bool | int | str) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="big", raw_input_contents=[np.zeros(WIDTH, "<f4").tobytes()])
    request.inputs.add(name="features", datatype="FP32", shape=[1, WIDTH])
    for name, value in parameters.items():
        request.parameters[name].int64_param = int(value)
    return request


def _refusal(address: str, request: service_pb2.ModelInferRequest) -> str:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    return str(caught.value)


def _question(**more: object) -> dict[str, Any]:
    one = {"name": "features", "shape": [1, WIDTH], "datatype": "FP32", "data": [0.0] * WIDTH}
    return {"inputs": [one], **more}


def test_compressed_bodies_are_taken_by_all_routes_within_the_same_bounds(up: tuple[Running, str]) -> None:
    client = up[0].client
    (plain,) = up[0].post("/v1/decide/is_big", ROW).json()["decisions"]
    packed = {"content-type": "application/msgpack", "accept": "application/json"}
    large = json.dumps({"rows": [ROW], "padding": "x" * 1_000_000}).encode()
    for coding, body, headers in (
        ("gzip", gzip.compress(json.dumps(ROW).encode()), {}),
        ("deflate", zlib.compress(msgspec.msgpack.encode(ROW)), packed),
        ("gzip", gzip.compress(large, 0), {}),
        ("identity", json.dumps(ROW).encode(), {}),
    ):
        answer = client.post("/v1/decide/is_big", content=body, headers={"content-encoding": coding, **headers})
        assert answer.json()["decisions"][0]["score"] == plain["score"]
    sent = {"content-encoding": "gzip"}
    features = client.post("/v1/features/is_big", content=gzip.compress(json.dumps(ROW).encode()), headers=sent)
    assert features.json() == up[0].post("/v1/features/is_big", ROW).json()
    lines = gzip.compress(b'{"order_id": 5}\n{"order_id": 6}\n')
    taken = client.post("/v1/events/orders", content=lines, headers=sent)
    assert [one["index"] for one in taken.json()["rejected"]] == [0, 1]


@pytest.mark.parametrize("path", ["/v1/decide/is_big", "/v1/features/is_big", "/v1/events/orders"])
def test_what_is_not_compressed_as_it_says_is_told_so(up: tuple[Running, str], path: str) -> None:
    for coding, body, status in (
        ("gzip", gzip.compress(b"0" * (64 << 20)), 413),
        ("gzip", b"no gzip", 400),
        ("br", json.dumps(ROW).encode(), 415),
    ):
        answer = up[0].client.post(path, content=body, headers={"content-encoding": coding})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, "contract"), coding
        assert "JSON" not in answer.text


def test_a_load_by_another_configuration_is_refused_and_not_passed_over(up: tuple[Running, str]) -> None:
    http = triton_http.InferenceServerClient(f"127.0.0.1:{up[0].port}")
    with triton.InferenceServerClient(up[1]) as client:
        for one in (client, http):
            one.load_model("big")
            with pytest.raises(InferenceServerException, match=r"parameters\.config: .*model\.toml"):
                one.load_model("big", config='{"backend": "python"}')
            with pytest.raises(InferenceServerException, match=r"parameters\."):
                one.load_model("big", config="{}", files={"file:1/model.onnx": b"weights"})
    http.close()
    path = "/v2/repository/models/big/load"
    assert [up[0].post(path, body).status_code for body in (b"", b"{}", b"[]", b"{")] == [200, 200, 400, 400]


def test_outputs_are_not_given_raw_to_who_asks_for_classes_or_shared_memory(up: tuple[Running, str]) -> None:
    classes = _matrix()
    classes.outputs.add(name="score").parameters["classification"].int64_param = 3
    assert "outputs[0].parameters.classification" in _refusal(up[1], classes)
    shared = _matrix()
    shared.outputs.add(name="score").parameters["shared_memory_region"].string_param = "region"
    assert "outputs[0].parameters.shared_memory_region" in _refusal(up[1], shared)
    asked = _question(outputs=[{"name": "score", "parameters": {"classification": 3}}])
    assert up[0].post("/v2/models/big/infer", asked).json()["where"] == "outputs[0].parameters.classification"


def test_more_tensors_and_parameters_than_anybody_has_are_refused_at_once(up: tuple[Running, str]) -> None:
    url, many = "/v2/models/big/infer", {f"n{number}": 1 for number in range(50_000)}
    one = _question()["inputs"][0]
    for asked, where in (
        (_question(parameters=many), "parameters"),
        (_question(outputs=[{"name": "score", "parameters": many}]), "outputs[0].parameters"),
        ({"inputs": [{**one, "parameters": many}]}, "inputs[0].parameters"),
        ({"inputs": [one] * 5_000}, "inputs"),
        (_question(outputs=[{"name": "score"}] * 5_000), "outputs"),
    ):
        answer = up[0].post(url, asked)
        assert (answer.status_code, answer.json()["where"]) == (httpx.codes.BAD_REQUEST, where)
    few = {f"n{number}": 1 for number in range(1_000)}
    assert up[0].post(url, _question(parameters=few)).status_code == httpx.codes.OK
    assert "parameters: 50000 parameters" in _refusal(up[1], _matrix(**many))
    crowd = service_pb2.ModelInferRequest(model_name="big")
    for _ in range(5_000):
        crowd.inputs.add(name="features", datatype="FP32", shape=[1, WIDTH])
    assert "inputs: 5000 inputs" in _refusal(up[1], crowd)


def test_a_model_that_fails_is_told_of_in_the_log_over_grpc_as_over_http(up: tuple[Running, str]) -> None:
    request = service_pb2.ModelInferRequest(model_name="moody", raw_input_contents=[np.ones(1).tobytes()])
    request.inputs.add(name="x", datatype="FP64", shape=[1])
    assert "a bad day" in _refusal(up[1], request)

    def told() -> bool:
        _refusal(up[1], request)  # again, for of one second no more than ten are told
        return "slow request grpc moody" in up[0].said("serve")

    until(told, "the line")
