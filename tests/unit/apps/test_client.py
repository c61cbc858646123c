"""The client by itself: how inputs become requests, answers values, and how long it tries against servers that fail."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.apps.client import answers, questions
from trilane.apps.client.answers import Answered, Features
from trilane.apps.client.patience import Patience, seconds_of
from trilane.features.fallback import STATUSES
from trilane.serving.protocol.arrow import encode_table
from trilane.serving.reading import Fault, Reading

READY = b'{"ready":true,"reason":null,"endpoints":["e"],"errors":{},"lanes":{},"waiting_for":[]}'
DECISION = (
    b'{"bundle":"b","decisions":[{"id":"x-0","score":0.5,"positive":true,"degraded":false,"why":[],"statuses":{}}]}'
)


def _response(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


BUSY = _response(429, b'{"error":{"code":"unavailable","what":"9 rows are waiting","where":"queue","remedy":"later"}}')
AWAY = _response(503, b'{"error":{"code":"unavailable","what":"not deployed yet","where":"e","remedy":"train"}}')


@dataclass
class Script:
    """A server that answers the n-th request with the n-th step, the last one again and again.

    A step is the bytes to send before the connection closes; None holds the answer until the test ends.
    """

    steps: list[bytes | None]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, listener: socket.socket) -> None:
        while not self.over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(_request(connection))
                step = self.steps[min(len(self.requests), len(self.steps)) - 1]
                if step is None:
                    self.over.wait()
                else:
                    connection.sendall(step)


def _request(connection: socket.socket) -> bytes:
    text = b""
    while b"\r\n\r\n" not in text:
        text += connection.recv(65_536)
    head, _, body = text.partition(b"\r\n\r\n")
    announced = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    size = int(announced[0].split(b":")[1]) if announced else 0
    while len(body) < size:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


@contextmanager
def serving(*steps: bytes | None) -> Iterator[Script]:
    script = Script([*steps])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script.port = listener.getsockname()[1]
        thread = threading.Thread(target=script.run, args=(listener,), daemon=True)
        thread.start()
        try:
            yield script
        finally:
            script.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)


def client(url: str, **options: Any) -> tl.Client:
    return tl.Client(url, **{"jitter": lambda: 0.0, "timeout": 20.0, **options})


# -- faults of a server ----------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_asked_again_and_then_told_of() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with client(f"http://127.0.0.1:{port}", retries=3) as asked:
        with pytest.raises(tl.UnavailableError, match="no answer came") as told:
            asked.decide("e", {"a": 1})
        assert told.value.facts["attempts"] == 4
        assert str(port) in told.value.where
        assert not asked.ready()


def test_a_server_that_does_not_answer_is_given_up_at_the_deadline() -> None:
    with serving(None) as script, client(script.url, timeout=0.2) as asked:
        with pytest.raises(tl.UnavailableError, match="before the deadline") as told:
            asked.features("e", {"a": 1})
        assert told.value.facts["deadline"]
        assert len(script.requests) == 1
        assert 1 <= int(_header(script.requests[0], b"x-request-timeout-ms")) <= 200


def test_no_time_is_no_time_to_wait() -> None:
    with pytest.raises(tl.DefinitionError, match="timeout is 0"):
        tl.Client(timeout=0)
    with client("http://127.0.0.1:9") as asked, pytest.raises(tl.DefinitionError, match="timeout is -1"):
        asked.decide("e", {}, timeout=-1)


def test_an_overloaded_server_is_asked_again_after_the_time_that_it_named() -> None:
    busy = BUSY.replace(b"content-type", b"retry-after: 0\r\ncontent-type")
    with serving(busy, busy, _response(200, DECISION)) as script, client(script.url) as asked:
        [found] = asked.decide("e", {"a": 1})
        assert (found.id, found.score, found.positive, found.bundle) == ("x-0", 0.5, True, "b")
        assert len(script.requests) == 3
        assert len({_header(request, b"x-request-id") for request in script.requests}) == 1


def test_a_server_that_names_a_time_beyond_the_deadline_is_not_waited_for() -> None:
    busy = BUSY.replace(b"content-type", b"retry-after: 60\r\ncontent-type")
    with serving(busy) as script, client(script.url) as asked:
        with pytest.raises(tl.UnavailableError, match="9 rows are waiting") as told:
            asked.decide("e", {"a": 1})
        assert (told.value.where, told.value.remedy, told.value.facts["status"]) == ("queue", "later", 429)
        assert told.value.facts["request_id"] == _header(script.requests[0], b"x-request-id").decode()
        assert len(script.requests) == 1


def test_what_is_not_deployed_yet_is_asked_for_until_patience_ends() -> None:
    with serving(AWAY) as script, client(script.url, retries=2) as asked:
        with pytest.raises(tl.UnavailableError, match="not deployed yet"):
            asked.decide("e", {"a": 1})
        assert len(script.requests) == 3


def test_events_are_sent_again_when_a_server_hangs_up_in_mid_answer_and_decisions_are_not_made_twice() -> None:
    torn = _response(202, b'{"accepted":1,"rejected":[],"offsets":{}}')[:-10]
    with serving(torn, torn.replace(b"}", b""), _response(202, b'{"accepted":1,"rejected":[]}')) as script:
        with client(script.url) as asked:
            assert asked.send("s", [{"id": "1"}]).accepted == 1
        assert len(script.requests) == 3
    with serving(_response(200, DECISION)[:-10]) as script, client(script.url) as asked:
        with pytest.raises(tl.UnavailableError, match="no answer came"):
            asked.decide("e", {"a": 1})
        assert len(script.requests) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"<html>", b"[]", b"{}", b'{"names":["v.f"],"rows":[],"ages_s":{"v":0},"why":[]}', b"\xff"],
    ids=["empty", "torn", "html", "array", "object", "too few rows", "no text"],
)
def test_what_is_no_answer_is_refused_and_never_guessed_at(body: bytes) -> None:
    with serving(_response(200, body)) as script, client(script.url) as asked:
        with pytest.raises(tl.ContractError, match="no answer of a Trilane server"):
            asked.features("v.f", {"a": 1})
        with pytest.raises(tl.ContractError, match="no answer of a Trilane server"):
            asked.decide("e", {"a": 1})
        if body != b"{}":
            with pytest.raises(tl.ContractError, match="no answer of a Trilane server"):
                asked.send("s", [{}])


def test_bytes_that_are_not_http_are_told_as_no_answer() -> None:
    with serving(b"220 mail.example ESMTP\r\n") as script, client(script.url, retries=1) as asked:
        with pytest.raises(tl.UnavailableError, match="no answer came"):
            asked.features("v", {"a": 1})
        assert len(script.requests) == 2


def test_an_error_page_of_something_in_between_is_told_with_its_status() -> None:
    with serving(_response(502, b"<html>bad gateway</html>")) as script, client(script.url) as asked:
        with pytest.raises(tl.UnavailableError, match="HTTP 502: <html>bad gateway"):
            asked.features("v", {"a": 1})
        assert len(script.requests) == 1


def test_an_arrow_answer_that_is_torn_is_refused() -> None:
    reading = Reading(np.zeros((100, 1)), np.zeros((100, 1), np.uint8), np.zeros((100, 1), np.int64), ())
    body = encode_table(("v.f",), reading, {})
    for part in (body[: len(body) // 2], body[:10], b"", body.replace(b"v.f", b"v.g", 1)):
        answer = Answered(200, questions.ARROW, part, "test")
        with pytest.raises(tl.ContractError, match="no answer of a Trilane server"):
            answers.features_of(answer, 100)


def test_a_closed_client_says_so() -> None:
    asked = tl.Client("http://127.0.0.1:9")
    asked.close()
    asked.close()
    with pytest.raises(tl.ConflictError, match="closed"):
        asked.ready()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8321", "ftp://host", "http://", "http://[::1"])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(tl.SetupError, match="no URL"):
        tl.Client(url)


def test_the_clients_do_the_same_with_and_without_a_loop() -> None:
    async def ask(url: str) -> tuple[tl.AsyncClient, Any]:
        async with tl.AsyncClient(url) as asked:
            return asked, await asked.ready()

    with serving(_response(200, READY)) as script:
        _, ready = asyncio.run(ask(script.url))
        with client(script.url) as asked:
            assert asked.ready() == ready
        assert ready
        assert ready.endpoints == ("e",)
    with serving(AWAY) as script, client(script.url) as asked, pytest.raises(tl.ContractError):
        asked.ready()  # an error is no readiness


def test_a_caller_that_is_cancelled_ends_its_requests() -> None:
    async def ask(url: str) -> None:
        async with tl.AsyncClient(url) as asked:
            async with asyncio.timeout(0.2):
                await asked.features("v", [{"a": n} for n in range(30_000)])

    with serving(None) as script, pytest.raises(TimeoutError):
        asyncio.run(ask(script.url))


def _header(request: bytes, name: bytes) -> bytes:
    [found] = [line for line in request.split(b"\r\n") if line.lower().startswith(name + b":")]
    return found.partition(b":")[2].strip()


# -- inputs ----------------------------------------------------------------------------------------------------------


def test_rows_columns_and_tables_are_told_apart() -> None:
    assert questions.shaped({"a": 1, "b": "x"}) == [{"a": 1, "b": "x"}]
    assert questions.shaped([{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert questions.as_rows(questions.shaped({"a": [1, 2], "b": ("x", None)})) == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": None},
    ]
    table = questions.shaped({"a": np.array([1, 2]), "b": ["x", "y"]})
    assert isinstance(table, pa.Table)
    assert questions.as_rows(table) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert questions.shaped(table) == table


def test_a_data_frame_is_a_table_without_its_index() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 3]}, index=["x", "y", "z"])
    assert questions.as_rows(questions.shaped(frame)) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert len(questions.shaped(frame[frame.a > 1])) == 2


def test_instants_of_numpy_are_utc() -> None:
    column = np.array(["2026-03-02T00:00:00"], "datetime64[s]")
    assert questions.as_rows(questions.shaped({"at": column})) == [{"at": dt.datetime(2026, 3, 2, tzinfo=dt.UTC)}]


@pytest.mark.parametrize(
    "rows", [{"a": [1, 2], "b": [1]}, {"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.zeros((2, 2))}, 7]
)
def test_what_is_no_rows_is_refused_before_it_is_sent(rows: Any) -> None:
    with pytest.raises(tl.ContractError):
        questions.shaped(rows)


def test_values_that_json_cannot_say_are_refused() -> None:
    assert json.loads(questions.reading("v", [{"a": np.float64(1.5), "b": np.int32(2)}]).body)["rows"] == [
        {"a": 1.5, "b": 2}
    ]
    with pytest.raises(tl.ContractError, match="object"):
        questions.reading("v", [{"a": object()}])


@given(size=st.integers(0, 50), most=st.integers(1, 20))
def test_portions_are_the_whole_in_order(size: int, most: int) -> None:
    columns: dict[str, object] = {"a": list(range(size))}
    rows: list[Any] = [
        [{"a": n} for n in range(size)],
        questions.shaped(columns),
        pa.table({"a": pa.array(range(size), pa.int64())}),
    ]
    for one in rows:
        parts = [questions.as_rows(part) for part in questions.cut(one, most)]
        assert all(len(part) <= most for part in parts)
        assert [row for part in parts for row in part] == [{"a": n} for n in range(size)]


def test_a_name_cannot_leave_its_place_in_the_path() -> None:
    assert questions.reading("a.b,c/../../clock?x", []).path == "/v1/features/a.b,c%2F..%2F..%2Fclock%3Fx"
    assert questions.explaining("../status").path == "/v1/explain/..%2Fstatus"


def test_events_come_as_lines_and_as_mappings() -> None:
    events: list[dict[str, object] | str | bytes] = [
        {"id": 1, "at": dt.datetime(2026, 3, 2, tzinfo=dt.UTC)},
        '{"id":2}',
        b' {"id":3}\n',
    ]
    [(body, number)] = questions.event_bodies(events)
    assert number == 3
    assert [json.loads(line)["id"] for line in body.split(b"\n")] == [1, 2, 3]
    bodies = list(questions.event_bodies({"id": n, "text": "x" * 1_000_000} for n in range(10)))
    assert [number for _, number in bodies] == [4, 4, 2]
    for wrong in ("", "{}\n{}"):
        with pytest.raises(tl.ContractError, match="one line"):
            list(questions.event_bodies([{}, wrong]))


# -- answers ---------------------------------------------------------------------------------------------------------


def _reading(draw: Callable[..., Any]) -> Reading:
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    numbers = np.random.default_rng(draw(st.integers(0, 1_000)))
    values = numbers.normal(size=(rows, columns))
    statuses = numbers.integers(0, len(STATUSES), (rows, columns)).astype(np.uint8)
    values[statuses == STATUSES.index("missing")] = np.nan
    return Reading(values, statuses, numbers.integers(0, 10**9, (rows, columns)), (Fault("late", None),))


@given(st.data())
def test_features_survive_arrow_bit_for_bit(data: st.DataObject) -> None:
    reading = _reading(data.draw)
    names = tuple(f"v.f{n}" for n in range(reading.values.shape[1]))
    body = encode_table(names, reading, {})
    found = answers.features_of(Answered(200, questions.ARROW, body, "test"), len(reading.values))
    told = Features.of(names, reading)
    assert found.values.tobytes() == told.values.tobytes()
    assert (found.statuses == told.statuses).all()
    assert (found.ages == told.ages).all()
    assert (found.names, found.why) == (names, ("late",))
    assert found.to_arrow().equals(pa.ipc.open_stream(body).read_all())
    assert found[names[0]].tobytes() == found.values[:, 0].tobytes()


def test_a_feature_that_was_not_asked_for_is_named() -> None:
    found = Features(("v.f",), np.zeros((1, 1)), np.array([["fresh"]]), np.zeros((1, 1)))
    with pytest.raises(tl.DefinitionError, match=r"no feature .v\.g."):
        found["v.g"]


@pytest.mark.parametrize("kind", [tl.ContractError, tl.DefinitionError, tl.SetupError, tl.ConflictError, tl.ModelError])
def test_an_error_keeps_its_class_path_and_remedy_through_http(kind: type[tl.TrilaneError]) -> None:
    body = msgspec.json.encode({"error": kind("what", where="$.rows[3].a", remedy="mend", more=7).as_payload()})
    error = answers.error_of(Answered(kind.http_status, "application/json", body, "POST x", "id7"))
    assert type(error) is kind
    assert (error.what, error.where, error.remedy) == ("what", "$.rows[3].a", "mend")
    assert (error.facts["status"], error.facts["request_id"], error.facts["more"]) == (kind.http_status, "id7", 7)


def test_refused_events_are_numbered_as_they_were_given() -> None:
    body = b'{"accepted":0,"rejected":[{"index":1,"code":"type","path":"$.a","reason":"no"}],"offsets":{}}'
    assert answers.sent_of(Answered(422, "application/json", body, ""), 20_000).rejected[0].index == 20_001


# -- patience --------------------------------------------------------------------------------------------------------


@given(
    attempt=st.integers(0, 100),
    left=st.floats(-1, 100),
    after=st.floats(0, 100),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_pause_never_ends_beyond_the_deadline_nor_before_retry_after(
    attempt: int, left: float, after: float, chance: float
) -> None:
    patience = Patience(retries=10)
    pause = patience.pause(attempt, left=left, retry_after=after, chance=chance)
    if pause is not None:
        assert attempt < 10
        assert after <= pause < left
        assert pause - after <= patience.longest
    else:
        assert attempt >= 10 or left <= after + patience.longest


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 0), ("3", 3), (" 7 ", 7), ("-1", 0), ("soon", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("9" * 30, 86_400)],
)
def test_retry_after_is_read_as_seconds(header: str, seconds: float) -> None:
    assert seconds_of(header) == seconds


def test_an_error_in_the_inference_protocols_form_is_told_as_others_are() -> None:
    body = b'{"error":"nosuch: there is no model. Ask for big","code":"definition","where":"nosuch"}'
    error = answers.error_of(Answered(404, "application/json", body, "POST x", "id7"))
    assert isinstance(error, tl.DefinitionError)
    assert (str(error), error.facts["status"]) == ("nosuch: there is no model. Ask for big", 404)
