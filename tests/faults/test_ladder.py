"""A store that hangs, comes late or is cut off under an endpoint with a ladder: who waits, who answers."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import trilane as tl
from tests.proxy import Proxy, proxy
from tests.remote import Server, valkey_server
from tests.servers import until
from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps.control import Scheduler
from trilane.apps.project import Project
from trilane.apps.server.breakers import Breakers
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.models.signature import Matrix, Scores, Signature
from trilane.serving.degradation import RUNGS, Rung
from trilane.serving.endpoint import Endpoint
from trilane.serving.engine import Answers, Engine
from trilane.serving.metrics import Metrics
from trilane.serving.reading import FeatureReader
from trilane.stores.online.hedging import Hedging
from trilane.stores.online.protocol import OnlineStore

pytest.importorskip("hiredis", reason="the package hiredis is not installed")

NOW = T0 + 36 * 60 * MINUTE


class Sum:
    """A runtime that adds up what it is given."""

    signature = Signature.of(["x"])

    def predict(self, matrix: Matrix) -> Scores:
        return np.asarray(np.nansum(matrix, axis=1), np.float64)

    def close(self) -> None:
        """There is nothing to close."""


class Counted:
    """A store that counts the reads that come to it."""

    def __init__(self, store: OnlineStore) -> None:
        self._store, self.reads = store, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def read(self, requests: object, *, within: float = math.inf) -> object:
        self.reads += 1
        return self._store.read(requests, within=within)  # type: ignore[arg-type]


class Answering:
    """Two endpoints of a filled project whose store is guarded as a server guards it."""

    def __init__(self, project: Project) -> None:
        append(
            project,
            [event(n, shop="abc"[n % 3], at=NOW - 60_000_000 + n, amount=2.0) for n in range(60)],
            arrived_at=NOW,
        )
        with contextlib.closing(Worker(project)) as worker:
            until(lambda: not worker.step() and project.log.end("orders", 0) in worker.offsets.values(), "the lane")
        Scheduler(project).step(0.0)
        self.metrics = Metrics(shared=False)
        self.breakers = Breakers(self.metrics)
        self.store = Counted(project.online)
        project.online = self.store  # type: ignore[assignment]
        self.breakers.guard(project)
        model = project.definitions.models["big"]
        ladders: dict[str, list[Rung]] = {
            "strict": [tl.stale(max_age="1h"), tl.constant(0.25)],
            "lax": [tl.constant(0.5)],
        }
        self.engines = {
            name: Engine(
                Endpoint(name, model=model, deadline="1s", fallback=ladder),
                bundle=name,
                reader=FeatureReader(model.plan, project.online, cache=0),
                runtime=Sum(),
            )
            for name, ladder in ladders.items()
        }

    def ask(self, name: str = "strict", *shops: str) -> Answers:
        engine = self.engines[name]
        kind = engine.endpoint.contract.struct
        rows = [kind(shop=shop, basket=1.0) for shop in shops or ("a",)]
        return engine.answer(rows, now=NOW, id="x", deadline=time.perf_counter() + 1.0)

    def rung(self, name: str = "strict") -> str:
        return RUNGS[self.ask(name).rungs[0]]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics._own.get_sample_value(name, labels)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    with valkey_server(tmp_path / "valkey") as server:
        yield server


@contextlib.contextmanager
def _answering(folder: Path, between: Proxy, options: str = "timeout=5s") -> Iterator[Answering]:
    url = f"valkey://127.0.0.1:{between.port}?{options}"
    with make_project(folder, clock=SimulatedClock(NOW), online=url) as project:
        yield Answering(project)


def test_a_store_that_hangs_holds_answers_up_once_until_it_is_found_well_beside_them(
    valkey: Server, tmp_path: Path
) -> None:
    with proxy(valkey.port) as between, _answering(tmp_path / "shop", between) as found:
        until(lambda: found.rung() == "fresh", "an answer as promised")
        expected = found.ask().scores.tolist()
        between.hold()
        assert "does not answer" in found.ask().why(0)[0]
        before = found.store.reads
        for _ in range(200):
            for name, rung in (("strict", "constant"), ("lax", "stale")):
                answers = found.ask(name)
                assert RUNGS[answers.rungs[0]] == rung
                assert answers.why(0)[0].startswith("online store: its breaker is open: a call failed after 0.05")
        assert found.store.reads - before <= 1  # if any it is a probe's, which nobody waits for
        assert found.breakers.open()[0].startswith("online: a call failed")
        assert found.breakers.facts()["online"]["opened"] == 1
        assert found.sample("trilane_breaker_open", dependency="online") == 1
        between.release()
        until(lambda: found.rung() == "fresh", "the store to be found well")
        assert found.ask().scores.tolist() == expected
        assert found.sample("trilane_breaker_open", dependency="online") == 0
        assert found.sample("trilane_breaker_opened_total", dependency="online") == 1


def test_a_reply_that_comes_too_late_is_taken_for_no_other_read(valkey: Server, tmp_path: Path) -> None:
    with proxy(valkey.port) as between, _answering(tmp_path / "shop", between) as found:
        until(lambda: found.rung() == "fresh", "an answer as promised")
        expected = {shop: found.ask("strict", shop).reading.values.tobytes() for shop in "abc"}
        for shop in "abc":
            between.hold()
            assert found.ask("strict", shop).faults
            between.release()
            until(lambda: found.rung() == "fresh", "the store to be found well")
            for other in "abc":
                assert found.ask("strict", other).reading.values.tobytes() == expected[other]


def test_a_store_that_cuts_its_answers_costs_their_values_alone(valkey: Server, tmp_path: Path) -> None:
    with proxy(valkey.port) as between, _answering(tmp_path / "shop", between) as found:
        until(lambda: found.rung() == "fresh", "an answer as promised")
        expected = found.ask().scores.tolist()
        between.cut_every = 2
        rungs = [(RUNGS[(one := found.ask()).rungs[0]], one.scores.tolist()) for _ in range(50)]
        assert between.cuts
        assert {rung: score for rung, score in rungs if rung == "fresh"}.get("fresh", expected) == expected
        assert {score[0] for rung, score in rungs if rung != "fresh"} <= {0.25}
        between.cut_every = 0
        until(lambda: found.rung() == "fresh", "the store to be found well")


def test_a_read_that_is_late_is_answered_by_the_replica_and_its_own_reply_is_taken_by_nobody(
    valkey: Server, tmp_path: Path
) -> None:
    options = f"timeout=5s&hedge=1&replica=127.0.0.1:{valkey.port}"
    with proxy(valkey.port) as between, _answering(tmp_path / "shop", between, options) as found:
        until(lambda: found.rung() == "fresh", "an answer as promised")
        expected = {shop: found.ask("strict", shop).reading.values.tobytes() for shop in "abc"}
        hedging = found.store.hedging
        assert isinstance(hedging, Hedging)
        until(lambda: found.rung() and hedging.delay is not None, "it to be known how long reads take")
        for turn in range(3):
            between.hold()
            won = hedging.won
            for shop in "abcab"[turn:]:
                answers = found.ask("strict", shop)
                assert (answers.faults, answers.reading.values.tobytes()) == ((), expected[shop])
            assert hedging.won > won
            between.release()
            for shop in "cab":
                assert found.ask("strict", shop).reading.values.tobytes() == expected[shop]
        assert (found.sample("trilane_hedged_reads_total", first="second") or 0) >= 3
        assert found.breakers.open() == []
