"""A schema registry that speaks Confluent's REST API: Confluent's own, Karapace, Apicurio, Redpanda.

Laws: a schema never changes under its id, so each is asked for once and kept in a file; what was found stays known
while the registry is down or we start anew; that an id is not there is believed for a moment only, and only if the
registry itself says so.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from trilane.errors import SetupError, TrilaneError, UnavailableError
from trilane.plugins import make_folder
from trilane.sources.formats.protocol import Registered

__all__ = ["SchemaRegistry"]

_UNKNOWN = 10.0  # seconds for which an id that was not there is not asked for again
_TRIES = 2
_NO_SCHEMA, _NO_SUBJECT = 40403, 40401  # what the registry's own 404 says, unlike that of a proxy
_MOST_REFERENCES = 100
_ACCEPT = {"accept": "application/vnd.schemaregistry.v1+json, application/json"}


class SchemaRegistry:
    """Keeps the promise of Schemas, with the registry at `url` (`http://user:password@host:8081/path`).

    `folder` is where found schemas are kept; `timeout`: seconds that one question may take.
    """

    def __init__(self, url: str, folder: Path, *, timeout: float = 5.0) -> None:
        try:
            parts = httpx.URL(url.rstrip("/"))
            self._client = httpx.Client(timeout=timeout, headers=_ACCEPT)
        except (httpx.InvalidURL, TypeError) as error:
            raise SetupError(
                f"this is no URL: {error}", where="schema_registry", remedy="Write http://host:8081"
            ) from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise SetupError("this is no HTTP URL", where="schema_registry", remedy="Write http://host:8081")
        self._auth = (parts.username, parts.password) if parts.username else None
        self._url = str(parts.copy_with(username=None, password=None)).rstrip("/")
        self._folder = folder / hashlib.sha256(self._url.encode()).hexdigest()[:16]
        self._known: dict[int, Registered] = {}
        self._unknown: dict[int, float] = {}

    def find(self, number: int) -> Registered | None:
        if number not in self._known:
            found = self._kept(number) or self._asked(number)
            if found is None:
                return None
            self._known[number] = found
        return self._known[number]

    def latest(self, subject: str) -> Registered:
        found = self._ask(f"/subjects/{quote(subject, safe='')}/versions/latest")
        if found is None:
            remedy = "Register a schema under it, or correct subject="
            raise SetupError(f"the registry has no subject {subject!r}", where=self._url, remedy=remedy)
        try:
            number = int(found["id"])
        except (KeyError, TypeError, ValueError):
            raise self._strange() from None
        return self.find(number) or self._gone(number)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _asked(self, number: int) -> Registered | None:
        if time.monotonic() - self._unknown.get(number, -_UNKNOWN) < _UNKNOWN:
            return None
        found = self._ask(f"/schemas/ids/{number}")
        if found is None:
            self._unknown[number] = time.monotonic()
            return None
        kind = str(found.get("schemaType", "AVRO"))
        if kind == "PROTOBUF":
            found = self._ask(f"/schemas/ids/{number}?format=serialized") or self._gone(number)
        references: dict[str, str] = {}
        self._refer(found, kind, references)
        schema = Registered(number, kind, self._text(found), tuple(references.items()))
        self._keep(schema)
        return schema

    def _refer(self, schema: dict[str, Any], kind: str, found: dict[str, str]) -> None:
        """Gathers what a schema refers to, the deepest first."""
        for one in schema.get("references") or ():
            try:
                name, place = one["name"], f"/subjects/{quote(one['subject'], safe='')}/versions/{int(one['version'])}"
            except (KeyError, TypeError, ValueError):
                raise self._strange() from None
            if name in found:
                continue
            if len(found) >= _MOST_REFERENCES:
                raise SetupError("a schema refers to too many others", where=self._url, remedy="Register it anew")
            found[name] = ""  # so that a circle ends
            other = self._ask(place + ("?format=serialized" if kind == "PROTOBUF" else ""))
            if other is None:
                raise SetupError(f"the schema {name!r}, which another refers to, is gone", where=self._url)
            self._refer(other, kind, found)
            del found[name]
            found[name] = self._text(other)

    def _ask(self, path: str) -> dict[str, Any] | None:
        """What the registry answers; None if it says that there is no such thing."""
        trouble = ""
        for _ in range(_TRIES):
            try:
                answer = self._client.get(self._url + path, auth=self._auth)
            except httpx.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code < 500 and answer.status_code != 429:
                return self._read(answer)
            trouble = f"HTTP {answer.status_code}"
        remedy = "Start it, or correct schema_registry in trilane.toml; events whose schema is known go on"
        raise UnavailableError(f"the schema registry does not answer: {trouble}", where=self._url, remedy=remedy)

    def _read(self, answer: httpx.Response) -> dict[str, Any] | None:
        try:
            found = msgspec.json.decode(answer.content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = {}
        if answer.status_code == 200 and found:
            return found
        if answer.status_code == 404 and found.get("error_code") in (_NO_SCHEMA, _NO_SUBJECT, 40402):
            return None
        if answer.status_code in (401, 403):
            remedy = "Write the user and password into the URL: http://user:password@host:8081"
            raise SetupError("the schema registry refuses us", where=self._url, remedy=remedy)
        raise self._strange(f"HTTP {answer.status_code}")

    def _text(self, found: dict[str, Any]) -> str:
        text = found.get("schema")
        if not isinstance(text, str):
            raise self._strange()
        return text

    def _strange(self, what: str = "an answer without a schema") -> TrilaneError:
        remedy = "Correct schema_registry in trilane.toml: it is the URL up to /schemas"
        return SetupError(f"this does not answer as a schema registry: {what}", where=self._url, remedy=remedy)

    def _gone(self, number: int) -> Any:  # noqa: ANN401 - it never returns
        raise UnavailableError(f"the registry lost schema {number} between two questions", where=self._url)

    def _kept(self, number: int) -> Registered | None:
        try:
            return msgspec.json.decode((self._folder / f"{number}.json").read_bytes(), type=Registered)
        except (OSError, msgspec.DecodeError):
            return None

    def _keep(self, schema: Registered) -> None:
        """Writes the file whole or not at all; without it we should only have to ask again."""
        draft = make_folder(self._folder) / f".{schema.id}.{os.getpid()}"
        try:
            draft.write_bytes(msgspec.json.encode(schema))
            draft.replace(self._folder / f"{schema.id}.json")
        except OSError:
            draft.unlink(missing_ok=True)
