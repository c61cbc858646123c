"""Compressed bodies, in both directions."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.apps.server.coding import coding_for, compressed, inflated, inflated_later
from trilane.apps.server.limits import LARGEST_BODY
from trilane.errors import ContractError


@given(st.binary(max_size=500), st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_is_inflated_to_itself(body: bytes, coding: str) -> None:
    assert inflated(compressed(body, coding), coding) == body


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "x-gzip", "identity", "br", ""]))
def test_any_bytes_in_any_coding_are_inflated_or_refused(body: bytes, coding: str) -> None:
    try:
        inflated(body, coding)
    except ContractError as error:
        assert error.facts["status"] in (400, 413, 415)  # noqa: PT017 - either way is right


def test_a_body_may_be_as_large_as_any_and_not_a_byte_larger() -> None:
    assert len(inflated(gzip.compress(b"0" * LARGEST_BODY), "gzip")) == LARGEST_BODY
    for body, coding in (
        (gzip.compress(b"0" * (LARGEST_BODY + 1)), "gzip"),
        (zlib.compress(b"0" * (1 << 28)), "deflate"),
    ):
        with pytest.raises(ContractError, match="inflates") as told:
            inflated(body, coding)
        assert told.value.facts["status"] == 413


@pytest.mark.parametrize(
    ("accept", "size", "text", "coding"),
    [
        ("gzip", 10, False, "gzip"),
        ("deflate", 10, True, "deflate"),
        ("gzip, deflate, br", 10, True, ""),
        ("gzip, deflate, br", 1 << 20, True, "gzip"),
        ("gzip, deflate, br", 1 << 20, False, ""),
        ("gzip;q=0, deflate", 1 << 20, True, "deflate"),
        ("br", 1 << 20, True, ""),
        ("*", 1 << 20, True, ""),
        ("", 1 << 20, True, ""),
    ],
)
def test_who_asks_for_one_coding_gets_it_and_who_takes_several_where_it_pays(
    accept: str, size: int, text: bool, coding: str
) -> None:
    assert coding_for(accept, size, text=text) == coding


def test_bodies_that_become_large_wait_for_each_other_and_are_told_as_others_are() -> None:
    sizes = [10, 65_536, 65_537, 1 << 20, LARGEST_BODY, LARGEST_BODY + 1] * 3

    async def one(size: int) -> int:
        try:
            return len(await inflated_later(gzip.compress(b"0" * size), "gzip"))
        except ContractError as error:
            return int(str(error.facts["status"]))

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*map(one, sizes))

    for _ in range(2):  # each in a loop of its own
        assert asyncio.run(all_of_them()) == [413 if size > LARGEST_BODY else size for size in sizes]
