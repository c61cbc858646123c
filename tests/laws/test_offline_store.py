"""The warehouses keep the promises of their role."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.plugins import open_adapter
from trilane.stores.offline import laws
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.stores.offline.spark import SparkWarehouse


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_the_duckdb_warehouse_keeps(law: laws.Law, tmp_path: Path) -> None:
    warehouse = open_adapter("offline_stores", f"duckdb://{tmp_path / 'ware house'}")
    assert isinstance(warehouse, DuckdbWarehouse)
    law(warehouse)


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_the_spark_warehouse_keeps(law: laws.Law, tmp_path: Path) -> None:
    warehouse = open_adapter("offline_stores", f"spark://{tmp_path / 'ware house'}?master=local[1]")
    assert isinstance(warehouse, SparkWarehouse)
    law(warehouse)
