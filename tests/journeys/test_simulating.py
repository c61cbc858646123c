"""`trilane simulate` beside a real server: its policy, what it learnt and recorded, as people and machines see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.servers import Running, command, running, trained, until
from tests.shop import make_project
from trilane.feedback.record import Records

ASK = {"shop": "a", "basket": 60.0}
POLICY = """
policy = tl.Policy(
    tiers=[tl.Tier("batch", floor=0.1, aging="1s")],
    callers=[tl.Caller("poor", rate=10, burst=5), tl.Caller("web", up_to="critical")],
    limit=64,
)
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("shop")
    make_project(folder, replay=True).close()
    trained(folder, "big")
    with running(folder, {"serve": ["--replay"]}) as found:
        yield found


@pytest.fixture(scope="module")
def asked(up: Running) -> Running:
    """After three requests of 20 rows and five of one are on record."""
    for rows in (20, 1, 20, 1, 1, 20, 1, 1):
        assert up.post("/v1/decide/is_big", {"rows": [ASK] * rows}).status_code == httpx.codes.OK

    def recorded() -> bool:
        records = Records(up.folder / ".trilane" / "records.db")
        try:
            return sum(len(sizes) for _, sizes in records.requests("is_big")) >= 8
        finally:
            records.close()

    until(recorded, "the decisions to be on record")
    return up


def _simulated(folder: Path, *words: str) -> dict[str, Any]:
    done = command(folder, "simulate", "is_big", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _refused(folder: Path, *words: str) -> dict[str, Any]:
    done = command(folder, "simulate", "is_big", *words, "--json")
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    assert error["what"]
    assert error["remedy"]
    return error


def test_requests_on_record_are_replayed_with_their_rows(asked: Running) -> None:
    found = _simulated(asked.folder)["replica"]
    assert (found["requests"], found["answered"]) == (8, 1.0)
    assert found["tiers"]["standard"]["in_time"] == 8
    assert found["batch_rows"]["max"] >= 20


def test_what_the_server_learnt_is_told_apart_from_the_profile(asked: Running) -> None:
    learnt = _simulated(asked.folder, "--rate", "200", "--learnt")
    profiled = _simulated(asked.folder, "--rate", "200")
    assert learnt["alpha_us"] + learnt["beta_us"] > 0
    assert (learnt["alpha_us"], learnt["beta_us"]) != (profiled["alpha_us"], profiled["beta_us"])
    assert learnt["replica"]["answered"] > 0.99


def test_the_declared_policy_decides_before_it_is_applied(asked: Running) -> None:
    definitions = asked.folder / "definitions.py"
    before, who = definitions.read_text(), ("--callers", "poor=1,web=1", "--tiers", "0.2,0.4,0,0.4", "--rate", "100")
    try:
        assert _simulated(asked.folder, *who)["replica"]["answered"] == 1.0
        definitions.write_text(before + POLICY)
        found = _simulated(asked.folder, *who)
    finally:
        definitions.write_text(before)
    assert found["policy"]["limit"] == 64
    replica = found["replica"]
    assert replica["limit"] == 64
    assert set(replica["tiers"]) == {"critical", "standard", "batch"}
    assert all(tier["refused"]["quota"] > 0 for name, tier in replica["tiers"].items() if name != "critical")
    assert "quota" not in replica["tiers"]["critical"]["refused"]  # nobody but `web` gets that tier
    assert replica["answered"] == 1.0


def test_a_burst_of_ten_times_the_capacity_is_told_by_tier_and_alike_for_one_seed(asked: Running) -> None:
    words = ("--rate", "50", "--burst", "10", "--burst-seconds", "0.2", "--deadline", "30ms", "--overhead", "2ms")
    found = _simulated(asked.folder, *words, "--seed", "3")
    burst, tiers = found["burst"], found["replica"]["tiers"]
    assert burst["rate"] == pytest.approx(10 * burst["capacity"])
    assert burst["goodput"] > 0
    assert tiers["standard"]["requests"] == found["replica"]["requests"]
    assert tiers["standard"]["instead"] > 0  # the endpoint has a constant to fall back to
    assert _simulated(asked.folder, *words, "--seed", "3") == found


def test_a_person_is_shown_each_tier_and_the_burst(asked: Running) -> None:
    words = ("--rate", "50", "--burst", "10", "--burst-seconds", "0.2")
    said = command(asked.folder, "simulate", "is_big", *words).stdout
    for word in ("By tier", "standard", "let in", "policy", "limit none", "burst, from"):
        assert word in said


def test_what_a_person_is_shown_fits_eighty_columns(asked: Running) -> None:
    words = ("--rate", "20000", "--rows", "50", "--times", "2", "--tiers", "0,0.4,0.3,0.3", "--seconds", "1")
    said = command(asked.folder, "simulate", "is_big", *words, "--callers", "web=0.5,poor=0.5").stdout
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 80
    assert "sheddable" in said


def test_traces_of_either_format_are_replayed_with_tiers_and_callers(asked: Running, tmp_path: Path) -> None:
    columns = {"at": [10.0, 10.5, 11.0], "rows": [1, 20, 3], "tier": ["batch", "standard", None]}
    pq.write_table(pa.table(columns), tmp_path / "trace.parquet")
    (tmp_path / "trace.csv").write_text("at,rows,tier\n10.0,1,batch\n10.5,20,standard\n11.0,3,\n")
    one, other = (_simulated(asked.folder, "--trace", str(tmp_path / f"trace.{end}")) for end in ("csv", "parquet"))
    assert one == other
    assert {name: tier["requests"] for name, tier in one["replica"]["tiers"].items()} == {"standard": 2, "batch": 1}


@pytest.mark.parametrize(
    ("text", "where"), [("at\n2.0\n1.0\n", "at[1]"), ("at\n", ""), ("when\n1.0\n", ""), ("at\n1\nnan\n", "at[1]")]
)
def test_what_is_no_trace_is_told_with_its_place_and_a_remedy(
    up: Running, tmp_path: Path, text: str, where: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    error = _refused(up.folder, "--trace", str(path))
    assert error["code"] == "contract"
    assert error["where"] == (f"{path}: {where}" if where else str(path))


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("--burst", "0"), "--burst"),
        (("--burst", "10", "--burst-seconds", "-1"), "--burst-seconds"),
        (("--burst", "1000000", "--burst-seconds", "3600"), "--burst-seconds"),
        (("--burst", "10", "--p99", "50ms"), "--burst"),
        (("--tiers", "1,1,1,1,1"), "--tiers"),
        (("--tiers", "much"), "--tiers"),
        (("--callers", "web"), "--callers"),
        (("--callers", "web=-1"), "--callers"),
        (("--callers", "web=0.5,web=0.5"), "--callers"),
        (("--tiers", "0,0"), "--tiers"),
        (("--p99", "50"), "--p99"),
        (("--deadline", "soon"), "--deadline"),
        (("--overhead", "-5us"), "--overhead"),
        (("--trace", "trace.csv"), "--trace"),
        (("--since", "2026-01-01"), "--since"),
    ],
)
def test_options_that_say_nothing_are_refused(up: Running, words: tuple[str, ...], where: str) -> None:
    assert _refused(up.folder, "--rate", "100", *words)["where"] == where
