"""The server as it would be without admission: everybody is let in, in one tier.

Python imports this in every process whose path it is on, so in the server's workers too.
"""

from __future__ import annotations

from trilane.serving.admission import Admission, Entry
from trilane.serving.line import Line


def _everybody(
    admission: Admission,
    line: Line,
    tier: int,
    began: float,
    deadline: float,
    *,
    caller: str = "",
    ladder: bool = False,
) -> Entry:
    admission.total += 1
    admission.in_flight[0] += 1
    return Entry(line, 0, began, deadline, 0.0)


Admission.admit = _everybody  # type: ignore[method-assign]
