"""One HTTP request, as what answers it sees it.

Laws: header names are lower case, and what is sent several times is joined by commas; a body is whole or not there; a
request is answered once, and an answer that nobody waits for any more is dropped.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from trilane.apps.server.limits import LARGEST_BODY, SMALL_BODY
from trilane.errors import ContractError, TrilaneError, UnavailableError

__all__ = ["Pairs", "Peer", "Request", "early", "no_room", "too_large"]

_USUAL = 512  # bytes of a target that is kept with its parts

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""The headers of an answer, which are written in this order."""


class Peer(Protocol):
    """What a request came from, and what its answer goes to."""

    def wants_body(self, request: Request) -> None:
        """The body of `request` is awaited now."""
        ...

    def answer(self, request: Request, status: int, headers: Pairs, body: bytes) -> None:
        """Takes the answer to `request`."""
        ...


class Request:
    """A request whose head was read. `length`: the bytes that its body has by its head, -1 if that does not say.

    `keep_alive`: whether the client will use the connection again; `old`: whether it speaks HTTP/1.0, and so has to be
    told that the connection stays; `expects`: whether it waits to be told to go on.
    """

    __slots__ = (
        "_end",
        "_parts",
        "_peer",
        "_waiter",
        "answered",
        "begun",
        "complete",
        "expects",
        "headers",
        "keep_alive",
        "length",
        "method",
        "old",
        "path",
        "query",
        "size",
    )

    def __init__(
        self,
        peer: Peer,
        method: str,
        target: bytes,
        headers: dict[str, str],
        keep_alive: bool,
        old: bool,
    ) -> None:
        self._peer, self.method, self.headers = peer, method, headers
        # No long one is kept: a thousand of them would fill the memory.
        self.path, self.query = (_split if len(target) <= _USUAL else _split.__wrapped__)(target)
        self.keep_alive, self.old = keep_alive, old
        length = headers.get("content-length")
        self.length = int(length) if length is not None else -1 if "transfer-encoding" in headers else 0
        self.expects = "expect" in headers and headers["expect"].lower() == "100-continue"
        self.size = 0  # bytes of the body that came
        self.begun = self.complete = self.answered = False
        self._parts: list[bytes] = []
        self._end: TrilaneError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def body(self) -> bytes:
        """The whole body. Raises ContractError if it ended early, or is larger than any may be, and
        UnavailableError (429) if others take all the room there is.
        """
        if not self.complete and self._end is None:
            self._waiter = asyncio.get_running_loop().create_future()
            self._peer.wants_body(self)
            await self._waiter
        if self._end is not None:
            raise self._end
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    @property
    def whole(self) -> bytes | None:
        """The body, if it is there already, as small ones are."""
        return self._parts[0] if self.complete and len(self._parts) == 1 else None

    @property
    def is_large(self) -> bool:
        """Whether whoever answers it is to decide what becomes of its body, before that is there."""
        return self.length < 0 or self.length > SMALL_BODY or self.expects

    @property
    def is_read(self) -> bool:
        """Whether somebody waits for the body."""
        return self._waiter is not None

    def answer(self, status: int, headers: Pairs, body: bytes) -> None:
        """Answers. Raises RuntimeError if that was done before."""
        if self.answered:
            raise RuntimeError(f"{self.method} {self.path} is answered twice")
        self.answered = True
        self._peer.answer(self, status, headers, body)

    # -- for the connection -------------------------------------------------------------------------------------

    def take(self, part: bytes) -> None:
        """Another part of the body came."""
        self.size += len(part)
        if self._end is None and not self.answered:
            self._parts.append(part)

    def end(self, why: TrilaneError | None = None) -> None:
        """The body is whole, or ends before that, and `why`."""
        if self.complete or self._end is not None:
            return
        if why is None:
            self.complete = True
        else:
            self._end = why
            self._parts.clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@functools.lru_cache(1024)
def _split(target: bytes) -> tuple[str, str]:
    """The path, decoded, and the query of a request's target."""
    text = target.decode("latin-1")
    if not text.startswith("/"):  # as proxies get it: with scheme and host
        try:
            parts = urlsplit(text)
        except ValueError:  # brackets that hold no address
            return text, ""
        path, query = parts.path or ("/" if parts.netloc else text), parts.query
    else:
        path, mark, query = text.partition("?")
        if not mark:
            query = ""
    return unquote(path) if "%" in path else path, query


def early(why: str, status: int = 400) -> ContractError:
    """Nobody may read this answer, but the metrics and the log must not blame us."""
    return ContractError(f"the body ended early: {why}", where="body", remedy="Send the whole body", status=status)


def no_room() -> UnavailableError:
    """A body that would be one too many."""
    what, remedy = "the bodies of other requests take all the room there is", "Send it again in a moment"
    return UnavailableError(what, where="body", remedy=remedy, overload=True)


def too_large(size: int) -> ContractError:
    """A body of `size` bytes, or one of which so many came already."""
    remedy = f"Send at most {LARGEST_BODY} bytes in a request"
    return ContractError(f"the body has {size} bytes or more", where="body", remedy=remedy, status=413)
