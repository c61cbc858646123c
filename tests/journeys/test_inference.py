"""The Open Inference Protocol of a real server, asked by Triton's own clients and by hand."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

import trilane as tl
from tests.servers import Running, running, trained, until
from tests.shop import make_project
from trilane.errors import ContractError, DefinitionError

REPLAY = {"serve": ["--replay"]}
SHOPS, BASKETS = np.array([b"a", b"b", b"c"], object), np.array([60.0, 5.0, -3.5])
WIDTH = 10


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("shop")
    make_project(folder, replay=True).close()
    trained(folder, "big")
    with running(folder, REPLAY) as found:
        until(lambda: found.get("/v2/health/ready").status_code == 200, "the endpoint")
        found.move_clock("2026-03-02T00:00:00Z", wait=False)
        yield found


@pytest.fixture
def client(up: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{up.port}") as found:
        yield found


def _rows(*, binary: bool = True) -> list[triton.InferInput]:
    shop, basket = triton.InferInput("shop", [3], "BYTES"), triton.InferInput("basket", [3, 1], "FP64")
    shop.set_data_from_numpy(SHOPS, binary_data=binary)
    basket.set_data_from_numpy(BASKETS.reshape(3, 1), binary_data=binary)
    return [shop, basket]


def _features(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(rows, WIDTH)).astype(np.float32)


def _matrix(values: np.ndarray[Any, Any]) -> triton.InferInput:
    found = triton.InferInput("features", list(values.shape), "FP32")
    found.set_data_from_numpy(values)
    return found


def _decided(up: Running) -> list[float]:
    rows = [{"shop": s.decode(), "basket": b} for s, b in zip(SHOPS.tolist(), BASKETS.tolist(), strict=True)]
    return [one["score"] for one in up.post("/v1/decide/is_big", {"rows": rows}).json()["decisions"]]


def test_tritons_client_finds_server_and_models_in_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("is_big")
    assert client.is_model_ready("big")
    assert not client.is_model_ready("nosuch")
    assert not client.is_model_ready("is_big", "7")
    told = client.get_server_metadata()
    assert told["name"] == "trilane"
    assert "binary_tensor_data" in told["extensions"]


def test_tritons_client_reads_what_models_take_and_give(client: triton.InferenceServerClient) -> None:
    told = client.get_model_metadata("is_big")
    assert {one["name"]: (one["datatype"], one["shape"]) for one in told["inputs"]} == {
        "basket": ("FP64", [-1]),
        "shop": ("BYTES", [-1]),
    }
    assert [one["name"] for one in told["outputs"]] == ["score", "positive", "degraded", "rung", "id"]
    (version,) = told["versions"]
    assert client.get_model_metadata("is_big", version) == told
    told = client.get_model_metadata("big")
    assert told["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]}]
    config = client.get_model_config("big")
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": [WIDTH]}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_an_endpoint_answers_tritons_client_as_it_decides(
    up: Running, client: triton.InferenceServerClient, binary: bool, coding: str | None
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("id", "score", "positive")]
    answer = client.infer(
        "is_big",
        _rows(binary=binary),
        outputs=outputs,
        request_id="seven",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    scores = answer.as_numpy("score")
    assert scores is not None
    assert scores.tolist() == _decided(up)
    assert answer.as_numpy("positive").tolist() == [score >= 0.5 for score in scores.tolist()]
    assert answer.get_response()["id"] == "seven"
    assert answer.as_numpy("degraded") is None
    id = answer.as_numpy("id")[0]
    told = id.decode() if isinstance(id, bytes) else id
    record = until(lambda: up.get(f"/v1/explain/{told}").json().get("score"), "the record")
    assert record == scores[0]


def test_a_model_answers_a_matrix_of_features_as_its_endpoint_scores_them(
    up: Running, client: triton.InferenceServerClient
) -> None:
    matrix = _features(64)
    whole = client.infer("big", [_matrix(matrix)]).as_numpy("score")
    single = [client.infer("big", [_matrix(matrix[row : row + 1])]).as_numpy("score")[0] for row in range(3)]
    assert whole[:3].tolist() == single
    record = up.post("/v1/decide/is_big", {"shop": "a", "basket": 60.0}).json()["decisions"][0]
    told = until(lambda: up.get(f"/v1/explain/{record['id']}").json().get("features"), "the record")
    row = np.array([list(told.values())], np.float64).astype(np.float32)
    assert client.infer("big", [_matrix(row)]).as_numpy("score")[0] == record["score"]


def test_the_raw_bytes_of_one_input_are_rows_of_it(up: Running) -> None:
    matrix = _features(4)
    url, header = "/v2/models/big/infer", {"inference-header-content-length": "0"}
    answer = up.client.post(url, content=matrix.tobytes(), headers=header)
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == [4]
    scores = np.frombuffer(answer.content[length:], "<f8")
    said = {"inputs": [{"name": "features", "shape": [4, WIDTH], "datatype": "FP32", "data": matrix.tolist()}]}
    assert up.post(url, said).json()["outputs"][0]["data"] == scores.tolist()
    short = up.client.post(url, content=matrix.tobytes()[:-1], headers=header)
    assert (short.status_code, "inputs[0]" in short.json()["error"]) == (400, True)
    endpoint = up.client.post("/v2/models/is_big/infer", content=b"a", headers=header)
    assert (endpoint.status_code, endpoint.json()["where"]) == (400, "inference-header-content-length")


def test_tritons_client_manages_and_counts(client: triton.InferenceServerClient) -> None:
    index = {one["name"]: one["state"] for one in client.get_model_repository_index()}
    assert index == {"big": "READY", "is_big": "READY"}
    client.load_model("big")
    with pytest.raises(InferenceServerException, match="no model 'nosuch'"):
        client.load_model("nosuch")
    before = client.get_inference_statistics("big")["model_stats"][0]
    client.infer("big", [_matrix(_features(5))])
    with pytest.raises(InferenceServerException):
        client.infer("big", [_matrix(_features(5)[:, 1:])])
    after = client.get_inference_statistics("big")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert any(one["batch_size"] == 5 for one in after["batch_stats"])
    assert {one["name"] for one in client.get_inference_statistics()["model_stats"]} == {"big", "is_big"}


def test_tritons_asynchronous_client_asks_side_by_side(up: Running) -> None:
    async def ask() -> list[float]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{up.port}") as client:
            assert await client.is_server_ready()
            answers = await asyncio.gather(*(client.infer("is_big", _rows()) for _ in range(20)))
            return [float(answer.as_numpy("score")[0]) for answer in answers]

    assert asyncio.run(ask()) == [_decided(up)[0]] * 20


def test_time_and_priority_are_taken_from_the_parameters(up: Running, client: triton.InferenceServerClient) -> None:
    in_time = client.infer("is_big", _rows(), timeout=5_000_000, priority=1)
    assert in_time.as_numpy("score").tolist() == _decided(up)
    late = client.infer("is_big", _rows(), timeout=1)
    assert late.as_numpy("degraded").tolist() == [True] * 3
    assert late.as_numpy("score").tolist() == [0.25] * 3
    assert late.as_numpy("rung").tolist() == [b"constant"] * 3
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer("big", [_matrix(_features(1))], timeout=1)
    for name, value in (("timeout", -1), ("timeout", "soon"), ("priority", -1), ("priority", 2**70)):
        answer = up.post("/v2/models/big/infer", {"inputs": [], "parameters": {name: value}})
        assert (answer.status_code, answer.json()["where"]) == (400, f"parameters.{name}")


def test_an_answer_tells_of_its_batch_where_asked(up: Running) -> None:
    features = _features(2).tolist()
    said = {"inputs": [{"name": "features", "shape": [2, WIDTH], "datatype": "FP32", "data": features}]}
    told = up.post("/v2/models/big/infer", {**said, "parameters": {"explain": True}}).json()
    assert told["parameters"]["batch_rows"] == 2
    assert "parameters" not in up.post("/v2/models/big/infer", said).json()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": "nosuch"}, "inputs[0].name"),
        ({"datatype": "FP64"}, "inputs[0].datatype"),
        ({"datatype": "COMPLEX"}, "inputs[0].datatype"),
        ({"shape": [1, 3]}, "inputs[0].data"),
        ({"shape": [WIDTH]}, "inputs[0].shape"),
        ({"shape": [2**40, 2**40]}, "inputs[0].shape"),
        ({"shape": [-1, WIDTH]}, "inputs[0].shape[0]"),
        ({"data": ["x"] * WIDTH}, "inputs[0].data[0]"),
        ({"data": [1e39] * WIDTH}, "inputs[0].data[0]"),
        ({"parameters": {"shared_memory_region": "x"}}, "inputs[0].parameters.shared_memory_region"),
        ({"parameters": {"binary_data_size": 40}}, "inputs[0].parameters.binary_data_size"),
        ({"parameters": {"binary_data_size": -1}}, "inputs[0].parameters.binary_data_size"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(up: Running, change: dict[str, Any], where: str) -> None:
    one = {"name": "features", "shape": [1, WIDTH], "datatype": "FP32", "data": [0.5] * WIDTH}
    answer = up.post("/v2/models/big/infer", {"inputs": [{**one, **change}]})
    assert (answer.status_code, answer.json()["where"]) == (400, where)
    assert where in answer.json()["error"]


@pytest.mark.parametrize(
    ("inputs", "where"),
    [
        ({"basket": ("FP64", [2], [1.0, 2.0])}, "inputs"),
        ({"basket": ("FP64", [1], [1.0]), "shop": ("BYTES", [2], ["a", "b"])}, "inputs[1].shape"),
        ({"basket": ("BOOL", [1], [True]), "shop": ("BYTES", [1], ["a"])}, "inputs[0].datatype"),
        ({"basket": ("FP64", [1, 2], [1.0, 2.0]), "shop": ("BYTES", [1], ["a"])}, "inputs[0].shape"),
        ({"basket": ("FP64", [2], [1.0, None]), "shop": ("BYTES", [2], ["a", "b"])}, "inputs[0].data[1]"),
        ({"basket": ("FP64", [0], []), "shop": ("BYTES", [0], [])}, "inputs[0].shape"),
    ],
)
def test_rows_that_break_the_contract_are_refused_with_their_path(
    up: Running, inputs: dict[str, Any], where: str
) -> None:
    said = [{"name": n, "datatype": d, "shape": s, "data": v} for n, (d, s, v) in inputs.items()]
    answer = up.post("/v2/models/is_big/infer", {"inputs": said})
    assert (answer.status_code, answer.json()["where"]) == (400, where)


def test_unknown_models_versions_and_outputs_are_told(up: Running) -> None:
    assert up.get("/v2/models/nosuch").status_code == 404
    assert up.post("/v2/models/nosuch/infer", {"inputs": []}).status_code == 404
    assert up.post("/v2/models/big/versions/9/infer", {"inputs": []}).status_code == 404
    assert "no version" in up.get("/v2/models/is_big/versions/9").json()["error"]
    assert up.get("/v2/nosuch").json()["error"].startswith("/v2/nosuch: nothing answers")
    assert up.get("/v2/models/big/infer").status_code == 405
    one = {"name": "features", "shape": [1, WIDTH], "datatype": "FP32", "data": [0.5] * WIDTH}
    answer = up.post("/v2/models/big/infer", {"inputs": [one], "outputs": [{"name": "nosuch"}]})
    assert (answer.status_code, answer.json()["where"]) == (400, "outputs[0].name")
    many = [{"name": "score"}] * 4_000  # which would be a hundred times as much as is sent
    answer = up.post("/v2/models/big/infer", {"inputs": [one], "outputs": many})
    assert (answer.status_code, answer.json()["where"]) == (400, "outputs[1].name")
    assert up.post("/v2/repository/models/is_big/unload", {}).status_code == 409


def test_compressed_bodies_are_bounded_and_must_be_whole(up: Running) -> None:
    url = "/v2/models/big/infer"
    bomb = gzip.compress(b"0" * (64 << 20))
    assert len(bomb) < 100_000
    cases = {
        ("gzip", bomb): 413,
        ("gzip", gzip.compress(b"{}")[:-5]): 400,
        ("gzip", b"no gzip"): 400,
        ("deflate", b""): 400,
        ("deflate", zlib.compress(b"{}") + b"x"): 400,
        ("br", b"{}"): 415,
    }
    for (coding, body), status in cases.items():
        assert up.client.post(url, content=body, headers={"content-encoding": coding}).status_code == status, coding
    bare = zlib.compressobj(wbits=-15)
    body = bare.compress(b'{"inputs":[]}') + bare.flush()
    answer = up.client.post(url, content=body, headers={"content-encoding": "deflate"})
    assert answer.json()["where"] == "inputs"


def test_an_answer_is_compressed_for_who_asks_for_it_or_where_it_saves_much(up: Running) -> None:
    def asked(rows: int, accept: str) -> str:
        said = {"name": "features", "shape": [rows, WIDTH], "datatype": "FP32", "data": _features(rows).tolist()}
        answer = up.client.post("/v2/models/big/infer", json={"inputs": [said]}, headers={"accept-encoding": accept})
        assert len(answer.json()["outputs"][0]["data"]) == rows
        return str(answer.headers.get("content-encoding", ""))

    assert asked(1, "gzip") == "gzip"
    assert asked(1, "gzip, deflate") == ""
    assert asked(12_000, "deflate, br") == "deflate"
    assert asked(12_000, "gzip;q=0") == ""
    assert asked(12_000, "") == ""


def test_slow_and_broken_connections_hold_up_nobody(up: Running) -> None:
    address = ("127.0.0.1", up.port)
    head = b"POST /v2/models/big/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"
    held = [socket.create_connection(address) for _ in range(100)]
    for number, connection in enumerate(held):
        connection.sendall((head, b"POST /v2/mod", b"")[number % 3])
        if number % 2:
            connection.shutdown(socket.SHUT_WR)
    for _ in range(20):
        assert up.get("/v2/health/live").status_code == 200
        assert up.post("/v1/decide/is_big", {"shop": "a", "basket": 1.0}).status_code == 200
    for connection in held:
        connection.close()
    assert up.get("/v2/models/big/ready").status_code == 200


def test_floods_of_headers_and_giant_bodies_are_refused(up: Running) -> None:
    def status(text: bytes) -> int:
        with socket.create_connection(("127.0.0.1", up.port)) as connection:
            connection.settimeout(30)
            try:
                connection.sendall(text)
                answer = connection.recv(64)
            except OSError:  # closed on us while we still sent
                return 0
            return int(answer.split(b" ")[1]) if answer else 0

    many = b"".join(b"x-%d: y\r\n" % number for number in range(100_000))
    assert status(b"GET /v2 HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n") in (0, 400, 431)
    long = b"x: " + b"y" * (4 << 20) + b"\r\n"
    assert status(b"GET /v2 HTTP/1.1\r\nhost: x\r\n" + long + b"\r\n") in (0, 400, 431)
    giant = b"POST /v2/models/big/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n"
    assert status(giant) == 413
    assert up.get("/v2").status_code == 200


def test_binary_sizes_that_lie_are_refused(up: Running) -> None:
    text = json.dumps(
        {
            "inputs": [
                {
                    "name": "shop",
                    "shape": [1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": 5},
                },
                {"name": "basket", "shape": [1], "datatype": "FP64", "data": [1.0]},
            ]
        }
    ).encode()

    def where(body: bytes, header: int | str = len(text)) -> str:
        headers = {"inference-header-content-length": str(header)}
        answer: httpx.Response = up.client.post("/v2/models/is_big/infer", content=body, headers=headers)
        assert 400 <= answer.status_code < 500
        return str(answer.json()["where"])

    good = struct.pack("<I", 1) + b"a"
    assert where(text + good[:-1]) == "inputs[0].parameters.binary_data_size"
    assert where(text + good + b"x") == "body"
    assert where(text + struct.pack("<I", 2**32 - 1) + b"a") == "inputs[0]"
    assert where(text + struct.pack("<I", 0) + b"a") == "inputs[0]"
    assert where(text + struct.pack("<I", 1) + b"\xff") == "inputs[0].data[0]"
    assert where(text, 10**9) == "inference-header-content-length"
    assert where(text, "-1") == "inference-header-content-length"
    assert where(text + good, len(text) - 1) == "$"


def test_our_own_client_gives_arrays_by_name_to_models_and_gets_arrays(up: Running) -> None:
    with tl.Client(f"http://127.0.0.1:{up.port}") as client:
        found = client.infer("is_big", {"shop": np.array(["a", "b", "c"]), "basket": BASKETS})
        assert sorted(found) == ["degraded", "id", "positive", "rung", "score"]
        assert found["score"].tolist() == _decided(up)
        matrix = _features(7)
        version = client.infer("big", {"features": matrix}, outputs=["score"])
        assert (list(version), version["score"].shape) == (["score"], (7,))
        with pytest.raises(ContractError, match="FP32") as told:
            client.infer("big", {"features": matrix.astype(np.float64)})
        assert (told.value.where, told.value.facts["status"]) == ("inputs[0].datatype", 400)
        with pytest.raises(DefinitionError, match="no model 'nosuch'"):
            client.infer("nosuch", {"features": matrix})
        with pytest.raises(DefinitionError, match="no version '9'"):
            client.infer("big", {"features": matrix}, version="9")
        with pytest.raises(ContractError, match="no input of a model"):
            client.infer("big", {"features": np.array([1j])})

    async def ask() -> list[float]:
        async with tl.AsyncClient(f"http://127.0.0.1:{up.port}") as client:
            answers = await asyncio.gather(*(client.infer("big", {"features": matrix}) for _ in range(5)))
            return [float(answer["score"][0]) for answer in answers]

    assert asyncio.run(ask()) == [float(version["score"][0])] * 5
