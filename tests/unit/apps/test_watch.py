"""What is applied and deployed is read again when it may have changed, and hardly ever else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trilane.apps.watch import Watch
from trilane.clock import SECOND
from trilane.lifecycle.metadata.protocol import DefinitionsRecord, DeploymentRecord
from trilane.lifecycle.metadata.sql import SqlMetadata, open_metadata


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[SqlMetadata]:
    store = open_metadata(f"sqlite://{tmp_path}/metadata.db")
    yield store
    store.close()


def test_news_are_told_once_each(metadata: SqlMetadata) -> None:
    watch = Watch(metadata)
    assert [watch.moved(1), watch.moved(2)] == [True, False]
    metadata.add_definitions(DefinitionsRecord(digest="a", applied_at=7, path="/a", specs=()))
    assert [watch.moved(3), watch.moved(4)] == [True, False]
    metadata.add_deployment(DeploymentRecord(endpoint="e", bundle="x", facts={}, at=3))
    assert [watch.moved(5), watch.moved(6)] == [True, False]


def test_news_that_were_not_taken_are_told_again(metadata: SqlMetadata) -> None:
    watch = Watch(metadata)
    assert watch.moved(1)
    watch.forget()
    assert [watch.moved(2), watch.moved(3)] == [True, False]


def test_now_and_then_all_is_looked_at_without_news(metadata: SqlMetadata) -> None:
    watch = Watch(metadata)
    assert [watch.moved(0), watch.moved(5 * SECOND - 1), watch.moved(5 * SECOND)] == [True, False, True]
