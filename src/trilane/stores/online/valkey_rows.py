"""How rows lie in Valkey or Redis, how they are read in one round trip, and the scripts that change them.

A row is a string under `prefix:{bucket}r<space><key>`: keys of one bucket (of 256) share a slot, so the rows of one
entity in all views lie on one node. Beside the rows of a bucket lie, for each region or part of one that has a writer
of its own, its spaces, the keys that it wrote of each space, and a fence: who writes it, and how often it was written.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import cast
from zlib import crc32

from trilane.errors import DefinitionError
from trilane.stores.online.valkey_hedge import Hedge
from trilane.stores.online.valkey_wire import Command, Connections, Reply, ReplyError, slot_of, translate

__all__ = ["BUCKETS", "COMMIT", "LEASES", "SCAN", "SWAP", "WIPE", "Script", "ValkeyKeys", "ValkeyRows", "region_of"]

BUCKETS = 256


@dataclass(frozen=True)
class Script:
    """A script that runs on the server, whole or not at all."""

    text: str

    @functools.cached_property
    def digest(self) -> str:
        """The name under which the server knows it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# KEYS: fence, then those of the steps. ARGV: the fence expected, the next one, a letter for each step, their arguments.
COMMIT = Script(
    """
local fence = redis.call('GET', KEYS[1])
if fence ~= ARGV[1] then return fence end
local k, a, index, head = 2, 4, nil, nil
for i = 1, #ARGV[3] do
  local step = string.byte(ARGV[3], i)
  if step == 83 then -- S: set a row that is there
    redis.call('SET', KEYS[k], ARGV[a]); k = k + 1; a = a + 1
  elseif step == 78 then -- N: set a row that may be new
    redis.call('SET', KEYS[k], ARGV[a]); redis.call('SADD', index, string.sub(KEYS[k], head + 1)); k = k + 1; a = a + 1
  elseif step == 68 then -- D: delete a row
    redis.call('UNLINK', KEYS[k]); redis.call('SREM', index, string.sub(KEYS[k], head + 1)); k = k + 1
  elseif step == 73 then -- I: the index of the steps that follow
    index = KEYS[k]; head = tonumber(ARGV[a]); k = k + 1; a = a + 1
  elseif step == 82 then -- R: note the space
    redis.call('SADD', KEYS[k], ARGV[a]); k = k + 1; a = a + 1
  elseif step == 88 then -- X: drop the space
    for _, key in ipairs(redis.call('SMEMBERS', index)) do redis.call('UNLINK', ARGV[a] .. key) end
    redis.call('UNLINK', index); a = a + 1
  end
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
)

# KEYS: index. ARGV: what precedes the keys.
SCAN = Script(
    """
local rows = {}
for i, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  rows[2 * i - 1] = key
  rows[2 * i] = redis.call('GET', ARGV[1] .. key)
end
return rows
"""
)

# KEYS: spaces, fence. ARGV: what precedes rows, and indexes, of a space; the fence to set, or nothing.
WIPE = Script(
    """
for _, space in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local index = ARGV[2] .. space
  for _, key in ipairs(redis.call('SMEMBERS', index)) do redis.call('UNLINK', ARGV[1] .. space .. key) end
  redis.call('UNLINK', index)
end
redis.call('UNLINK', KEYS[1])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3]) end
return 1
"""
)

# KEYS: lease. ARGV: the holder expected, the next one ('' for none), its milliseconds.
SWAP = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
)

# KEYS: names. ARGV: what precedes a name in the key of its lease.
LEASES = Script(
    """
local found = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local holder = redis.call('GET', ARGV[1] .. name)
  if holder then found[#found + 1] = name; found[#found + 1] = holder else redis.call('SREM', KEYS[1], name) end
end
return found
"""
)


class ValkeyKeys:
    """How spaces, keys and regions are named in the server."""

    def __init__(self, prefix: bytes, *, cluster: bool) -> None:
        self._tags = [b"%s:{%d}" % (prefix, bucket) for bucket in range(BUCKETS)]
        self.slots = [slot_of(b"%d" % bucket) for bucket in range(BUCKETS)]
        self.fenced = range(BUCKETS) if cluster else range(1)
        self.lease_slot = self.slots[0]
        self._spaces: dict[str, list[bytes]] = {}
        self._bulks = functools.lru_cache(64)(self._bulks_of)

    def heads(self, space: str) -> list[bytes]:
        """For each bucket, what precedes the key of a row of `space`."""
        heads = self._spaces.get(space)
        if heads is None:
            region_of(space)
            name = hashlib.blake2b(space.encode(), digest_size=8).digest()
            heads = self._spaces[space] = [tag + b"r" + name for tag in self._tags]
        return heads

    def mget(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> bytes:
        """The command that gets all rows, as it goes over the wire.

        Keys of one length and bucket differ by their ends alone, and the same keys in other spaces by the 8 bytes of
        the space between two pieces: so the work of a key is done once for all spaces that it is asked for in.
        """
        pieces: dict[int, list[bytes]] = {}  # of each list of keys, which is often asked for in several spaces
        words, count = [], 1
        for space, keys in requests:
            if not keys:
                continue
            found = pieces.get(id(keys))
            if found is None:
                found = pieces[id(keys)] = self._pieces(keys)
            words.append(self.heads(space)[0][-8:].join(found))
            count += len(keys)
        return b"*%d\r\n$4\r\nMGET\r\n%b" % (count, b"".join(words))

    def _pieces(self, keys: Sequence[bytes]) -> list[bytes]:
        """What stands on the wire before, between and after the spaces of the names of rows."""
        bulks = {length: self._bulks(length) for length in set(map(len, keys))}
        starts = [bulks[len(key)][crc32(key) & 255] for key in keys]
        return [starts[0][2:], *map(add, keys, starts[1:]), keys[-1] + b"\r\n"]

    def _bulks_of(self, length: int) -> list[bytes]:
        """By bucket the end of a word, and the start of the next, a row's name with a key of so many bytes."""
        return [b"\r\n$%d\r\n%br" % (len(tag) + 1 + 8 + length, tag) for tag in self._tags]

    def index(self, bucket: int, space: str, part: str) -> bytes:
        """The set of the keys of `space` that the writer of `part` wrote."""
        return self.index_head(bucket, part) + self.heads(space)[bucket][-8:]

    def index_head(self, bucket: int, part: str) -> bytes:
        """What precedes the 8 bytes of a space in the key of an index."""
        name = hashlib.blake2b(part.encode(), digest_size=8).digest() if part else b""
        return self._tags[bucket] + b"i" + name

    def spaces(self, bucket: int, region: str, part: str) -> bytes:
        """The set of the spaces of a region or part, each as the 8 bytes that stand for it."""
        return self._tags[bucket] + b"s" + _named(region, part)

    def fence(self, bucket: int, region: str, part: str) -> bytes:
        return self._tags[bucket] + b"f" + _named(region, part)

    def lease(self, group: str, name: str) -> bytes:
        return self._tags[0] + b"l" + _named(group, name)

    def leases(self, group: str) -> bytes:
        """The set of the names of a group that were taken."""
        return self._tags[0] + b"p" + group.encode()

    def parts(self, region: str) -> bytes:
        """The set of the parts of a region that ever had a writer."""
        return self._tags[0] + b"q" + region.encode()

    def tag(self, bucket: int) -> bytes:
        return self._tags[bucket]


class ValkeyRows:
    """Reads rows and runs scripts."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._cluster = connections.address.cluster
        self.atomic = not self._cluster
        self.hedge = Hedge(connections) if connections.address.hedge else None
        self.keys = ValkeyKeys(connections.address.prefix, cluster=self._cluster)

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        if not any(keys for _, keys in requests):
            return [[] for _ in requests]
        values = self._get_each(requests, within) if self._cluster else self._get(requests, within)
        answers = []
        start = 0
        for _, keys in requests:
            answers.append(values[start : start + len(keys)])
            start += len(keys)
        return answers

    def _get(self, requests: Sequence[tuple[str, Sequence[bytes]]], within: float) -> list[bytes | None]:
        ask = self._connections.exchange if self.hedge is None else self.hedge.exchange
        [found] = ask([(0, self.keys.mget(requests))], within=within)
        return cast(list[bytes | None], found)

    def _get_each(self, requests: Sequence[tuple[str, Sequence[bytes]]], within: float) -> list[bytes | None]:
        """The rows of a cluster, of each bucket by a command of its own."""
        buckets: dict[int, list[int]] = {}
        wanted: list[bytes] = []
        for space, keys in requests:
            heads = self.keys.heads(space)
            for key in keys:
                bucket = crc32(key) & 255
                buckets.setdefault(bucket, []).append(len(wanted))
                wanted.append(heads[bucket] + key)
        commands: list[tuple[int, Command]] = [
            (self.keys.slots[bucket], ("MGET", *[wanted[i] for i in places])) for bucket, places in buckets.items()
        ]
        values: list[bytes | None] = [None] * len(wanted)
        for places, found in zip(buckets.values(), self._connections.exchange(commands, within=within), strict=True):
            for place, value in zip(places, cast(list[bytes | None], found), strict=True):
                values[place] = value
        return values

    def scan(self, space: str) -> list[tuple[bytes, bytes]]:
        """All keys and values of a space in order of key."""
        keys = self.keys
        [found] = self._connections.exchange([(keys.lease_slot, ("SMEMBERS", keys.parts(region_of(space))))])
        parts = ["", *(part.decode() for part in cast(list[bytes], found))]
        calls = [
            (bucket, (keys.index(bucket, space, part),), (keys.heads(space)[bucket],))
            for bucket in range(BUCKETS)
            for part in parts
        ]
        rows: list[tuple[bytes, bytes]] = []
        for reply in self.run(SCAN, calls, whole=True):
            flat = cast(list[bytes], reply)
            rows += zip(flat[::2], flat[1::2], strict=True)
        return sorted(rows)

    def run(
        self,
        script: Script,
        calls: Sequence[tuple[int, Sequence[bytes], Sequence[bytes]]],
        *,
        whole: bool = False,
    ) -> list[Reply]:
        """Runs a script for each (bucket, keys, arguments) in one round trip; `whole`: on one server, all at once.

        Raises UnavailableError, after which it is not known which of them ran.
        """
        groups: list[tuple[int, Command]] = [
            (self.keys.slots[bucket], ("EVALSHA", script.digest, len(keys), *keys, *arguments))
            for bucket, keys, arguments in calls
        ]
        if whole and self.atomic:
            return self._whole(script, groups)
        replies = self._connections.exchange(groups, writes=True, again=script is not COMMIT)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, ReplyError)]
        if missing:  # a server that does not know the script has not run it
            loads: list[tuple[int, Command]] = []
            for i in missing:
                loads += [(groups[i][0], ("SCRIPT", "LOAD", script.text)), groups[i]]
            for i, reply in zip(
                missing, self._connections.exchange(loads, writes=True, again=False)[1::2], strict=True
            ):
                replies[i] = reply
        return replies

    def _whole(self, script: Script, groups: Sequence[tuple[int, Command]]) -> list[Reply]:
        slot = groups[0][0]
        load: Command = ("SCRIPT", "LOAD", script.text)
        commands: list[tuple[int, Command]] = [(slot, load), (slot, ("MULTI",)), *groups, (slot, ("EXEC",))]
        done = self._connections.exchange(commands, writes=True)[-1]
        if not isinstance(done, list) or any(isinstance(reply, ReplyError) for reply in done):
            raise translate(ReplyError(f"ERR {done!r:.200}"), self._connections.address.where)
        return done


def _named(group: str, name: str) -> bytes:
    return (f"{group}/{name}" if name else group).encode()


def region_of(space: str) -> str:
    """The region of a space. Raises DefinitionError if it is none."""
    region, slash, rest = space.partition("/")
    if not (region and slash and rest):
        raise DefinitionError(f"{space!r} is not a space", where=space, remedy="Write `region/rest`")
    return region
