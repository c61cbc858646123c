"""Containers of Avro are unpacked within bounds, and what is none is refused."""

from __future__ import annotations

import contextlib
import io
import zlib
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.errors import ContractError
from trilane.sources.formats.avro import contained
from trilane.sources.formats.container import LARGEST_BLOCK

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [{"name": "id", "type": "string"}, {"name": "x", "type": ["null", "double"]}],
}
ROWS = [{"id": f"e{i}", "x": None if i % 3 else i / 2} for i in range(5_000)]
MARK = b"m" * 16


def _file(schema: dict[str, Any] = SCHEMA, codec: str = "null", *blocks: tuple[int, bytes]) -> bytes:
    """A container of blocks that were packed already."""
    out = io.BytesIO()
    fastavro.writer(out, schema, [], sync_marker=MARK, metadata={})
    whole = out.getvalue().replace(b"\x14avro.codec\x08null", b"\x14avro.codec" + _long(len(codec)) + codec.encode())
    return whole + b"".join(_long(count) + _long(len(data)) + data + MARK for count, data in blocks)


def _long(value: int) -> bytes:
    value, out = value << 1, b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _read(whole: bytes, most: int | None = None) -> list[dict[str, Any]]:
    return list(contained(io.BytesIO(whole), where="f", whole=most))


def _raw() -> bytes:
    out = io.BytesIO()
    for row in ROWS:
        fastavro.schemaless_writer(out, SCHEMA, row)
    return out.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_every_record_of_every_codec_is_read(codec: str) -> None:
    out = io.BytesIO()
    fastavro.writer(out, SCHEMA, ROWS, codec=codec)
    assert _read(out.getvalue()) == ROWS


def test_codecs_that_need_no_package_of_their_own_are_read() -> None:
    raw = _raw()
    checked = pa.Codec("snappy").compress(raw, asbytes=True) + zlib.crc32(raw).to_bytes(4, "big")
    assert _read(_file(SCHEMA, "snappy", (len(ROWS), checked))) == ROWS
    assert _read(_file(SCHEMA, "zstandard", (len(ROWS), pa.Codec("zstd").compress(raw, asbytes=True)))) == ROWS
    with pytest.raises(ContractError, match="block 0 cannot be unpacked: its checksum"):
        _read(_file(SCHEMA, "snappy", (len(ROWS), checked[:-1] + b"!")))


@pytest.mark.parametrize("codec", ["deflate", "zstandard", "snappy"])
def test_a_block_that_unpacks_to_too_much_is_refused(codec: str) -> None:
    zeros = bytes(LARGEST_BLOCK + 1)
    packer = zlib.compressobj(wbits=-15)
    packed = {
        "deflate": packer.compress(zeros) + packer.flush(),
        "zstandard": pa.Codec("zstd").compress(zeros, asbytes=True),
        "snappy": pa.Codec("snappy").compress(zeros, asbytes=True) + b"1234",
    }[codec]
    with pytest.raises(ContractError, match=f"unpacks to more than {LARGEST_BLOCK} bytes"):
        _read(_file(SCHEMA, codec, (1, packed)))


def test_all_blocks_together_have_a_bound_too() -> None:
    raw = _raw()
    whole = _file(SCHEMA, "null", (len(ROWS), raw), (len(ROWS), raw))
    assert _read(whole, 2 * len(raw)) == ROWS * 2
    with pytest.raises(ContractError, match="block 1 unpacks to more than"):
        _read(whole, 2 * len(raw) - 1)


def test_records_and_items_without_bytes_cannot_be_many() -> None:
    empty = {"type": "record", "name": "Nothing", "fields": []}
    with pytest.raises(ContractError, match="records in 0 bytes"):
        _read(_file(empty, "null", (1 << 40, b"")))
    nothings = {
        "type": "record",
        "name": "Event",
        "fields": [{"name": "n", "type": {"type": "array", "items": "null"}}],
    }
    assert _read(_file(nothings, "null", (1, _long(3) + b"\0"))) == [{"n": [None] * 3}]
    for many in (_long(1 << 40) + b"\0", b"\x13\0\0"):
        with pytest.raises(ContractError, match="items without a byte"):
            _read(_file(nothings, "null", (1, many)))


def test_what_is_no_container_is_refused() -> None:
    whole = _file(SCHEMA, "null", (len(ROWS), _raw()))
    for damaged, why in (
        (b"", "does not begin as one"),
        (whole[:20], "ends early"),
        (whole[:-5], "ends early"),
        (whole[:-1] + b"?", "block 0 does not end where it says"),
        (_file(SCHEMA, "lz4", (1, b"x")), "codec 'lz4' is none of"),
        (_file(SCHEMA, "null", (2, b"\x02a\x00")), "sound Avro file"),
        (_file(SCHEMA, "deflate", (1, b"\xff\xff")), "cannot be unpacked"),
    ):
        with pytest.raises(ContractError, match=why):
            _read(damaged)


@given(st.data())
def test_changed_bytes_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(_file(SCHEMA, "null", (3, b"\x02a\x00" * 3)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ContractError):
        _read(bytes(whole))
