"""Feature reads of one server process: of an endpoint's features, or of any applied views and features by name.

Laws: requests that come in one tick of the event loop are read together; a request of many rows is read in portions as
of one instant, and others are answered in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import numpy as np

from trilane.apps.definitions import Definitions
from trilane.apps.project import Project
from trilane.apps.selection import selected_plan
from trilane.apps.server.deployments import Deployments
from trilane.apps.server.wire import ARROW, MSGPACK, Wire
from trilane.contract import Contract
from trilane.errors import DefinitionError
from trilane.serving.guard import HeldUp
from trilane.serving.metrics import Metrics
from trilane.serving.paced_reader import PacedReader
from trilane.serving.protocol.arrow import ArrowFormat, encode_table
from trilane.serving.protocol.features import FeatureFormat, share_of
from trilane.serving.protocol.rows import RowFormat
from trilane.serving.reading import Asked, Fault, FeatureReader, Reading
from trilane.serving.together import Together

__all__ = ["FeatureReads", "Reads"]

_PORTION = 1_024  # rows that are read before others are answered
_VIEWS = "(views)"  # the label under which reads by name are counted, as there may be any number of names
_KEPT = 16  # selections by name that stay compiled


class FeatureReads:
    """Reads the features of one plan, for requests in any format."""

    def __init__(
        self,
        name: str,
        reads: PacedReader,
        project: Project,
        metrics: Metrics,
        *,
        label: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        plan = reads.reader.plan
        self._reads, self._clock, self._values = reads, project.clock, metrics.values_of(label, plan)
        contract = Contract(name, plan.inputs)
        self._rows = RowFormat(contract, max_rows=project.config.feature_rows, over=413, columns=True)
        self._tables = ArrowFormat(contract, self._rows)
        self._format = FeatureFormat(plan)
        self._together: Together[msgspec.Struct, Reading] = Together(self._read, loop=loop, max_rows=_PORTION)
        views = {view.name: view.version[:16] for view in plan.views}
        self.facts = {"views": msgspec.json.encode(views).decode()}

    async def answer(self, body: bytes, wire: Wire, *, counted: Callable[[int], None]) -> bytes:
        """The answer to a request, whose rows are told to `counted` first. Raises ContractError."""
        if wire.asked == ARROW:
            asked: list[msgspec.Struct] | Asked = self._tables.decode(body)
        else:
            asked = self._rows.asked(body, packed=wire.asked == MSGPACK)
        counted(len(asked))
        if isinstance(asked, list) and len(asked) <= _PORTION:
            share = await self._together.submit(asked)
            reading = share_of(share.result, share.start, share.stop)
        else:
            reading = await self._in_portions(asked)
        if wire.answered == ARROW:
            return encode_table(self._format.names, reading, self.facts)
        if isinstance(asked, Asked):
            return self._format.columns(reading, packed=wire.answered == MSGPACK)
        return self._format.msgpack(reading) if wire.answered == MSGPACK else self._format.json(reading)

    def _read(self, rows: list[msgspec.Struct]) -> Reading | Awaitable[Reading]:
        now = self._clock.now()
        if patience := self._reads.patience(len(rows)):
            with contextlib.suppress(HeldUp):
                return self._counted(self._reads.reader.read(rows, now, patience=patience))
        return self._read_later(rows, now)

    async def _read_later(self, rows: list[msgspec.Struct] | Asked, now: int) -> Reading:
        return self._counted(await self._reads.later(rows, now))

    def _counted(self, reading: Reading) -> Reading:
        self._values.add(reading)
        return reading

    async def _in_portions(self, asked: list[msgspec.Struct] | Asked) -> Reading:
        now, parts = self._clock.now(), []
        faults: dict[Fault, None] = {}  # each once, in order
        for start in range(0, len(asked), _PORTION):
            stop = min(start + _PORTION, len(asked))
            part = await self._read_later(
                asked.cut(start, stop) if isinstance(asked, Asked) else asked[start:stop], now
            )
            parts.append(part)
            faults.update(dict.fromkeys(_shifted(fault, start) for fault in part.faults))
            await asyncio.sleep(0)  # to others whose turn it is
        return Reading(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.statuses for part in parts]),
            np.concatenate([part.ages for part in parts]),
            tuple(faults),
        )


class Reads:
    """Finds what reads the features that a request names."""

    def __init__(
        self, project: Project, deployments: Deployments, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._project, self._deployments, self._metrics, self._loop = project, deployments, metrics, loop
        self._of_endpoints: dict[str, FeatureReads] = {}
        self._selected: dict[tuple[str, str], FeatureReads] = {}

    def of_endpoint(self, name: str) -> FeatureReads | None:
        """What reads the features of a deployed endpoint; None if it is none."""
        digest = self._deployments.router.routes().get(name)
        if digest is None:
            return None
        found = self._of_endpoints.get(digest)
        if found is None:
            deployed = self._deployments.find(name)
            found = FeatureReads(name, deployed.reads, self._project, self._metrics, label=name, loop=self._loop)
            found.facts["bundle"] = deployed.bundle.digest[:16]
            live = {*self._deployments.router.routes().values()}
            self._of_endpoints = {one: reads for one, reads in self._of_endpoints.items() if one in live}
            self._of_endpoints[digest] = found
        return found

    def selected(self, names: str) -> FeatureReads | None:
        """What reads applied views or single features, `view,view.feature,...`; None if the first is no view."""
        applied = self._deployments.definitions
        if applied is None or names.partition(",")[0].partition(".")[0] not in applied.views:
            return None
        # One state of the definitions answers for all names: of those that were there before, the one that is filled.
        served, wanted = self._deployments.served, {name.partition(".")[0] for name in names.split(",")}
        definitions = served if served is not None and wanted <= set(served.views) else applied
        key = (definitions.digest, names)
        found = self._selected.pop(key, None)
        if found is None:
            found = self._compiled(definitions, names)
            while len(self._selected) >= _KEPT:
                del self._selected[next(iter(self._selected))]
        self._selected[key] = found  # the last of all to be forgotten
        return found

    def _compiled(self, definitions: Definitions, names: str) -> FeatureReads:
        plan = selected_plan(definitions, names)
        if any(field.name in ("rows", "columns") for field in plan.inputs):
            what = "an input is called 'rows' or 'columns', the words by which a request holds many rows"
            raise DefinitionError(what, where=names, remedy="Rename the input")
        config = self._project.config
        failed = self._metrics.failures
        reader = FeatureReader(
            plan,
            self._project.online,
            failed=lambda view: failed.labels(view).inc(),
            unread=self._metrics.store_failures.labels("online").inc,
            cache=config.cache_mib << 20,
        )
        reads = self._deployments.paced(reader)
        found = FeatureReads(names, reads, self._project, self._metrics, label=_VIEWS, loop=self._loop)
        found.facts["definitions"] = definitions.digest[:16]
        return found


def _shifted(fault: Fault, start: int) -> Fault:
    return fault if fault.rows is None else Fault(fault.reason, frozenset(row + start for row in fault.rows))
