"""A shop without an apps layer: real stores in a temporary folder, lanes that are stepped by hand, and its readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.shop import DEFINITIONS, T0
from trilane.apps.definitions import Definitions, load_definitions
from trilane.clock import SimulatedClock
from trilane.features.plan import FeaturePlan, Selection
from trilane.features.view import View
from trilane.lanes.batch.archive import archive
from trilane.lanes.batch.materialize import materialize
from trilane.lanes.nearline import Consumer, Tools
from trilane.serving.reading import FeatureReader, Reading
from trilane.sources.dead_letters import DeadLetters
from trilane.sources.log.sqlite import SqliteLog
from trilane.stores.offline.duckdb import DuckdbMicroBatch, DuckdbWarehouse
from trilane.stores.online.lmdb import LmdbStore
from trilane.stores.online.protocol import Writer
from trilane.stores.online.versions import Version


@dataclass
class Shop:
    """The stores of one test; `definitions` are shared, for compiling transforms takes the longest."""

    folder: Path
    definitions: Definitions
    clock: SimulatedClock = field(default_factory=lambda: SimulatedClock(T0))

    def __post_init__(self) -> None:
        self.log = SqliteLog(self.folder / "log")
        self.store = LmdbStore(self.folder / "online", map_size=1 << 24)
        self.warehouse = DuckdbWarehouse(self.folder / "warehouse")
        self.letters = DeadLetters(self.folder / "letters.db")
        self._writers: dict[str, Writer] = {}

    def view(self, name: str) -> View:
        return self.definitions.views[name]

    def deliver(self, *events: bytes) -> None:
        self.log.append("orders", 0, list(events), self.clock.now())

    def writer(self, region: str) -> Writer:
        if region not in self._writers:
            self._writers[region] = self.store.writer(region)
        return self._writers[region]

    def run_nearline(self, *views: View, group: str = "") -> None:
        tools = Tools(
            log=self.log,
            writer=self.writer("nearline"),
            engine=DuckdbMicroBatch(),
            dead_letters=self.letters,
            clock=self.clock,
        )
        source = self.definitions.sources["orders"]
        consumer = Consumer(source, 0, views or [self.view("shop_now")], tools, group=group)
        while consumer.step().read:
            pass

    def land(self, boundary: int, *, view: View | None = None) -> Version | None:
        archive(self.log, self.warehouse, self.definitions.sources["orders"])
        return materialize(
            view or self.view("shop_daily"),
            boundary,
            warehouse=self.warehouse,
            root=self.folder,
            writer=self.writer("batch"),
        )

    def reader(self, *features: Selection) -> FeatureReader:
        plan = FeaturePlan.of(features, where="test") if features else self.definitions.models["big"].plan
        return FeatureReader(plan, self.store)

    def rows(self, *shops: str | None, basket: float = 10.0) -> list[msgspec.Struct]:
        kind = self.definitions.endpoints["is_big"].contract.struct
        return [kind(shop=shop, basket=basket) for shop in shops]

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self.store.close()
        self.log.close()
        self.letters.close()


def column(reader: FeatureReader, reading: Reading, name: str, part: str = "values") -> list[Any]:
    """One column of a reading; NaN as None."""
    values = getattr(reading, part)[:, reader.plan.names.index(name)].tolist()
    return [None if value != value else value for value in values]  # noqa: PLR0124


def same_bits(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> bool:
    """Whether two arrays of floats are equal to the last bit; all NaN are one."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return np.where(np.isnan(a), np.nan, a).tobytes() == np.where(np.isnan(b), np.nan, b).tobytes()


@pytest.fixture(scope="session")
def shop_definitions(tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    path = tmp_path_factory.mktemp("shop") / "definitions.py"
    path.write_text(DEFINITIONS)
    return load_definitions(path)


@pytest.fixture
def shop(tmp_path: Path, shop_definitions: Definitions) -> Iterator[Shop]:
    found = Shop(tmp_path, shop_definitions)
    yield found
    found.close()
