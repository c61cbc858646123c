"""Real processes of a project for tests: started by the command line, asked over a socket, ended by their own id.

Nothing here sleeps to let something happen: `until` asks for the condition itself, again and again, up to a limit.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.shop import make_project
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.training_job import train as train_model

__all__ = ["X_TO_Y", "Running", "command", "free_port", "running", "speaking_grpc", "trained", "until"]

X_TO_Y = """
[[inputs]]
name = "x"
datatype = "FP64"
shape = [-1]
[[outputs]]
name = "y"
datatype = "FP64"
shape = [-1]
"""
"""What `model.toml` says of a model that gives a number `y` for each number `x`."""

T = TypeVar("T")
_LIMIT = 60.0  # seconds after which a condition that does not come true is a failure
_PAUSE = 0.01


def until(condition: Callable[[], T], what: str) -> T:
    """The first true value of `condition`; fails, saying `what` was awaited, if there is none for a minute."""
    end = time.monotonic() + _LIMIT
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(_PAUSE)


def free_port() -> int:
    """A port of the loopback at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """Ours without what would configure a project."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRILANE_")}


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What the command line says to `words` in the project in `folder`."""
    line = [sys.executable, "-m", "trilane", *words, "--project", str(folder)]
    return subprocess.run(line, capture_output=True, text=True, env=environment(), check=False, timeout=100)


def trained(folder: Path, model: str) -> None:
    """Trains `model` of the applied project in `folder`, and deploys it."""
    from trilane.apps import deploy

    with Project(load_config(folder, environment={})) as project:
        train_model(project, model)
        deploy.apply(project)


@dataclass
class Running:
    """The processes of a project, and a client of its server."""

    folder: Path
    port: int
    client: httpx.Client
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, role: str, *options: str, largest_file: int | None = None) -> subprocess.Popen[bytes]:
        """Starts a role: `serve`, `worker` or `control`. `largest_file`: bytes that it may write to a file."""

        def limit() -> None:
            if largest_file is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails as it does on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        listen = ("--port", str(self.port)) if role == "serve" else ()
        line = [sys.executable, "-m", "trilane", role, "--project", str(self.folder), *listen, *options]
        with (self.folder / f"{role}.log").open("ab") as log:
            self.processes[role] = subprocess.Popen(
                line,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                process_group=0,
                preexec_fn=limit if largest_file is not None else None,  # noqa: PLW1509 - it touches no lock
            )
        if role == "serve":
            until(self.is_live, "the server to answer")
        return self.processes[role]

    def said(self, role: str) -> str:
        """What a role wrote to standard error."""
        return (self.folder / f"{role}.log").read_text()

    def is_live(self) -> bool:
        """Whether the server answers. Fails if its process has ended."""
        process = self.processes["serve"]
        assert process.poll() is None, f"the server ended with {process.returncode}: {self.said('serve')}"
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/health/live").status_code == httpx.codes.OK
        return False

    def post(self, path: str, body: object) -> httpx.Response:
        """The answer to `body`: JSON of it, or the bytes themselves."""
        if isinstance(body, bytes):
            return self.client.post(path, content=body)
        return self.client.post(path, json=body)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def status(self) -> dict[str, Any]:
        """The facts of `GET /v1/status`."""
        found: dict[str, Any] = self.client.get("/v1/status").json()
        return found

    def move_clock(self, now: str, *, wait: bool = True) -> dict[str, Any]:
        """Moves the clock of a replay, and waits for the lanes."""
        answer = self.client.post("/v1/clock", json={"now": now, "wait_ms": int(_LIMIT * 1e3) if wait else 0})
        found: dict[str, Any] = answer.json()
        assert answer.status_code == httpx.codes.OK, found
        assert found["caught_up"] or not wait, found
        return found

    def kill(self, role: str) -> None:
        """SIGKILL, as the kernel does when memory is short, to the role and what it started."""
        process = self.processes.pop(role)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self, role: str) -> int:
        """SIGTERM; the status with which the role ends."""
        process = self.processes.pop(role)
        process.terminate()
        return process.wait(_LIMIT)

    def end(self) -> None:
        for role in list(self.processes):
            self.kill(role)
        self.client.close()


@contextlib.contextmanager
def running(folder: Path, roles: Mapping[str, Sequence[str]]) -> Iterator[Running]:
    """Roles of the project in `folder`, each with its options, for the length of a block."""
    port = free_port()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_LIMIT)
    found = Running(folder, port, client)
    try:
        for role, options in roles.items():
            if role != "serve":
                found.start(role, *options)
        if "serve" in roles:
            found.start("serve", *roles["serve"])
        yield found
    finally:
        found.end()


@contextlib.contextmanager
def speaking_grpc(folder: Path, *, workers: int = 1, more: str = "") -> Iterator[tuple[Running, int]]:
    """A server of the shop in `folder` with its endpoint deployed, and its port of gRPC, for the length of a block.

    `more`: of its configuration.
    """
    port = free_port()
    make_project(folder, replay=True).close()
    trained(folder, "big")
    with (folder / "trilane.toml").open("a") as file:
        file.write(f"grpc_port = {port}\nworkers = {workers}\n{more}")
    with running(folder, {"serve": ["--replay"]}) as found:
        until(lambda: found.get("/v2/health/ready").status_code == httpx.codes.OK, "the endpoint")
        found.move_clock("2026-03-02T00:00:00Z", wait=False)
        yield found, port
