"""The Open Inference Protocol over gRPC of a real server, asked by Triton's own clients."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.servers import Running, speaking_grpc, until

SHOPS, BASKETS = np.array([b"a", b"b", b"c"], object), np.array([60.0, 5.0, -3.5])
WIDTH = 10


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    with speaking_grpc(tmp_path_factory.mktemp("shop"), workers=2) as (found, port):
        address = f"127.0.0.1:{port}"
        with triton.InferenceServerClient(address) as client:
            until(lambda: _ready(client), "gRPC")
        yield found, address


def _ready(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


@pytest.fixture
def client(up: tuple[Running, str]) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(up[1]) as found:
        yield found


def _rows() -> list[triton.InferInput]:
    shop, basket = triton.InferInput("shop", [3], "BYTES"), triton.InferInput("basket", [3, 1], "FP64")
    shop.set_data_from_numpy(SHOPS)
    basket.set_data_from_numpy(BASKETS.reshape(3, 1))
    return [shop, basket]


def _matrix(rows: int) -> triton.InferInput:
    found = triton.InferInput("features", [rows, WIDTH], "FP32")
    found.set_data_from_numpy(np.random.default_rng(0).normal(size=(rows, WIDTH)).astype(np.float32))
    return found


def _decided(up: Running) -> list[float]:
    rows = [{"shop": s.decode(), "basket": b} for s, b in zip(SHOPS.tolist(), BASKETS.tolist(), strict=True)]
    return [one["score"] for one in up.post("/v1/decide/is_big", {"rows": rows}).json()["decisions"]]


def test_tritons_client_finds_server_and_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_model_ready("is_big")
    assert client.get_server_metadata().name == "trilane"
    told = client.get_model_metadata("big", as_json=True)
    assert told["inputs"] == [{"name": "features", "datatype": "FP32", "shape": ["-1", str(WIDTH)]}]
    (config,) = [client.get_model_config("big").config]
    assert (config.name, config.input[0].dims[:], config.input[0].data_type) == ("big", [WIDTH], 11)
    assert config.HasField("dynamic_batching")
    assert {one.name for one in client.get_model_repository_index().models} == {"big", "is_big"}
    client.load_model("big")
    assert not client.is_model_ready("nosuch")  # which clients ask until it is
    assert not client.is_model_ready("big", "9")
    with pytest.raises(InferenceServerException, match="no model 'nosuch'"):
        client.get_model_metadata("nosuch")
    with pytest.raises(InferenceServerException, match="FAILED_PRECONDITION"):
        client.unload_model("is_big")


def test_an_endpoint_answers_over_grpc_as_it_decides_over_http(
    up: tuple[Running, str], client: triton.InferenceServerClient
) -> None:
    outputs = [triton.InferRequestedOutput("score"), triton.InferRequestedOutput("id")]
    answer = client.infer("is_big", _rows(), outputs=outputs, request_id="7", compression_algorithm="gzip")
    assert answer.as_numpy("score").tolist() == _decided(up[0])
    assert answer.get_response().id == "7"
    assert answer.as_numpy("degraded") is None
    id = answer.as_numpy("id")[0].decode()
    assert until(lambda: up[0].get(f"/v1/explain/{id}").json().get("score"), "the record") == _decided(up[0])[0]


def test_typed_contents_are_answered_with_typed_contents(up: tuple[Running, str]) -> None:
    matrix = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
    request = service_pb2.ModelInferRequest(model_name="big")
    one = request.inputs.add(name="features", datatype="FP32", shape=[2, WIDTH])
    one.contents.fp32_contents.extend(matrix.reshape(-1).tolist())
    with grpc.insecure_channel(up[1]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        typed = stub.ModelInfer(request)
        del one.contents.fp32_contents[-1]
        with pytest.raises(grpc.RpcError, match=r"inputs\[0\].contents"):
            stub.ModelInfer(request)
    with triton.InferenceServerClient(up[1]) as client:
        raw = client.infer("big", [_matrix(2)]).as_numpy("score")
    assert not typed.raw_output_contents
    assert list(typed.outputs[0].contents.fp64_contents) == raw.tolist()


def test_wrong_inputs_are_refused_with_their_path(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*needs the input"):
        client.infer("big", [])
    wrong = triton.InferInput("features", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*inputs\[0\].shape"):
        client.infer("big", [wrong])
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*outputs\[0\].name"):
        client.infer("big", [_matrix(1)], outputs=[triton.InferRequestedOutput("nosuch")])
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.infer("big", [_matrix(1)], model_version="9")


def test_questions_over_grpc_are_in_the_signals(up: tuple[Running, str], client: triton.InferenceServerClient) -> None:
    def told() -> int:
        signals: dict[str, float] = up[0].get("/v1/signals").json()
        assert signals["in_flight"] == 0
        return round(signals["rate"] * signals["seconds"])

    before = told()
    for _ in range(30):
        client.infer("is_big", _rows())
    until(lambda: told() >= before + 30, "all workers to tell")


def test_a_deadline_is_taken_from_the_parameters(client: triton.InferenceServerClient) -> None:
    assert client.infer("is_big", _rows(), timeout=1).as_numpy("score").tolist() == [0.25] * 3
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer("big", [_matrix(1)], timeout=1)
    assert client.infer("big", [_matrix(1)], client_timeout=30.0).as_numpy("score").shape == (1,)


def test_statistics_count_what_was_asked(client: triton.InferenceServerClient) -> None:
    client.infer("big", [_matrix(3)])
    (told,) = client.get_inference_statistics("big").model_stats
    assert told.inference_count >= 3
    assert told.inference_stats.success.count >= 1
    assert told.inference_stats.success.ns > 0


def test_a_stream_is_answered_in_order_and_goes_on_after_a_fault(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    wrong = triton.InferInput("features", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    for number in range(5):
        client.async_stream_infer("big", [wrong if number == 2 else _matrix(number + 1)], request_id=str(number))
    found = [answers.get(timeout=60) for _ in range(5)]
    client.stop_stream()
    assert [None if error else result.as_numpy("score").shape[0] for result, error in found] == [1, 2, None, 4, 5]
    assert "inputs[0].shape" in str(found[2][1])
    assert found[4][0].get_response().parameters["triton_final_response"].bool_param


def test_the_asynchronous_client_asks_side_by_side(up: tuple[Running, str]) -> None:
    async def ask() -> list[float]:
        async with triton_aio.InferenceServerClient(up[1]) as client:
            answers = await asyncio.gather(*(client.infer("is_big", _rows()) for _ in range(20)))
            return [float(answer.as_numpy("score")[0]) for answer in answers]

    assert asyncio.run(ask()) == [_decided(up[0])[0]] * 20


def test_bytes_that_are_no_message_and_methods_that_are_none_cost_one_call(up: tuple[Running, str]) -> None:
    with grpc.insecure_channel(up[1]) as channel:
        service = "/inference.GRPCInferenceService"
        call = channel.unary_unary(f"{service}/ModelInfer")
        stream = channel.stream_stream(f"{service}/ModelStreamInfer")
        with pytest.raises(grpc.RpcError, match=r"INVALID_ARGUMENT[^$]*this is no ModelInferRequest"):
            call(b"\xff\xff\xff")
        assert len(list(stream(iter([b"\xff", service_pb2.ModelInferRequest(id="7").SerializeToString()])))) == 2
        long = service_pb2.ModelInferRequest(model_name="\U0001f600" * 1_000_000)  # which the refusal cannot repeat
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            call(long.SerializeToString())
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            channel.unary_unary("/inference.GRPCInferenceService/TraceSetting")(b"")
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            call(b"\x00" * (9 << 20))
    with triton.InferenceServerClient(up[1]) as client:
        assert client.is_server_live()
    assert "DecodeError" not in up[0].said("serve")
