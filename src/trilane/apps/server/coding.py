"""Bodies that are compressed on their way: gzip and deflate, in both directions.

Laws: nothing is inflated beyond what a body may have; an answer is compressed where its reader asked for just that, or
takes it and is saved much; what takes long is done beside the event loop, and of bodies that become large there is one
at a time, however many come: 8 KB may become 8 MiB.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from weakref import WeakKeyDictionary

from trilane.apps.server.limits import LARGEST_BODY
from trilane.errors import ContractError

__all__ = ["check_coding", "coding_for", "compressed", "compressed_later", "inflated", "inflated_later"]

_GZIP, _ZLIB, _BARE = 31, 15, -15  # what zlib calls the framings
_WORTH = 16_384  # bytes of text from which a reader who would take anything gets it compressed
_ALONE = 65_536  # bytes from which a body is inflated or compressed off the loop
_TOO_LARGE = 413
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
_CODINGS = ("gzip", "x-gzip", "deflate")
_LEVEL = 1  # beyond it, time grows faster than bodies shrink


def check_coding(coding: str) -> str:
    """The name of a coding, empty for none. Raises ContractError (415) for one that is not taken."""
    name = coding.strip().lower()
    if name in ("", "identity"):
        return ""
    if name not in _CODINGS:
        what = f"{coding!r} is no coding that is taken"
        raise ContractError(what, where="content-encoding", remedy="Send gzip, deflate or neither", status=415)
    return name


def inflated(body: bytes, coding: str, *, most: int = LARGEST_BODY) -> bytes:
    """The body itself. Raises ContractError: 415 for another coding, 413 for what inflates beyond `most` bytes."""
    name = check_coding(coding)
    if not name:
        return body
    try:
        if name != "deflate":
            return _inflated(body, _GZIP, most)
        # Deflate is framed by zlib; some senders leave the frame out.
        framed = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        return _inflated(body, _ZLIB if framed else _BARE, most)
    except zlib.error as error:
        what = f"the body is no {name}: {error}"
        raise ContractError(what, where="body", remedy="Send what content-encoding says", status=400) from None


def _inflated(body: bytes, framing: int, most: int) -> bytes:
    reader = zlib.decompressobj(framing)
    found = reader.decompress(body, most + 1)
    if len(found) > most:
        what, remedy = f"the body inflates to {most} bytes or more", f"Send at most {most} bytes"
        raise ContractError(what, where="body", remedy=remedy, status=_TOO_LARGE)
    if not reader.eof or reader.unused_data:
        what = "the compressed body ends early" if not reader.eof else "bytes follow the compressed body"
        raise ContractError(what, where="body", remedy="Send one whole compressed body", status=400)
    return found


def coding_for(accept: str, size: int, *, text: bool) -> str:
    """How to compress an answer of `size` bytes for a reader who accepts this; empty for not at all."""
    name, asked = _wanted(accept)
    return name if asked or (text and size >= _WORTH) else ""


@functools.lru_cache(256)
def _wanted(accept: str) -> tuple[str, bool]:
    """The coding that a reader takes, and whether it names that alone, and so asks for it."""
    takes = []
    for part in accept.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() and weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            takes.append(name.strip())
    found = next((name for name in ("gzip", "deflate") if name in takes), "")
    return found, bool(found) and len(takes) == 1


def compressed(body: bytes, coding: str) -> bytes:
    """The body in a coding that `coding_for` gave."""
    writer = zlib.compressobj(_LEVEL, wbits=_GZIP if coding == "gzip" else _ZLIB)
    return writer.compress(body) + writer.flush()


async def inflated_later(body: bytes, coding: str) -> bytes:
    """`inflated`, beside the event loop if it takes long; whoever waits for it is to go on with it at once."""
    if len(body) <= _ALONE:
        try:
            return inflated(body, coding, most=_ALONE)
        except ContractError as error:
            if error.facts["status"] != _TOO_LARGE:
                raise
    loop = asyncio.get_running_loop()
    # The next one is inflated when this one was read: else they would fill the memory while they wait for the loop.
    async with _turns.setdefault(loop, asyncio.Lock()):
        return await loop.run_in_executor(None, inflated, body, coding)


async def compressed_later(body: bytes, coding: str) -> bytes:
    """`compressed`, beside the event loop if it takes long."""
    if len(body) <= _ALONE:
        return compressed(body, coding)
    return await asyncio.get_running_loop().run_in_executor(None, compressed, body, coding)
