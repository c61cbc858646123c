"""How many requests a second does one core answer with a model of 200 trees over fifty numbers, beside the peers?

Ours answers by the decision API (checked, computed, recorded), and by the Open Inference Protocol in JSON, with binary
tensors and over gRPC; BentoML, LitServe, MLServer and Ray Serve, each in an environment of its own, run the same ONNX
model with one thread, batching on. Every server is pinned to one core in turn, `wrk` (of gRPC, `h2load`) loads it from
the other with 64 connections, and each pair of runs is taken back to back. What each answers is checked first. Ray
Serve runs without its HAProxy, which listens on all addresses of the machine.
"""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import BENCH, ROOT, Load, Result, arguments, environment, load, load_grpc, report, serving
from trees_project import WIDTH, model_of, numbers, set_up

from examples.flights.running import free_port
from trilane.errors import SetupError
from trilane.models.runtime.onnx import OnnxRuntime
from trilane.models.signature import Signature

CONNECTIONS = 64
PEERS = ROOT / "benchmarks" / "serving_peers"
ONNX = "onnxruntime>=1.22,<2"
PACKAGES = {
    "mlserver": ("mlserver==1.7.*", ONNX, "setuptools<81"),
    "litserve": ("litserve==0.2.*", ONNX),
    "bentoml": ("bentoml==1.4.*", ONNX),
    "ray_serve": ("ray[serve]==2.*", ONNX),
}
ROWS = [[float(round(value, 6)) for value in row] for row in numbers(64, 9).tolist()]


@dataclass(frozen=True, kw_only=True)
class Server:
    """How a server is asked: `score` finds the score in an answer; `message`: of gRPC, with `url` to the method."""

    name: str
    url: str
    bodies: list[str | bytes]
    score: Callable[[bytes], float]
    headers: Mapping[str, str] | None = None
    message: bytes = b""

    def check(self, expected: float) -> None:
        """Raises SetupError unless the first body is answered by its score."""
        if self.message:
            return
        body = self.bodies[0]
        headers = {"content-type": "application/json", **(self.headers or {})}
        asked = urllib.request.Request(self.url, body.encode() if isinstance(body, str) else body, headers)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            found = self.score(answer.read())
        if not np.isclose(found, expected, rtol=1e-4, atol=1e-6):
            raise SetupError(f"{self.name} answers {found}, and the model {expected}", where=self.url)

    def run(self, seconds: float) -> Load:
        """Load for a while."""
        if self.message:
            return load_grpc(self.url, self.message, connections=CONNECTIONS, seconds=seconds)
        return load(self.url, self.bodies, connections=CONNECTIONS, seconds=seconds, headers=self.headers)


# -- ours -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ours(project: Path) -> Iterator[dict[str, Server]]:
    """The server with all that it speaks, by name."""
    port, grpc = free_port(), free_port()
    base = f"http://127.0.0.1:{port}"
    line = [sys.executable, "-m", "trilane", "serve", "--port", str(port), "--project", str(project)]
    with serving(line, url=f"{base}/health/ready", environment={"TRILANE_GRPC_PORT": str(grpc)}):
        decide = Server(
            name="decisions",
            url=f"{base}/v1/decide/score",
            bodies=[json.dumps({f"x{i:02}": value for i, value in enumerate(row)}) for row in ROWS],
            score=lambda answer: json.loads(answer)["decisions"][0]["score"],
        )
        yield {"decisions": decide, **{one.name: one for one in protocols(base, grpc)}}


def protocols(base: str, grpc: int) -> list[Server]:
    """The three forms of the Open Inference Protocol, of a server at `base`."""
    url = f"{base}/v2/models/trees/infer"
    tensor = {"name": "features", "shape": [1, WIDTH], "datatype": "FP32"}
    head = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": 4 * WIDTH}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    packed = [np.array(row, "<f4").tobytes() for row in ROWS]
    return [
        Server(
            name="OIP, JSON",
            url=url,
            bodies=[json.dumps({"inputs": [{**tensor, "data": row}]}) for row in ROWS],
            score=lambda answer: json.loads(answer)["outputs"][0]["data"][0],
        ),
        Server(
            name="OIP, binary",
            url=url,
            bodies=[head + one for one in packed],
            score=lambda answer: float(np.frombuffer(answer[-8:], "<f8")[0]),
            headers={"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"},
        ),
        Server(
            name="OIP, gRPC",
            url=f"http://127.0.0.1:{grpc}/inference.GRPCInferenceService/ModelInfer",
            bodies=[],
            score=float,
            message=message(packed[0]),
        ),
    ]


def message(packed: bytes) -> bytes:
    """A ModelInferRequest of one row."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="trees", raw_input_contents=[packed])
    request.inputs.add(name="features", datatype="FP32", shape=[1, WIDTH])
    return bytes(request.SerializeToString())


def check_grpc(server: Server, expected: float) -> None:
    """Raises SetupError unless a real client gets the score over gRPC."""
    from tritonclient import grpc

    client = grpc.InferenceServerClient(server.url.removeprefix("http://").partition("/")[0])
    given = grpc.InferInput("features", [1, WIDTH], "FP32")
    given.set_data_from_numpy(np.array([ROWS[0]], np.float32))
    found = float(client.infer("trees", [given]).as_numpy("score").reshape(-1)[0])
    if not np.isclose(found, expected, rtol=1e-4, atol=1e-6):
        raise SetupError(f"gRPC answers {found}, and the model {expected}", where=server.url)


# -- peers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def peer(name: str, model: Path) -> Iterator[list[Server]]:
    """A peer, ready; MLServer over gRPC too."""
    python, port = Path(environment(name, *PACKAGES[name])), free_port()
    base, own = f"http://127.0.0.1:{port}", {"MODEL": str(model)}
    rows: list[str | bytes] = [json.dumps({"row": row}) for row in ROWS]
    servers: list[Server] = []
    if name == "bentoml":
        line = [str(python.with_name("bentoml")), "serve", "bento:Trees", "--working-dir", str(PEERS)]
        line += ["--host", "127.0.0.1", "--port", str(port)]
        own |= {"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(BENCH / "bentoml_home")}
        bodies: list[str | bytes] = [json.dumps({"rows": [row]}) for row in ROWS]
        servers = [Server(name=name, url=f"{base}/score", bodies=bodies, score=lambda text: json.loads(text)[0])]
    elif name == "mlserver":
        grpc = free_port()
        line = [str(python.with_name("mlserver")), "start", str(_mlserver_settings(port, grpc))]
        own["PYTHONPATH"] = str(PEERS)
        plain, _, remote = protocols(base, grpc)
        servers = [plain, remote]
    else:
        script, path = ("lit.py", "/predict") if name == "litserve" else ("ray_serve.py", "/")
        line = [str(python), str(PEERS / script), str(port)]
        own |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        servers = [Server(name=name, url=base + path, bodies=rows, score=lambda text: json.loads(text)["score"])]
    first = servers[0].bodies[0]
    with serving(line, url=servers[0].url, environment=own, body=str(first).encode()):
        yield servers


def _mlserver_settings(port: int, grpc: int) -> Path:
    folder = BENCH / "trees_mlserver"
    folder.mkdir(exist_ok=True)
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_endpoint": None}
    server |= {"parallel_workers": 0, "debug": False, "gzip_enabled": False}
    model = {"name": "trees", "implementation": "ml.Trees", "max_batch_size": 64, "max_batch_time": 0.002}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return folder


# -- measuring ------------------------------------------------------------------------------------------------------


def measure(project: Path, *, rounds: int, seconds: float) -> list[Result]:
    """Runs ours and each peer back to back, `rounds` times."""
    model, results = model_of(project), list[Result]()
    signature = Signature.of([f"x{i:02}" for i in range(WIDTH)])
    expected = float(OnnxRuntime(str(model), signature).predict(np.array([ROWS[0]], np.float32))[0])
    with ours(project) as mine:
        for name in PACKAGES:
            with peer(name, model) as theirs:
                forms = ["decisions", "OIP, JSON", "OIP, binary"] if name == "mlserver" else ["decisions"]
                pairs = [(mine[form], theirs[0]) for form in forms]
                pairs += [(mine["OIP, gRPC"], theirs[1])] if len(theirs) > 1 else []
                for one, other in pairs:
                    for server in (one, other):
                        server.check(expected)
                        if server.message:
                            check_grpc(server, expected)
                    runs = [(one.run(seconds), other.run(seconds)) for _ in range(rounds)]
                    results += _results(one.name, f"{name}, gRPC" if other.message else name, runs)
    return results


def _results(work: str, peer: str, runs: list[tuple[Load, Load]]) -> Iterator[Result]:
    for metric, unit, field, better in (
        ("throughput", "requests/s", "rate", True),
        ("latency p50", "ms", "p50_ms", False),
        ("latency p99", "ms", "p99_ms", False),
    ):
        pairs = [(getattr(one, field), getattr(other, field)) for one, other in runs]
        yield Result.of("serving", work, metric, unit, peer=peer, pairs=pairs, more_is_better=better)


def main() -> None:
    """Sets up, measures, reports."""
    options = arguments(__doc__ or "")
    results = measure(set_up(), rounds=2 if options.quick else 5, seconds=1 if options.quick else 5)
    report("One core, 200 trees over fifty numbers, 64 connections", results, as_json=options.json)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
