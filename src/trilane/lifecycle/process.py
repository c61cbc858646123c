"""Which process does a job, noted so that another one can see whether it still lives.

Law: a process is called dead only if that is known: it ran on this machine, and is gone, or the machine was started
anew since.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["is_dead", "this_process"]


def this_process() -> str:
    """What runs this: its id, when it began, and the machine on which ids mean what they mean here."""
    return f"{os.getpid()} {_began(os.getpid())} {socket.gethostname()} {_boot()} {_namespace()}"


def is_dead(process: str) -> bool:
    """Whether a process, as it noted itself, is known to have ended."""
    words = process.split()
    if len(words) != 5 or "-" in words[3:] or words[2] != socket.gethostname():
        return False
    number, began, _, boot, namespace = words
    if boot != _boot():
        return _boot() != "-"
    return namespace == _namespace() and _began(int(number)) != began


def _began(process: int) -> str:
    """When it began, in ticks since the machine did; an id is used again, and never with the same beginning."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "-"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:
        return "-"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"
