"""A model of 200 trees over fifty numbers that a request brings: what the benchmarks of serving have in common."""

from __future__ import annotations

from typing import Any

import trilane as tl

COLUMNS = {f"x{i:02}": tl.Float64 for i in range(50)}

past = tl.TableSource(
    "past",
    schema={**COLUMNS, "known_at": tl.Timestamp, "label": tl.Float64},
    path="past.parquet",
    event_time="known_at",
)


@tl.request(inputs=COLUMNS, features=COLUMNS)
def numbers(rows: Any) -> Any:
    return rows


def train(training_set: Any) -> Any:
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(n_estimators=200, num_leaves=31, verbose=-1, n_jobs=1, seed=7, deterministic=True)
    return model.fit(training_set.matrix, training_set.label)


trees = tl.Model("trees", features=[numbers], spine=past, label="label", train=train)
score = tl.Endpoint("score", model=trees, deadline="1s")
