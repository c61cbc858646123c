"""The peer of `bench_features`, run in Feast's environment: a Feast repository with the same features, filled by Feast.

`python feast_peer.py FOLDER TABLE` applies the definitions below to the repository whose settings are in FOLDER, and
writes the rows of the table to its online store; then `feast serve` there answers.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType


def main(folder: str, table: str) -> None:
    """Fills the repository in `folder`."""
    store = FeatureStore(repo_path=folder)
    rows = pd.read_parquet(table)
    names = [name for name in rows.columns if name.startswith("v")]
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    source = FileSource(path=table, timestamp_field="known_at")
    views = []
    for view in sorted({name[:2] for name in names}):
        own = [name for name in names if name.startswith(view)]
        fields = [Field(name=name, dtype=Float64) for name in own]
        views.append(FeatureView(name=view, entities=[customer], ttl=timedelta(0), schema=fields, source=source))
    store.apply([customer, *views, FeatureService(name="fifty", features=views)])
    for view in views:
        own = [name for name in names if name.startswith(view.name)]
        store.write_to_online_store(view.name, df=rows[["customer_id", "known_at", *own]])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
