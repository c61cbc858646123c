"""A schema registry for tests: a real HTTP server that speaks the part of Confluent's REST API that readers need."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

__all__ = ["Registry", "registry"]


class Registry:
    """What the server answers; `asked`: the paths, in order; `status`: another answer than the true one, to all."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.authorization: list[str | None] = []
        self.status, self.url, self.raw = 200, "", b"{}"

    def register(self, subject: str, schema: object, *, kind: str = "AVRO", **more: Any) -> int:
        """A new version of a subject; the id of its schema."""
        number = len(self.schemas) + 1
        text = schema if isinstance(schema, str) else json.dumps(schema)
        self.schemas[number] = {"schema": text, **({} if kind == "AVRO" else {"schemaType": kind}), **more}
        self.subjects.setdefault(subject, []).append(number)
        return number

    def answer(self, path: str) -> tuple[int, bytes]:
        """The status and the body for a path."""
        self.asked.append(path)
        if self.status != 200:
            return self.status, self.raw
        parts = [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]
        if parts[:2] == ["schemas", "ids"]:
            found = self.schemas.get(int(parts[2]))
            return (200, json.dumps(found).encode()) if found else _error(40403)
        versions = self.subjects.get(parts[1], [])
        if not versions:
            return _error(40401)
        number = versions[-1] if parts[3] == "latest" else versions[int(parts[3]) - 1]
        return 200, json.dumps({"subject": parts[1], "id": number, **self.schemas[number]}).encode()


def _error(code: int) -> tuple[int, bytes]:
    return 404, json.dumps({"error_code": code, "message": "not found"}).encode()


@contextmanager
def registry() -> Iterator[Registry]:
    """A registry that answers until the block ends."""
    found = Registry()

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.authorization.append(self.headers.get("authorization"))
            status, body = found.answer(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
