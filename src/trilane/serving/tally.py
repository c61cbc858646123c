"""What one model did since the process began, counted as the Open Inference Protocol tells it.

Law: a batch counts once, whoever of its requests is heard first; a refusal or a failure counts as failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from trilane.serving.inference import Statistics
from trilane.serving.share import Account, Share

__all__ = ["Tally", "together"]

Result = TypeVar("Result")
_REMEMBERED = 64  # batches whose requests may still be heard of, at most


class Tally:
    """Counts for one version of a model; `now` tells the wall's microseconds."""

    def __init__(self, name: str, version: str, *, now: Callable[[], int]) -> None:
        self.name, self.version, self._now = name, version, now
        self._last = 0
        self._rows = self._succeeded = self._failed = self._batches = 0
        self._success, self._fail, self._queue, self._compute = 0.0, 0.0, 0.0, 0.0
        self._by_batch: dict[int, tuple[int, float]] = {}
        self._latest: Account | None = None
        self._heard: dict[int, Account] = {}

    def succeeded(self, share: Share[Result], seconds: float) -> None:
        """Counts a request that was answered after `seconds`."""
        self._succeeded += 1
        self._success += seconds
        self._rows += share.stop - share.start
        account = share.account
        if account is None:
            self._last = self._now()
            return
        waited = account.began - share.arrived
        if waited > 0:
            self._queue += waited
        self._compute += account.actual
        if account is self._latest:  # as nearly always, but for the first of a batch
            return
        self._latest = account
        if account.requests == 1:
            self._count_batch(account)
        elif id(account) not in self._heard:
            self._heard[id(account)] = account  # kept, so that no other account takes its identity
            if len(self._heard) > _REMEMBERED:
                del self._heard[next(iter(self._heard))]
            self._count_batch(account)

    def failed(self, seconds: float) -> None:
        """Counts a request that was refused, or that the model failed, after `seconds`."""
        self._failed += 1
        self._fail += seconds

    def _count_batch(self, account: Account) -> None:
        self._last = self._now()
        self._batches += 1
        times, seconds = self._by_batch.get(account.rows, (0, 0.0))
        self._by_batch[account.rows] = times + 1, seconds + account.actual

    @property
    def questions(self) -> int:
        """How many were answered, or not: nothing else changed as long as this did not."""
        return self._succeeded + self._failed

    def counts(self) -> tuple[int, int, int, float, float]:
        """Questions answered, rows, batches, and the seconds that questions waited and were worked on, summed."""
        return self._succeeded, self._rows, self._batches, self._queue, self._compute

    def statistics(self) -> Statistics:
        """The counts so far."""
        return Statistics(
            self.name,
            self.version,
            last_inference_ms=self._last // 1_000,
            inferences=self._rows,
            executions=self._batches,
            succeeded=self._succeeded,
            failed=self._failed,
            success_ns=_nanoseconds(self._success),
            fail_ns=_nanoseconds(self._fail),
            queue_ns=_nanoseconds(self._queue),
            compute_ns=_nanoseconds(self._compute),
            by_batch={rows: (times, _nanoseconds(took)) for rows, (times, took) in sorted(self._by_batch.items())},
        )


def together(counted: Iterable[Statistics]) -> list[Statistics]:
    """What several processes counted: one for each version of a model, in the order in which they are first seen."""
    found: dict[tuple[str, str], Statistics] = {}
    for one in counted:
        known = found.get((one.name, one.version))
        found[one.name, one.version] = one if known is None else _sum(known, one)
    return list(found.values())


def _sum(one: Statistics, other: Statistics) -> Statistics:
    by_batch = dict(one.by_batch)
    for rows, (times, took) in other.by_batch.items():
        before = by_batch.get(rows, (0, 0))
        by_batch[rows] = before[0] + times, before[1] + took
    return Statistics(
        one.name,
        one.version,
        last_inference_ms=max(one.last_inference_ms, other.last_inference_ms),
        inferences=one.inferences + other.inferences,
        executions=one.executions + other.executions,
        succeeded=one.succeeded + other.succeeded,
        failed=one.failed + other.failed,
        success_ns=one.success_ns + other.success_ns,
        fail_ns=one.fail_ns + other.fail_ns,
        queue_ns=one.queue_ns + other.queue_ns,
        compute_ns=one.compute_ns + other.compute_ns,
        by_batch=dict(sorted(by_batch.items())),
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
