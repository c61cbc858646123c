"""Every metadata store keeps the laws of its role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trilane.lifecycle.metadata.laws import LAWS, Law
from trilane.lifecycle.metadata.protocol import MetadataStore
from trilane.lifecycle.metadata.sql import open_metadata


@pytest.fixture(params=["sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MetadataStore]:
    opened = open_metadata(f"sqlite://{tmp_path}/state/metadata.db")
    yield opened
    opened.close()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_metadata_store_keeps_the_law(law: Law, store: MetadataStore) -> None:
    law(store)
