"""HTTP at the edge: bodies within their limits, answers, and errors as every client gets them."""

from __future__ import annotations

import contextlib
import math

import msgspec
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope  # type: ignore[attr-defined]

from trilane.apps.server.limits import DEADLINE, EXPLAIN, LARGEST_BODY
from trilane.errors import ContractError, TrilaneError, UnavailableError

__all__ = ["JSON", "error_body", "patience", "read_body", "send", "status_of", "wants_batch"]

JSON = [("content-type", "application/json")]
_RETRY = [*JSON, ("retry-after", "1")]
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
    text = scope.headers.get(DEADLINE)
    if text is None:
        return math.inf
    if not (text.isascii() and text.isdecimal() and int(text[:12]) > 0):
        remedy = "Send whole milliseconds, 1 or more"
        raise ContractError(f"{text!r} is no time to wait", where=DEADLINE, remedy=remedy, status=400)
    return int(text[:12]) / 1e3


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
    with contextlib.suppress(ProtocolClosed):
        protocol.response_bytes(status, _RETRY if status in (429, 503) else headers, body)
    return status
