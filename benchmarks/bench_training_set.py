"""How long does a training set take, beside the best SQL for the same values, and beside Feast's file offline store?

Rows of a spine ask for 10 windowed features (counts, sums and means over 15 minutes, an hour and a day, a count over a
week) of a month of events. The SQL is DuckDB's, on the same Parquet files: one sort of events and window ends together,
running sums over it, and their differences; its values must be equal. Feast does the part that it can, the latest
values as of each row, on as many as its merge of all events of a key has room for. Each run is a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import BENCH, Result, arguments, environment, report

import trilane as tl
from trilane.clock import SECOND, duration, instant
from trilane.errors import ContractError, SetupError
from trilane.features.aggregation import Aggregation
from trilane.features.plan import FeaturePlan
from trilane.features.window import Window
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.training import values_at

START, SPAN = instant("2026-01-01T00:00:00Z"), duration("30d")
KEYS, LAG, BATCH = 20_000, 2 * SECOND, 10 * SECOND
MEMORY = "512MiB"  # of the engine: what does not fit is spilled, so that more events need no more memory
FEAST = "feast[redis]==0.67.*"
WINDOWS = ("15m", "1h", "1d", "7d")
FEATURES: dict[str, Aggregation] = {"n_7d": tl.count(window="7d")}
for _window in WINDOWS[:3]:
    FEATURES[f"n_{_window}"] = tl.count(window=_window)
    FEATURES[f"sum_{_window}"] = tl.sum("x", window=_window)
    FEATURES[f"mean_{_window}"] = tl.mean("x", window=_window)
SOURCE = tl.EventSource(
    "paid",
    schema={"id": tl.Int64, "t": tl.Timestamp, "k": tl.String, "x": tl.Float64},
    event_time="t",
    event_id="id",
)
CARD = tl.Entity("card", k=tl.String)


@tl.nearline(SOURCE, CARD, freshness="60s", features=FEATURES)
def windowed(paid):  # type: ignore[no-untyped-def]
    return paid


@tl.nearline(SOURCE, CARD, freshness="60s", features={"x": tl.last("x", window="lifetime")})
def latest(paid):  # type: ignore[no-untyped-def]
    return paid


def make(events: int, asks: int) -> Path:
    """A warehouse of `events`, with the records of a worker that lags a little, and a table of `asks`; made once."""
    folder = BENCH / "training_set" / f"{events}-{asks}"
    if (folder / "made").exists():
        return folder
    chance = np.random.default_rng(1)
    warehouse = DuckdbWarehouse(folder / "warehouse")
    times = START + np.sort(chance.integers(0, SPAN, events))
    for first in range(warehouse.archived(SOURCE, 0), events, 500_000):
        part = times[first : first + 500_000]
        table = pa.table(
            {
                "id": np.arange(first, first + len(part)),
                "t": pa.array(part, pa.timestamp("us", "UTC")),
                "k": _keys(chance, len(part)),
                "x": chance.integers(1, 10_000, len(part)).astype(float),  # their sums are exact in SQL, too
                "_arrived_at": part + LAG,
                "_offset": np.arange(first, first + len(part)),
                "_late": np.zeros(len(part), bool),
            }
        )
        last = first + len(part) - 1
        warehouse.append_events(SOURCE, table, partition=0, first=first, last=last, newest=int(part[-1]))
    commits = np.arange(START, START + SPAN + 2 * BATCH, BATCH)
    records = {"born": np.full(len(commits), START), "number": np.arange(len(commits)), "at": commits}
    records |= {"end": np.searchsorted(times + LAG, commits), "moment": commits, "caught_up": commits, "last": commits}
    warehouse.keep("visibility/paid/0", pa.table(records))
    asked = pa.array(START + chance.integers(0, SPAN, asks), pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"k": _keys(chance, asks), "t": asked}), folder / "asks.parquet")
    (folder / "made").touch()
    return folder


def _keys(chance: np.random.Generator, size: int) -> pa.Array:
    """Cards of a Zipf law."""
    weights = np.cumsum(1 / np.arange(1, KEYS + 1) ** 0.8)
    numbers = np.searchsorted(weights, chance.random(size) * weights[-1])
    return pa.array(np.char.add("card", numbers.astype(str)))


# -- one run, in a process of its own -------------------------------------------------------------------------------


def trilane(folder: Path, name: str) -> np.ndarray:
    """Our values."""
    plan = FeaturePlan.of([latest if name == "latest" else windowed], where="bench")
    asks = pq.ParquetFile(folder / "asks.parquet").read()
    training = "as_served" if name == "as_served" else "ideal"
    warehouse = DuckdbWarehouse(folder / "warehouse")
    place = {"warehouse": warehouse, "root": folder, "memory_limit": MEMORY}
    return values_at(plan, asks, event_time="t", training=training, **place)  # type: ignore[arg-type]


def sql(folder: Path) -> np.ndarray:
    """The same by hand: events and the ends of all windows in one order, running sums, differences."""
    windows = [Window.of(text) for text in WINDOWS]
    ends = ["t", *(f"(t - {w.length}) // {w.hop} * {w.hop}" for w in windows)]
    probes = " UNION ALL ".join(f"SELECT k, {end}, 0.0::DOUBLE, 0, i, {w} FROM a" for w, end in enumerate(ends))
    each = range(len(ends))
    picked = ", ".join(f"max(s) FILTER (w = {w}) AS s{w}, max(c) FILTER (w = {w}) AS c{w}" for w in each)
    answers = {"n_7d": "c0 - c4"}
    for w, text in enumerate(WINDOWS[:3], 1):
        answers |= {f"n_{text}": f"c0 - c{w}", f"sum_{text}": f"CASE WHEN c0 > c{w} THEN s0 - s{w} END"}
        answers[f"mean_{text}"] = f"CASE WHEN c0 > c{w} THEN (s0 - s{w}) / (c0 - c{w}) END"
    chosen = ", ".join(f"({answers[name]})::DOUBLE AS {name}" for name in FEATURES)
    files = f"read_parquet('{folder}/warehouse/events/paid/*.parquet')"
    with DuckdbWarehouse(folder / "warehouse").connect() as connection:
        table = connection.query(
            f"WITH keys AS MATERIALIZED (SELECT k AS name, row_number() OVER () AS k FROM "
            f"(SELECT DISTINCT k FROM read_parquet('{folder}/asks.parquet'))), "
            f"a AS MATERIALIZED (SELECT keys.k, epoch_us(t) AS t, i "
            f"FROM (SELECT k AS name, t, row_number() OVER () AS i FROM read_parquet('{folder}/asks.parquet')) "
            f"JOIN keys USING (name)), "
            f"u AS (SELECT keys.k, epoch_us(t) AS t, x, 1 AS n, NULL::BIGINT AS i, NULL::INTEGER AS w FROM {files} e "
            f"JOIN keys ON e.k = keys.name WHERE NOT _late UNION ALL {probes}), "
            f"c AS (SELECT i, w, sum(x) OVER o AS s, sum(n) OVER o AS c FROM u "
            f"WINDOW o AS (PARTITION BY k ORDER BY t, n ROWS UNBOUNDED PRECEDING)), "
            f"g AS (SELECT i, {picked} FROM c WHERE i IS NOT NULL GROUP BY i) SELECT {chosen} FROM g ORDER BY i"
        ).to_arrow_table()
    return np.stack([column.to_numpy() for column in table.columns], axis=1)


_FEAST = """
import sys, time
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType
folder = sys.argv[1]
store = FeatureStore(config=RepoConfig(registry=folder + "/registry.db", project="bench", provider="local",
    online_store=None, offline_store={"type": "file"}, entity_key_serialization_version=3))
card = Entity(name="k", join_keys=["k"], value_type=ValueType.STRING)
source = FileSource(path=folder + "/feast.parquet", timestamp_field="t")
schema = [Field(name="x", dtype=Float64)]
view = FeatureView(name="latest", entities=[card], ttl=timedelta(0), schema=schema, source=source)
store.apply([card, view])
asks = pd.read_parquet(folder + "/asks.parquet").rename(columns={"t": "event_timestamp"})
began = time.perf_counter()
found = store.get_historical_features(entity_df=asks, features=["latest:x"]).to_df()
print("SECONDS", time.perf_counter() - began, len(found))
"""


def one(name: str, folder: Path) -> None:
    """Runs one work and tells seconds and peak memory."""
    began = time.perf_counter()
    values = sql(folder) if name == "sql" else trilane(folder, name)
    seconds = time.perf_counter() - began
    np.save(folder / f"{name}.npy", values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    sys.stdout.write(json.dumps({"seconds": seconds, "mib": peak}) + "\n")


def run(name: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of one work in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SetupError(f"{name} failed: {done.stderr[-1_000:]}", where=str(folder))
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["mib"]


def run_feast(folder: Path) -> float:
    """Seconds of Feast's as-of join of the same events and asks."""
    if not (folder / "feast.parquet").exists():
        files = sorted((folder / "warehouse" / "events" / "paid").glob("*.parquet"))
        pq.write_table(pq.read_table(files, columns=["k", "t", "x"]), folder / "feast.parquet")
    python = environment("feast", FEAST)
    done = subprocess.run([python, "-c", _FEAST, str(folder)], capture_output=True, text=True, check=False)
    line = [row for row in done.stdout.splitlines() if row.startswith("SECONDS")]
    if done.returncode or not line:
        raise SetupError(f"Feast failed: {done.stderr[-1_500:]}", where=str(folder))
    return float(line[0].split()[1])


def check(folder: Path) -> None:
    """Raises ContractError unless the values of both are equal."""
    ours, theirs = np.load(folder / "ideal.npy"), np.load(folder / "sql.npy")
    if not np.array_equal(ours, theirs, equal_nan=True):
        raise ContractError(f"{int((ours != theirs).sum())} values differ from those of the SQL", where=str(folder))


def measure(events: int, asks: int, *, rounds: int) -> list[Result]:
    """All works, one after the other, `rounds` times."""
    folder, doubled, small = make(events, asks), make(2 * events, asks), make(200_000, 20_000)
    found: dict[str, list[tuple[float, float]]] = {"sql": [], "ideal": [], "as_served": [], "doubled": []}
    feast = []
    for _ in range(rounds):
        for name in ("sql", "ideal", "as_served"):
            found[name].append(run(name, folder))
        found["doubled"].append(run("ideal", doubled))
        feast.append((run("latest", small)[0], run_feast(small)))
    check(folder)
    work = f"{asks:,} rows x {events:,} events x {len(FEATURES)} features"
    seconds = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    memory = {name: [pair[1] for pair in pairs] for name, pairs in found.items()}

    def line(work: str, metric: str, unit: str, peer: str, pairs: list[tuple[float, float]]) -> Result:
        return Result.of("training_set", work, metric, unit, peer=peer, pairs=pairs, more_is_better=False)

    def pairs(kind: dict[str, list[float]], ours: str, peer: str) -> list[tuple[float, float]]:
        return list(zip(kind[ours], kind[peer], strict=True))

    return [
        line(work, "time", "s", "DuckDB SQL", pairs(seconds, "ideal", "sql")),
        line(work, "peak memory", "MiB", "DuckDB SQL", pairs(memory, "ideal", "sql")),
        line(f"{work}, as served", "time", "s", "ideal", pairs(seconds, "as_served", "ideal")),
        line(f"{work}, as served", "peak memory", "MiB", "ideal", pairs(memory, "as_served", "ideal")),
        line(f"{work}, events doubled", "peak memory", "MiB", "not doubled", pairs(memory, "doubled", "ideal")),
        line("20,000 rows x 200,000 events, latest value", "time", "s", "Feast file store", feast),
    ]


def main() -> None:
    """Measures and reports."""
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]))
        return
    options = arguments(__doc__ or "")
    size = (1_000_000, 50_000) if options.quick else (10_000_000, 500_000)
    results = measure(*size, rounds=2 if options.quick else 3)
    report("A training set of windowed features, on all cores", results, as_json=options.json)


if __name__ == "__main__":
    main()
