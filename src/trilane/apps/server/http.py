"""HTTP at the edge: bodies within their limits, answers, and errors as every client gets them."""

from __future__ import annotations

import contextlib
import math

import msgspec
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope  # type: ignore[attr-defined]

from trilane.apps.server.limits import EXPLAIN, LARGEST_BODY
from trilane.errors import ContractError, TrilaneError, UnavailableError
from trilane.serving.admission import Refusal
from trilane.serving.deadline import of_headers

__all__ = [
    "JSON",
    "error_body",
    "patience",
    "read_body",
    "refuse",
    "retry_after",
    "send",
    "status_of",
    "wants_batch",
]

JSON = [("content-type", "application/json")]
_RETRY = [*JSON, ("retry-after", "1")]
_SMALL = 64 << 10  # bytes of a body that are taken off a connection rather than closing it
_encode = msgspec.json.Encoder(enc_hook=str).encode


async def read_body(scope: Scope, protocol: HTTPProtocol) -> bytes:
    """The whole body. Raises ContractError (413) beyond `LARGEST_BODY`, before reading what was announced."""
    announced = scope.headers.get("content-length")
    if announced is not None and announced.isdecimal() and int(announced) > LARGEST_BODY:
        raise _too_large(int(announced))
    try:
        return await _read(protocol) if announced is None else bytes(await protocol())
    except ProtocolClosed as error:  # nobody will read this answer, but the metrics and the log must not blame us
        raise ContractError(
            f"the body ended early: {error}", where="body", remedy="Send the whole body", status=400
        ) from None


async def _read(protocol: HTTPProtocol) -> bytes:
    parts, size = [], 0
    async for chunk in protocol:
        size += len(chunk)
        if size > LARGEST_BODY:
            raise _too_large(size)
        parts.append(bytes(chunk))
    return b"".join(parts)


def patience(scope: Scope) -> float:
    """Seconds that the caller will wait for an answer; infinite if it does not say. Raises ContractError (400)."""
    return of_headers(scope.headers)


async def refuse(scope: Scope, protocol: HTTPProtocol, refusal: Refusal) -> int:
    """Answers one that is not let in, as cheaply as can be: there may be many of them.

    A connection whose request was not read to its end cannot be used again: a small body is taken off, unread; with a
    large one the connection is closed, and the answer says so.
    """
    headers = [*JSON, ("retry-after", str(refusal.seconds))]
    announced = scope.headers.get("content-length") or ""
    with contextlib.suppress(ProtocolClosed):
        if announced.isdecimal() and int(announced[:12]) <= _SMALL:
            await protocol()
        else:
            headers.append(("connection", "close"))
        protocol.response_bytes(429, headers, refusal.body())
    return 429


def retry_after(error: TrilaneError) -> list[tuple[str, str]]:
    """The headers of an error's answer: with when to try again, if the error says."""
    seconds = error.facts.get("retry_after_s")
    if isinstance(seconds, float):
        return [*JSON, ("retry-after", str(max(1, math.ceil(seconds))))]
    return JSON


def wants_batch(scope: Scope) -> bool:
    """Whether the caller asks of the batch its answer was made in. Raises ContractError (400)."""
    asked = scope.headers.get(EXPLAIN)
    if asked is None:
        return False
    if asked.strip().lower() != "batch":
        raise ContractError(f"{asked!r} cannot be explained", where=EXPLAIN, remedy="Send batch", status=400)
    return True


def _too_large(size: int) -> ContractError:
    return ContractError(
        f"the body has {size} bytes or more",
        where="body",
        remedy=f"Send at most {LARGEST_BODY} bytes in a request",
        status=413,
    )


def status_of(error: TrilaneError) -> int:
    """The HTTP status of an error: its own, unless the error was built with another."""
    if isinstance(error, UnavailableError) and error.facts.get("overload"):
        return 429
    status = error.facts.get("status")
    return status if isinstance(status, int) else error.http_status


def error_body(error: TrilaneError) -> bytes:
    """The body that tells an error."""
    payload = {name: value for name, value in error.as_payload().items() if name not in ("status", "file", "overload")}
    return _encode({"error": payload})


def send(protocol: HTTPProtocol, status: int, body: bytes, headers: list[tuple[str, str]] = JSON) -> int:
    """Answers, and gives back `status`; a caller who has gone away is nobody's fault."""
    if headers is JSON and status in (429, 503):
        headers = _RETRY
    try:
        protocol.response_bytes(status, headers, body)
    except ProtocolClosed:
        return status
    return status
