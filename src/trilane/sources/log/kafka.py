"""An event log in Kafka, or a broker that speaks its protocol: one topic per source.

A value is a record; when it arrived is the record's header `trilane-arrived-at`, or where there is none (a producer of
others) the timestamp of the record. Laws: an append that fits one record batch (`batch.size`, 1 MB) is in the log whole
or not at all, and is acknowledged by all replicas in sync; a larger one may be cut by a fault, and what is sent again
bears the same event ids. Offsets are Kafka's: retention may take the first ones, and then a read begins at the first
that is left.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import confluent_kafka as kafka
import pyarrow as pa
from confluent_kafka import admin as admins
from confluent_kafka.cimpl import NewPartitions, NewTopic

from trilane.errors import DefinitionError, SetupError, TrilaneError, UnavailableError
from trilane.plugins import options, scheme
from trilane.sources.log.kafka_group import KafkaGroup

__all__ = ["KafkaLog", "open_log"]

_K = TypeVar("_K")
_T = TypeVar("_T")
_Settings = dict[str, str | int | float]
_Headers = list[tuple[str, str | bytes | None]]

_OURS = ("group", "partitions", "prefix", "replication", "timeout")
_ARRIVED_AT = "trilane-arrived-at"
_COLUMNS = pa.schema([("offset", pa.int64()), ("arrived_at", pa.int64()), ("value", pa.binary())])
# One read returns about this much at most: memory stays bounded, and Arrow's 32-bit offsets suffice.
_READ_BYTES = 256 << 20
# Fewer messages than after which Python looks for garbage: at 10,000 that took half of the time.
_AT_ONCE = 500
_FETCH_WAIT = 50  # milliseconds for which the broker holds back a fetch of nothing
_PATIENCE = 0.1
_TOPIC = "topic."
_MISSING = (
    kafka.KafkaError._UNKNOWN_TOPIC,
    kafka.KafkaError.UNKNOWN_TOPIC_OR_PART,
    kafka.KafkaError._UNKNOWN_PARTITION,
)
_REFUSED = (
    kafka.KafkaError._AUTHENTICATION,
    kafka.KafkaError.SASL_AUTHENTICATION_FAILED,
    kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    kafka.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    kafka.KafkaError._INVALID_ARG,
    kafka.KafkaError.POLICY_VIOLATION,
    kafka.KafkaError.INVALID_REPLICATION_FACTOR,
)


def open_log(url: str) -> KafkaLog:
    """The log at `kafka://host:9092,host:9092`. Nothing is sent before the first use.

    `?prefix=trilane.` of the topics, `topic.orders=shop-orders` names one of your own, `partitions=1` and
    `replication=-1` (the broker's default) of a topic that an append makes, `timeout=30` seconds,
    `group=trilane.nearline` of the workers. Any other option with a dot is the client's own:
    `security.protocol=SASL_SSL`, `sasl.username=...`.
    """
    found = options(url)
    hosts = url[len(scheme(url)) + 1 :].removeprefix("//").partition("?")[0].rstrip("/")
    where = f"{scheme(url)}://{hosts}"
    strange = sorted(name for name in found if name not in _OURS and "." not in name)
    if strange or not hosts:
        what = f"unknown option {strange[0]!r}" if strange else "the URL has no host"
        raise SetupError(what, where=where, remedy=f"Write `kafka://host:9092`; options: {', '.join(_OURS)}")
    topics = {name.removeprefix(_TOPIC): found.pop(name) for name in list(found) if name.startswith(_TOPIC)}
    try:
        partitions, replication = int(found.pop("partitions", "1")), int(found.pop("replication", "-1"))
        timeout = float(found.pop("timeout", "30"))
    except ValueError as error:
        raise SetupError(str(error), where=where, remedy="Write a number") from None
    prefix = found.pop("prefix", "trilane.")
    group = found.pop("group", f"{prefix}nearline")
    client = {"bootstrap.servers": hosts, **found}
    return KafkaLog(where, client, _Topics(prefix, topics), partitions, replication, timeout, group=group)


class _Topics:
    """Which topic a source has, and back."""

    def __init__(self, prefix: str, own: dict[str, str]) -> None:
        self._prefix, self._own = prefix, own
        self._back = {topic: source for source, topic in own.items()}

    def of(self, source: str) -> str:
        """A source's topic: what no topic may be called is written as `-` and two digits of each byte."""
        escaped = re.sub(r"[^A-Za-z0-9._]", lambda c: "".join(f"-{b:02x}" for b in c[0].encode()), source)
        return self._own.get(source) or self._prefix + escaped

    def source(self, topic: str) -> str | None:
        """The source of a topic; None for one that is not ours."""
        if topic in self._back or not topic.startswith(self._prefix):
            return self._back.get(topic)
        rest = topic.removeprefix(self._prefix).encode()
        try:
            return re.sub(rb"-([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), rest).decode()
        except UnicodeDecodeError:
            return None


class KafkaLog:
    """Keeps the promise of EventLog."""

    def __init__(
        self,
        where: str,
        client: dict[str, str],
        topics: _Topics,
        partitions: int,
        replication: int,
        timeout: float,
        *,
        group: str,
    ) -> None:
        self._group = group
        self._where, self._client, self._topics = where, client, topics
        self._partitions, self._replication, self._timeout = partitions, replication, timeout
        self._lock = threading.RLock()
        self._producers: dict[int, kafka.Producer] = {}
        self._admins: dict[int, admins.AdminClient] = {}
        self._consumers: dict[tuple[int, str, int], kafka.Consumer] = {}
        self._counts: dict[str, int] = {}
        self._positions: dict[tuple[str, int], int] = {}

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, source: str, partition: int, values: Sequence[bytes], arrived_at: int | Sequence[int]) -> int:
        arrivals = [arrived_at] * len(values) if isinstance(arrived_at, int) else arrived_at
        if len(arrivals) != len(values):
            what = f"{len(values)} values came with {len(arrivals)} arrivals"
            raise DefinitionError(what, where="event log", remedy="Give one arrival, or one for each value")
        if not values:
            return self.end(source, partition)
        topic = self._topics.of(source)
        self._ensure(topic, partition)
        with self._lock:  # what one thread appends goes out in a record batch of its own
            return self._guarded(lambda: self._produce(topic, partition, values, arrivals))

    def _produce(self, topic: str, partition: int, values: Sequence[bytes], arrivals: Sequence[int]) -> int:
        producer = self._one(self._producers, os.getpid(), self._new_producer)
        offsets: list[int] = []
        errors: list[kafka.KafkaError] = []

        def delivered(error: kafka.KafkaError | None, message: kafka.Message) -> None:
            if error is not None:
                errors.append(error)
            else:
                offsets.append(message.offset() or 0)

        for value, at in zip(values, arrivals, strict=True):
            headers: _Headers = [(_ARRIVED_AT, at.to_bytes(8, "big", signed=True))]
            while True:
                try:
                    stamp = max(at // 1_000, 1)
                    producer.produce(
                        topic, value, partition=partition, headers=headers, timestamp=stamp, on_delivery=delivered
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        left = producer.flush(self._timeout)
        if errors or left:
            # What became of the rest is unknown; a new producer must not send it again behind our back.
            producer.purge()
            self._producers.pop(os.getpid(), None)
            raise kafka.KafkaException(errors[0] if errors else kafka.KafkaError(kafka.KafkaError._MSG_TIMED_OUT))
        return min(offsets)

    def _new_producer(self) -> kafka.Producer:
        ours: _Settings = {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 1_000,  # `flush` does not wait for it: an append is one batch, sent at once
            "batch.num.messages": 1_000_000,
            "queue.buffering.max.messages": 2_000_000,
            "delivery.timeout.ms": int(self._timeout * 1e3),
        }
        return kafka.Producer({**self._quiet(), **ours, **self._client})

    def _ensure(self, topic: str, partition: int) -> None:
        """Makes the topic, or more partitions, unless they are there."""
        if partition < 0:
            raise DefinitionError(f"there is no partition {partition}", where="event log", remedy="Use 0 and above")
        if self._counts.get(topic, 0) > partition:
            return
        self._guarded(lambda: self._make(topic, partition))

    def _make(self, topic: str, partition: int) -> None:
        admin = self._admin()
        deadline = time.monotonic() + self._timeout
        while (there := self._count(topic)) <= partition:
            wanted = max(partition + 1, self._partitions)
            try:
                if there:
                    [made] = admin.create_partitions([NewPartitions(topic, wanted)]).values()
                else:
                    new = NewTopic(topic, num_partitions=wanted, replication_factor=self._replication)
                    [made] = admin.create_topics([new]).values()
                made.result(self._timeout)
            except kafka.KafkaException as error:
                if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                    raise
        self._counts[topic] = there

    def _count(self, topic: str) -> int:
        """The partitions of a topic; 0 where there is none."""
        admin = self._admin()
        found = admin.list_topics(timeout=self._timeout).topics.get(topic)
        return len(found.partitions) if found is not None else 0

    # -- reading ------------------------------------------------------------------------------------------------

    def read(self, source: str, partition: int, offset: int, limit: int) -> pa.RecordBatch:
        topic = self._topics.of(source)
        found = _Found()
        with self._lock:
            if limit > 0 and self._guarded(lambda: self._exists(topic, partition)):
                self._guarded(lambda: self._consume(topic, partition, offset, limit, found))
        return found.batch()

    def _consume(self, topic: str, partition: int, offset: int, limit: int, into: _Found) -> None:
        consumer, place = self._consumer(topic, partition), kafka.TopicPartition(topic, partition)
        position = self._positions.pop((topic, partition), -1)
        if position != offset:
            first, _ = consumer.get_watermark_offsets(place, timeout=self._timeout)
            position = max(offset, first)
            consumer.assign([kafka.TopicPartition(topic, partition, position)])
        deadline = time.monotonic() + self._timeout
        while len(into.offsets) < limit and into.size < _READ_BYTES:
            # A call that may wait does so for all that is wanted: so take what is there, and wait for one at most.
            wanted = min(limit - len(into.offsets), _AT_ONCE)
            found = consumer.consume(wanted, timeout=0) or consumer.consume(1, timeout=_PATIENCE)
            faults = {fault.code(): fault for message in found if (fault := message.error()) is not None}
            if kafka.KafkaError._AUTO_OFFSET_RESET in faults:
                return  # the offset is not there, and so it is not known where the client stands
            ended = faults.pop(kafka.KafkaError._PARTITION_EOF, None) is not None
            if faults:
                raise kafka.KafkaException(next(iter(faults.values())))
            if ended:
                found = [message for message in found if message.error() is None]
            if found:
                into.add(found)
                position = into.offsets[-1] + 1
            # An end is told but once, so one that is known is asked for: nothing comes only where nothing is.
            known = position >= consumer.get_watermark_offsets(place, cached=True)[1] >= 0
            if ended or (known and (into.offsets or self._ends(consumer, place, position))):
                break
            if not found and time.monotonic() > deadline:
                if into.offsets:  # a broker that has become slow: what came counts
                    break
                raise kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TIMED_OUT))
        self._positions[topic, partition] = position

    def _ends(self, consumer: kafka.Consumer, place: kafka.TopicPartition, position: int) -> bool:
        return bool(consumer.get_watermark_offsets(place, timeout=self._timeout)[1] <= position)

    def end(self, source: str, partition: int) -> int:
        topic = self._topics.of(source)
        with self._lock:
            if not self._guarded(lambda: self._exists(topic, partition)):
                return 0
            place = kafka.TopicPartition(topic, partition)
            consumer = self._consumer(topic, partition)
            _, end = self._guarded(lambda: consumer.get_watermark_offsets(place, timeout=self._timeout))
        return int(end)

    def sources(self) -> tuple[str, ...]:
        admin = self._admin()
        topics = self._guarded(lambda: admin.list_topics(timeout=self._timeout)).topics
        return tuple(sorted(source for topic in topics if (source := self._topics.source(topic)) is not None))

    def assignment(self, member: str, *, static: bool) -> KafkaGroup:
        return KafkaGroup(
            self._group,
            member,
            {**self._quiet(), **self._client, **({"group.instance.id": member} if static else {})},
            topic_of=self._topics.of,
            partitions_of=self._partitions_of,
            translated=self._translated,
        )

    def _partitions_of(self, source: str, wanted: int) -> int:
        """The partitions of a source's topic, which is made if there are fewer than `wanted`."""
        topic = self._topics.of(source)
        self._ensure(topic, wanted - 1)
        return self._counts[topic]

    def close(self) -> None:
        with self._lock:
            for (pid, *_), consumer in self._consumers.items():
                if pid == os.getpid():
                    consumer.close()
            for made in (self._producers, self._admins, self._consumers):
                made.clear()

    def _exists(self, topic: str, partition: int) -> bool:
        if self._counts.get(topic, 0) <= partition:
            self._counts[topic] = self._count(topic)
        return 0 <= partition < self._counts[topic]

    def _consumer(self, topic: str, partition: int) -> kafka.Consumer:
        ours: _Settings = {
            "group.id": "trilane",  # it is not joined: a read says from where, and the group of workers is another one
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": _FETCH_WAIT,
        }
        place = (os.getpid(), topic, partition)
        return self._one(self._consumers, place, lambda: kafka.Consumer({**self._quiet(), **ours, **self._client}))

    # -- clients ------------------------------------------------------------------------------------------------

    def _admin(self) -> admins.AdminClient:
        return self._one(self._admins, os.getpid(), lambda: admins.AdminClient({**self._quiet(), **self._client}))

    def _one(self, made: dict[_K, _T], place: _K, make: Callable[[], _T]) -> _T:
        """The client of this process, made when it is first needed: none survives a fork."""
        with self._lock:
            if place not in made:
                try:
                    made[place] = make()
                except (kafka.KafkaException, ValueError, TypeError) as error:
                    raise self._translated(error) from error
            return made[place]

    def _quiet(self) -> _Settings:
        # What the client has to say comes to us as an error of a call.
        return {"log_level": 0, "socket.timeout.ms": int(self._timeout * 1e3)}

    def _guarded(self, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except kafka.KafkaException as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> TrilaneError:
        reason = error.args[0] if error.args else error
        code = reason.code() if isinstance(reason, kafka.KafkaError) else None
        text = reason.str() if isinstance(reason, kafka.KafkaError) else str(reason)
        if code is None or code in _REFUSED:
            remedy = "Correct the options of the URL, or the rights of its user"
            return SetupError(f"the broker or its client refuses: {text}", where=self._where, remedy=remedy)
        if code in _MISSING:
            remedy = "Make it, or let the user of the URL make topics"
            return SetupError(f"the topic is not there: {text}", where=self._where, remedy=remedy)
        remedy = (
            "Start the broker, or give it longer with `?timeout=60`; what may have been sent bears the same event ids"
        )
        return UnavailableError(f"the broker does not answer: {text}", where=self._where, remedy=remedy)


@dataclass(slots=True)
class _Found:
    """What messages said, by columns."""

    offsets: list[int] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, messages: list[kafka.Message]) -> None:
        """Takes messages without fault."""
        values = [message.value() or b"" for message in messages]
        self.offsets += [message.offset() or 0 for message in messages]
        self.arrivals += [_arrived_at(message) for message in messages]
        self.values += values
        self.size += sum(map(len, values))

    def batch(self) -> pa.RecordBatch:
        """All of it."""
        offsets, arrivals = pa.array(self.offsets, pa.int64()), pa.array(self.arrivals, pa.int64())
        return pa.record_batch([offsets, arrivals, pa.array(self.values, pa.binary())], schema=_COLUMNS)


def _arrived_at(message: kafka.Message) -> int:
    for name, value in cast(_Headers, message.headers() or ()):
        if name == _ARRIVED_AT and isinstance(value, bytes) and len(value) == 8:
            return int.from_bytes(value, "big", signed=True)
    return int(message.timestamp()[1]) * 1_000
