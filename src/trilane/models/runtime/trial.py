"""A file tried in a process that may die over it, before a server opens it in its own.

The readers of LightGBM and XGBoost end the process, or write where they should not, over some damaged files. Laws: a
file is tried once, and that it was sound is noted by its digest and by the library's version; one that is not sound is
a ModelError that says of what the trial died.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from trilane.errors import ModelError, SetupError, TrilaneError

__all__ = ["try_file"]

_REFUSED, _LACKING = 3, 4
_MEMORY = 2 << 30
_PACKAGES = {"lightgbm": ("lightgbm",), "xgboost": ("xgboost-cpu", "xgboost")}


def try_file(kind: str, path: Path, digest: str, *, notes: Path | None, timeout: float = 60.0) -> None:
    """Raises ModelError if the file, whose digest this is, is not sound, SetupError if its library is not installed.

    `notes` is the folder of those that are sound.
    """
    note = notes / f"{kind}-{_version(kind)}-{digest[:32]}" if notes else None
    if note is not None and note.exists():
        return
    command = [sys.executable, "-P", "-m", "trilane.models.runtime.trial", kind, str(path)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise _unsound(path, f"it was not opened within {timeout:g} s") from None
    if done.returncode in (_REFUSED, _LACKING):
        what, _, remedy = done.stdout.decode(errors="replace").strip().rpartition("\n")
        raise (ModelError if done.returncode == _REFUSED else SetupError)(what, where=str(path), remedy=remedy)
    if done.returncode:
        of = signal.Signals(-done.returncode).name if done.returncode < 0 else f"status {done.returncode}"
        raise _unsound(path, f"{kind} died over it ({of})")
    if note is not None:
        _note(note)


def main(kind: str, path: Path) -> int:
    """Opens the file and asks it for one row."""
    from trilane.models.runtime.opening import open_runtime
    from trilane.models.tensor import DATATYPES

    try:
        # A broken length must not take the machine's memory.
        resource.setrlimit(resource.RLIMIT_DATA, (limit := _MEMORY + 16 * path.stat().st_size, limit))
        opened = open_runtime(kind, path)
        opened.run([np.zeros((1, opened.inputs[0].shape[1]), DATATYPES[opened.inputs[0].datatype])])
    except OSError as error:
        sys.stdout.write(f"the model cannot be read: {error.strerror}\nCopy it again")
        return _REFUSED
    except TrilaneError as error:
        sys.stdout.write(f"{error.what}\n{error.remedy}")
        return _LACKING if isinstance(error, SetupError) else _REFUSED
    return 0


def _version(kind: str) -> str:
    for package in _PACKAGES.get(kind, ()):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _note(note: Path) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError:
        return  # it is tried again next time


def _unsound(path: Path, what: str) -> ModelError:
    return ModelError(what, where=str(path), remedy="The file is damaged: copy it again from where it is whole")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
