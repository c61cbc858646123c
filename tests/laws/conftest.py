"""The servers that remote adapters are tried on, each started once, when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.remote import cluster_url, kafka_mock_server, kafka_server, valkey_cluster_servers, valkey_server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Valkey server."""
    own = os.environ.get("TRILANE_TEST_VALKEY")
    if own:
        yield own
        return
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield f"valkey://127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a cluster of two Valkey servers, each of which has half of the slots."""
    with valkey_cluster_servers(tmp_path_factory.mktemp("valkey_cluster")) as servers:
        yield cluster_url(servers)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of a broker."""
    own = os.environ.get("TRILANE_TEST_KAFKA")
    if own:
        yield own
        return
    with kafka_server(tmp_path_factory.mktemp("kafka")) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def kafka_mock() -> Iterator[str]:
    """The host and port of the client library's own mock cluster, whose groups form at once."""
    with kafka_mock_server() as address:
        yield address
