"""A project opened: every part named by its configuration, each opened when it is first asked for.

Laws: what runs (`definitions`) is the frozen copy that was applied last, never the working tree (`working`);
whatever was opened is closed by `close`, which may be called twice.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trilane.apps.config import Config, load_config
from trilane.apps.definitions import Definitions, load_definitions, load_snapshot
from trilane.clock import Clock, SharedClock, WallClock
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError, TrilaneError
from trilane.features.view import View, stand_ins
from trilane.plugins import make_folder, open_adapter

if TYPE_CHECKING:
    from trilane.lifecycle.metadata.protocol import MetadataStore
    from trilane.lifecycle.registry import Registry
    from trilane.models.model import Model
    from trilane.sources.dead_letters import DeadLetters
    from trilane.sources.formats.protocol import Schemas
    from trilane.sources.log.protocol import EventLog
    from trilane.stores.offline.protocol import Warehouse
    from trilane.stores.online.protocol import OnlineStore

__all__ = ["Project"]

logger = logging.getLogger(__name__)


class Project:
    """The composition root. `clock` replaces the one that the configuration asks for."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.config = config
        self._clock = clock
        self._snapshots: dict[str, Definitions] = {}

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

    def bundles(self) -> dict[str, Bundle]:
        """What answers each endpoint of the applied definitions that was ever deployed."""
        found = {}
        for name in self.definitions.endpoints:
            deployment = self.registry.deployed(name)
            if deployment is not None:
                found[name] = Bundle.from_facts(deployment.facts)
        return found

    def live_views(self) -> dict[str, View]:
        """The views whose stores must be kept filled, by space: all applied ones, and those that deployed
        bundles still read in an older version.
        """
        applied = {view.space: view for view in self.definitions.views.values()}
        views = {**self.deployed_views(), **applied}
        used = {v.space: v for view in views.values() for v in (*view.uses, *stand_ins(view))}
        # The applied ones last: of a source that several states of the definitions declare, the present one decides.
        found = {**used, **views}
        return dict(sorted(found.items(), key=lambda item: item[0] in applied))

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
