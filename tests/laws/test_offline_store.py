"""The embedded warehouse keeps the promises of its role."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.plugins import open_adapter
from trilane.stores.offline import laws
from trilane.stores.offline.duckdb import DuckdbWarehouse


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_the_duckdb_warehouse_keeps(law: laws.Law, tmp_path: Path) -> None:
    warehouse = open_adapter("offline_stores", f"duckdb://{tmp_path / 'ware house'}")
    assert isinstance(warehouse, DuckdbWarehouse)
    law(warehouse)
