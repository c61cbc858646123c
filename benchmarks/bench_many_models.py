"""What do 300 small models on one server cost beside one, and what does a large one cost in each of four processes?

One server process on one core serves a folder of 300 models of 100 trees over the Open Inference Protocol. From the
other core come questions at the instants of a Poisson process, whatever is answered (open loop): all for one
model, or spread over all of them as Zipf's law says, at the same rate, which is 40 % of what the server answers of the
latter at most; each latency counts from the instant at which its question was due. The two take turns of half a second,
so that whatever else the machine does falls on both; when the machine takes the caller's core away, its clock stands
still, for else it would put a burst on the server that nobody meant. Then a model of 1 GB of weights, in the kernel's
cache, is opened and warmed up as the server does it, in four processes, beside a plain session of ONNX Runtime that is
asked once.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from harness import BENCH, ROOT, Result, arguments, report, serving

from examples.flights.running import free_port
from tests.graphs import mlp
from trilane.models.export import to_onnx
from trilane.models.signature import Signature

MODELS, TREES, WIDTH = 300, 100, 50
CONNECTIONS, SKEW = 64, 1.1
LOAD = 0.4  # of what the server answers at most when the questions are spread over all models
STILL = 1e-3  # seconds; the caller does nothing that takes as long
TURN = 0.5  # seconds for which one kind of traffic is put on before the other
LAYER, LAYERS = 2_048, 64  # 1 GiB of float32
FOLDER = BENCH / "many_models"


def set_up() -> None:
    """The folder of models and the large one; made once, then kept."""
    import lightgbm

    (FOLDER / "models").mkdir(parents=True, exist_ok=True)
    (FOLDER / "trilane.toml").write_text("")
    random = np.random.default_rng(0)
    rows = random.normal(size=(1_000, WIDTH))
    for number in range(MODELS):
        path = FOLDER / "models" / f"m{number:03}" / "model.onnx"
        if path.exists():
            continue
        labels = rows[:, number % WIDTH] + random.normal(size=1_000) > 0
        fitted = lightgbm.LGBMClassifier(n_estimators=TREES, num_leaves=15, verbose=-1, n_jobs=1).fit(rows, labels)
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_bytes(to_onnx(fitted, Signature.of([f"f{at}" for at in range(WIDTH)])))
        draft.replace(path)
    large = FOLDER / "large" / "model.onnx"
    if not large.exists():
        large.parent.mkdir(exist_ok=True)
        large.with_suffix(".draft").write_bytes(mlp(width=LAYER, layers=LAYERS))
        large.with_suffix(".draft").replace(large)


def request(model: int, row: list[float]) -> bytes:
    """A whole HTTP request for one row."""
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, WIDTH], "data": row}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/m{model:03}/infer HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """Asks one question after another."""

    def __init__(self, idle: asyncio.Queue[Connection], took: list[float]) -> None:
        self._idle, self._took = idle, took
        self._due, self._seen = 0.0, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, due: float, question: bytes) -> None:
        self._due = due
        self.transport.write(question)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0]) if found else 1
        if found and len(body) >= length:
            if b" 200 " not in head[:20]:
                raise SystemExit(f"a question was refused: {body.decode()}")
            self._took.append(time.perf_counter() - self._due)
            self._seen = b""
            self._idle.put_nowait(self)


async def ask(port: int, models: np.ndarray, questions: list[list[bytes]], *, rate: float, seed: int) -> np.ndarray:
    """The latencies, in seconds, of questions for `models`, which come at `rate` a second."""
    random, loop = np.random.default_rng(seed), asyncio.get_running_loop()
    idle, took = asyncio.Queue[Connection](), list[float]()
    made = [await loop.create_connection(lambda: Connection(idle, took), "127.0.0.1", port) for _ in range(CONNECTIONS)]
    for _, one in made:
        idle.put_nowait(one)
    due = np.cumsum(random.exponential(1 / rate, len(models)))
    began = last = time.perf_counter()
    for instant, model, row in zip(due.tolist(), models.tolist(), random.integers(0, 8, len(models)), strict=True):
        while (now := time.perf_counter()) < began + instant:
            if now - last > STILL:
                began += now - last
            last = now
            await asyncio.sleep(0)  # a timer of the loop is a millisecond late
        one = await idle.get()
        one.ask(began + instant, questions[model][row])
        last = time.perf_counter()
    for _ in made:
        await idle.get()
    for transport, _ in made:
        transport.close()
    return np.array(took)


def traffic(*, seconds: float, rounds: int) -> list[Result]:
    """Questions for one model and for all, in turn."""
    port, random = free_port(), np.random.default_rng(1)
    rows = random.normal(size=(8, WIDTH)).round(4).tolist()
    questions = [[request(model, row) for row in rows] for model in range(MODELS)]
    weights = np.arange(1, MODELS + 1) ** -SKEW
    command = [sys.executable, "-m", "trilane", "serve", "--project", str(FOLDER), "--port", str(port)]
    found = dict[str, list[tuple[float, float]]]({"p99": [], "p99 of a usual half second": [], "p50": []})
    os.sched_setaffinity(0, {1})
    with serving(command, url=f"http://127.0.0.1:{port}/v2/health/ready"):
        uvloop.run(ask(port, np.arange(MODELS), questions, rate=100.0, seed=0))  # the first question loads a model
        spread = random.choice(MODELS, 4_000, p=weights / weights.sum())
        began = time.perf_counter()
        uvloop.run(ask(port, spread, questions, rate=1e9, seed=0))
        rate = LOAD * len(spread) / (time.perf_counter() - began)
        number, turns = int(rate * TURN), round(seconds / TURN)
        for first in range(0, rounds * turns, turns):
            took = dict[str, list[np.ndarray]](many=[], one=[])
            for turn in range(first, first + turns):
                kinds = {"many": random.choice(MODELS, number, p=weights / weights.sum()), "one": np.zeros(number, int)}
                for kind in sorted(kinds, reverse=bool(turn % 2)):  # neither is always the first
                    took[kind].append(uvloop.run(ask(port, kinds[kind], questions, rate=rate, seed=turn)))
            many, one = (_figures(took[kind]) for kind in ("many", "one"))
            for pairs, mine, other in zip(found.values(), many, one, strict=True):
                pairs.append((mine, other))
    work = f"{MODELS} models, Zipf, 40 % of its capacity"
    return [
        Result.of(BENCH_NAME, work, metric, "ms", peer="one model", pairs=pairs, more_is_better=False)
        for metric, pairs in found.items()
    ]


def _figures(turns: list[np.ndarray]) -> tuple[float, float, float]:
    """In milliseconds: the p99 of all, which tells of the moments at which the machine does something else; the median
    of those of the turns; and the median of all.
    """
    p50, p99 = np.quantile(np.concatenate(turns), (0.5, 0.99)) * 1e3
    return float(p99), float(np.median([np.quantile(turn, 0.99) for turn in turns])) * 1e3, float(p50)


def large(*, rounds: int) -> list[Result]:
    """A large model in four processes: until it is ready, and what each takes."""
    pairs = [(_opened("ours", 4), _opened("plain", 1)) for _ in range(rounds)]
    work = "1 GB of weights"
    loads = [(ours[0], plain[0]) for ours, plain in pairs]
    parts = [(ours[1], plain[1]) for ours, plain in pairs]
    shares = [(ours[2], plain[2] * 4) for ours, plain in pairs]
    lines = (
        ("ready after", "s", loads),
        ("own memory of a process", "of weights", parts),
        ("memory of 4 processes (PSS)", "of weights", shares),
    )
    return [
        Result.of(BENCH_NAME, work, metric, unit, peer="plain session", pairs=pairs, more_is_better=False)
        for metric, unit, pairs in lines
    ]


def _opened(kind: str, processes: int) -> tuple[float, float, float]:
    """Seconds until ready, at most; anonymous memory of a process, at most, and of all together, in parts of them."""
    command = [sys.executable, __file__, "--open", kind]
    started, loads = list[subprocess.Popen[str]](), list[float]()
    for _ in range(processes):  # one after another: they would fight for the core and measure each other
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(one)
        loads.append(_heard(one))
    for one in started:  # each tells what it takes while all have it open
        _say(one)
    told = [(_heard(one), _heard(one)) for one in started]
    for one in started:
        _say(one)
        one.communicate()
    weights = LAYER * LAYER * LAYERS * 4
    return max(loads), max(own for own, _ in told) / weights, sum(share for _, share in told) / weights


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _heard(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    return float(process.stdout.readline())


def open_large(kind: str) -> None:
    """One of the processes."""
    import onnxruntime

    import trilane.models.runtime.tensors
    import trilane.serving.opening  # noqa: F401 - what is imported is no part of a load
    from trilane.models.folder import ModelFolder

    row = np.ones((1, LAYER), np.float32)
    before = _memory()
    began = time.perf_counter()
    if kind == "plain":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(FOLDER / "large" / "model.onnx"), options)
        session.run(None, {"x": row})
        took = time.perf_counter() - began
    else:
        listed = ModelFolder(FOLDER).find("large")
        assert listed is not None
        opened = asyncio.run(_open(listed.versions["1"]))
        took = time.perf_counter() - began
        assert opened.size  # it is open until this process ends
    sys.stdout.write(f"{took}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    after = _memory()
    sys.stdout.write(f"{after[0] - before[0]}\n{after[1] - before[1]}\n")
    sys.stdout.flush()
    sys.stdin.readline()


async def _open(found: Any) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    from trilane.serving.opening import Opener

    with ThreadPoolExecutor(2) as threads:
        state = FOLDER / ".trilane" / "models"
        return await Opener(state, loop=asyncio.get_running_loop(), loading=threads, running=threads).open(found)


def _memory() -> tuple[int, int]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    facts = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines[1:]}
    return facts["Anonymous"], facts["Pss"]


BENCH_NAME = "many_models"


def main() -> None:
    options = arguments("300 models beside one, and a large one in four processes")
    set_up()
    _opened("ours", 1)  # the weights are laid out once, as `trilane models add` does
    results = traffic(seconds=2.0 if options.quick else 6.0, rounds=5)
    results += large(rounds=1 if options.quick else 3)
    report("Many models", results, as_json=options.json)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    open_large(sys.argv[2]) if sys.argv[1:2] == ["--open"] else main()
