"""How much of each objective's error budget is left, how fast it burns, and when to wake somebody.

Burn rates over several windows, after The Site Reliability Workbook (Beyer et al. 2018), ch. 5, "Multiwindow,
Multi-Burn-Rate Alerts". Laws: pure logic on counts of minutes; processes add up; a restart loses at most what was
counted since the last write; a changed target is judged by the counts there are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trilane.clock import SECOND, Clock
from trilane.serving.objective import Objective
from trilane.serving.objective_count import ObjectiveCount
from trilane.sources.sqlite import SqliteFile

__all__ = ["WINDOWS", "BudgetLog", "Budgets", "Standing", "standing"]

_log = logging.getLogger(__name__)

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WINDOWS = {"5m": 5 * MINUTE, "30m": 30 * MINUTE, "1h": HOUR, "6h": 6 * HOUR, "3d": 3 * DAY}
# What of the budget a long window may burn before somebody hears of it, and whether at once (as the workbook recommends
# for 30 days); the short window says that it still goes on.
_ALERTS = (("page", 0.02, "1h", "5m"), ("page", 0.05, "6h", "30m"), ("ticket", 0.10, "3d", "6h"))
_FEWEST = 10  # bad answers in the long window; fewer wake nobody
_KEPT = 400 * DAY
_SCHEMA = """
CREATE TABLE minute (
    endpoint TEXT NOT NULL,
    objective TEXT NOT NULL,
    minute INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    bad INTEGER NOT NULL,
    PRIMARY KEY (endpoint, objective, minute)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an objective stands: of `asked` answers `bad` ones; `left`: of its budget, below 0 if it is overdrawn.

    `burn`: by window, how many times as fast as the budget allows; `alert`: "page", "ticket" or None.
    """

    objective: Objective
    asked: int
    bad: int
    left: float
    burn: Mapping[str, float]
    alert: str | None

    @property
    def compliance(self) -> float:
        """The share of good answers; 1 of none."""
        return 1 - self.bad / self.asked if self.asked else 1.0


def standing(objective: Objective, counts: Callable[[int], tuple[int, int]]) -> Standing:
    """How `objective` stands by `counts`, which gives what was asked, and was bad, in the last microseconds."""
    asked, bad = counts(objective.over)
    of = {name: counts(span) for name, span in WINDOWS.items() if span <= objective.over}
    burn = {name: (bad / asked / objective.budget if asked else 0.0) for name, (asked, bad) in of.items()}
    alert = None
    for kind, share, long, short in _ALERTS:
        if long not in burn or of[long][1] < _FEWEST:
            continue
        threshold = share * objective.over / WINDOWS[long]
        if burn[long] > threshold and burn[short] > threshold:
            alert = kind
            break
    left = 1 - bad / (asked * objective.budget) if asked else 1.0
    return Standing(objective=objective, asked=asked, bad=bad, left=left, burn=burn, alert=alert)


class BudgetLog:
    """The counts of all processes by minute, in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, schema=_SCHEMA, full_sync=False)

    def add(self, counts: Mapping[tuple[str, str], tuple[int, int]], now: int) -> None:
        """Adds what was asked, and was bad, by endpoint and objective's key, to the minute of instant `now`."""
        rows = [(*key, now // MINUTE, asked, bad) for key, (asked, bad) in counts.items() if asked]
        if not rows:
            return
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO minute VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET asked = asked + excluded.asked, "
                "bad = bad + excluded.bad",
                rows,
            )

    def forget(self, before: int) -> None:
        """Removes the minutes that ended before an instant."""
        if self._file.exists():
            with self._file.transaction() as connection:
                connection.execute("DELETE FROM minute WHERE minute < ?", (before // MINUTE,))

    def counts(self, endpoint: str, objective: Objective, now: int, span: int) -> tuple[int, int]:
        """What was asked, and was bad, in the last `span` microseconds, in whole minutes, the present one too."""
        found = self._file.row(
            "SELECT COALESCE(SUM(asked), 0), COALESCE(SUM(bad), 0) FROM minute "
            "WHERE endpoint = ? AND objective = ? AND minute > ? AND minute <= ?",
            (endpoint, objective.key, (now - span) // MINUTE, now // MINUTE),
        )
        return (int(str(found[0])), int(str(found[1]))) if found else (0, 0)

    def standing(self, endpoint: str, objective: Objective, now: int) -> Standing:
        """How an objective of `endpoint` stands at instant `now`."""
        return standing(objective, lambda span: self.counts(endpoint, objective, now, span))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Budgets:
    """Keeps the counts of one process: writes what was counted every `period` seconds, from a thread of its own."""

    def __init__(self, path: Path, clock: Clock, *, period: float = 5.0) -> None:
        self._log, self._clock, self._period = BudgetLog(path), clock, period
        self._kept: list[tuple[str, ObjectiveCount]] = []
        self._written: dict[tuple[int, str], tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, endpoint: str, count: ObjectiveCount) -> None:
        """Keeps also this count from now on."""
        self._kept.append((endpoint, count))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="error-budgets", daemon=True)
            self._thread.start()

    def write(self) -> None:
        """Writes what was counted since the last time. What cannot be written now is with the next time."""
        grown: dict[tuple[str, str], tuple[int, int]] = {}
        read: dict[tuple[int, str], tuple[int, int]] = {}
        for endpoint, count in list(self._kept):
            for key, (asked, bad) in count.counts().items():
                place = id(count), key
                before = self._written.get(place, (0, 0))
                known = grown.get((endpoint, key), (0, 0))
                grown[endpoint, key] = known[0] + asked - before[0], known[1] + bad - before[1]
                read[place] = asked, bad
        try:
            self._log.add(grown, self._clock.now())
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the counting
            _log.error("what was counted against the objectives cannot be written: %s", error)
            return
        self._written.update(read)

    def close(self) -> None:
        """Writes what is left, and stops."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._log.close()

    def _write_all(self) -> None:
        try:
            self._log.forget(self._clock.now() - _KEPT)
        except Exception as error:  # noqa: BLE001 - a file that is busy keeps more than it need
            _log.warning("old counts cannot be removed: %s", error)
        while not self._stop.wait(self._period):
            self.write()
        self.write()
