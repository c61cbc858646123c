"""Every online store keeps the laws of its role: the embedded one, a Valkey server, and a cluster of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from trilane.stores.online.laws import LAWS, Law
from trilane.stores.online.lmdb import open_store
from trilane.stores.online.protocol import OnlineStore

Open = Callable[[], OnlineStore]


@pytest.fixture(params=["lmdb", "valkey", "valkey_cluster"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store, empty at first, as often as it is called."""
    if request.param == "lmdb":
        return lambda: open_store(f"lmdb://{tmp_path / 'online'}")
    pytest.importorskip("hiredis", reason="the package hiredis is not installed")
    from trilane.stores.online.valkey import open_store as open_valkey

    server: str = request.getfixturevalue(request.param)
    url = f"{server}{'&' if '?' in server else '?'}prefix=test-{uuid.uuid4().hex}&timeout=5s"
    return lambda: open_valkey(url)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_store_keeps_the_law(law: Law, opened: Open) -> None:
    law(opened)
