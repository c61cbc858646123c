"""How long does a read of windowed features take, by rows, views and tiles?

In process, from LMDB, at random keys, with nothing cached: the store read, the decoding and the merge of every tile,
four aggregations in each view. A window of 13, 30 or 59 days at a hop of a day is merged from 14, 31 or 60 tiles. The
peer does the obvious on the same rows of the same store: key by key and view by view, it looks at the row as a NumPy
array and sums the records that lie in the window. It reads neither how far the lane is nor tells statuses and ages, and
so has the better of it where there are few rows to share that work. Both give the same values, which is checked first.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from harness import Result, arguments, report

import trilane as tl
from trilane.contract import Contract
from trilane.features.entity import encode_key
from trilane.features.plan import FeaturePlan
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View
from trilane.lanes import progress
from trilane.serving.reading import FeatureReader
from trilane.stores.online.lmdb import LmdbStore

DAY = 86_400_000_000
NOW = 20_000 * DAY + DAY // 2
KEYS, DAYS = 2_000, 62
ROWS, VIEWS, TILES = (1, 10, 100, 500), (1, 5, 15), (14, 31, 60)
PEER = "NumPy, row by row"


class Payment:
    payment_id: tl.String
    card: tl.Int64
    at: tl.Timestamp
    amount: tl.Float64


SOURCE = tl.EventSource("payments", schema=Payment, event_time="at", event_id="payment_id")
CARD = tl.Entity("card", card=tl.Int64)


def view_of(number: int, tiles: int) -> View:
    """A view whose one window has this many tiles."""

    def function(payments: Any) -> Any:
        return payments

    function.__name__ = f"view_{number}"
    window = f"{tiles - 1}d"
    features = {"n": tl.count(window=window)} | {op: getattr(tl, op)("amount", window=window) for op in ("sum", "mean")}
    features["max"] = tl.max("amount", window=window)
    return tl.nearline(SOURCE, CARD, freshness="1h", features=features)(function)


def fill(store: LmdbStore, views: Sequence[View]) -> None:
    """One event of each key on each day, in each view, and a lane that is up to date."""
    chance = np.random.default_rng(7)
    codes = np.repeat(np.arange(KEYS), DAYS)
    times = NOW - np.tile(np.arange(DAYS), KEYS) * DAY - 1
    keys = [encode_key((number,)) or b"" for number in range(KEYS)]
    writer = store.writer("nearline")
    with writer.transaction() as changes:
        for view in views:
            layout = TileLayout(view)
            amounts = chance.uniform(0, 100, len(codes)).round(2)
            events = Events(codes, times, {"amount": (amounts, np.ones(len(codes), bool))})
            tiles = layout.tiles(events)
            rows = layout.merge([None] * KEYS, *tiles, newest=NOW, slack=0)
            changes.put(view.space, zip(keys, rows, strict=True))
        spaces = tuple(view.space for view in views)
        row = progress.encode(progress.Progress(offset=1, newest=NOW, caught_up_at=NOW, spaces=spaces))
        changes.put(progress.LANES, [(progress.lane_key(SOURCE.name, 0), row)])
    writer.close()


class ByRow:
    """The peer: a loop over the views and the keys, with NumPy for the tiles of each row."""

    def __init__(self, store: LmdbStore, views: Sequence[View]) -> None:
        self._store = store
        self._views = [(view, TileLayout(view)) for view in views]

    def read(self, cards: Sequence[int]) -> np.ndarray:
        keys = [encode_key((card,)) or b"" for card in cards]
        found = self._store.read([(view.space, keys) for view, _ in self._views])
        answers = np.full((len(cards), 4 * len(self._views)), np.nan)
        for place, ((_, layout), rows) in enumerate(zip(self._views, found, strict=True)):
            window = layout.windows[0]
            first, last = window.left(NOW) // DAY, -(-NOW // DAY)
            for number, row in enumerate(rows):
                records = np.frombuffer(row or b"", layout.record)
                records = records[(records["slot"] >= first) & (records["slot"] < last)]
                answers[number, 4 * place : 4 * place + 4] = self._answer(records)
        return answers

    def _answer(self, records: np.ndarray) -> tuple[float, ...]:
        words = records["words"].sum(axis=0).tolist()  # the events, the values, and the sum's whole part
        limbs = records["limbs"].sum(axis=0, dtype=np.int64).tolist()
        exact = words[2]
        for limb in limbs:
            exact = (exact << 32) + limb
        total = exact / (1 << 96)
        largest = float(records[(records.dtype.names or ())[-1]].max())
        return words[0], total, total / words[1], largest


def requests(rows: int, seed: int) -> Iterator[list[int]]:
    chance = np.random.default_rng(seed)
    while True:
        yield chance.choice(KEYS, rows, replace=False).tolist()


def timed(ask: Callable[[list[int]], object], rows: int, seed: int, seconds: float) -> tuple[float, float]:
    """Milliseconds of one read: the median and the 99th percentile."""
    taken: list[float] = []
    drawn = requests(rows, seed)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 20:
        cards = next(drawn)
        began = time.perf_counter()
        ask(cards)
        taken.append((time.perf_counter() - began) * 1e3)
    return float(np.percentile(taken, 50)), float(np.percentile(taken, 99))


def compare(
    store: LmdbStore, views: Sequence[View], rows: int, work: str, options: Mapping[str, float]
) -> list[Result]:
    plan = FeaturePlan.of(views, where="bench")
    reader, peer = FeatureReader(plan, store, cache=0), ByRow(store, views)
    kind: type[msgspec.Struct] = Contract("ask", plan.inputs).struct

    def ours(cards: list[int]) -> np.ndarray:
        return reader.read([kind(card=card) for card in cards], NOW).values

    sample = next(requests(min(rows, 50), 1))
    np.testing.assert_allclose(ours(sample), peer.read(sample), rtol=1e-15)
    pairs = [
        (timed(ours, rows, number, options["seconds"]), timed(peer.read, rows, number, options["seconds"]))
        for number in range(int(options["pairs"]))
    ]
    return [
        Result.of(
            "windows",
            work,
            metric,
            "ms",
            peer=PEER,
            pairs=[(mine[place], theirs[place]) for mine, theirs in pairs],
            more_is_better=False,
        )
        for place, metric in enumerate(("p50", "p99"))
    ]


def main() -> None:
    options = arguments(__doc__ or "")
    effort = {"seconds": 0.06, "pairs": 2} if options.quick else {"seconds": 1.0, "pairs": 5}
    folder = Path(tempfile.mkdtemp())
    results: list[Result] = []
    try:
        for tiles in TILES:
            views = [view_of(number, tiles) for number in range(max(VIEWS))]
            store = LmdbStore(folder / str(tiles), map_size=1 << 30)
            fill(store, views)
            for count in VIEWS:
                for rows in ROWS:
                    work = f"{rows} rows x {count} views x {tiles} tiles"
                    results += compare(store, views[:count], rows, work, effort)
            store.close()
    finally:
        shutil.rmtree(folder)
    report("Reads of windows", results, as_json=options.json)


if __name__ == "__main__":
    main()
