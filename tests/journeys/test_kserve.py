"""KServe's own clients against a real server.

KServe wants older versions of packages than we do, so it stands in an environment of its own, whose Python
`TRILANE_TEST_KSERVE` names; without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.servers import free_port, running, trained, until
from tests.shop import make_project

PYTHON = os.environ.get("TRILANE_TEST_KSERVE", "")
CLIENT = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(id, binary):
    shop, basket = InferInput("shop", [2], "BYTES"), InferInput("basket", [2], "FP64")
    shop.set_data_from_numpy(np.array([b"a", b"b"], object), binary_data=binary)
    basket.set_data_from_numpy(np.array([60.0, 5.0]), binary_data=binary)
    return InferRequest("is_big", [shop, basket], request_id=id)


def said(answer):
    return [answer.id, next(one.as_numpy().tolist() for one in answer.outputs if one.name == "score")]


async def main(http, address):
    rest, grpc = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30.0)), InferenceGRPCClient(url=address)
    found = {"ready": [await rest.is_server_live(http), await rest.is_server_ready(http)]}
    found["ready"] += [await rest.is_model_ready(http, "is_big"), await grpc.is_server_ready()]
    found["ready"] += [await grpc.is_server_live(), await grpc.is_model_ready("is_big")]
    for binary in (True, False):
        id = str(binary)
        found[f"rest {id}"] = said(await rest.infer(http, request(id, binary), model_name="is_big"))
        found[f"grpc {id}"] = said(await grpc.infer(request(id, binary), timeout=30))
    await grpc.close()
    await rest.close()
    print(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(not PYTHON, reason="TRILANE_TEST_KSERVE names no Python with kserve")
def test_kserves_clients_ask_an_endpoint_unchanged(tmp_path: Path) -> None:
    folder, port = tmp_path / "shop", free_port()
    make_project(folder, replay=True).close()
    trained(folder, "big")
    with (folder / "trilane.toml").open("a") as file:
        file.write(f"grpc_port = {port}\n")
    with running(folder, {"serve": ["--replay"]}) as up:
        until(lambda: up.get("/v2/health/ready").status_code == 200, "the endpoint")
        up.move_clock("2026-03-02T00:00:00Z", wait=False)
        rows = [{"shop": "a", "basket": 60.0}, {"shop": "b", "basket": 5.0}]
        scores = [one["score"] for one in up.post("/v1/decide/is_big", {"rows": rows}).json()["decisions"]]
        line = [PYTHON, "-c", CLIENT, f"http://127.0.0.1:{up.port}", f"127.0.0.1:{port}"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("ready") == [True] * 6
    assert found == {f"{way} {id}": [id, scores] for way in ("rest", "grpc") for id in ("True", "False")}
