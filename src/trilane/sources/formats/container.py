"""Avro object container files, block by block: of untrusted bytes no more is unpacked than was allowed.

Laws: a block is unpacked up to a bound, whatever it says of itself; records are taken from it only after all of them
were seen to end within it. What is no sound container is told with the number of its block.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa

__all__ = ["CODECS", "LARGEST_BLOCK", "Damaged", "blocks", "header"]

LARGEST_BLOCK = 16 << 20  # bytes, unpacked; writers cut blocks of 16 KiB to 1 MiB
_LARGEST_HEADER = 1 << 20
_MAGIC, _SYNC = b"Obj\x01", 16


class Damaged(ValueError):  # noqa: N818 - it is told as a ContractError
    """Bytes that are no sound container."""


def header(file: BinaryIO) -> tuple[dict[str, bytes], bytes]:
    """What the file says of itself, and the mark between its blocks. Raises Damaged."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise Damaged("it does not begin as one")
    said: dict[str, bytes] = {}
    left = _LARGEST_HEADER
    while count := _long(file):
        if count < 0:
            count = -count
            _long(file)
        for _ in range(count):
            pair = []
            for _ in range(2):
                size = _long(file)
                left -= size + 1
                if size < 0 or left < 0:
                    raise Damaged(f"its header is longer than {_LARGEST_HEADER} bytes")
                pair.append(_exactly(file, size))
            said[pair[0].decode()] = pair[1]
    return said, _exactly(file, _SYNC)


def blocks(file: BinaryIO, codec: str, mark: bytes, *, whole: int | None = None) -> Iterator[tuple[int, bytes]]:
    """How many records each block has, and their bytes; all blocks unpacked have at most `whole`. Raises Damaged."""
    unpack = CODECS.get(codec)
    if unpack is None:
        raise Damaged(f"codec {codec!r} is none of {', '.join(CODECS)}")
    number = 0
    while first := file.read(1):
        count, size = _long(file, first), _long(file)
        if count < 0 or not 0 <= size <= LARGEST_BLOCK:
            raise Damaged(f"block {number} has more than {LARGEST_BLOCK} bytes")
        packed = _exactly(file, size)
        if _exactly(file, _SYNC) != mark:
            raise Damaged(f"block {number} does not end where it says")
        most = LARGEST_BLOCK if whole is None else min(LARGEST_BLOCK, whole)
        try:
            plain = unpack(packed, most)
        except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
            raise Damaged(f"block {number} cannot be unpacked: {error}") from None
        if len(plain) > most:
            raise Damaged(f"block {number} unpacks to more than {most} bytes")
        if count > len(plain):  # records without a byte could be as many as it likes
            raise Damaged(f"block {number} has {count} records in {len(plain)} bytes")
        whole = None if whole is None else whole - len(plain)
        yield count, plain
        number += 1


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise Damaged("it ends early")
    return found


def _long(file: BinaryIO, first: bytes = b"") -> int:
    value = shift = 0
    while shift < 70:
        [byte] = first or _exactly(file, 1)
        first = b""
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1)
        shift += 7
    raise Damaged("a number in it does not end")


def _deflated(packed: bytes, most: int) -> bytes:
    return zlib.decompressobj(-15).decompress(packed, most + 1)


def _bzipped(packed: bytes, most: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, most + 1)


def _xzipped(packed: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=8 * LARGEST_BLOCK).decompress(packed, most + 1)


def _zstandard(packed: bytes, most: int) -> bytes:
    return bytes(pa.CompressedInputStream(io.BytesIO(packed), "zstd").read(most + 1)) if packed else b""


def _snappy(packed: bytes, most: int) -> bytes:
    size = shift = at = 0  # before the data how many bytes it unpacks to, behind it a checksum of four
    while shift < 35:
        byte = packed[at] if at < len(packed) else 0
        size, at, shift = size | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            break
    if size > most:
        raise Damaged(f"it unpacks to more than {most} bytes")
    plain: bytes = pa.Codec("snappy").decompress(packed[:-4], size, asbytes=True)
    if zlib.crc32(plain) != int.from_bytes(packed[-4:], "big"):
        raise Damaged("its checksum does not fit")
    return plain


CODECS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "null": lambda packed, _: packed,
    "deflate": _deflated,
    "bzip2": _bzipped,
    "xz": _xzipped,
    "zstandard": _zstandard,
    "snappy": _snappy,
}
