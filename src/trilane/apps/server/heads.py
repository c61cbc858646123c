"""Heads of HTTP: names of headers as they come, first lines of answers as they go, kept for the next ones alike.

Law: what is kept is bounded, whatever is sent.
"""

from __future__ import annotations

from http import HTTPStatus

from trilane.apps.server.request import Pairs

__all__ = ["HEADS", "NAMES", "head_of", "name_of"]

_MOST = 512
HEADS: dict[tuple[int, Pairs], bytes] = {}
NAMES: dict[bytes, str] = {}


def name_of(name: bytes) -> str:
    """The name of a header, in lower case; those that are sent again and again are kept."""
    found = name.decode("latin-1").lower()
    if len(NAMES) < _MOST and len(name) < 64:
        NAMES[name] = found
    return found


def head_of(status: int, headers: Pairs) -> bytes:
    """The first lines of an answer, kept for the next one alike."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError(f"a header has a line of its own: {headers!r}")
    found = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    if len(HEADS) >= _MOST:
        HEADS.clear()
    HEADS[status, headers] = found
    return found
