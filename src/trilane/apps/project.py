"""A project opened: every part named by its configuration, each opened when it is first asked for.

Laws: what runs (`definitions`) is the frozen copy that was applied last, never the working tree (`working`);
whatever was opened is closed by `close`, which may be called twice.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trilane.apps.config import Config, load_config
from trilane.apps.definitions import Definitions, load_definitions, load_snapshot
from trilane.clock import Clock, SharedClock, WallClock
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError, SetupError, TrilaneError
from trilane.features.view import View, stand_ins
from trilane.plugins import make_folder, open_adapter

if TYPE_CHECKING:
    from trilane.lifecycle.metadata.protocol import DeploymentRecord, MetadataStore
    from trilane.lifecycle.registry import Registry
    from trilane.models.model import Model
    from trilane.sources.dead_letters import DeadLetters
    from trilane.sources.formats.protocol import Schemas
    from trilane.sources.log.protocol import EventLog
    from trilane.stores.offline.protocol import Warehouse
    from trilane.stores.online.protocol import OnlineStore

__all__ = ["Project"]

logger = logging.getLogger(__name__)
_LOOK_AT_KEPT = 5_000_000  # microseconds between two looks at what was superseded or retired


class Project:
    """The composition root. `clock` replaces the one that the configuration asks for."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.config = config
        self._clock = clock
        self._snapshots: dict[str, Definitions] = {}
        self._kept: tuple[tuple[str | None, ...], int, dict[str, View]] | None = None

    @staticmethod
    def find(start: Path | None = None) -> Project:
        """The project that holds folder `start`. Raises SetupError if there is none."""
        return Project(load_config(start))

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @functools.cached_property
    def clock(self) -> Clock:
        """The wall clock, or in replay mode the one that all processes of this state share."""
        if self._clock is not None:
            return self._clock
        if self.config.replay:
            return SharedClock(make_folder(self.config.state) / "clock")
        return WallClock()

    @functools.cached_property
    def log(self) -> EventLog:
        return cast("EventLog", open_adapter("event_logs", self.config.log))

    @functools.cached_property
    def online(self) -> OnlineStore:
        return cast("OnlineStore", open_adapter("online_stores", self.config.online))

    @functools.cached_property
    def warehouse(self) -> Warehouse:
        return cast("Warehouse", open_adapter("offline_stores", self.config.offline))

    @functools.cached_property
    def metadata(self) -> MetadataStore:
        return cast("MetadataStore", open_adapter("metadata_stores", self.config.metadata))

    @functools.cached_property
    def schemas(self) -> Schemas | None:
        """The schema registry, if one is configured."""
        if not self.config.schema_registry:
            return None
        from trilane.sources.schema_registry import SchemaRegistry

        return SchemaRegistry(self.config.schema_registry, self.config.state / "schemas")

    @functools.cached_property
    def registry(self) -> Registry:
        from trilane.lifecycle.registry import Registry

        return Registry(self.metadata, self.clock)

    @functools.cached_property
    def dead_letters(self) -> DeadLetters:
        from trilane.sources.dead_letters import DeadLetters

        return DeadLetters(self.config.state / "dead_letters.db")

    @functools.cached_property
    def working(self) -> Definitions:
        """The definitions as they stand in the author's files now."""
        return load_definitions(self.config.definitions)

    @property
    def definitions(self) -> Definitions:
        """The definitions applied last. Raises ConflictError before the first `trilane apply`."""
        applied = self.applied_digest()
        if applied is None:
            raise ConflictError("no definitions were applied yet", where=self.config.name, remedy="Run `trilane apply`")
        return self.snapshot(applied)

    def applied_digest(self) -> str | None:
        """The digest of the definitions applied last; cheap enough to poll."""
        record = self.registry.applied()
        return record.digest if record else None

    def snapshot(self, digest: str) -> Definitions:
        """The frozen definitions with this digest; read once."""
        if digest not in self._snapshots:
            self._snapshots[digest] = load_snapshot(self.definitions_folder / digest[:16])
        return self._snapshots[digest]

    @property
    def served(self) -> Definitions:
        """The definitions by which reads of features by name are answered: the newest whose views were filled.

        Raises ConflictError before the first `trilane apply`.
        """
        record = next(iter(self.registry.served(limit=1)), None)
        try:
            return self.snapshot(record.bundle) if record else self.definitions
        except SetupError as error:
            logger.error("reads by name: %s", error)
            return self.definitions

    def bundles(self) -> dict[str, Bundle]:
        """What answers each endpoint of the applied definitions that was ever deployed."""
        found = {}
        for name in self.definitions.endpoints:
            deployment = self.registry.deployed(name)
            if deployment is not None:
                found[name] = Bundle.from_facts(deployment.facts)
        return found

    def live_views(self) -> dict[str, View]:
        """The views whose stores must be kept filled, by space: all applied ones, those that are read by name or by
        deployed bundles in an older version, and those to which one may return.
        """
        applied = {view.space: view for view in self.definitions.views.values()}
        views = {**self._kept_views(), **self.answering_views(), **applied}
        used = {v.space: v for view in views.values() for v in (*view.uses, *stand_ins(view))}
        # The applied ones last: of a source that several states of the definitions declare, the present one decides.
        found = {**used, **views}
        return dict(sorted(found.items(), key=lambda item: item[0] in applied))

    def answering_views(self) -> dict[str, View]:
        """The stored views by which something answers now, by space: deployed bundles, and reads by name."""
        by_name = {one.space: one for one in _with_used(self.served.views.values())}
        return {space: v for space, v in {**by_name, **self.deployed_views()}.items() if v.lane != "request"}

    def _kept_views(self) -> dict[str, View]:
        """The stored views that answered until less than `retain` ago and were not retired since, by space.

        It is read anew when something else answers, and every now and then.
        """
        now, served = self.clock.now(), self.served.digest
        key = (self.applied_digest(), served, *(bundle.digest for bundle in self.bundles().values()))
        known = self._kept
        if known is None or known[0] != key or not 0 <= now - known[1] < _LOOK_AT_KEPT:
            self._kept = known = (key, now, self._superseded_views(now))
        return known[2]

    def _superseded_views(self, now: int) -> dict[str, View]:
        histories = [*(self.registry.deployments(name) for name in self.definitions.endpoints), self.registry.served()]
        retired, found = self.registry.retired(), dict[str, View]()
        for older, until in ((older, newer.at) for h in histories for newer, older in itertools.pairwise(h)):
            for view in self._views_of(older) if until > now - self.config.retain else ():
                if view.lane != "request" and retired.get((view.name, view.version), -1) < until:
                    found[view.space] = view
        return found

    def _views_of(self, record: DeploymentRecord) -> tuple[View, ...]:
        """The views that a bundle read, or that were read by name; none if their definitions are gone."""
        try:
            definitions = self.snapshot(str(record.facts["definitions"]))
        except TrilaneError:
            return ()  # removed to make room: then there is nothing to return to
        if "endpoint" not in record.facts:
            return _with_used(definitions.views.values())
        model = definitions.models.get(record.facts["model"])
        return (*model.plan.views, *model.plan.stand_ins) if model else ()

    def deployed_views(self) -> dict[str, View]:
        """The views that deployed bundles read, by space, as they were when each bundle was made."""
        models = [self._model_of(bundle) for bundle in self.bundles().values()]
        plans = [model.plan for model in models if model is not None]
        return {view.space: view for plan in plans for view in (*plan.views, *plan.stand_ins)}

    def _model_of(self, bundle: Bundle) -> Model | None:
        try:
            return self.snapshot(bundle.definitions).models.get(bundle.model)
        except TrilaneError as error:
            # One lost snapshot must not stop the lanes of all others.
            logger.error("endpoint %s: %s", bundle.endpoint, error)
            return None

    @property
    def artifacts_folder(self) -> Path:
        """The folder of everything that is content-addressed."""
        return self.config.state / "artifacts"

    @property
    def definitions_folder(self) -> Path:
        """Where frozen definitions lie, each in a folder named by 16 digits of its digest."""
        return self.artifacts_folder / "definitions"

    @property
    def models_folder(self) -> Path:
        """Where model artifacts lie: `<name>/<digest16>/`."""
        return self.artifacts_folder / "models"

    @property
    def training_folder(self) -> Path:
        """Where training sets lie: `<model>/<digest16>/`."""
        return self.artifacts_folder / "training_sets"

    def close(self) -> None:
        """Closes what was opened."""
        for name in ("log", "online", "warehouse", "metadata", "dead_letters", "schemas"):
            part = self.__dict__.pop(name, None)
            if part is not None and hasattr(part, "close"):
                part.close()
        self.__dict__.pop("registry", None)


def _with_used(views: Iterable[View]) -> tuple[View, ...]:
    return tuple({one.space: one for view in views for one in (view, *view.uses, *stand_ins(view))}.values())
