"""Rows of the nearline lane: one for each key and partition, so that each partition writes rows of its own.

In a store whose transactions are not atomic a row begins with the number of the last batch of its partition that was
applied to it, so that a batch that is applied again changes nothing. Law: a row is written by one partition, batch
after batch.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["applied", "is_of", "shard_keys", "shards_of", "stamp", "unstamp"]

_STAMP = 8
_SUFFIX = 2


def shard_keys(keys: Sequence[bytes], partition: int, partitions: int) -> Sequence[bytes]:
    """The keys of the rows that `partition` writes."""
    if partitions == 1:
        return keys
    suffix = partition.to_bytes(_SUFFIX, "big")
    return [key + suffix for key in keys]


def shards_of(keys: Sequence[bytes], partitions: int) -> Sequence[bytes]:
    """The keys of all rows of `keys`: those of the first key, by partition, then those of the second ..."""
    if partitions == 1:
        return keys
    suffixes = [partition.to_bytes(_SUFFIX, "big") for partition in range(partitions)]
    return [key + suffix for key in keys for suffix in suffixes]


def is_of(key: bytes, partition: int, partitions: int) -> bool:
    """Whether `partition` writes the row under this stored key."""
    return partitions == 1 or key.endswith(partition.to_bytes(_SUFFIX, "big"))


def stamp(row: bytes, serial: int) -> bytes:
    """The stored form of a row to which the batch `serial` is applied, and those before."""
    return serial.to_bytes(_STAMP, "big") + row


def applied(stored: bytes | None) -> int:
    """The last batch that is applied to a stamped row; 0 where there is none."""
    return int.from_bytes(stored[:_STAMP], "big") if stored else 0


def unstamp(stored: Sequence[bytes | None]) -> list[bytes | None]:
    """Stamped rows without their stamps."""
    return [row[_STAMP:] if row else None for row in stored]
