"""A folder of models as their owner keeps them: one folder a model, with its file, or with one folder a version.

    models/<name>/model.onnx | model.txt | model.json | model.ubj | model.joblib | model.pkl | model.py
    models/<name>/<version>/model.onnx ...         numbered versions; the highest is the one that is asked for
    models/<name>/model.toml, golden.json, processing.py     beside the file, or beside the versions

Laws: what is wrong with one model is told of that model, and hides no other; a name or a version never leads out of the
folder; nothing is opened here, only looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trilane.errors import ModelError
from trilane.models.options import OPTIONS_FILE, Options, read_options
from trilane.models.runtime.opening import FILES, ISOLATED

__all__ = ["Found", "Listed", "ModelFolder", "NAME"]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_FIRST = "1"  # the version of a model that has no folders for versions
_GOLDEN, _PROCESSING = "golden.json", "processing.py"
_MOST_FILES = 1_000


@dataclass(frozen=True, kw_only=True)
class Found:
    """One version of a model on disk. `mark` changes when a file of it does; `size` is that of all its files."""

    name: str
    version: str
    runtime: str
    path: Path
    options: Options
    golden: Path | None
    processing: Path | None
    mark: str
    size: int

    @property
    def beside(self) -> list[Path]:
        """The files beside the model's own that may hold weights of it."""
        ours = {OPTIONS_FILE, _GOLDEN, _PROCESSING, self.path.name}
        there = (one for one in self.path.parent.iterdir() if one.name not in ours and not one.name.startswith("."))
        return sorted(one for one in there if one.is_file())

    @property
    def isolated(self) -> bool:
        """Whether it runs in a process of its own."""
        return self.runtime in ISOLATED or self.processing is not None or self.options.process


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A model on disk: its versions, the highest first, and why some cannot be opened."""

    name: str
    versions: dict[str, Found]
    errors: dict[str, ModelError]


class ModelFolder:
    """The models below `root`, which need not be there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(one.name for one in entries if NAME.fullmatch(one.name) and not _is_file(one))
        except OSError:
            return []

    def misnamed(self) -> list[str]:
        """The folders, but for hidden ones, that no model can have by their names, sorted."""
        try:
            with os.scandir(self.root) as entries:
                visible = [one for one in entries if not one.name.startswith(".") and not NAME.fullmatch(one.name)]
                return sorted(one.name for one in visible if not _is_file(one))
        except OSError:
            return []

    def find(self, name: str) -> Listed | None:
        """A model, as it is on disk now; None if there is none of that name."""
        home = self.root / name
        if not NAME.fullmatch(name) or not os.path.lexists(home):
            return None
        versions, errors = dict[str, Found](), dict[str, ModelError]()
        for version, folder in _versions(home):
            try:
                versions[version] = _found(name, version, home, folder)
            except ModelError as error:
                errors[version] = error
        return Listed(name=name, versions=versions, errors=errors)


def _versions(home: Path) -> Iterator[tuple[str, Path]]:
    """The folders of versions, the highest first; the model's own folder if there are none."""
    try:
        numbers = [one.name for one in home.iterdir() if one.name.isascii() and one.name.isdecimal()]
    except OSError:
        numbers = []
    if any((home / file).exists() for file in FILES) or not numbers:
        yield _FIRST, home
    else:
        yield from ((number, home / number) for number in sorted(numbers, key=lambda one: (-int(one), one)))


def _found(name: str, version: str, home: Path, folder: Path) -> Found:
    try:
        path = _file(folder)
        options = read_options(_beside(OPTIONS_FILE, folder, home) or home / OPTIONS_FILE)
        runtime = options.runtime or FILES[path.name]
        golden, processing = _beside(_GOLDEN, folder, home), _beside(_PROCESSING, folder, home)
        files = _files(folder) | (_files(home) if folder != home else {})
        size = sum(one[0] for place, one in files.items() if place.startswith(f"{path.parent}{os.sep}"))
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror or error}", where=str(folder)) from None
    found = Found(
        name=name,
        version=version,
        runtime=runtime,
        path=path,
        options=options,
        golden=golden,
        processing=None if runtime == "python" else processing,
        mark=repr(sorted(files.items())),
        size=size,
    )
    if options.instances > 1 and not found.isolated:
        what, remedy = "several instances of a model that has no process of its own", "Write `process = true` as well"
        raise ModelError(what, where=f"{home / OPTIONS_FILE}: instances", remedy=remedy)
    return found


def _file(folder: Path) -> Path:
    there = [name for name in FILES if os.path.lexists(folder / name)]
    if not there:
        remedy = f"Name it {', '.join(FILES)}"
        raise ModelError("there is no file of a model in this folder", where=str(folder), remedy=remedy)
    if "model.py" in there:
        there = ["model.py"]  # code may load what lies beside it, so it goes before
    if len(there) > 1:
        raise ModelError(f"there are {' and '.join(there)}", where=str(folder), remedy="Keep one of them")
    path = folder / there[-1]
    if not path.stat().st_size:
        raise ModelError("the file is empty", where=str(path), remedy="Copy it again, whole")
    return path


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False  # a circle of links: it is told of that model


def _beside(name: str, *folders: Path) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, inode and instant of the last change of each file."""
    found = dict[str, tuple[int, int, int]]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(found) >= _MOST_FILES:
                break
            if entry.is_file() and not entry.name.startswith("."):
                facts = entry.stat()
                found[entry.path] = facts.st_size, facts.st_ino, facts.st_mtime_ns
    return found
