"""BentoML with adaptive batching, as its documentation has it: a service that takes lists of rows and is batched."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1, traffic={"timeout": 60, "concurrency": 1_000}, metrics={"enabled": False})
class Trees:
    """The model, opened once."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1_000)
    def score(self, rows: list[list[float]]) -> list[float]:
        """The score of each row."""
        return self.session.run(None, {"features": np.array(rows, np.float32)})[0].reshape(-1).tolist()
