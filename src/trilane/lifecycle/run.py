"""One execution of a job, recorded: its start, its end, its failure, and what it read and wrote.

Laws: the start is on record before the work begins; the end and its edges are one transaction; a run whose
process died stays `running` until a later job finds it (Registry.abandon_dead). A run ends once, whoever ends it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trilane.clock import Clock
from trilane.errors import TrilaneError
from trilane.lifecycle.graph import uri
from trilane.lifecycle.metadata.protocol import FAILED, SUCCEEDED, EdgeRecord, MetadataStore, RunRecord
from trilane.lifecycle.process import this_process

__all__ = ["PROCESS", "Run", "new_run_id", "run"]

PROCESS = "process"  # the fact that says who does it, while it runs


def new_run_id(now: int) -> str:
    """An id that sorts by instant `now` (microseconds) and is unique through 64 random bits."""
    return f"{now:016x}{os.urandom(8).hex()}"


class Run:
    """What a job tells of itself while it runs."""

    def __init__(self, id: str, facts: Mapping[str, Any]) -> None:
        self.id = id
        self.uri = uri("run", id)
        self.facts = dict(facts)
        self._edges: dict[tuple[str, str, str], None] = {}

    def reads(self, uri: str) -> None:
        """The run has read from the thing at `uri`."""
        self._edges[uri, self.uri, "reads"] = None

    def writes(self, uri: str) -> None:
        """The run has written the thing at `uri`."""
        self._edges[self.uri, uri, "writes"] = None

    def note(self, **facts: object) -> None:
        """Adds plain facts to the record of the run."""
        self.facts.update(facts)

    def edges(self, now: int) -> list[EdgeRecord]:
        """What was read and written, as seen at instant `now`."""
        return [
            EdgeRecord(source=source, target=target, relation=relation, first_seen=now, last_seen=now, run=self.id)
            for source, target, relation in self._edges
        ]


@contextlib.contextmanager
def run(
    store: MetadataStore,
    kind: str,
    subject: str,
    *,
    clock: Clock,
    facts: Mapping[str, Any] | None = None,
    new_id: Callable[[int], str] = new_run_id,
) -> Iterator[Run]:
    """Records the body as a run of job `kind` on `subject`; what it raises is recorded, and raised on."""
    begun = clock.now()
    present = Run(new_id(begun), facts or {})
    told = {**present.facts, PROCESS: this_process()}
    store.start_run(RunRecord(id=present.id, kind=kind, subject=subject, facts=told, started_at=begun))
    try:
        yield present
    except BaseException as error:
        # The failure of the work is what the caller must hear of, not a store that cannot record it.
        with contextlib.suppress(TrilaneError):
            _end(store, present, FAILED, clock.now(), _payload(error))
        raise
    _end(store, present, SUCCEEDED, clock.now(), None)


def _end(store: MetadataStore, run: Run, status: str, now: int, error: dict[str, object] | None) -> None:
    store.end_run(run.id, status=status, ended_at=now, facts=run.facts, error=error, edges=run.edges(now))


def _payload(error: BaseException) -> dict[str, object]:
    if isinstance(error, TrilaneError):
        return error.as_payload()
    return {"code": "unexpected", "what": f"{type(error).__name__}: {error}", "where": "", "remedy": ""}
