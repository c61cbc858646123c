"""The command line as a newcomer and an operator use it, with the real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import until
from trilane import __version__

Trilane = Callable[..., "subprocess.CompletedProcess[str]"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _trilane(folder: Path) -> Trilane:
    def run(*arguments: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trilane", *arguments],
            cwd=folder,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )

    return run


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def _error(done: subprocess.CompletedProcess[str], status: int) -> dict[str, Any]:
    """The error that a command told as JSON, and nothing else on standard output."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    assert error["what"]
    return error


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that `init` makes, filled, trained and deployed by the steps of its README."""
    folder = tmp_path_factory.mktemp("shop")
    trilane = _trilane(folder)
    _json(trilane("init", "--json"))
    assert not _json(trilane("plan", "--json"))["does_nothing"]
    _json(trilane("apply", "--json"))
    ingested = _json(trilane("ingest", "payments", "data/payments.ndjson", "--history", "--json"))
    assert (ingested["accepted"], ingested["rejected"]) == (4000, 0)
    (landed,) = _json(trilane("materialize", "all", "--json"))["landed"]
    assert (landed["view"], landed["keys"]) == ("card_daily", 60)
    trained = trilane("train", "fraud")
    assert "trained on 4,000 rows" in trained.stdout, trained.stderr
    assert "One inference: 1 row " in trained.stdout
    assert [effect["action"] for effect in _json(trilane("plan", "--json"))["effects"]] == ["deploy"]
    assert "Run trilane up to answer." in trilane("apply").stdout
    assert "trilane up" not in trilane("apply").stdout
    return folder


@pytest.fixture
def trilane(shop: Path) -> Trilane:
    return _trilane(shop)


@pytest.fixture
def up(shop: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts `trilane up` and waits until its server is ready: the process, and where it answers."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> tuple[subprocess.Popen[str], str]:
        port = _free_port()
        command = [sys.executable, "-m", "trilane", "up", "--json", "--port", str(port), *options]
        process = subprocess.Popen(command, cwd=shop, stdout=subprocess.PIPE, text=True)
        started.append(process)
        _next(process, "serve", "ready")
        return process, f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def _next(process: subprocess.Popen[str], role: str, what: str) -> int:
    for line in process.stdout or ():
        event = json.loads(line)
        if (event["role"], event["what"]) == (role, what):
            return int(event["pid"])
    raise AssertionError(f"up ended before {role} was {what}")


def test_a_decision_is_answered_explained_and_shown(
    shop: Path, trilane: Trilane, up: Callable[..., tuple[subprocess.Popen[str], str]]
) -> None:
    process, url = up()  # at a port that only the running server tells
    answer = httpx.post(f"{url}/v1/decide/check", json={"card": "card-7", "amount": 950.0})
    assert answer.status_code == 200, answer.text
    (decision,) = answer.json()["decisions"]
    explained = None
    while explained is None:  # records are written a moment after the answer
        done = trilane("explain", decision["id"], "--json")
        explained = _json(done) if done.returncode == 0 else None
    assert explained["score"] == decision["score"]
    assert explained["identical"] is True
    found = _json(trilane("status", "--json"))
    assert found["server"]["endpoints"]["check"]["bundle"] == answer.json()["bundle"]
    assert set(found["processes"]) == {"supervisor", "serve", "worker", "control"}
    readable = trilane("status").stdout
    assert "running" in readable
    assert {"events", "behind", "watermark"} <= set(readable.split()), readable
    assert "caught_up_at" not in readable
    assert "age s" in trilane("explain", decision["id"]).stdout
    process.terminate()
    process.wait(60)
    assert not (shop / ".trilane" / "server.json").exists()


def test_a_second_up_is_refused_and_a_killed_server_comes_back(
    shop: Path, trilane: Trilane, up: Callable[..., tuple[subprocess.Popen[str], str]]
) -> None:
    process, url = up()
    assert str(process.pid) in _error(trilane("up", "--json"), 6)["what"]
    pids = json.loads((shop / ".trilane" / "pids.json").read_text())
    os.kill(pids["serve"], signal.SIGKILL)
    assert _next(process, "serve", "died") == pids["serve"]
    _next(process, "serve", "ready")
    assert httpx.get(f"{url}/health/ready").json()["endpoints"] == ["check"]


def test_when_up_is_killed_no_process_stays(shop: Path, up: Callable[..., tuple[subprocess.Popen[str], str]]) -> None:
    process, _ = up()
    pids = json.loads((shop / ".trilane" / "pids.json").read_text())
    roles = [pids[role] for role in ("serve", "worker", "control")]
    children = Path(f"/proc/{pids['serve']}/task/{pids['serve']}/children").read_text().split()
    assert children, "the server has no workers"
    handles = [os.pidfd_open(pid) for pid in (*roles, *map(int, children))]
    process.kill()
    for handle in handles:
        assert select.select([handle], [], [], 60)[0]
        os.close(handle)


def test_a_replay_starts_its_clock_where_it_is_told(up: Callable[..., tuple[subprocess.Popen[str], str]]) -> None:
    _, url = up("--replay", "--replay-start", "2030-01-01")
    answer = httpx.post(f"{url}/v1/clock", json={"now": "2030-01-01T00:00:01Z"})
    assert answer.json()["now"] == "2030-01-01T00:00:01Z"


def test_explain_without_a_server_reads_the_record(trilane: Trilane) -> None:
    error = _error(trilane("explain", "nothing-0", "--json", TRILANE_PORT=str(_free_port())), 3)
    assert error["what"] == "there is no record of decision 'nothing-0'"


def test_status_without_a_server_shows_what_is_deployed(trilane: Trilane) -> None:
    found = _json(trilane("status", "--json", TRILANE_PORT=str(_free_port())))
    assert found["server"] is None
    assert found["endpoints"]["check"]["model"] == "fraud"
    assert "train" in {run["kind"] for run in found["runs"]}


def test_a_version_that_lies_ahead_says_from_when_it_answers(trilane: Trilane) -> None:
    ahead = trilane("materialize", "card_daily", "--at", "2090-01-01").stdout
    assert "card_daily of 2090-01-01T00:00:00Z is visible from 2090-01-01T" in ahead
    assert "until then" not in trilane("materialize", "card_daily", "--at", "2025-06-01").stdout


def test_a_model_that_was_trained_again_is_rolled_back_while_the_server_runs(
    shop: Path, up: Callable[..., tuple[subprocess.Popen[str], str]], trilane: Trilane
) -> None:
    _, url = up()

    def decided_by(bundle: str | None = None) -> tuple[str, float]:
        """The bundle and score of an answer; of an answer by `bundle` if it is given."""
        body = {"card": "nobody", "amount": 950.0}  # of whom no event changes anything

        def ask() -> tuple[str, float] | None:
            found = httpx.post(f"{url}/v1/decide/check", json=body).json()
            return (found["bundle"], found["decisions"][0]["score"]) if bundle in (None, found["bundle"]) else None

        answer = until(ask, f"an answer by {bundle}")
        assert answer is not None
        return answer

    before = _json(trilane("status", "--json"))["server"]["endpoints"]["check"]
    old = decided_by()
    spine = shop / "data" / "verdicts.csv"
    lines = spine.read_text().splitlines(keepends=True)
    spine.write_text("".join(lines[:1] + lines[1::2]))
    assert _json(trilane("train", "fraud", "--json"))["new"]
    _json(trilane("apply", "--json"))
    after = _json(trilane("status", "--json"))["endpoints"]["check"]
    new = decided_by(after["bundle"][:16])
    assert new[1] != old[1]
    done = _json(trilane("apply", "--json", "--model", f"fraud@{before['model_digest'][:6]}"))
    assert [effect["action"] for effect in done["effects"]] == ["deploy"]
    assert decided_by(before["bundle"]) == old
    assert "Those that fit" in _error(trilane("plan", "--json", "--model", "fraud@ffffffff"), 6)["remedy"]


def test_the_version_is_told(trilane: Trilane) -> None:
    done = trilane("--version")
    assert (done.returncode, done.stdout) == (0, f"trilane {__version__}\n")


def test_init_overwrites_nothing(shop: Path, trilane: Trilane) -> None:
    before = (shop / "definitions.py").read_bytes()
    assert "definitions.py" in _error(trilane("init", "--json"), 6)["what"]
    assert (shop / "definitions.py").read_bytes() == before


def test_bad_events_from_standard_input_are_told_and_kept(trilane: Trilane) -> None:
    event = {"payment_id": "in-1", "card": "card-1", "amount": 1.0, "paid_at": "2020-01-01T00:00:00Z"}
    lines = "\n".join([json.dumps(event), json.dumps({**event, "amount": "much"}), "{"])
    done = _json(trilane("ingest", "payments", "-", "--json", given=lines))
    assert (done["accepted"], done["rejected"]) == (1, 2)
    assert {reason["path"] for reason in done["reasons"]} == {"$.amount", "$"}
    assert _json(trilane("status", "--json"))["dead_letters"] == {"payments/json": 1, "payments/type": 1}
    listed = _json(trilane("dead-letters", "payments", "--json"))
    assert listed["total"] == 2
    assert {one["payload"]: (one["code"], one["path"]) for one in listed["dead_letters"]} == {
        "{": ("json", "$"),
        json.dumps({**event, "amount": "much"}): ("type", "$.amount"),
    }
    readable = trilane("dead-letters", "--limit", "1", COLUMNS="200").stdout
    assert "1 of 2; --limit shows more." in readable
    assert "payload" in readable
    assert "payments" in _error(trilane("dead-letters", "payment", "--json"), 2)["remedy"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("ingest", "payment", "data/payments.ndjson"), 2, "Event sources: payments"),
        (("ingest", "payments", "none.ndjson"), 4, "Check the path"),
        (("materialize", "card_recent"), 2, "Views with a schedule: card_daily"),
        (("materialize", "all", "--at", "yesterday"), 2, "2013-10-01T00:00:00Z"),
        (("train", "froud"), 2, "Models: fraud"),
        (("train", "fraud", "--since", "2090-01-01"), 3, "Widen the period"),
        (("up", "--replay-start", "2030-01-01"), 2, "--replay"),
        (("plan", "--project", "/"), 4, "trilane init"),
    ],
)
def test_what_is_wrong_comes_with_its_remedy(
    trilane: Trilane, arguments: tuple[str, ...], status: int, words: str
) -> None:
    assert words in _error(trilane(*arguments, "--json"), status)["remedy"]
    readable = trilane(*arguments)
    assert readable.returncode == status
    assert readable.stdout == ""
    assert "remedy" in readable.stderr


def test_a_busy_port_is_told_before_anything_starts(trilane: Trilane) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for command in ("up", "serve"):
            error = _error(trilane(command, "--port", port, "--json"), 4)
            assert error["port"] == int(port)
            assert "--port" in error["remedy"]


def test_of_two_servers_that_start_at_once_one_has_the_port(shop: Path) -> None:
    command = [sys.executable, "-m", "trilane", "serve", "--json", "--port", str(_free_port())]
    both = [subprocess.Popen(command, cwd=shop, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    until(lambda: any(one.poll() is not None for one in both), "one of them to be refused")
    refused, holds = sorted(both, key=lambda one: one.poll() is None)
    error = json.loads(refused.communicate()[0])["error"]
    assert refused.returncode == 4
    assert str(holds.pid) in error["what"] or "listens" in error["what"]
    assert holds.poll() is None
    holds.terminate()
    holds.communicate(timeout=60)
    assert holds.returncode in (0, -signal.SIGTERM)  # it may come before anybody listens for it
    holds.communicate()


def test_a_state_that_is_no_folder_is_told(trilane: Trilane, shop: Path) -> None:
    for command in (("apply",), ("up",), ("status",)):
        error = _error(trilane(*command, "--json", TRILANE_STATE=str(shop / "README.md")), 4)
        assert "README.md" in error["where"]


def test_broken_definitions_are_told_with_their_line(trilane: Trilane, tmp_path: Path) -> None:
    (tmp_path / "trilane.toml").touch()
    (tmp_path / "definitions.py").write_text("import trilane as tl\n\nuser = tl.Entity('user')\n")
    for command in ("plan", "apply"):
        error = _error(trilane(command, "--json", "--project", str(tmp_path)), 2)
        assert error["file"] == f"{tmp_path / 'definitions.py'}:3"
        assert error["remedy"] == 'Write tl.Entity("user", user_id=tl.String)'


def test_debug_shows_the_traceback(trilane: Trilane) -> None:
    done = trilane("train", "froud", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
