"""Imports one file as a module of its own, and tells which files of its folder took part.

Laws: the file's folder stands first on the path while it is read; modules of that folder are read anew, and afterwards
`sys.path` and `sys.modules` are as before; no bytecode is written, for the folder is the author's. Modules of the
folder must be imported under the names they have from there, at the top of a file: else a frozen copy would find
other ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trilane.errors import DefinitionError, TrilaneError

__all__ = ["ModuleFiles", "authors_line", "import_files", "name_elsewhere"]

_counter = itertools.count(1)
_NAMED = re.compile(r"definitions_\d+_(?P<stem>.+)")
_lock = threading.Lock()
_KEPT = sys.stdlib_module_names | {"trilane", "__main__"}  # whatever a folder calls its own
_FOREIGN = ("site-packages", "dist-packages", "node_modules")


@dataclass(frozen=True)
class ModuleFiles:
    """An imported module, and the bytes of the files it was made from, by their path relative to its folder."""

    module: ModuleType
    files: dict[str, bytes]


def import_files(path: Path) -> ModuleFiles:
    """Imports the file at `path`. Raises DefinitionError with file and line of whatever it raised."""
    path = path.resolve()
    with _lock, _isolated(path.parent) as fresh:
        module = _import(path)
        files = {path.name: path.read_bytes()}
        for name, found in sorted(fresh(), key=lambda own: -len(own[0])):
            relative = found.relative_to(path.parent)
            if _dotted(relative) != name:
                raise DefinitionError(
                    f"the module {name!r} belongs to the definitions' folder, but is not imported from there",
                    where=str(relative),
                    remedy=f"Import it as {_dotted(relative)!r}"
                    if _dotted(relative)
                    else "Import the modules of the folder by their own names",
                    file=str(found),
                )
            files[relative.as_posix()] = found.read_bytes()
    return ModuleFiles(module, files)


def authors_line(error: BaseException, folder: Path) -> str:
    """File and line of the innermost frame of `error` that is code of `folder`; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(Path(frame.filename), folder.resolve())]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def name_elsewhere(module: str, files: Iterable[str]) -> str | None:
    """By which name a module of the author is imported where its folder, with `files`, stands on the path; None for a
    module of somebody else.
    """
    first = _NAMED.fullmatch(module)
    name = first["stem"] if first else module
    return name if name in {_dotted(Path(file)) for file in files if file.endswith(".py")} else None


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"definitions_{next(_counter)}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DefinitionError(
            "this is no Python file", where=str(path), remedy="Name it with the ending .py", file=str(path)
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # annotations of its classes are looked up there
    try:
        spec.loader.exec_module(module)
    except TrilaneError:
        raise
    except (Exception, SystemExit) as error:
        raise DefinitionError(
            f"the definitions raised {type(error).__name__}: {error}",
            where=path.name,
            remedy="Mend the line, then try again",
            file=authors_line(error, path.parent) or str(path),
        ) from error
    finally:
        del sys.modules[spec.name]
    return module


@contextmanager
def _isolated(folder: Path) -> Iterator[Callable[[], Iterator[tuple[str, Path]]]]:
    """A block in which modules of `folder` are not yet imported, and after which they are what they were."""
    own, in_the_way = {name for name, _ in _own_modules(folder)}, _named_as_in(folder)
    hidden = {
        name: module
        for name, module in list(sys.modules.items())
        if (top := name.partition(".")[0]) in in_the_way or (name in own and top not in _KEPT)
    }
    for name in hidden:
        del sys.modules[name]
    path, bytecode = sys.path[:], sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield lambda: _own_modules(folder)
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        for name, _ in list(_own_modules(folder)):
            del sys.modules[name]
        sys.modules.update(hidden)


def _own_modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """The modules that are code of `folder`. It looks at every module there is, thousands, so it must be fast."""
    start = f"{folder}{os.sep}"
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(start) and name != "__main__" and _is_own(Path(file), folder):
            yield name, Path(file)


def _named_as_in(folder: Path) -> set[str]:
    """The first parts of the names of those modules that would hide one of `folder`."""
    tops = {name.partition(".")[0] for name in list(sys.modules)} - _KEPT
    present = {path.name for path in folder.iterdir()}
    packages = {top for top in tops & present if (folder / top / "__init__.py").is_file()}
    return packages | {top for top in tops if f"{top}.py" in present}


def _is_own(file: Path, folder: Path) -> bool:
    if not file.is_relative_to(folder):
        return False
    parts = file.relative_to(folder).parts
    return not any(part.startswith(".") or part in _FOREIGN for part in parts)


def _dotted(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
