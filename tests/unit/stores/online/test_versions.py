"""A landing is seen whole or not at all, and leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from trilane.errors import DefinitionError
from trilane.stores.online import OnlineStore, Writer
from trilane.stores.online.lmdb import open_store
from trilane.stores.online.versions import Version, land, versions, visible

Row = tuple[bytes, bytes]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OnlineStore]:
    with contextlib.closing(open_store(f"lmdb://{tmp_path}")) as opened:
        yield opened


@pytest.fixture
def writer(store: OnlineStore) -> Iterator[Writer]:
    with contextlib.closing(store.writer("batch")) as opened:
        yield opened


def _land(writer: Writer, boundary: int, rows: list[Row], keep: int = 3) -> Version | None:
    return land(writer, "daily", boundary=boundary, visible_from=boundary + 5, rows=rows, keep=keep)


def _failing_rows() -> Iterator[Row]:
    for n in range(25_000):
        yield b"%d" % n, b"half"
    raise ConnectionError


def test_before_the_first_landing_there_is_no_version(store: OnlineStore) -> None:
    assert versions(store, "daily") == ()
    assert visible((), 10**18) is None


def test_a_landing_is_read_through_its_version(store: OnlineStore, writer: Writer) -> None:
    rows = [(b"%05d" % n, b"%d" % n) for n in range(45_000)]
    landed = _land(writer, 10, rows)
    assert landed is not None
    assert versions(store, "daily") == (landed,)
    assert (landed.boundary, landed.visible_from, landed.rows) == (10, 15, 45_000)
    assert list(store.scan(landed.space)) == rows
    assert versions(store, "weekly") == ()


def test_the_latest_visible_version_is_the_one_to_serve(store: OnlineStore, writer: Writer) -> None:
    for boundary in (20, 10, 30):
        _land(writer, boundary, [(b"a", b"1")])
    found = versions(store, "daily")
    assert [version.boundary for version in found] == [10, 20, 30]
    served = {at: visible(found, at) for at in (14, 15, 24, 25, 1_000)}
    assert {at: one and one.boundary for at, one in served.items()} == {
        14: None,
        15: 10,
        24: 10,
        25: 20,
        1_000: 30,
    }


def test_the_latest_boundaries_are_kept(store: OnlineStore, writer: Writer) -> None:
    landed = [_land(writer, boundary, [(b"a", b"%d" % boundary)]) for boundary in range(5)]
    assert [version.boundary for version in versions(store, "daily")] == [2, 3, 4]
    assert landed[0] is not None
    assert list(store.scan(landed[0].space)) == []


def test_a_boundary_before_all_kept_ones_is_not_landed(store: OnlineStore, writer: Writer) -> None:
    for boundary in (10, 20):
        _land(writer, boundary, [(b"a", b"1")], keep=2)
    before = versions(store, "daily")
    assert land(writer, "daily", boundary=5, visible_from=5, rows=_failing_rows(), keep=2) is None
    assert versions(store, "daily") == before


def test_landing_a_boundary_again_replaces_it(store: OnlineStore, writer: Writer) -> None:
    old = _land(writer, 10, [(b"a", b"old"), (b"b", b"old")])
    new = _land(writer, 10, [(b"a", b"new")])
    assert versions(store, "daily") == (new,)
    assert old is not None
    assert new is not None
    assert list(store.scan(new.space)) == [(b"a", b"new")]
    assert list(store.scan(old.space)) != [], "readers may still hold the old list"
    _land(writer, 20, [])
    assert list(store.scan(old.space)) == []


def test_a_load_that_raises_leaves_the_old_version_and_no_rows(store: OnlineStore, writer: Writer) -> None:
    first = _land(writer, 10, [(b"a", b"1")])
    with pytest.raises(ConnectionError):
        land(writer, "daily", boundary=10, visible_from=0, rows=_failing_rows())
    assert versions(store, "daily") == (first,)
    assert first is not None
    failed = f"{first.space.removesuffix('0')}1"
    assert len(list(store.scan(failed))) == 20_000, "the transaction that landed before the failure"
    second = _land(writer, 20, [(b"a", b"2")])
    assert versions(store, "daily") == (first, second)
    assert list(store.scan(failed)) == []


def test_a_store_that_lost_its_memory_gives_a_version_a_name_that_it_never_had(tmp_path: Path) -> None:
    spaces = set()
    for life in range(3):
        with contextlib.closing(open_store(f"lmdb://{tmp_path / str(life)}")) as store:
            landed = _land(store.writer("batch"), 10, [(b"a", b"%d" % life)])
            assert landed is not None
            spaces.add(landed.space)
    assert len(spaces) == 3


def test_an_empty_load_is_a_version(store: OnlineStore, writer: Writer) -> None:
    landed = _land(writer, 10, [])
    assert landed is not None
    assert landed.rows == 0
    assert versions(store, "daily") == (landed,)


def test_keeping_no_version_is_refused(writer: Writer) -> None:
    with pytest.raises(DefinitionError, match="keep=1 or more"):
        _land(writer, 10, [], keep=0)


def test_versions_land_in_their_own_region_only(store: OnlineStore) -> None:
    stranger = store.writer("nearline")
    with pytest.raises(DefinitionError, match="not in region 'nearline'"):
        _land(stranger, 10, [])
    stranger.close()
