"""What requests and answers are written in, as their headers say.

Law: what is no format that the route takes is refused by its header, before the body is read.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from trilane.apps.server.http import JSON
from trilane.apps.server.request import Pairs, Request
from trilane.errors import ContractError

__all__ = ["ARROW", "JSON_TEXT", "MSGPACK", "Wire", "wire", "wire_of"]

JSON_TEXT, MSGPACK, ARROW = "json", "msgpack", "arrow"
_MEDIA: dict[str, Pairs] = {
    JSON_TEXT: JSON,
    MSGPACK: (("content-type", "application/msgpack"),),
    ARROW: (("content-type", "application/vnd.apache.arrow.stream"),),
}
_KINDS = {
    "application/json": JSON_TEXT,
    "text/json": JSON_TEXT,
    "text/plain": JSON_TEXT,
    "application/x-www-form-urlencoded": JSON_TEXT,  # what curl says of any text it is not told about
    "application/msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/x-msgpack": MSGPACK,
    "application/vnd.apache.arrow.stream": ARROW,
}
_ROWS = {media: kind for media, kind in _KINDS.items() if kind != ARROW}


@dataclass(frozen=True, slots=True)
class Wire:
    """The formats of a request and of its answer, and the answer's headers."""

    asked: str
    answered: str
    headers: Pairs


@functools.lru_cache(256)
def wire_of(content_type: str, accept: str, tables: bool = True) -> Wire:
    """What a request is written in, and what its answer shall be. Raises ContractError (415, 406).

    `tables`: whether Arrow is taken and given too.
    """
    kinds = _KINDS if tables else _ROWS
    media = content_type.partition(";")[0].strip().lower()
    asked = kinds.get(media or "application/json", JSON_TEXT if media.endswith("+json") else "")
    known = "application/json or application/msgpack"
    known = f"{known}, or application/vnd.apache.arrow.stream" if tables else known
    if not asked:
        raise ContractError(
            f"{media!r} is no format of a request", where="content-type", remedy=f"Send {known}", status=415
        )
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")] if accept.strip() else ["*/*"]
    for one in wanted:
        answered = asked if one in ("*/*", "application/*") else kinds.get(one, "")
        if answered:
            return Wire(asked, answered, _MEDIA[answered])
    raise ContractError(f"{accept!r} is no format of an answer", where="accept", remedy=f"Accept {known}", status=406)


def wire(request: Request, *, tables: bool = True) -> Wire:
    """The formats that the headers of a request ask for."""
    headers = request.headers
    return wire_of(headers.get("content-type", ""), headers.get("accept", ""), tables)
