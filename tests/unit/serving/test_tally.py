"""Counting what a model did."""

from __future__ import annotations

from trilane.serving.share import Account, Share
from trilane.serving.tally import Tally


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
