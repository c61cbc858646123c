"""A dead letter is mended, replayed once, released or discarded; what would be refused again stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shop import DEFINITIONS, MINUTE, T0, append, event, make_project
from trilane.apps import deploy, letters
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.errors import ContractError, DefinitionError
from trilane.lanes.batch.archive import archive
from trilane.lanes.progress import LANES, decode, lane_key
from trilane.sources.dead_letters import DISCARDED, QUARANTINED, REPLAYED, DeadLetter
from trilane.sources.log.sqlite import SqliteLog

RULED = DEFINITIONS.replace(
    'disorder="10m")',
    'disorder="10m", rules=[tl.rule("amount below 100", lambda t: t.amount < 100, action="quarantine"), '
    'tl.rule("amount not negative", lambda t: t.amount >= 0)])',
)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    make_project(tmp_path, apply=False).close()
    (tmp_path / "definitions.py").write_text(RULED)
    with Project(load_config(tmp_path, environment={}), clock=SimulatedClock(T0 + 5 * MINUTE)) as opened:
        deploy.apply(opened)
        yield opened


def _run(project: Project) -> int:
    """Lets the lanes do what there is to do; how many events count, in each."""
    worker = Worker(project)
    while worker.step():
        pass
    worker.close()
    source = project.definitions.sources["orders"]
    archive(project.log, project.warehouse, source)
    with project.warehouse.connect(threads=1) as connection:
        sql = f"SELECT count(*) FROM {project.warehouse.events_sql(source)} WHERE NOT _late"
        [(archived,)] = connection.query(sql).fetchall()
    [[row]] = project.online.read([(LANES, [lane_key("orders", 0)])])
    assert decode(row).applied == archived
    return decode(row).applied


def _by_code(project: Project) -> dict[str, DeadLetter]:
    return {letter.code: letter for letter in project.dead_letters.read("orders")}


def test_a_letter_that_is_mended_and_replayed_counts_once_in_every_lane(project: Project) -> None:
    append(project, [event(1, at=T0), event(2, at=T0, amount=-5.0), event(3, at=T0 + MINUTE)], arrived_at=T0)
    assert _run(project) == 2
    [letter] = project.dead_letters.read("orders")
    assert (letter.code, letter.id) == ("rule:amount not negative", 1)
    [left] = letters.replay(project, [letter])
    assert (left.done, left.reason) == (False, "$: the event breaks the rule 'amount not negative'")
    letters.fix(project, 1, ["amount=5"], None)
    again = letters.found(project, 1)
    assert [one.done for one in letters.replay(project, [again])] == [True]
    assert _run(project) == 3
    assert project.dead_letters.read("orders") == []
    assert letters.found(project, 1).state == REPLAYED
    assert letters.replay(project, [letters.found(project, 1)])[0].reason == "it was replayed already"


def test_a_replay_that_was_interrupted_before_it_was_noted_counts_once_when_it_is_repeated(project: Project) -> None:
    append(project, [event(2, at=T0, amount=-5.0)], arrived_at=T0)
    _run(project)
    mended = letters.fix(project, 1, ["amount=5"], None)
    project.log.append("orders", 0, [mended.text], T0 + 5 * MINUTE)  # and then the process died
    assert letters.replay(project, [mended])[0].done
    assert _run(project) == 1
    assert SqliteLog.end(project.log, "orders", 0) == 3  # type: ignore[arg-type]


def test_what_is_in_quarantine_counts_once_it_is_released_and_not_when_it_is_replayed(project: Project) -> None:
    append(project, [event(1, at=T0, amount=500.0), event(2, at=T0, amount=1.0)], arrived_at=T0)
    assert _run(project) == 1
    letter = _by_code(project)["rule:amount below 100"]
    assert letter.state == QUARANTINED
    assert "breaks the rule" in letters.replay(project, [letter])[0].reason
    assert letters.replay(project, [letter], release=True)[0].done
    assert _run(project) == 2


def test_a_letter_whose_time_has_passed_stays_and_says_so(project: Project) -> None:
    values = [event(1, at=T0, amount=-5.0), event(2, at=T0 - 20 * MINUTE), event(3, at=T0 + 5 * MINUTE)]
    append(project, [values[0], values[2], values[1]], arrived_at=T0 + 5 * MINUTE)
    assert _run(project) == 1
    late = _by_code(project)["late"]
    assert "counts in no lane" in letters.replay(project, [late])[0].reason
    letters.fix(project, 1, ["amount=5"], None)
    project.log.append("orders", 0, [event(4, at=T0 + 16 * MINUTE)], T0 + 16 * MINUTE)
    _run(project)
    [left] = letters.replay(project, [letters.found(project, 1)])
    assert not left.done
    assert "late" in left.reason


def test_what_is_discarded_is_settled_and_reading_the_log_again_does_not_open_it(project: Project) -> None:
    append(project, [b"broken", event(1, at=T0)], arrived_at=T0)
    _run(project)
    found = project.dead_letters.read("orders")
    assert (letters.discard(project, found), letters.discard(project, found)) == (1, 0)
    project.dead_letters.add(found)
    assert project.dead_letters.count() == {}
    assert project.dead_letters.census() == {("orders", "json", DISCARDED): 1}


def test_what_cannot_be_mended_says_why(project: Project) -> None:
    append(project, [b"broken", b'{"order_id": 7, "shop": {"name": "a"}}'], arrived_at=T0)
    _run(project)
    broken, typed = sorted(project.dead_letters.read("orders"), key=lambda one: one.code)
    with pytest.raises(ContractError, match="malformed") as refused:
        letters.fix(project, broken.id or 0, ["amount=5"], None)
    assert "--payload" in refused.value.remedy
    for change in ("amount", "=5", "order_id.x=5"):
        with pytest.raises(DefinitionError, match="changes nothing"):
            letters.fix(project, typed.id or 0, [change], None)
    assert letters.fix(project, typed.id or 0, ["shop.name=b", "$.order_id=o7"], None).fixed == (
        b'{"order_id":"o7","shop":{"name":"b"}}'
    )
    with pytest.raises(ContractError, match="no JSON object"):
        letters.fix(project, broken.id or 0, (), b"[]")
    letters.fix(project, broken.id or 0, (), event(9, at=T0))
    assert letters.replay(project, [letters.found(project, broken.id or 0)])[0].done
    with pytest.raises(DefinitionError, match="was replayed already"):
        letters.fix(project, broken.id or 0, (), b"{}")
    with pytest.raises(DefinitionError, match="no dead letter 99"):
        letters.found(project, 99)
