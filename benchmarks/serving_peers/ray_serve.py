"""Ray Serve with batching, on this machine alone: `python ray_serve.py PORT`."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import onnxruntime as ort
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256, logging_config=LoggingConfig(enable_access_log=False))
class Trees:
    """The model, opened once in its replica."""

    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def score(self, rows: list[list[float]]) -> list[float]:
        """The score of each row."""
        return self.session.run(None, {"features": np.array(rows, np.float32)})[0].reshape(-1).tolist()

    async def __call__(self, request: Request) -> dict[str, float]:
        """The answer to one request."""
        return {"score": await self.score((await request.json())["row"])}


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Trees.bind(os.environ["MODEL"]), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
