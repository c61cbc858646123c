"""Counting what a model did."""

from __future__ import annotations

from trilane.serving.share import Account, Share
from trilane.serving.tally import Tally, together


def test_a_batch_counts_once_and_its_requests_each() -> None:
    tally = Tally("m", "1", now=lambda: 7_000_000)
    account = Account(3, 2, 1.5, 0.0, 0.25, "full")
    tally.succeeded(Share("both", 0, 2, account, 1.0), 1.0)
    tally.succeeded(Share("both", 2, 3, account, 1.25), 0.5)
    tally.succeeded(Share("alone", 0, 3, Account(3, 1, 2.0, 0.0, 0.25, "full"), 2.0), 0.25)
    tally.failed(2.0)
    found = tally.statistics()
    assert (found.name, found.version, found.last_inference_ms) == ("m", "1", 7_000)
    assert (found.inferences, found.executions, found.succeeded, found.failed) == (6, 2, 3, 1)
    assert (found.success_ns, found.fail_ns) == (1_750_000_000, 2_000_000_000)
    assert (found.queue_ns, found.compute_ns) == (750_000_000, 750_000_000)
    assert found.by_batch == {3: (2, 500_000_000)}


def test_an_answer_without_an_account_of_its_batch_counts_as_an_answer_alone() -> None:
    tally = Tally("m", "1", now=lambda: 0)
    tally.succeeded(Share("x", 0, 2), 1.0)
    found = tally.statistics()
    assert (found.inferences, found.executions, found.by_batch) == (2, 0, {})


def test_what_several_processes_counted_is_one_for_each_version() -> None:
    def counted(name: str, version: str, seconds: float, *, rows: int) -> Tally:
        tally = Tally(name, version, now=lambda: int(seconds * 1e6))
        tally.succeeded(Share("x", 0, rows, Account(rows, 1, 0.0, 0.0, seconds, "full"), 0.0), seconds)
        return tally

    one, other = counted("m", "1", 1.0, rows=2), counted("m", "1", 2.0, rows=3)
    other.failed(0.5)
    third = counted("m", "2", 4.0, rows=1)
    first, second = together([one.statistics(), third.statistics(), other.statistics()])
    assert (first.version, second.version) == ("1", "2")
    assert (first.inferences, first.executions, first.succeeded, first.failed) == (5, 2, 2, 1)
    assert (first.success_ns, first.fail_ns, first.compute_ns) == (3_000_000_000, 500_000_000, 3_000_000_000)
    assert (first.last_inference_ms, second.last_inference_ms) == (2_000, 4_000)
    assert first.by_batch == {2: (1, 1_000_000_000), 3: (1, 2_000_000_000)}
