"""What benchmarks share: servers pinned to one core, load by `wrk` from another, paired runs, one form of result."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trilane.errors import SetupError

__all__ = [
    "BENCH",
    "ROOT",
    "Load",
    "Result",
    "arguments",
    "environment",
    "load",
    "load_grpc",
    "report",
    "serving",
    "wait_until_ready",
]

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # a benchmark is run as a script, and uses the examples
BENCH = ROOT / ".bench"
_SERVER_CORE, _LOAD_CORE = 0, 1
_PATIENCE = 60.0

# wrk asks one body after another, and tells what it measured as JSON.
_SCRIPT = """
local bodies, at = {}, 0
for line in io.lines("%s") do
  bodies[#bodies + 1] = line:gsub("..", function(hex) return string.char(tonumber(hex, 16)) end)
end
wrk.method = "POST"
%s
request = function()
  at = at %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
done = function(summary, latency)
  io.write(string.format('JSON {"rate": %%f, "p50_ms": %%f, "p99_ms": %%f, "failed": %%d}\\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one run of wrk measured; `rate` in requests a second."""

    rate: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of a benchmark: ours beside the peer's on the same work in the same run.

    `ratio` is above 1 where ours is better; `low` and `high` are its extremes over the paired runs.
    """

    bench: str
    work: str
    metric: str
    unit: str
    ours: float
    peer: str
    peer_value: float
    ratio: float
    low: float
    high: float
    commit: str

    @staticmethod
    def of(
        bench: str,
        work: str,
        metric: str,
        unit: str,
        *,
        peer: str,
        pairs: Sequence[tuple[float, float]],
        more_is_better: bool,
    ) -> Result:
        """The result of paired runs (ours, the peer's): medians, and the spread of the ratio."""
        ratios = sorted((ours / other if more_is_better else other / ours) for ours, other in pairs)
        return Result(
            bench=bench,
            work=work,
            metric=metric,
            unit=unit,
            ours=statistics.median(ours for ours, _ in pairs),
            peer=peer,
            peer_value=statistics.median(other for _, other in pairs),
            ratio=statistics.median(ratios),
            low=ratios[0],
            high=ratios[-1],
            commit=_commit(),
        )


def arguments(purpose: str) -> argparse.Namespace:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--quick", action="store_true", help="end within 50 s, once everything is set up")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args()


@contextlib.contextmanager
def serving(
    command: Sequence[str], *, url: str, environment: Mapping[str, str] | None = None, body: bytes | None = None
) -> Iterator[None]:
    """Runs a server pinned to its core, ready to answer `url`, for the length of a block."""
    BENCH.mkdir(exist_ok=True)
    with tempfile.TemporaryFile(dir=BENCH) as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(_SERVER_CORE), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            wait_until_ready(url, process, body)
            yield
        except SetupError as error:
            log.flush()
            log.seek(0)
            raise SetupError(f"{error.what}: {log.read()[-2_000:].decode(errors='replace')}") from None
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started and did not end


def wait_until_ready(url: str, process: subprocess.Popen[bytes], body: bytes | None = None) -> None:
    """Waits until `url` answers with success. Raises SetupError if it never does."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            asked = urllib.request.Request(url, body, {"content-type": "application/json"})
            urllib.request.urlopen(asked, timeout=5)
            return
        time.sleep(0.05)  # between two looks at the condition
    raise SetupError("a server did not become ready", where=url)


def environment(name: str, *packages: str) -> str:
    """The Python of a peer's own environment below `.bench`, which is made on first use. Raises SetupError."""
    folder = BENCH / name
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = " ".join(packages)
    if not done.exists() or done.read_text() != wanted:
        line = [str(python), "-m", "pip", "install", "--quiet", *packages]
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], line):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                raise SetupError(f"{wanted} cannot be installed: {made.stderr[-1_000:]}", where=str(folder))
        done.write_text(wanted)
    return str(python)


def load(
    url: str,
    bodies: Sequence[str | bytes],
    *,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """Puts closed-loop load on `url` from the other core. Raises SetupError if a request failed."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SetupError("wrk is not installed", remedy="Install it, for example with `apt-get install wrk`")
    with tempfile.TemporaryDirectory() as folder:
        lines, script = Path(folder) / "bodies", Path(folder) / "load.lua"
        lines.write_text("\n".join((body.encode() if isinstance(body, str) else body).hex() for body in bodies))
        told = {"content-type": "application/json", **(headers or {})}
        script.write_text(_SCRIPT % (lines, "\n".join(f'wrk.headers["{name}"] = "{told[name]}"' for name in told)))
        line = ["taskset", "-c", str(_LOAD_CORE), wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        line += ["--timeout", "60s"]  # a slow answer counts as slow, not as none
        done = subprocess.run([*line, "-s", str(script), url], capture_output=True, text=True, check=True)
    found = json.loads(next(row for row in done.stdout.splitlines() if row.startswith("JSON "))[5:])
    if found.pop("failed"):
        raise SetupError(f"requests failed: {done.stdout}", where=url)
    if not found["rate"]:
        raise SetupError(f"no request was answered within {seconds:g} s", where=url)
    return Load(**found)


def load_grpc(url: str, message: bytes, *, connections: int, seconds: float) -> Load:
    """The same by `h2load`, of one unary gRPC call with one message, over HTTP/2 in the clear."""
    h2load = shutil.which("h2load")
    if h2load is None:
        raise SetupError(
            "h2load is not installed", remedy="Install it, for example with `apt-get install nghttp2-client`"
        )
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        line = ["taskset", "-c", str(_LOAD_CORE), h2load, "-t1", "-m1", f"-c{connections}"]
        line += [f"-D{max(1, round(seconds))}"]
        line += [
            "-d",
            str(body),
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
            f"--log-file={log}",
            url,
        ]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        found = [tuple(map(int, row.split())) for row in log.read_text().splitlines()]
    times = sorted(microseconds for _, _, microseconds in found)
    if not times or any(status != 200 for _, status, _ in found):
        raise SetupError(f"requests failed: {done.stdout}", where=url)
    took = (max(start + own for start, _, own in found) - min(start for start, _, _ in found)) / 1e6
    p50, p99 = (times[round(part * (len(times) - 1))] / 1e3 for part in (0.5, 0.99))
    return Load(rate=len(times) / took, p50_ms=p50, p99_ms=p99)


def report(title: str, results: Sequence[Result], *, as_json: bool) -> None:
    """Prints the results, for machines or for people."""
    if as_json:
        for result in results:
            sys.stdout.write(json.dumps(asdict(result)) + "\n")
        return
    table = Table(title=title, title_justify="left")
    for column in ("work", "metric", "ours", "peer", "peer's", "ratio", "spread"):
        table.add_column(column, justify="right" if column not in ("work", "metric", "peer") else "left")
    for r in results:
        row: list[Any] = [r.work, f"{r.metric}, {r.unit}", _short(r.ours), r.peer, _short(r.peer_value)]
        table.add_row(*row, f"{r.ratio:.2f}", f"{r.low:.2f} to {r.high:.2f}")
    Console(width=140).print(table)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
