"""How much memory is taken and left, as far as the kernel tells.

Law: pages that processes share are nobody's own, so they are not counted; where nothing is told, 0 is taken and any
amount is left.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__all__ = ["available_bytes", "own_bytes"]

_CGROUP = Path("/sys/fs/cgroup")


def own_bytes(pid: int | None = None) -> int:
    """The anonymous memory of a process; of this one if none is named."""
    return _line(Path(f"/proc/{pid or 'self'}/status"), "RssAnon:")


def available_bytes() -> int:
    """What could be taken without swapping, on the machine and below the limit of our group."""
    left = [_line(Path("/proc/meminfo"), "MemAvailable:") or sys.maxsize]
    with contextlib.suppress(OSError, ValueError):
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            # What is cached of files is counted as used, and given back when it is needed.
            left.append(int(limit) - int(used) + _cached())
    return max(min(left), 0)


def _cached() -> int:
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _line(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return 0
