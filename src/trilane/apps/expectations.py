"""Which expectations of the applied event sources are met, for whoever asks: `status`, the metrics, control.

Law: what cannot be judged, because the log does not answer, is left out and stops nobody.
"""

from __future__ import annotations

import logging

from trilane.apps.project import Project
from trilane.errors import TrilaneError
from trilane.sources.observation import Finding, look_at

__all__ = ["findings"]

_log = logging.getLogger(__name__)


def findings(project: Project) -> list[Finding]:
    """One finding for each expectation, in order of the sources' names; none before the first `apply`."""
    if project.applied_digest() is None:
        return []
    found: list[Finding] = []
    for _, source in sorted(project.definitions.sources.items()):
        try:
            found += look_at(source, project.log, project.clock.now())
        except TrilaneError as error:
            _log.warning("what %s is expected to bring cannot be judged: %s", source.name, error)
    return found
