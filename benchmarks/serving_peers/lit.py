"""LitServe with batching: `python lit.py PORT`."""

import os
import sys

import litserve
import numpy as np
import onnxruntime as ort


class Trees(litserve.LitAPI):
    """The model, opened once in its worker."""

    def setup(self, device: str) -> None:
        """Opens the model."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict) -> list[float]:
        """The row of a request."""
        return request["row"]

    def batch(self, inputs: list[list[float]]) -> np.ndarray:
        """Rows of several requests as a matrix."""
        return np.array(inputs, np.float32)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Their scores."""
        return self.session.run(None, {"features": x})[0].reshape(-1)

    def unbatch(self, output: np.ndarray) -> list[float]:
        """The scores of the requests."""
        return output.tolist()

    def encode_response(self, output: float) -> dict[str, float]:
        """The answer to one."""
        return {"score": output}


if __name__ == "__main__":
    api = Trees(max_batch_size=64, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=60)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
