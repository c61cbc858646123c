# ruff: noqa: ANN401 - the types of Feast are known only where it is installed
"""Reads a Feast repository as `feast apply` does and prints what it declares as JSON; run by a Python that has Feast.

Laws: this file needs nothing but Feast and the standard library of Python 3.9, so that it runs in the repository's own
environment; what the repository prints goes to standard error; a file that cannot be imported is an error that names
file and line, and nothing is left out in silence.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fnmatch
import importlib
import inspect
import json
import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["main"]

_SKIPPED = (".git", ".venv", "venv", ".ipynb_checkpoints", ".pytest_cache", "__pycache__")
_PLAIN = (bool, int, float, str, type(None))
_FAILED, _NO_FEAST = 3, 4


def main(arguments: list[str]) -> int:
    """`arguments`: the repository, then the patterns of files to leave out. Prints the facts, or an error."""
    root, ignored = Path(arguments[0]).resolve(), arguments[1:]
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the repository prints must not get between us and our reader
    status = 0
    try:
        found: dict[str, Any] = read(root, ignored)
    except _BrokenFileError as error:
        found, status = {"error": error.facts}, _FAILED
    except ImportError as error:
        found, status = {"error": {"what": str(error)}}, _NO_FEAST
    with answer:
        json.dump(found, answer)
    return status


class _BrokenFileError(Exception):
    def __init__(self, file: str, line: int, what: str) -> None:
        super().__init__(what)
        self.facts = {"what": what, "file": file, "line": line}


def read(root: Path, ignored: list[str]) -> dict[str, Any]:
    """Everything that the Python files below `root` declare, as plain facts."""
    warnings.simplefilter("ignore")
    import feast

    os.chdir(root)
    sys.path[:] = [str(root), *(path for path in sys.path if path != str(Path(__file__).parent))]
    sys.dont_write_bytecode = True
    things = _things(root, ignored)
    others = [one for one in things if _kind(one) is None and not isinstance(one, feast.Project)]
    return {
        "feast": getattr(feast, "__version__", "unknown"),
        "project": _project(root, things),
        "entities": [_entity(one) for one in things if _kind(one) == "entity"],
        "sources": [_source(one, root) for one in _sources(things)],
        "views": [_view(one, things) for one in things if _kind(one) == "view"],
        "on_demand": [_on_demand(one) for one in things if _kind(one) == "on demand"],
        "services": [_service(one) for one in things if _kind(one) == "service"],
        "labels": [_view(one, things) for one in things if _kind(one) == "labels"],
        "others": [{"kind": type(one).__name__, "name": str(getattr(one, "name", ""))} for one in others],
    }


def _files(root: Path, ignored: list[str]) -> Iterator[Path]:
    patterns = list(ignored)
    if (root / ".feastignore").is_file():
        lines = (root / ".feastignore").read_text().splitlines()
        patterns += [line.partition("#")[0].strip() for line in lines]
    for path in sorted(root.glob("**/*.py")):
        inner = path.relative_to(root)
        below = [str(inner), *(str(parent) for parent in inner.parents)]
        if path.name == "__init__.py" or set(inner.parts) & set(_SKIPPED):
            continue
        if not any(fnmatch.fnmatch(name, pattern) for name in below for pattern in patterns if pattern):
            yield path


def _things(root: Path, ignored: list[str]) -> list[Any]:
    """Each Feast object that a file holds, once, in order of file and name."""
    import feast.base_feature_view as base
    from feast import Entity, FeatureService, Project
    from feast.data_source import DataSource

    kinds = [DataSource, Entity, FeatureService, Project, base.BaseFeatureView]
    for module, name in (
        ("feast.permissions.permission", "Permission"),
        ("feast.saved_dataset", "ValidationReference"),
    ):
        with contextlib.suppress(ImportError, AttributeError):
            kinds.append(getattr(importlib.import_module(module), name))
    found: list[Any] = []
    for path in _files(root, ignored):
        read_module = _import(path, root)
        for name in dir(read_module):
            thing = getattr(read_module, name)
            if isinstance(thing, tuple(kinds)) and not any(thing is one for one in found):
                found.append(thing)
    return found


def _import(path: Path, root: Path) -> types.ModuleType:
    inner = str(path.relative_to(root))
    try:
        return importlib.import_module(inner[: -len(".py")].replace(os.sep, "."))
    except SyntaxError as error:
        raise _BrokenFileError(error.filename or inner, error.lineno or 0, f"SyntaxError: {error.msg}") from error
    except (Exception, SystemExit) as error:
        places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(root))]
        file, line = (places[-1].filename, places[-1].lineno or 0) if places else (inner, 0)
        raise _BrokenFileError(file, line, f"{type(error).__name__}: {error}") from error


def _kind(thing: Any) -> str | None:
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
    from feast.data_source import DataSource

    if isinstance(thing, OnDemandFeatureView):
        return "on demand"
    if type(thing).__name__ == "LabelView":
        return "labels"
    for kind, name in ((Entity, "entity"), (FeatureService, "service"), (DataSource, "source"), (FeatureView, "view")):
        if isinstance(thing, kind):
            return name
    return None


def _project(root: Path, things: list[Any]) -> str:
    from feast import Project

    named = [one.name for one in things if isinstance(one, Project)]
    if named:
        return str(named[0])
    settings = importlib.import_module("yaml").safe_load((root / "feature_store.yaml").read_text()) or {}
    return str(settings.get("project", root.name))


def _sources(things: list[Any]) -> list[Any]:
    """Every data source, also those that only a view or another source refers to."""
    waiting = [one for one in things if _kind(one) is not None]
    found: list[Any] = []
    while waiting:
        one = waiting.pop(0)
        if _kind(one) == "source":
            if any(one is known for known in found):
                continue
            found.append(one)
        inner = (getattr(one, name, None) for name in ("batch_source", "stream_source", "source"))
        waiting += [part for part in inner if part is not None and _kind(part) == "source"]
        waiting += list(getattr(one, "source_request_sources", {}).values())
    return found


def _about(thing: Any) -> dict[str, Any]:
    return {
        "name": thing.name,
        "description": getattr(thing, "description", "") or "",
        "tags": {str(key): str(value) for key, value in (getattr(thing, "tags", None) or {}).items()},
        "owner": getattr(thing, "owner", "") or "",
    }


def _entity(entity: Any) -> dict[str, Any]:
    return {**_about(entity), "join_key": entity.join_key, "type": entity.value_type.name}


def _fields(fields: Any) -> list[dict[str, Any]]:
    return [
        {"name": field.name, "type": str(field.dtype), "description": getattr(field, "description", "") or ""}
        for field in fields or ()
    ]


def _source(source: Any, root: Path) -> dict[str, Any]:
    delay = getattr(getattr(source, "kafka_options", None), "watermark_delay_threshold", None)
    return {
        **_about(source),
        "kind": type(source).__name__,
        "path": _path(getattr(source, "path", None), root),
        "reads": _reads(source),
        "timestamp": getattr(source, "timestamp_field", "") or "",
        "created": getattr(source, "created_timestamp_column", "") or "",
        "renamed": dict(getattr(source, "field_mapping", None) or {}),
        "batch_source": _named(getattr(source, "batch_source", None)),
        "fields": _fields(getattr(source, "schema", ())),
        "delay": _seconds(delay),
    }


def _reads(source: Any) -> str:
    """The table, query or topic behind a source that is no file."""
    kafka = getattr(source, "kafka_options", None)
    if kafka is not None:
        return f"topic {kafka.topic}"
    for name in ("table", "query", "get_table_query_string"):
        with contextlib.suppress(Exception):
            value = getattr(source, name, "")
            text = value() if callable(value) else value
            if text:
                return str(text)
    return ""


def _path(path: Any, root: Path) -> str:
    if not path or "://" in str(path):
        return str(path or "")
    whole = Path(str(path))
    if whole.is_absolute() and root in whole.parents:
        return str(whole.relative_to(root))
    return str(whole)


def _named(thing: Any) -> str | None:
    return None if thing is None else str(thing.name)


def _seconds(duration: Any) -> float | None:
    return duration.total_seconds() if isinstance(duration, dt.timedelta) else None


def _view(view: Any, things: list[Any]) -> dict[str, Any]:
    keys = {one.name: one for one in things if _kind(one) == "entity"}
    source = getattr(view, "stream_source", None) or getattr(view, "data_source", None) or getattr(view, "source", None)
    return {
        **_about(view),
        "kind": type(view).__name__,
        "entities": [name for name in view.entities if name != "__dummy"],
        "unknown": [name for name in view.entities if name != "__dummy" and name not in keys],
        "ttl": _seconds(getattr(view, "ttl", None)),
        "source": _named(source if _kind(source) == "source" else None),
        "batch_source": _named(getattr(view, "batch_source", None)),
        "derived_from": [one.name for one in getattr(view, "source_views", None) or ()],
        "keys": _fields(getattr(view, "entity_columns", ())),
        "fields": _fields(view.features),
        "online": bool(getattr(view, "online", True)),
        "timestamp": getattr(view, "timestamp_field", "") or "",
        "aggregations": [_aggregation(one) for one in getattr(view, "aggregations", None) or ()],
        **_function(view),
    }


def _aggregation(one: Any) -> dict[str, Any]:
    window = _seconds(one.time_window)
    name = getattr(one, "name", "") or f"{one.function}_{one.column}" + (f"_{int(window)}s" if window else "")
    return {"name": name, "function": one.function, "column": one.column, "window": window}


def _on_demand(view: Any) -> dict[str, Any]:
    return {
        **_about(view),
        "requests": list(view.source_request_sources),
        "views": [_projection(one) for one in view.source_feature_view_projections.values()],
        "inputs": [field for source in view.source_request_sources.values() for field in _fields(source.schema)],
        "fields": _fields(view.features),
        "singleton": bool(getattr(view, "singleton", False)),
        "stored": bool(getattr(view, "write_to_online_store", False)),
        "aggregated": bool(getattr(view, "aggregations", None)),
        **_function(view),
    }


def _projection(one: Any) -> dict[str, Any]:
    return {
        "view": one.name,
        "alias": one.name_alias or "",
        "features": [field.name for field in one.features] or list(one.desired_features or ()),
        "join_keys": dict(one.join_key_map or {}),
    }


def _service(service: Any) -> dict[str, Any]:
    pending = [str(one) for one in getattr(service, "_pending_feature_refs", ())]
    return {
        **_about(service),
        "projections": [_projection(one) for one in service.feature_view_projections],
        "references": pending,
    }


def _function(view: Any) -> dict[str, Any]:
    """The mode and the text of a view's function, and what the names mean that it takes from its module."""
    transformation = getattr(view, "feature_transformation", None)
    function = getattr(view, "udf", None) or getattr(transformation, "udf", None)
    mode = getattr(view, "mode", None)
    facts: dict[str, Any] = {"mode": str(getattr(mode, "value", mode) or ""), "function": "", "names": {}}
    if transformation is not None and not callable(function):
        return {**facts, "function": str(getattr(transformation, "udf_string", "") or transformation)}
    if not callable(function):
        return facts
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = getattr(view, "udf_string", "") or ""
    return {**facts, "function": text, "names": _names(function)}


def _names(function: Any) -> dict[str, str]:
    """What the names mean that the function and what is nested in it take from outside."""
    found: dict[str, str] = {}
    outside = dict(getattr(function, "__globals__", {}))
    with contextlib.suppress(TypeError, ValueError):
        outside.update(inspect.getclosurevars(function).nonlocals)
    for name in _used(getattr(function, "__code__", None)):
        if name not in outside:
            continue
        value = outside[name]
        if isinstance(value, types.ModuleType):
            found[name] = f"module {value.__name__}"
        elif isinstance(value, _PLAIN):
            found[name] = f"value {value!r}"
        else:
            found[name] = f"{type(value).__name__} {getattr(value, '__name__', name)}"
    return found


def _used(code: types.CodeType | None) -> list[str]:
    if code is None:
        return []
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _used(part)]
    return sorted({*code.co_names, *code.co_freevars, *inner})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
