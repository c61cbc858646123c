"""What every metadata store must do, as checks that anybody can run against their own.

Each law takes an empty store and raises AssertionError if it is broken.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trilane.errors import ConflictError
from trilane.lifecycle.metadata.protocol import (
    FAILED,
    RUNNING,
    SUCCEEDED,
    ArtifactRecord,
    DefinitionsRecord,
    DeploymentRecord,
    EdgeRecord,
    MetadataStore,
    RunRecord,
)

__all__ = ["LAWS", "Law"]

Law = Callable[[MetadataStore], None]


def definitions_are_appended_only_when_they_differ_from_the_newest(store: MetadataStore) -> None:
    """A, A, B, A leaves A, B, A."""
    spec = {"kind": "entity", "name": "é", "keys": [{"n": 1.5, "null": None, "big": 2**53 + 1}]}
    states = [DefinitionsRecord(digest=d, applied_at=7, path=f"/{d}", specs=(spec,)) for d in "aaba"]
    _same([store.add_definitions(state) for state in states], [True, False, True, True])
    _same(store.definitions(), [states[3], states[2], states[0]])
    _same(store.definitions(limit=1), [states[3]])


def definitions_that_were_overtaken_are_refused(store: MetadataStore) -> None:
    """Of two that begin at one state the second is told, and so is what is deployed for definitions of the past."""

    def add(digest: str, after: str | None) -> bool:
        return store.add_definitions(DefinitionsRecord(digest=digest, applied_at=7, path="/", specs=()), after=after)

    _same([add("a", None), add("b", "a"), add("b", "a")], [True, True, False])
    deployment = DeploymentRecord(endpoint="e", bundle="x", facts={}, at=3)
    _refused(lambda: _nothing(add("c", "a")))
    _refused(lambda: _nothing(store.add_deployment(deployment, of="a")))
    _same([store.add_deployment(deployment, of="b"), store.add_deployment(deployment, of="b")], [True, False])
    _same((store.deployments(), len(store.definitions())), ([deployment], 2))


def an_artifact_is_added_once_and_found_by_each_fact(store: MetadataStore) -> None:
    """(kind, name, digest) is unique, and the first record stays."""
    facts = {"auc": 0.1 + 0.2}
    first = ArtifactRecord(kind="model", name="m", digest="1", path="/1", facts=facts, created_at=5)
    second = msgspec.structs.replace(first, digest="2", created_at=1)
    other = msgspec.structs.replace(first, kind="training_set")
    _same([store.add_artifact(a) for a in (first, second, other)], [True, True, True])
    _same(store.add_artifact(msgspec.structs.replace(first, path="/elsewhere")), False)
    _same(store.artifacts(kind="model", name="m"), [second, first])
    _same(store.artifacts(digest="1", limit=1), [other])
    _same(store.artifacts(kind="none"), [])


def marks_move_with_the_histories_and_with_nothing_else(store: MetadataStore) -> None:
    """Each definition and deployment that is added gives others; what changes neither history leaves them."""
    seen = [store.marks()]
    definitions = DefinitionsRecord(digest="a", applied_at=7, path="/a", specs=())
    deployment = DeploymentRecord(endpoint="e", bundle="x", facts={}, at=3)
    _same(store.add_definitions(definitions), True)
    seen.append(store.marks())
    _same(store.add_deployment(deployment), True)
    seen.append(store.marks())
    _same(len(set(seen)), 3)
    store.add_definitions(definitions)
    store.add_artifact(ArtifactRecord(kind="model", name="m", digest="1", path="/1", facts={}, created_at=5))
    store.start_run(RunRecord(id="1", kind="train", subject="m", facts={}, started_at=1))
    _same(store.marks(), seen[-1])


def the_history_of_deployments_is_kept_in_order(store: MetadataStore) -> None:
    """Also when the clock stands still and the same bundle comes back."""
    history = [DeploymentRecord(endpoint="e", bundle=b, facts={}, at=3) for b in ("x", "y", "x")]
    other = DeploymentRecord(endpoint="f", bundle="z", facts={"why": "test"}, at=3)
    for record in (*history, other):
        store.add_deployment(record)
    _same(store.deployments(endpoint="e"), history[::-1])
    _same(store.deployments(limit=1), [other])


def a_run_ends_once(store: MetadataStore) -> None:
    """An end without a beginning, and a second end, are conflicts and change nothing."""
    begun = RunRecord(id="r1", kind="train", subject="m", facts={"rows": 1}, started_at=10)
    store.start_run(begun)
    _refused(lambda: store.start_run(begun))
    _same(store.runs(status=RUNNING, started_before=11), [begun])
    _same(store.runs(status=RUNNING, started_before=10), [])
    edge = EdgeRecord(source="s", target="t", relation="reads", first_seen=20, last_seen=20, run="r1")
    store.end_run("r1", status=FAILED, ended_at=20, facts={"rows": 2}, error={"code": "model"}, edges=[edge])
    changes = {"status": FAILED, "ended_at": 20, "facts": {"rows": 2}, "error": {"code": "model"}}
    ended = msgspec.structs.replace(begun, **changes)
    _same(store.runs(id="r1"), [ended])
    late = msgspec.structs.replace(edge, target="late")
    _refused(lambda: store.end_run("r1", status=SUCCEEDED, ended_at=30, facts={}, edges=[late]))
    _refused(lambda: store.end_run("r2", status=SUCCEEDED, ended_at=30, facts={}))
    _same(store.runs(kind="train", subject="m"), [ended])
    _same(store.edges(), [edge])


def an_edge_that_is_seen_again_keeps_its_first_time(store: MetadataStore) -> None:
    """Whichever of two sightings is written first, the result is the same span and the later one's run."""
    early = EdgeRecord(source="s", target="t", relation="reads", first_seen=1, last_seen=1, run="r1")
    late = msgspec.structs.replace(early, first_seen=9, last_seen=9, run="r2")
    store.see_edges([early, late])
    store.see_edges([msgspec.structs.replace(early, first_seen=4, last_seen=4)])
    _same(store.edges(), [msgspec.structs.replace(early, last_seen=9, run="r2")])
    store.see_edges([msgspec.structs.replace(late, relation="writes", run=None)])
    _same([edge.relation for edge in store.edges()], ["reads", "writes"])


LAWS: tuple[Law, ...] = (
    definitions_are_appended_only_when_they_differ_from_the_newest,
    definitions_that_were_overtaken_are_refused,
    an_artifact_is_added_once_and_found_by_each_fact,
    marks_move_with_the_histories_and_with_nothing_else,
    the_history_of_deployments_is_kept_in_order,
    a_run_ends_once,
    an_edge_that_is_seen_again_keeps_its_first_time,
)


def _nothing(_: object) -> None:
    """What a check that is to be refused gives."""


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"expected {expected!r}, found {found!r}")


def _refused(act: Callable[[], None]) -> None:
    try:
        act()
    except ConflictError:
        return
    raise AssertionError("a ConflictError was promised")
