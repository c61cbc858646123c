"""What a URL of Valkey or Redis says, checked when it is read.

Laws: an unknown option or a value of another kind is refused with its name; no text that is shown holds the password.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote

from trilane.clock import duration
from trilane.errors import SetupError, TrilaneError
from trilane.plugins import options, scheme

__all__ = ["Address", "parse_address"]

_PORT = 6379
_OPTIONS = ("ca", "cert", "cluster", "hedge", "key", "lease", "prefix", "replica", "timeout", "verify", "write_timeout")


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says. Times in seconds; `where` is the URL without its password."""

    where: str
    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    database: int
    tls: ssl.SSLContext | None
    cluster: bool
    prefix: bytes
    lease: float
    timeout: float
    write_timeout: float
    hedge: float = 0.0
    replica: tuple[str, int] | None = None


def parse_address(url: str) -> Address:
    """The address in `valkey://[user:password@]host[:port][,host...][/database][?options]`. Raises SetupError."""
    found = options(url, known=_OPTIONS)
    rest = url[len(scheme(url)) + 1 :].removeprefix("//").partition("?")[0]
    place, _, database = rest.partition("/")
    login, _, hosts = place.rpartition("@")
    user, _, password = login.partition(":")
    where = f"{scheme(url)}://{hosts}" + (f"/{database}" if database else "")
    cluster = _flag(found, "cluster", where, default=False)
    if not database.isdigit() and database:
        raise SetupError(f"{database!r} is not a database number", where=where, remedy="Write `valkey://host:6379/0`")
    return Address(
        where,
        tuple(_host(host, where) for host in hosts.split(",")),
        unquote(user),
        unquote(password),
        int(database or 0),
        _tls(found, where) if scheme(url) in ("valkeys", "rediss") else None,
        cluster,
        found.get("prefix", "trilane").encode(),
        _seconds(found, "lease", "10s", where),
        _seconds(found, "timeout", "250ms", where),
        _seconds(found, "write_timeout", "10s", where),
        _share(found, where, cluster=cluster),
        _host(found["replica"], where) if "replica" in found else None,
    )


def _host(text: str, where: str) -> tuple[str, int]:
    name, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        name, port = text, str(_PORT)
    if not name or not port.isdigit():
        raise SetupError(f"{text!r} is not a host", where=where, remedy="Write `valkey://host:6379`")
    return name.strip("[]"), int(port)


def _seconds(found: dict[str, str], name: str, default: str, where: str) -> float:
    try:
        seconds = duration(found.get(name, default)) / 1e6
    except TrilaneError:
        seconds = 0.0
    if seconds <= 0:
        raise SetupError(f"{name}={found[name]!r} is not a duration", where=where, remedy=f"Write `{name}={default}`")
    return seconds


def _share(found: dict[str, str], where: str, *, cluster: bool) -> float:
    """Which share of reads may be asked twice: none, unless there is a `hedge` or a `replica`."""
    text = found.get("hedge", "0.05" if "replica" in found else "0")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SetupError(f"hedge={text!r} is no share of reads", where=where, remedy="Write `hedge=0.05`")
    if cluster and (share or "replica" in found):
        what = "reads of a cluster go to several nodes, and are not asked twice"
        raise SetupError(what, where=where, remedy="Leave out `hedge=` and `replica=`")
    return share


def _flag(found: dict[str, str], name: str, where: str, *, default: bool) -> bool:
    text = found.get(name, str(default).lower())
    if text not in ("true", "false"):
        raise SetupError(f"{name}={text!r} is neither true nor false", where=where, remedy=f"Write `{name}=true`")
    return text == "true"


def _tls(found: dict[str, str], where: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=found.get("ca"))
        if "cert" in found:
            context.load_cert_chain(found["cert"], found.get("key"))
    except (OSError, ssl.SSLError) as error:
        remedy = "Give readable PEM files as `ca=`, `cert=` and `key=`"
        raise SetupError(f"the certificates cannot be used: {error}", where=where, remedy=remedy) from error
    if not _flag(found, "verify", where, default=True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
