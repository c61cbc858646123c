"""What an installation is told by its operator: `trilane.toml`, then the environment.

Laws: every key has a default, so an empty file is a project; an unknown key or a wrong type is refused with its
name; a relative path is relative to the project, whatever the working directory; only `apps` reads any of this.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from trilane.clock import duration
from trilane.contract import split_message
from trilane.errors import DefinitionError, SetupError
from trilane.plugins import scheme

__all__ = ["CONFIG_FILE", "Config", "load_config"]

CONFIG_FILE = "trilane.toml"

# The adapters that live in files of this machine; the rest of any other URL is a network's business.
_LOCAL = ("duckdb", "lmdb", "spark", "sqlite")
_ENVIRONMENT = "TRILANE_"
_Level = Literal["debug", "info", "warning", "error"]
_Form = Literal["text", "json"]


class _Keys(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The keys of the file, all optional."""

    name: str = ""
    definitions: str = "definitions.py"
    state: str = ".trilane"
    models: str = "models"
    models_mib: Annotated[int, msgspec.Meta(ge=1, le=16_777_216)] = 4_096
    online: str = ""
    log: str = ""
    offline: str = ""
    metadata: str = ""
    schema_registry: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 8321
    grpc_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    workers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    nearline_workers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    member: str = ""
    replay: bool = False
    feature_rows: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    cache_mib: Annotated[int, msgspec.Meta(ge=0, le=1_048_576)] = 32
    read_limit: str = "50ms"
    retain: str = "1d"
    drain: str = "0s"
    log_level: _Level = "info"
    log_format: _Form = "text"
    traces: str = ""
    trace_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    slow: str = "1s"


@dataclass(frozen=True, kw_only=True)
class Config:
    """A project's settings; all paths, also those in URLs, are absolute.

    `member` is the name of this machine's workers in their group, empty for one of the process;
    `definitions` is the author's file; `grpc_port` is where the server speaks gRPC, 0 for nowhere;
    `state` the folder of what Trilane itself keeps; `models` that of models from files, of which each server process
    keeps `models_mib` in memory; `replay` says that the
    clock stands still until somebody moves it; `feature_rows` bounds a feature read, `cache_mib` what a server keeps of
    the decoded rows of each view; `read_limit` (microseconds) is how long a decision waits for a store that can hang,
    `retain` (microseconds) how long what answered before is kept filled;
    `drain` (microseconds) is how long a server that was told to stop goes on answering, so that load balancers may see
    that it is not ready; `traces` is the URL of an OpenTelemetry collector, or empty, and `trace_share` the part of the
    requests that it gets; requests that take longer than `slow` (microseconds) are logged, none if it is 0;
    `schema_registry` is a URL, or empty.
    """

    root: Path
    name: str
    definitions: Path
    state: Path
    models: Path
    models_mib: int
    online: str
    log: str
    offline: str
    metadata: str
    schema_registry: str
    host: str
    port: int
    grpc_port: int
    workers: int
    nearline_workers: int
    member: str
    replay: bool
    feature_rows: int
    cache_mib: int
    read_limit: int
    retain: int
    drain: int
    log_level: str
    log_format: str
    traces: str
    trace_share: float
    slow: int

    @property
    def has_remote_store(self) -> bool:
        """Whether the online store is another process's, and so can hang."""
        return scheme(self.online) not in _LOCAL

    @property
    def url(self) -> str:
        """Where the server answers; a wildcard address is reached through the loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    @property
    def grpc_address(self) -> str:
        """Where the server speaks gRPC, as `host:port`; empty if nowhere."""
        return f"{self.url.removeprefix('http://').rpartition(':')[0]}:{self.grpc_port}" if self.grpc_port else ""


def load_config(start: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Config:
    """The settings of the project that holds folder `start` (default: the working directory).

    The nearest `trilane.toml` upwards is the project's; `TRILANE_PORT` and the like override its keys.
    Raises SetupError.
    """
    root = _root_of((start or Path.cwd()).absolute())
    found = os.environ if environment is None else environment
    keys = _read(root / CONFIG_FILE)
    for name in _Keys.__struct_fields__:
        value = found.get(f"{_ENVIRONMENT}{name.upper()}")
        if value is not None:
            setattr(keys, name, _override(name, value))
    return _resolved(root, keys)


def _root_of(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise SetupError(
        f"there is no {CONFIG_FILE} here or in any folder above",
        where=str(start),
        remedy="Change into a project, give --project, or make one with `trilane init`",
    )


def _read(path: Path) -> _Keys:
    try:
        return _converted(tomllib.loads(path.read_text()), where=str(path))
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"this is not TOML: {error}", where=str(path), remedy="Mend the line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the file cannot be read: {error}", where=str(path)) from error


def _override(name: str, value: str) -> object:
    keys = _converted({name: value}, where=f"{_ENVIRONMENT}{name.upper()}", strict=False)
    return getattr(keys, name)


def _converted(values: dict[str, Any], *, where: str, strict: bool = True) -> _Keys:
    strange = sorted(set(values) - set(_Keys.__struct_fields__))
    if strange:
        remedy = f"The keys are {', '.join(_Keys.__struct_fields__)}"
        raise SetupError(f"unknown key {strange[0]!r}", where=f"{where}: {strange[0]}", remedy=remedy)
    try:
        return msgspec.convert(values, _Keys, strict=strict)
    except msgspec.ValidationError as error:
        reason, path = split_message(str(error))
        key = path.removeprefix("$.")
        raise SetupError(
            reason, where=f"{where}: {key}" if strict else where, remedy=f"Correct the value of {key!r}"
        ) from None


def _resolved(root: Path, keys: _Keys) -> Config:
    state = root / keys.state
    return Config(
        root=root,
        name=keys.name or root.name,
        definitions=root / keys.definitions,
        state=state,
        models=root / keys.models,
        models_mib=keys.models_mib,
        online=_url(keys.online or f"lmdb://{state}/online", root),
        log=_url(keys.log or f"sqlite://{state}/log", root),
        offline=_url(keys.offline or f"duckdb://{state}/warehouse", root),
        metadata=_url(keys.metadata or f"sqlite://{state}/metadata.db", root),
        schema_registry=keys.schema_registry,
        host=keys.host,
        port=keys.port,
        grpc_port=keys.grpc_port,
        workers=keys.workers,
        nearline_workers=keys.nearline_workers,
        member=keys.member,
        replay=keys.replay,
        feature_rows=keys.feature_rows,
        cache_mib=keys.cache_mib,
        read_limit=_read_limit(keys.read_limit),
        retain=_time("retain", keys.retain, example="1d"),
        drain=_time("drain", keys.drain, example="5s"),
        log_level=keys.log_level,
        log_format=keys.log_format,
        traces=keys.traces,
        trace_share=keys.trace_share,
        slow=_time("slow", keys.slow, example="100ms"),
    )


def _read_limit(text: str) -> int:
    limit = _time("read_limit", text, example="50ms")
    if limit < 1_000:
        what = f"{text!r} is no time that a store could answer in"
        raise SetupError(what, where="read_limit", remedy='Write it as `read_limit = "50ms"`')
    return limit


def _time(key: str, text: str, *, example: str) -> int:
    try:
        return duration(text)
    except DefinitionError as error:
        remedy = f'Write it as `{key} = "{example}"`; "0s" for none'
        raise SetupError(error.what, where=key, remedy=remedy) from None


def _url(url: str, root: Path) -> str:
    """The URL with its path absolute, if it names a path of this machine."""
    name = scheme(url)
    if name not in _LOCAL:
        return url
    path, mark, options = url[len(name) + 1 :].removeprefix("//").partition("?")
    return f"{name}://{root / path}{mark}{options}" if path else url
