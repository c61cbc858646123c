"""Versions of what the batch lane loads: a new one is loaded beside the live one, and swapped in by a write.

Readers find the versions of a name under one key, so they see all of a landing or nothing of it. A landing
that fails or dies leaves the versions as they were. Rows of a version that is no longer listed stay until the
next landing of that name, for readers that still hold the old list.

Law: a space of a name that holds rows is either listed as a version or noted as unlisted, so that a later
landing drops it, whatever was killed in between.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Sequence

import msgspec

from trilane.clock import Clock
from trilane.errors import DefinitionError
from trilane.stores.online.protocol import OnlineStore, Transaction, Writer

__all__ = ["KEPT", "SPACE", "Version", "decode", "key_of", "land", "versions", "visible", "withdraw"]

SPACE = "batch/versions"
KEPT = 3  # how many versions of a name a landing keeps
_LANDINGS = "batch/landings"
_ROWS_PER_TRANSACTION = 20_000


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A landed load: rows as known at instant `boundary`, served from `visible_from` on, kept in `space`.

    `landed_at`: when it was swapped in (0: not noted); `ends`: of each partition, before which offset it saw events.
    `final`: whether nothing of before its boundary could still come when it was computed.
    """

    boundary: int
    visible_from: int
    space: str
    rows: int
    landed_at: int = 0
    ends: tuple[int, ...] = ()
    final: bool = True


class _Landings(msgspec.Struct, frozen=True):
    """How many landings of a name were begun, and the spaces that hold rows of versions not listed.

    `memory` tells one life of the store from the next: where a server lost what it held, the count begins anew, but a
    name of a space never means other rows than it meant to a reader that remembers some.
    """

    begun: int = 0
    unlisted: tuple[str, ...] = ()
    memory: str = ""

    def space(self, name: str) -> str:
        """Where the next landing puts its rows."""
        return f"batch/{name}@{self.memory}{'.' if self.memory else ''}{self.begun}"


_decode_versions = msgspec.msgpack.Decoder(tuple[Version, ...]).decode
_decode_landings = msgspec.msgpack.Decoder(_Landings).decode
_encode = msgspec.msgpack.Encoder().encode


def key_of(name: str) -> bytes:
    """The key, in `SPACE`, under which the versions of `name` are listed."""
    return name.encode()


def decode(packed: bytes | None) -> tuple[Version, ...]:
    """The versions in a stored list, by ascending boundary; none where there is no list."""
    return _decode_versions(packed) if packed else ()


def versions(store: OnlineStore, name: str) -> tuple[Version, ...]:
    """The versions of `name` that can be read, by ascending boundary."""
    [[packed]] = store.read([(SPACE, [key_of(name)])])
    return decode(packed)


def visible(versions: Sequence[Version], at: int) -> Version | None:
    """The latest version that may be served at instant `at`."""
    return next((version for version in reversed(versions) if version.visible_from <= at), None)


def land(
    writer: Writer,
    name: str,
    *,
    boundary: int,
    visible_from: int,
    rows: Iterable[tuple[bytes, bytes]],
    keep: int = KEPT,
    clock: Clock | None = None,
    ends: tuple[int, ...] = (),
    final: bool = True,
) -> Version | None:
    """Loads `rows` as the version of `name` at `boundary`, in place of one with the same boundary.

    With a `clock` the version says when it landed; `ends`: before which offset of each partition it saw events.
    The `keep` latest boundaries stay; None, and nothing is read, if `boundary` lies before all of them.
    If `rows` raises, the versions stay as they were.
    """
    if keep < 1:
        raise DefinitionError(f"keep={keep} would keep no version", where=name, remedy="Write keep=1 or more")
    key = key_of(name)
    with writer.transaction() as changes:
        others, landings = _state(changes, key)
        others = [version for version in others if version.boundary != boundary]
        if len(others) >= keep and boundary < others[-keep].boundary:
            return None
        for space in landings.unlisted:
            changes.drop(space)
    # The note of what was to be dropped goes when it is dropped, and both lists of a name are rows of one key: so the
    # law holds in a store whose transactions are not atomic.
    space = landings.space(name)
    with writer.transaction() as changes:
        changes.put(_LANDINGS, [(key, _encode(_Landings(landings.begun + 1, (space,), landings.memory)))])
    count = _load(writer, space, rows)
    version = Version(
        boundary=boundary,
        visible_from=visible_from,
        space=space,
        rows=count,
        landed_at=clock.now() if clock else 0,
        ends=ends,
        final=final,
    )
    with writer.transaction() as changes:
        _list(changes, key, version, keep)
    return version


def withdraw(writer: Writer, name: str) -> bool:
    """Takes a step towards removing all that was landed as `name`; whether another is needed.

    The first takes the versions off the list, the next removes their rows, which readers of the old list may still
    want in between.
    """
    key = key_of(name)
    with writer.transaction() as changes:
        listed, landings = _state(changes, key)
        if listed:
            unlisted = (*landings.unlisted, *(version.space for version in listed))
            changes.put(SPACE, [(key, _encode(()))])
            changes.put(_LANDINGS, [(key, _encode(_Landings(landings.begun, unlisted, landings.memory)))])
            return True
        for space in landings.unlisted:
            changes.drop(space)
    with writer.transaction() as changes:
        # The count stays: a name of a space never means other rows than it meant before.
        changes.delete(SPACE, [key])
        if landings.begun:
            changes.put(_LANDINGS, [(key, _encode(_Landings(landings.begun, (), landings.memory)))])
    return False


def _state(changes: Transaction, key: bytes) -> tuple[list[Version], _Landings]:
    [packed] = changes.get(SPACE, [key])
    [noted] = changes.get(_LANDINGS, [key])
    return list(decode(packed)), _decode_landings(noted) if noted else _Landings(memory=secrets.token_hex(4))


def _load(writer: Writer, space: str, rows: Iterable[tuple[bytes, bytes]]) -> int:
    """Puts `rows` in short transactions, so that memory stays bounded; how many there were."""
    count = 0
    following = iter(rows)
    while portion := list(itertools.islice(following, _ROWS_PER_TRANSACTION)):
        with writer.transaction() as changes:
            changes.put(space, portion)
        count += len(portion)
    return count


def _list(changes: Transaction, key: bytes, version: Version, keep: int) -> None:
    """Swaps `version` in: from this commit on readers see it, and no longer see those it drives out."""
    before, landings = _state(changes, key)
    candidates = [version, *(old for old in before if old.boundary != version.boundary)]
    kept = sorted(candidates, key=lambda one: one.boundary)[-keep:]
    listed = {one.space for one in kept}
    unlisted = tuple(old.space for old in before if old.space not in listed)
    changes.put(SPACE, [(key, _encode(tuple(kept)))])
    changes.put(_LANDINGS, [(key, _encode(_Landings(landings.begun, unlisted, landings.memory)))])
