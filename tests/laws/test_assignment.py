"""Every assignment keeps the laws of its role: by leases in each online store, and by a Kafka consumer group."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.remote import make_mock_topic
from trilane.clock import WallClock
from trilane.sources.log.assignment import Assignment, Place
from trilane.sources.log.assignment_laws import LAWS, Law, Open
from trilane.stores.online.lmdb import open_store
from trilane.stores.online.protocol import OnlineStore
from trilane.stores.online.sharing import LeaseAssignment, part_of


@pytest.fixture(params=["lmdb", "valkey", "valkey_cluster", "kafka"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Lets members join one group; the writers of partitions are those of a store."""
    stores: list[OnlineStore] = []
    if request.param in ("lmdb", "kafka"):
        store_url = f"lmdb://{tmp_path / 'online'}"
        open_one: Callable[[str], OnlineStore] = open_store
    else:
        pytest.importorskip("hiredis", reason="the package hiredis is not installed")
        from trilane.stores.online.valkey import open_store as open_valkey

        server: str = request.getfixturevalue(request.param)
        store_url = f"{server}{'&' if '?' in server else '?'}prefix=test-{uuid.uuid4().hex}&timeout=5s"
        open_one = open_valkey
    broker = request.getfixturevalue("kafka_mock") if request.param == "kafka" else ""
    prefix = f"test-{uuid.uuid4().hex}."
    for source in ("orders", "visits") if broker else ():
        make_mock_topic(broker, prefix + source)

    def join(member: str) -> tuple[Assignment, Callable[[Place], Callable[[], None]]]:
        store = open_one(store_url)
        stores.append(store)
        assignment: Assignment
        if broker:
            from trilane.sources.log.kafka import open_log

            options = "partitions=4&session.timeout.ms=5000&heartbeat.interval.ms=200"
            assignment = open_log(f"kafka://{broker}?prefix={prefix}&{options}").assignment(member, static=False)
        else:
            assignment = LeaseAssignment(store, "nearline", member, WallClock(), look=0)
        return assignment, lambda place: store.writer("nearline", part_of(place), holder=member).close

    yield join
    for store in stores:
        with contextlib.suppress(Exception):
            store.close()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_assignment_keeps_the_law(law: Law, opened: Open) -> None:
    law(opened)
