"""The client in process: the same questions answered from the project's stores, with no server between.

Laws: inputs are checked, values read, decisions made and recorded, and events let in, by the code that the server runs;
so the answers are the server's, refusals included. What was applied or deployed meanwhile is used within a second.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from trilane.apps.client import questions
from trilane.apps.client.answers import Answered, Decided, Features, Readiness, Refused, Sent, decisions_of
from trilane.apps.client.questions import ARROW, Inputs
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.selection import selected_plan
from trilane.apps.server.compiling import compile_bundle
from trilane.apps.server.explained import explained_decision
from trilane.apps.server.limits import DECISIONS
from trilane.clock import SECOND, Clock
from trilane.contract import Contract
from trilane.decisions.bundle import Bundle
from trilane.errors import ContractError, DefinitionError, TrilaneError, UnavailableError
from trilane.feedback.record import Recorder, Records
from trilane.serving.engine import Engine
from trilane.serving.protocol.arrow import ArrowFormat
from trilane.serving.protocol.decisions import DecisionFormat
from trilane.serving.protocol.rows import RowFormat
from trilane.serving.reading import FeatureReader
from trilane.sources.hot_keys import HotKeys
from trilane.sources.ingest import letters_of, sort_texts

__all__ = ["LocalClient", "open"]

_ANY_NUMBER = 1 << 40
_PERIOD = SECOND  # how long what is deployed is believed to be the same


def open(folder: str | Path | None = None, *, clock: Clock | None = None) -> LocalClient:
    """A client of the project that holds `folder` (default: the working directory), without a server.

    `clock` replaces the wall clock, or the one of a replay. Raises SetupError if there is no project.
    """
    return LocalClient(Project(load_config(None if folder is None else Path(folder)), clock=clock))


class LocalClient:
    """Answers from the stores of a project, which it closes with itself. Any number of threads may use it.

    The methods are those of `Client`; a `timeout` is taken and not needed, as nothing here waits for others.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._bundles: dict[str, Bundle] = {}
        self._engines: dict[str, Engine] = {}
        self._readers: dict[tuple[str, str], FeatureReader] = {}
        self._hot: dict[str, HotKeys] = {}
        self._recorder: Recorder | None = None
        self._looked: int | None = None

    def __enter__(self) -> LocalClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decide(self, endpoint: str, rows: Inputs, *, timeout: float | None = None) -> list[Decided]:
        """Decisions about rows, one or many. They are recorded as the server's are."""
        given = questions.shaped(rows)
        with self._lock:
            engine = self._engine(endpoint)
            form = RowFormat(engine.endpoint.contract)
            found: list[Decided] = []
            for part in questions.cut(given, DECISIONS):
                found += self._decided(engine, form.decode(questions.encoded(questions.as_rows(part))[0]))
            return found

    def features(self, name: str, rows: Inputs, *, timeout: float | None = None) -> Features:
        """The features of an endpoint or of `view,view.feature,...` for rows."""
        given = questions.shaped(rows)
        body, media = questions.encoded(given)
        with self._lock:
            reader = self._reader(name)
            contract = Contract(name, reader.plan.inputs)
            form = RowFormat(contract, max_rows=_ANY_NUMBER, columns=True)
            asked = ArrowFormat(contract, form).decode(body) if media == ARROW else form.asked(body)
            return Features.of(reader.plan.names, reader.read(asked, self.project.clock.now()))

    def send(
        self, source: str, events: Iterable[Mapping[str, object] | bytes | str], *, timeout: float | None = None
    ) -> Sent:
        """Puts events into the log; they are durable when this returns. The same event sent twice counts once."""
        accepted, first = 0, 0
        rejected: list[Refused] = []
        with self._lock:
            hot = self._door(source)
            for body, number in questions.event_bodies(events):
                found = self._let_in(hot, body.split(b"\n"))
                accepted += found.accepted
                rejected.extend(Refused(r.index + first, r.code, r.path, r.reason) for r in found.rejected)
                first += number
        return Sent(accepted, tuple(rejected))

    def explain(self, id: str, *, timeout: float | None = None) -> dict[str, object]:
        """The record of a decision, and its score computed again."""
        records = Records(self.project.config.state / "records.db")
        try:
            decision = records.find(id)
            if decision is None:
                remedy = "Records are written within a fraction of a second; check the id, or ask again"
                raise ContractError(f"there is no record of decision {id!r}", where="id", remedy=remedy, status=404)
            with self._lock:
                return explained_decision(self.project, decision, records.find)
        finally:
            records.close()

    def ready(self, *, timeout: float | None = None) -> Readiness:
        """Whether every deployed endpoint can answer."""
        with self._lock:
            try:
                self._look()
            except TrilaneError as error:
                return Readiness(ready=False, reason=str(error))
            errors: dict[str, str] = {}
            for endpoint in self._bundles:
                try:
                    self._engine(endpoint)
                except TrilaneError as error:
                    errors[endpoint] = str(error)
            names = tuple(sorted(set(self._bundles) - set(errors)))
            reason = "; ".join(f"{name}: {error}" for name, error in errors.items())
            reason = reason or ("" if names else "no endpoint is deployed yet: train a model, then run `trilane apply`")
            return Readiness(ready=not reason, reason=reason or None, endpoints=names, errors=errors)

    def close(self) -> None:
        """Writes what waits, and closes the project; may be called twice."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None
            for engine in self._engines.values():
                engine.close()
            self._engines, self._readers, self._hot, self._looked = {}, {}, {}, None
            self.project.close()

    def _look(self) -> None:
        """Notes what is deployed now, and forgets what is no longer."""
        now = self.project.clock.now()
        if self._looked is not None and 0 <= now - self._looked < _PERIOD:
            return
        applied = self.project.definitions.digest
        self._bundles, self._looked = self.project.bundles(), now
        used = {bundle.digest for bundle in self._bundles.values()}
        for digest in set(self._engines) - used:
            self._engines.pop(digest).close()
        self._readers = {key: reader for key, reader in self._readers.items() if key[0] == applied}

    def _engine(self, endpoint: str) -> Engine:
        self._look()
        bundle = self._bundles.get(endpoint)
        if bundle is None:
            if endpoint in self.project.definitions.endpoints:
                remedy = "Train its model, then run `trilane apply`"
                raise UnavailableError("it is not deployed yet", where=endpoint, remedy=remedy)
            known = f"Deployed endpoints: {', '.join(sorted(self._bundles)) or 'none'}"
            what = f"nothing is deployed for an endpoint {endpoint!r}"
            raise DefinitionError(what, where=endpoint, remedy=known, status=404)
        if bundle.digest not in self._engines:
            self._engines[bundle.digest] = compile_bundle(self.project, bundle)
        return self._engines[bundle.digest]

    def _reader(self, name: str) -> FeatureReader:
        self._look()
        if name in self._bundles:
            return self._engine(name).reader
        definitions = self.project.definitions
        if name.partition(",")[0].partition(".")[0] not in definitions.views:
            self._engine(name)  # which tells what there is
        key = definitions.digest, name
        if key not in self._readers:
            plan, config = selected_plan(definitions, name), self.project.config
            self._readers[key] = FeatureReader(plan, self.project.online, cache=config.cache_mib << 20)
        return self._readers[key]

    def _decided(self, engine: Engine, rows: list[msgspec.Struct]) -> list[Decided]:
        names, endpoint, bundle = engine.reader.plan.names, engine.endpoint.name, self._bundles[engine.endpoint.name]
        now = self.project.clock.now()
        answers = engine.answer(rows, now=now, id=f"{now:013x}{os.getpid() & 0xFFFFFF:06x}{next(self._numbers):04x}")
        if self._recorder is None:
            self._recorder = Recorder(self.project.config.state / "records.db")
        self._recorder.put(endpoint, names, answers, (len(rows),))
        body = DecisionFormat(names, threshold=bundle.threshold).encode(answers, 0, len(rows))
        return decisions_of(Answered(200, "application/json", body, endpoint), len(rows))

    def _door(self, source: str) -> HotKeys:
        sources = self.project.definitions.sources
        if source not in sources:
            known = f"The applied sources are {', '.join(sorted(sources)) or 'none'}"
            raise DefinitionError(f"there is no event source {source!r}", where=source, remedy=known, status=404)
        hot = self._hot.get(source)
        if hot is None or hot.source != sources[source]:
            hot = self._hot[source] = HotKeys(self.project.log, sources[source])
        return hot

    def _let_in(self, hot: HotKeys, texts: list[bytes]) -> Sent:
        source, now = hot.source.name, self.project.clock.now()
        if hot.is_due(now):
            hot.look(now)
        found, texts = sort_texts(hot.source, texts, hot, now=now, schemas=self.project.schemas)
        if found.rejected:
            self.project.dead_letters.add(letters_of(source, texts, found.rejected, now=now))
        for partition, values in found.accepted.items():
            self.project.log.append(source, partition, values, now)
        rejected = tuple(Refused(r.index, r.code, r.path, r.reason) for r in found.rejected)
        return Sent(sum(map(len, found.accepted.values())), rejected)
