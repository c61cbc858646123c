"""How far the lanes are, for whoever asks whether this server is ready: looked up beside the loop, and awaited briefly.

Law: a log or a store that is slow holds up no decision, and no more than one look at a time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trilane.apps.project import Project
from trilane.apps.server.deployments import Deployments
from trilane.apps.server.status import behind, lanes
from trilane.clock import SECOND
from trilane.errors import TrilaneError

__all__ = ["LaneLook"]

_PATIENCE = 5 * SECOND  # how long ago a lane may have caught up and still count as in step; it says so each second
_LIMIT = 1.0  # seconds for which whoever asks waits: a probe that waits longer takes the server for dead


class LaneLook:
    """Looks for one server process."""

    def __init__(self, project: Project, deployments: Deployments) -> None:
        self._project, self._deployments = project, deployments
        self._looking: asyncio.Future[dict[str, Any]] | None = None

    async def facts(self) -> dict[str, Any]:
        """How long ago each lane had caught up, and what the lanes should have done by now and have not."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().run_in_executor(None, self._look)
        await asyncio.wait({self._looking}, timeout=_LIMIT)
        if self._looking.done():
            return self._looking.result()
        return {"lanes": {}, "waiting_for": [f"the event log or the online store did not answer within {_LIMIT:g} s"]}

    def _look(self) -> dict[str, Any]:
        project, views, now = self._project, self._deployments.views, self._project.clock.now()
        patience = 0 if project.config.replay else _PATIENCE
        try:
            found = lanes(project, views)
            waiting = behind(project, views, now, patience=patience)
        except TrilaneError as error:
            return {"lanes": {}, "waiting_for": [f"what the lanes wrote cannot be read: {error}"]}
        caught_up = {source: min(one.caught_up_at for one in parts.values()) for source, parts in found.items()}
        ages = {source: {"age_s": (now - at) / 1e6 if at else None} for source, at in caught_up.items()}
        return {"lanes": ages, "waiting_for": waiting}
