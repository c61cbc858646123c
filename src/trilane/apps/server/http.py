"""HTTP at the edge: bodies within their limits, answers, and errors as every client gets them."""

from __future__ import annotations

import math

import msgspec

from trilane.apps.server.coding import check_coding, inflated_later
from trilane.apps.server.limits import CODING, EXPLAIN, LARGEST_BODY
from trilane.apps.server.request import Pairs, Request, too_large
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

JSON: Pairs = (("content-type", "application/json"),)
_RETRY: Pairs = (*JSON, ("retry-after", "1"))
_UNTOLD = ("status", "file", "overload", "allow")  # facts of an error that are no part of its body
_encode = msgspec.json.Encoder(enc_hook=str).encode


async def read_body(request: Request) -> bytes:
    """The whole body, inflated if it is compressed. Raises ContractError, before it is read where its head tells: 413
    beyond `LARGEST_BODY`, 415 for a coding that is not taken.
    """
    if request.length > LARGEST_BODY:
        raise too_large(request.length)
    coding = request.headers.get(CODING)
    if coding is None or not check_coding(coding):
        return await request.body()
    return await inflated_later(await request.body(), coding)


def patience(request: Request) -> float:
    """Seconds that the caller will wait for an answer; infinite if it does not say. Raises ContractError (400)."""
    return of_headers(request.headers)


def refuse(request: Request, refusal: Refusal) -> int:
    """Answers one that is not let in, as cheaply as can be: there may be many of them."""
    request.answer(429, (*JSON, ("retry-after", str(refusal.seconds))), refusal.body())
    return 429


def retry_after(error: TrilaneError) -> Pairs:
    """The headers of an error's answer: with when to try again, or by which methods, if the error says."""
    allowed = error.facts.get("allow")
    if isinstance(allowed, str):
        return (*JSON, ("allow", allowed))
    seconds = error.facts.get("retry_after_s")
    if isinstance(seconds, float):
        return (*JSON, ("retry-after", str(max(1, math.ceil(seconds)))))
    return JSON


def wants_batch(request: Request) -> bool:
    """Whether the caller asks of the batch its answer was made in. Raises ContractError (400)."""
    asked = request.headers.get(EXPLAIN)
    if asked is None:
        return False
    if asked.strip().lower() != "batch":
        raise ContractError(f"{asked!r} cannot be explained", where=EXPLAIN, remedy="Send batch", status=400)
    return True


def status_of(error: TrilaneError) -> int:
    """The HTTP status of an error: its own, unless the error was built with another."""
    if isinstance(error, UnavailableError) and error.facts.get("overload"):
        return 429
    status = error.facts.get("status")
    return status if isinstance(status, int) else error.http_status


def error_body(error: TrilaneError) -> bytes:
    """The body that tells an error."""
    payload = {name: value for name, value in error.as_payload().items() if name not in _UNTOLD}
    return _encode({"error": payload})


def send(request: Request, status: int, body: bytes, headers: Pairs = JSON) -> int:
    """Answers, and gives back `status`."""
    if headers is JSON and status in (429, 503):
        headers = _RETRY
    request.answer(status, headers, body)
    return status
