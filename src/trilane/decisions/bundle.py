"""The unit of change: all that determines an endpoint's answers, frozen under one digest.

Law: two bundles with one digest answer alike, given the same request and the same stores; whatever could change an
answer (model, feature views, code, threshold, deadline, fallback) changes the digest.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from trilane.errors import ConflictError
from trilane.serving.degradation import SmallerModel
from trilane.serving.endpoint import Endpoint

__all__ = ["Bundle", "bundle_of"]


class Bundle(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What answers an endpoint.

    `model_digest` names the artifact; `views` maps each view that reaches the model to its version;
    `definitions` is the digest of the frozen definitions whose code runs; `deadline` is in microseconds;
    `fallback` are the rungs of the degradation ladder as plain facts.
    """

    endpoint: str
    model: str
    model_digest: str
    views: dict[str, str]
    definitions: str
    threshold: float | None
    deadline: int
    fallback: tuple[dict[str, Any], ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over everything, 64 hex digits."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def facts(self) -> dict[str, Any]:
        """The bundle as plain facts, from which `from_facts` builds it again."""
        return {name: msgspec.to_builtins(getattr(self, name)) for name in self.__struct_fields__}

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> Bundle:
        """The bundle that a deployment record keeps. Raises ConflictError if this release cannot read it."""
        try:
            return msgspec.convert(dict(facts), Bundle)
        except msgspec.ValidationError as error:
            raise ConflictError(
                f"the deployed bundle is none that this release knows: {error}",
                where="bundle",
                remedy="Run `trilane apply` to deploy it anew",
            ) from None


def bundle_of(
    endpoint: Endpoint, *, model_digest: str, definitions: str, others: Mapping[str, str] | None = None
) -> Bundle:
    """The bundle by which `endpoint`, as declared in `definitions`, answers with the artifact `model_digest`.

    `others`: by name, the artifacts of the smaller models of its ladder.
    """
    digests = others or {}
    return Bundle(
        endpoint=endpoint.name,
        model=endpoint.model.name,
        model_digest=model_digest,
        views=endpoint.model.plan.versions,
        definitions=definitions,
        threshold=endpoint.threshold,
        deadline=endpoint.deadline,
        fallback=tuple(
            step.spec() | ({"digest": digests[step.model.name]} if isinstance(step, SmallerModel) else {})
            for step in endpoint.fallback
        ),
    )
