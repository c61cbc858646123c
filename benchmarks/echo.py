"""The bare limit: a server that gives each body back, on the same granian, interface and event loop as ours."""

from __future__ import annotations

from typing import Any

_HEADERS = [("content-type", "application/json")]


async def app(scope: Any, protocol: Any) -> None:
    """Answers with the request's own body."""
    protocol.response_bytes(200, _HEADERS, await protocol())
