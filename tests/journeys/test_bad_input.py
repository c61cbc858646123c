"""Nothing that callers, disks, models or a killed worker do stops the server; each fault is told with its remedy."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers import Running, command, running, trained, until
from tests.shop import MINUTE, T0, event, make_project
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import format_instant
from trilane.decisions.bundle import Bundle

ASK = {"shop": "a", "basket": 60.0}
HOUR = 60 * MINUTE
REPLAY = {"worker": ["--replay"], "control": ["--replay"], "serve": ["--replay"]}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is trained and has not run yet, to be copied."""
    folder = tmp_path_factory.mktemp("sound") / "shop"
    make_project(folder, replay=True).close()
    trained(folder, "big")
    return folder


@pytest.fixture(scope="module")
def up(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("up") / "shop"
    shutil.copytree(sound, folder)
    with running(folder, REPLAY) as found:
        found.move_clock(format_instant(T0))
        yield found


@pytest.fixture(autouse=True)
def goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test with it, the server answers as ever."""
    yield
    if "up" in request.fixturenames:
        up: Running = request.getfixturevalue("up")
        until(up.is_live, "an answer")  # the client may first have to find that a connection was closed on it
        assert up.post("/v1/decide/is_big", ASK).status_code == 200


def _error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert found["what"]
    assert found["remedy"], found
    return found


# -- what callers send ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/v1/decide/nobody", 404, "nobody"),
        ("POST", "/v1/features/nobody", 404, "is_big"),
        ("POST", "/v1/features/nobody", 404, "shop_now"),
        ("POST", "/v1/features/shop_now,nobody", 404, "shop_daily"),
        ("POST", "/v1/features/shop_now.nothing", 404, "n_10m"),
        ("POST", "/v1/events/nothing", 404, "orders"),
        ("POST", "/v1/decide", 404, "/v1/decide/{endpoint}"),
        ("POST", "/v1/decide/", 404, "/v1/decide/{endpoint}"),
        ("POST", "/v1/clock/again", 404, "/v1/clock"),
        ("GET", "/health/live/really", 404, "/health/live"),
        ("GET", "/", 404, "/v1/status"),
        ("GET", "/v1/decide/is_big", 405, "Use POST"),
        ("DELETE", "/v1/status", 405, "Use GET"),
        ("PATCH", "/v1/events/orders", 405, "Use POST"),
        ("GET", "/v1/%ff%00/..%2f", 404, "The paths are"),
    ],
)
def test_an_unknown_path_name_or_method_is_told_what_there_is(
    up: Running, method: str, path: str, status: int, said: str
) -> None:
    answer = up.client.request(method, path, content=b"{}")
    assert answer.status_code == status
    found = _error(answer)
    assert said in found["remedy"] + found["what"]
    assert answer.headers.get("allow", "") == {"Use POST": "POST", "Use GET": "GET, HEAD"}.get(said, "")


@pytest.mark.parametrize(
    ("path", "body", "status", "where"),
    [
        ("/v1/decide/is_big", b"{", 400, "$"),
        ("/v1/decide/is_big", b"", 400, "$"),
        ("/v1/decide/is_big", b'{"shop": "a", "basket": NaN}', 400, "$"),
        ("/v1/decide/is_big", b'{"shop": "a"}', 422, "$"),
        (
            "/v1/decide/is_big",
            b'{"rows": [{"shop": "a", "basket": 1}, {"shop": 7, "basket": 1}]}',
            422,
            "$.rows[1].shop",
        ),
        ("/v1/decide/is_big", b'{"rows": []}', 422, "$.rows"),
        ("/v1/decide/is_big", b'{"rows": [' + b",".join([b'{"shop":"a","basket":1}'] * 2_001) + b"]}", 422, "$.rows"),
        ("/v1/features/is_big", b'{"shop": "a", "basket": "much"}', 422, "$.basket"),
        ("/v1/features/is_big", b"[" * 1_000, 422, "$"),
        ("/v1/features/is_big", b"[" * 100_000, 400, "$"),
        ("/v1/features/is_big", b'{"x":' * 100_000, 400, "$"),
        ("/v1/features/is_big", b'{"columns": {"shop": ["a"], "basket": [1, 2]}}', 422, "$.columns.basket"),
        ("/v1/features/shop_now", b'{"columns": {"shop": [' + b",".join([b'"a"'] * 10_001) + b"]}}", 413, "$.columns"),
        ("/v1/features/shop_now", b'{"shop": 1}', 422, "$.shop"),
        ("/v1/events/orders", b"", 400, "$"),
        ("/v1/events/orders", b"{", 400, "$"),
        ("/v1/events/orders", b"[" * 100_000, 400, "$"),
        ("/v1/clock", b"\xff", 400, "$"),
        ("/v1/clock", b'{"now": 1}', 422, "$.now"),
    ],
)
def test_a_body_that_breaks_its_contract_is_told_where(
    up: Running, path: str, body: bytes, status: int, where: str
) -> None:
    answer = up.post(path, body)
    assert (answer.status_code, _error(answer)["where"]) == (status, where)


def _bundles(up: Running) -> dict[str, str]:
    return {name: found["bundle"] for name, found in up.status()["endpoints"].items()}


def _raw(up: Running, *parts: bytes, half_close: bool = False) -> bytes:
    """What the server answers to these bytes; nothing if it hangs up."""
    with socket.create_connection(("127.0.0.1", up.port), timeout=30) as connection:
        # A server that has heard enough may answer and hang up while we still speak.
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            return connection.recv(65_536)
    return b""


def test_an_announced_body_that_is_too_large_is_refused_before_it_is_read(up: Running) -> None:
    head = b"POST /v1/events/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n"
    answer = _raw(up, head, b"x")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"at most 8388608 bytes" in answer


def test_a_streamed_body_that_grows_too_large_is_refused(up: Running) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * (1 << 20)

    try:
        answer = httpx.post(f"{up.client.base_url}/v1/decide/is_big", content=stream(), timeout=60)
    except httpx.TransportError:
        return  # it hung up on what it will not read, which is as clear
    assert answer.status_code == 413
    assert _error(answer)["where"] == "body"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /v1/decide/is_big HTTP/1.1\r\nhost: x\r\ncontent-type: \xff\xfe\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/events/orders HTTP/1.1\r\nhost: x\r\ncontent-type: \xff\xfe\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/decide/is_big HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v1/decide/is_big HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}",
        b"POST /v1/decide/is_big HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"POST /v1/decide/is_big HTTP/1.1\r\n\r\n",
        b"GET /health/live HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 500 + b"\r\n",
    ],
)
def test_odd_requests_get_no_server_error(up: Running, request_bytes: bytes) -> None:
    answer = _raw(up, request_bytes, half_close=True)
    assert not answer.startswith(b"HTTP/1.1 5"), answer


def test_a_caller_who_hangs_up_in_mid_sentence_disturbs_nobody(up: Running) -> None:
    head = b"POST /v1/decide/is_big HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    assert not _raw(up, head, b'{"shop":', half_close=True).startswith(b"HTTP/1.1 5")


bodies = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["rows", "shop", "basket", "order_id", "at", "amount", "now", "wait_ms"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"order_id": st.text(max_size=5), "shop": st.text(max_size=300), "at": st.datetimes().map(lambda t: f"{t}Z")},
        optional={"amount": st.floats() | st.integers() | st.none()},
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"shop": st.text(max_size=300), "basket": st.floats() | st.integers()}).map(
        lambda value: json.dumps(value).encode()
    ),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=bodies)
def test_no_body_gets_a_server_error_or_kills_the_server(up: Running, body: bytes) -> None:
    for path in ("/v1/decide/is_big", "/v1/features/is_big", "/v1/events/orders", "/v1/status"):
        answer = up.post(path, body)
        assert answer.status_code < 500, answer.text
        msgspec.json.decode(answer.content)
    for kind in ("application/msgpack", "application/vnd.apache.arrow.stream"):
        answer = up.client.post("/v1/features/is_big", content=body, headers={"content-type": kind})
        assert answer.status_code in (400, 422), answer.text
    if b'"now"' not in body:
        assert up.post("/v1/clock", body).status_code in (400, 422)


# -- events that cannot count ---------------------------------------------------------------------------------------


def test_an_event_from_the_far_future_or_past_its_disorder_is_kept_with_the_reason(up: Running) -> None:
    now = T0 + 30 * MINUTE
    up.move_clock(format_instant(now))
    future = up.post("/v1/events/orders", event(900, at=now + HOUR))
    assert (future.status_code, future.json()["rejected"][0]["path"]) == (422, "$.at")
    assert up.post("/v1/events/orders", event(901, shop="late", at=now)).status_code == 202
    assert up.post("/v1/events/orders", event(902, shop="late", at=now - 11 * MINUTE)).status_code == 202
    up.move_clock(format_instant(now + 1))
    letters = up.status()["dead_letters"]
    assert letters["orders/future"] >= 1
    assert letters["orders/late"] >= 1
    with Project(load_config(up.folder, environment={})) as project:
        kept = {
            json.loads(one.payload)["order_id"]: one
            for one in project.dead_letters.read("orders")
            if one.code in ("late", "future")
        }
    assert "later than the source's disorder" in kept["o902"].reason
    assert "in the future" in kept["o900"].reason
    found = up.post("/v1/features/is_big", {**ASK, "shop": "late"}).json()
    assert dict(zip(found["names"], found["rows"][0]["values"], strict=True))["shop_now.n_10m"] == 1


# -- models, definitions, processes ---------------------------------------------------------------------------------


def test_a_bundle_whose_artifact_is_gone_is_told_and_the_one_before_goes_on(up: Running) -> None:
    with Project(load_config(up.folder, environment={})) as project:
        present = project.bundles()["is_big"]
        broken = Bundle.from_facts({**present.facts(), "model_digest": "f" * 64})
        _deploy(project, broken)
        until(lambda: up.get("/health/ready").status_code == 503, "readiness to say so")
        assert "f" * 16 in up.get("/health/ready").json()["reason"]
        assert up.post("/v1/decide/is_big", ASK).json()["bundle"] == present.digest[:16]
        _deploy(project, present)
    until(lambda: up.get("/health/ready").status_code == 200, "the sound bundle")


def _deploy(project: Project, bundle: Bundle) -> None:
    """Deploys a bundle, and wants it, too: else the control process puts what is wanted in its place again."""
    project.registry.want(bundle.endpoint, bundle.digest, bundle.facts(), of=bundle.definitions)
    project.registry.deploy(bundle.endpoint, bundle.digest, bundle.facts())


def test_definitions_changed_on_disk_change_nothing_before_they_are_applied(up: Running) -> None:
    path = up.folder / "definitions.py"
    text = path.read_text()
    before = _bundles(up)
    try:
        path.write_text(text.replace('n_10m": tl.count(window="10m"', 'n_10m": tl.count(window="20m"'))
        planned = command(up.folder, "plan", "--json")
        found = json.loads(planned.stdout)
        assert [change["name"] for change in found["changes"] if change["kind"] == "view"] == ["basket", "shop_now"]
        assert not found["does_nothing"]
        assert up.post("/v1/decide/is_big", ASK).json()["decisions"][0]["degraded"] is False
        path.write_text("this is no Python")
        wrong = command(up.folder, "apply", "--json")
        assert wrong.returncode == 2
        assert "definitions.py" in json.loads(wrong.stdout)["error"]["file"]
        assert _bundles(up) == before
    finally:
        path.write_text(text)


def test_a_busy_port_is_told_with_the_way_out(up: Running) -> None:
    refused = command(up.folder, "serve", "--json", "--port", str(up.port))
    assert refused.returncode == 4
    found = json.loads(refused.stdout)["error"]
    holder = up.processes["serve"].pid
    assert found["what"] == f"another server of this project has the port {up.port}, process {holder}"
    assert "--port" in found["remedy"]


def test_a_killed_worker_makes_answers_stale_then_batch_and_they_recover(up: Running) -> None:
    def mean() -> tuple[str, float]:
        found = up.post("/v1/features/is_big", {**ASK, "shop": "w"}).json()
        [row], name = found["rows"], "shop_now.mean_1h"
        said = [status for status, names in row["statuses"].items() if name in names]
        return (said or ["fresh"])[0], row["values"][found["names"].index(name)]

    now = T0 + 20 * HOUR
    up.move_clock(format_instant(now))
    assert up.post("/v1/events/orders", event(950, shop="w", at=now - 1, amount=4.0)).status_code == 202
    now = T0 + 24 * HOUR + 3 * HOUR
    up.move_clock(format_instant(now))
    assert up.post("/v1/events/orders", event(951, shop="w", at=now - 1, amount=6.0)).status_code == 202
    up.move_clock(format_instant(now + 1))
    assert mean() == ("fresh", 6)
    up.kill("worker")
    up.move_clock(format_instant(now + 5 * MINUTE), wait=False)
    assert mean() == ("stale", 6)
    [decision] = up.post("/v1/decide/is_big", ASK).json()["decisions"]
    assert (decision["degraded"], "shop_now: 300 s behind, 1m promised" in decision["why"]) == (True, True)
    assert "shop_now.n_10m" in decision["statuses"]["stale"]
    assert up.post("/v1/events/orders", event(952, shop="w", at=now + MINUTE, amount=8.0)).status_code == 202
    up.move_clock(format_instant(now + 11 * MINUTE), wait=False)
    assert mean() == ("batch", 4)
    up.start("worker", "--replay")
    up.move_clock(format_instant(now + 12 * MINUTE))
    assert mean() == ("fresh", 7)


def test_a_corrupt_artifact_is_told_by_readiness_and_costs_only_its_endpoint(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(sound, folder)
    [model] = (folder / ".trilane/artifacts/models/big").glob("*/*.onnx")
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-20])
    with running(folder, {"serve": ["--replay"]}) as up:
        ready = up.get("/health/ready")
        assert ready.status_code == 503
        assert "the artifact is damaged" in ready.json()["reason"]
        assert str(model) in ready.json()["reason"]
        refused = up.post("/v1/decide/is_big", ASK)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "damaged" in _error(refused)["what"]
        assert up.post("/v1/decide/nobody", ASK).status_code == 404
        assert up.post("/v1/clock", {"now": format_instant(T0)}).status_code == 200
        assert up.post("/v1/events/orders", event(1, at=T0)).status_code == 202


def test_a_full_disk_refuses_events_and_a_broken_store_degrades_decisions(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(sound, folder)
    for region in ("nearline", "batch"):
        shutil.rmtree(folder / ".trilane/online" / region, ignore_errors=True)
        (folder / ".trilane/online" / region).mkdir(parents=True)
        (folder / ".trilane/online" / region / "data.mdb").write_bytes(os.urandom(8_192))
    with running(folder, {}) as up:
        up.start("serve", "--replay", largest_file=1 << 20)
        up.move_clock(format_instant(T0), wait=False)
        large = b"\n".join(event(number, shop="x" * 1_000, at=T0) for number in range(2_000))
        refused = up.post("/v1/events/orders", large)
        assert refused.status_code == 503
        found = _error(refused)
        assert (found["code"], found["where"].endswith("orders.sqlite")) == ("unavailable", True)
        assert "Free space on the disk" in found["remedy"]
        assert refused.headers["retry-after"]
        # A bad event is no exception: if its letter cannot be kept, it is not acknowledged either.
        letter = up.post("/v1/events/orders", b'{"order_id": "' + b"y" * 2_000_000 + b'"}')
        assert (letter.status_code, "dead_letters" in _error(letter)["where"]) == (503, True)

        [decision] = up.post("/v1/decide/is_big", ASK).json()["decisions"]
        assert decision["why"][0].startswith("online store: the region is not a sound LMDB environment")
        assert "shop_now.mean_1h" in decision["statuses"]["default"]
        assert "shop_daily.n_7d" in decision["statuses"]["missing"]
        assert up.is_live()
        kept = up.post("/v1/events/orders", event(1, at=T0))
        assert (kept.status_code, kept.json()["offsets"]) == (202, {"0": 1}), "nothing of what was refused is there"
