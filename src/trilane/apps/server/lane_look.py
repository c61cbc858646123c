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
_SLOW = "the event log or the online store did not answer in time"


class LaneLook:
    """Looks for one server process."""

    def __init__(self, project: Project, deployments: Deployments) -> None:
        self._project, self._deployments = project, deployments
        self._looking: asyncio.Future[dict[str, Any]] | None = None
        self._following: asyncio.Future[list[str]] | None = None

    async def facts(self) -> dict[str, Any]:
        """How long ago each lane had caught up, and what the lanes should have done by now and have not."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().run_in_executor(None, self._look)
        await asyncio.wait({self._looking}, timeout=_LIMIT)
        if self._looking.done():
            return self._looking.result()
        return {"lanes": {}, "waiting_for": [f"the event log or the online store did not answer within {_LIMIT:g} s"]}

    async def behind(self, now: int, within: float) -> list[str]:
        """What the lanes should have done by `now` and have not, after they had so many seconds for it."""
        loop = asyncio.get_running_loop()
        end, views = loop.time() + within, self._deployments.views
        limit = max(end, loop.time() + _LIMIT)
        while True:
            before = self._following
            if before is not None and not before.done():  # another's look, as of its own instant
                await asyncio.wait({before}, timeout=limit - loop.time())
                if not before.done():
                    return [_SLOW]
                continue
            look = self._following = loop.run_in_executor(None, behind, self._project, views, now)
            look.add_done_callback(lambda one: one.cancelled() or one.exception())  # nobody may wait for it any more
            await asyncio.wait({look}, timeout=limit - loop.time())
            if not look.done():
                return [_SLOW]
            waiting = look.result()
            if not waiting or loop.time() >= end:
                return waiting
            await asyncio.sleep(0.001)

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
