"""The embedded online store keeps the laws of its role."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.stores.online.laws import LAWS, Law
from trilane.stores.online.lmdb import open_store


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_store_keeps_the_law(law: Law, tmp_path: Path) -> None:
    law(lambda: open_store(f"lmdb://{tmp_path / 'online'}"))
