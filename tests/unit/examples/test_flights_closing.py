"""The demo holds only if every claim does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from examples.flights.client import Load
from examples.flights.closing import Live, Proved, Results
from examples.flights.proof import Parity
from examples.flights.replay import Outage, Replayed

PARITY = Parity(checked=10, mismatched=0, degraded=1, missing_records=0, without_model=0, worst=())
LOAD = Load(answers=100, errors=0, seconds=2.0, latencies=np.full(100, 0.001))


def _results(
    *, mismatched: int = 0, checked: int = 10, unrecorded: int = 0, lost: int = 0, errors: int = 0, same: bool = True
) -> Results:
    parity = dataclasses.replace(PARITY, checked=checked, mismatched=mismatched, missing_records=unrecorded)
    live = Live(
        done=Replayed(ids=["a-0"], latencies=[0.002], servable_after=[0.01, 0.02]),
        outage=Outage(at=0, until=1),
        load=dataclasses.replace(LOAD, errors=errors),
        events_per_s=5.0,
        status={"dead_letters": {}},
        explained={"identical": same},
    )
    proved = Proved(parity=parity, lost=lost, three_lanes=0.75, baseline=0.65, served=0.7)
    return Results.of(live, proved, events=7, seconds=3.0)


def test_it_holds_when_every_claim_does(tmp_path: Path) -> None:
    results = _results()
    assert results.holds
    results.write(tmp_path / "summary.json")
    written = json.loads((tmp_path / "summary.json").read_text())
    assert (written["decisions_per_s"], written["p50_ms"], written["events"]) == (50.0, 1.0, 7)
    assert written["auc_three_lanes"] == 0.75


@pytest.mark.parametrize(
    "results",
    [
        _results(mismatched=1),
        _results(checked=0),
        _results(unrecorded=1),
        _results(lost=1),
        _results(errors=1),
        _results(same=False),
    ],
    ids=["a value differs", "nothing compared", "no record", "an event is lost", "an answer failed", "not rebuilt"],
)
def test_it_does_not_hold_if_one_claim_does_not(results: Results) -> None:
    assert not results.holds
