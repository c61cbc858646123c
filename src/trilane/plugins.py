"""Opens the adapter that a URL names, and reads the URL's parts for it.

The scheme names an entry point in the group of the role: `lmdb://.trilane/online` for the role
`online_stores` is what `lmdb` points to in `trilane.online_stores`. Ours and those of others are found in the
same way. What follows `scheme://` (or `scheme:`) is a path, as it is, up to a `?`; relative paths stay
relative to the working directory; after the `?` come options.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from urllib.parse import parse_qsl

from trilane.errors import SetupError

__all__ = ["local_path", "make_folder", "open_adapter", "options", "scheme"]


def open_adapter(group: str, url: str) -> object:
    """The adapter at `url` of the role `group`: `event_logs`, `online_stores` and so on.

    Raises SetupError if no such adapter is installed, or a package that it needs is missing.
    """
    name = scheme(url)
    offered = _offered(f"trilane.{group}", tuple(sys.path))
    found = {entry.value: entry for entry in offered.select(name=name)}
    if not found:
        installed = sorted(offered.names)
        raise SetupError(
            f"no adapter of {group} is called {name!r}",
            where=url,
            remedy=f"Use one of {', '.join(installed)}" if installed else "Install one: `pip install trilane`",
        )
    if len(found) > 1:
        raise SetupError(
            f"several packages offer {name!r} as one of {group}: {', '.join(sorted(found))}",
            where=url,
            remedy="Uninstall all but one of them",
        )
    (entry,) = found.values()
    opened: object = _load(entry, url)(url)  # type: ignore[operator]
    return opened


@functools.lru_cache
def _offered(group: str, path: tuple[str, ...]) -> EntryPoints:  # noqa: ARG001 - it decides what is found
    """What the packages on `path`, the present one, offer: read once, for it takes the list of each package."""
    return entry_points(group=group)


def _load(entry: EntryPoint, url: str) -> object:
    try:
        loaded: object = entry.load()
    except (ImportError, AttributeError) as error:
        package = entry.dist.name if entry.dist else entry.module.partition(".")[0]
        extra = ",".join(entry.extras) or entry.name
        raise SetupError(
            f"the adapter {entry.value} cannot be loaded: {error}",
            where=url,
            remedy=f"Install what it needs: `pip install '{package}[{extra}]'`",
        ) from error
    return loaded


def scheme(url: str) -> str:
    """The part before the first colon.

    >>> scheme("lmdb://.trilane/online")
    'lmdb'
    """
    name, colon, _ = url.partition(":")
    if not colon or not name:
        raise SetupError("the URL has no scheme", where=url, remedy=f"Write `scheme://{url.lstrip(':/')}`")
    return name


def local_path(url: str) -> Path:
    """The path in `url`.

    >>> str(local_path("lmdb://.trilane/online?map_size=1GiB")), str(local_path("sqlite:///var/log"))
    ('.trilane/online', '/var/log')
    """
    path = url[len(scheme(url)) + 1 :].removeprefix("//").partition("?")[0]
    if not path:
        raise SetupError("the URL has no path", where=url, remedy=f"Write `{scheme(url)}://path`")
    return Path(path)


def make_folder(path: Path) -> Path:
    """Makes the folder `path` unless it is there. Raises SetupError if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "Choose a folder that this user may create and write"
        raise SetupError(f"the folder cannot be made: {error}", where=str(path), remedy=remedy) from error
    return path


def options(url: str, *, known: Collection[str] | None = None) -> dict[str, str]:
    """The options in `url`; with `known`, a SetupError for any other.

    >>> options("sqlite://log?sync=normal")
    {'sync': 'normal'}
    """
    try:
        found = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True, strict_parsing="?" in url))
    except ValueError as error:
        raise SetupError(str(error), where=url, remedy="Write options as `?name=value&name=value`") from None
    strange = sorted(set(found) - set(found if known is None else known))
    if strange:
        allowed = ", ".join(sorted(known or ())) or "none"
        raise SetupError(f"unknown option {strange[0]!r}", where=url, remedy=f"Options here: {allowed}")
    return found
