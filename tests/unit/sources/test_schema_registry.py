"""A registry is asked once for a schema; its silence, its no and its nonsense are told apart."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry import Registry, registry
from trilane.errors import SetupError, UnavailableError
from trilane.sources.formats.protocol import Registered
from trilane.sources.schema_registry import SchemaRegistry


@pytest.fixture
def server() -> Iterator[Registry]:
    with registry() as found:
        yield found


@pytest.fixture
def client(server: Registry, tmp_path: Path) -> Iterator[SchemaRegistry]:
    found = SchemaRegistry(server.url, tmp_path)
    yield found
    found.close()


def test_a_schema_is_asked_for_once_and_known_while_the_registry_is_down(
    server: Registry, client: SchemaRegistry, tmp_path: Path
) -> None:
    number = server.register("a-value", '"string"')
    assert client.find(number) == client.find(number) == Registered(number, "AVRO", '"string"')
    assert server.asked == [f"/schemas/ids/{number}"]
    server.status = 503
    anew = SchemaRegistry(server.url, tmp_path)
    assert anew.find(number) == Registered(number, "AVRO", '"string"')
    with pytest.raises(UnavailableError, match="the schema registry does not answer: HTTP 503"):
        anew.find(number + 1)
    anew.close()


def test_what_a_schema_refers_to_comes_before_it(server: Registry, client: SchemaRegistry) -> None:
    def refer(name: str) -> dict[str, object]:
        return {"name": name, "subject": name, "version": 1}

    server.register("deep", '"deep"')
    server.register("left", '"left"', references=[refer("deep")])
    server.register("right", '"right"', references=[refer("deep"), refer("left")])
    number = server.register("top", '"top"', references=[refer("right"), refer("left")])
    found = client.find(number)
    assert found is not None
    assert [name for name, _ in found.references] == ["deep", "left", "right"]


def test_an_id_that_is_not_there_is_not_asked_for_at_once_again(server: Registry, client: SchemaRegistry) -> None:
    assert client.find(7) is None
    assert client.find(7) is None
    assert server.asked == ["/schemas/ids/7"]


@pytest.mark.parametrize(
    ("status", "raw", "message"),
    [
        (404, b"<html>", "does not answer as a schema registry: HTTP 404"),
        (404, b'{"error_code": 404}', "does not answer as a schema registry: HTTP 404"),
        (401, b"{}", "refuses us"),
        (200, b"[]", ""),
    ],
)
def test_nonsense_is_no_verdict_on_a_schema(
    server: Registry, client: SchemaRegistry, status: int, raw: bytes, message: str
) -> None:
    server.status, server.raw = status, raw
    if status == 200:
        server.schemas[1], message = {"schema": 5}, "an answer without a schema"
    with pytest.raises(SetupError, match=message):
        client.find(1)


def test_a_registry_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with registry() as gone:
        url = gone.url
    client = SchemaRegistry(url, tmp_path)
    with pytest.raises(UnavailableError, match="ConnectError"):
        client.find(1)
    client.close()


def test_the_user_of_the_url_is_sent_and_never_told(server: Registry, tmp_path: Path) -> None:
    client = SchemaRegistry(server.url.replace("//", "//me:secret@"), tmp_path)
    number = server.register("a-value", '"int"')
    assert client.latest("a-value").id == number
    assert server.authorization[0] == "Basic " + base64.b64encode(b"me:secret").decode()
    with pytest.raises(SetupError, match="no subject 'b'") as caught:
        client.latest("b")
    assert "secret" not in str(caught.value)
    client.close()


@pytest.mark.parametrize("url", ["localhost:8081", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_url_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="URL"):
        SchemaRegistry(url, tmp_path)
