"""Partitions shared by a Kafka consumer group: the broker says who has which, cooperatively, and reads nothing for it.

The group only assigns. Where a partition goes on is with its rows in the online store, and read from there; offsets are
committed to the broker after that, so that Kafka's tools show the lag. Laws: what the broker takes away is released
before it is told so; a worker that the broker thinks dead has nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import confluent_kafka as kafka

from trilane.errors import ConflictError, TrilaneError
from trilane.sources.log.assignment import Place

__all__ = ["KafkaGroup"]

_log = logging.getLogger(__name__)

_TELL = 1.0  # seconds between two commits of offsets to the broker
_FENCED = (kafka.KafkaError.FENCED_INSTANCE_ID, kafka.KafkaError._FATAL)
_OURS: dict[str, str | int | float | bool] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 1_000,
    "enable.auto.commit": False,
    "auto.offset.reset": "latest",  # nothing is read through the group
    "topic.metadata.refresh.interval.ms": 10_000,  # so soon are new partitions shared
    "log_level": 0,
}


class KafkaGroup:
    """Keeps the promise of Assignment. Options of the client in `client` go before ours."""

    def __init__(
        self,
        group: str,
        member: str,
        client: Mapping[str, str | int | float],
        *,
        topic_of: Callable[[str], str],
        partitions_of: Callable[[str, int], int],
        translated: Callable[[Exception], TrilaneError],
    ) -> None:
        self.member = member
        self._topic_of, self._partitions_of, self._translated = topic_of, partitions_of, translated
        self._where = f"group {group!r}"
        try:
            self._consumer = kafka.Consumer({**_OURS, **client, "group.id": group, "client.id": member})
        except (kafka.KafkaException, ValueError, TypeError) as error:
            raise translated(error) from error
        self._sources: dict[str, str] = {}
        self._assigned: set[Place] = set()
        self._asked: frozenset[Place] = frozenset()
        self._release: Callable[[Place], None] = _keep
        self._told: dict[Place, int] = {}
        self._told_at = 0.0

    def turn(self, places: Collection[Place], release: Callable[[Place], None]) -> frozenset[Place]:
        asked = frozenset(places)
        self._release = release
        try:
            if asked != self._asked:
                self._subscribe(asked)
                for place in sorted((self._asked - asked) & self._assigned):
                    release(place)
                self._asked = asked
            # Nothing is fetched, as all is paused; what comes is what the broker has to tell.
            message = self._consumer.poll(0)
        except kafka.KafkaException as error:
            raise self._failed(error.args[0], error) from error
        finally:
            self._release = _keep
        fault = message.error() if message is not None else None
        if fault is not None and (fault.fatal() or fault.code() in _FENCED):
            raise self._failed(fault, kafka.KafkaException(fault))
        return frozenset(self._assigned & asked)

    def note(self, offsets: Mapping[Place, int]) -> None:
        now = time.monotonic()
        fresh = {p: o for p, o in offsets.items() if p in self._assigned and self._told.get(p) != o and o > 0}
        if not fresh or now - self._told_at < _TELL:
            return
        self._told_at = now
        self._told.update(fresh)
        with contextlib.suppress(kafka.KafkaException):  # the next note tells again; nothing depends on it
            self._consumer.commit(offsets=self._offsets(fresh), asynchronous=True)

    def close(self) -> None:
        with contextlib.suppress(kafka.KafkaException, RuntimeError):
            self._consumer.close()

    def _subscribe(self, asked: frozenset[Place]) -> None:
        counts: dict[str, int] = {}
        for source, partition in asked:
            counts[source] = max(counts.get(source, 0), partition + 1)
        for source, wanted in counts.items():
            there = self._partitions_of(source, wanted)
            if there > wanted:
                _log.error(
                    "topic %s has %d partitions, but source %r declares %d: nobody reads the others",
                    *(self._topic_of(source), there, source, wanted),
                )
        self._sources = {self._topic_of(source): source for source in counts}
        if self._sources:
            self._consumer.subscribe(
                list(self._sources), on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke
            )
        else:
            self._consumer.unsubscribe()

    def _assign(self, consumer: kafka.Consumer, partitions: list[kafka.TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        if partitions:
            consumer.pause(partitions)
        self._assigned.update(self._places(partitions))

    def _revoke(self, consumer: kafka.Consumer, partitions: list[kafka.TopicPartition]) -> None:
        for place in self._places(partitions):
            self._assigned.discard(place)
            self._told.pop(place, None)
            self._release(place)
        consumer.incremental_unassign(partitions)

    def _places(self, partitions: Sequence[kafka.TopicPartition]) -> list[Place]:
        return [(self._sources[p.topic], p.partition) for p in partitions if p.topic in self._sources]

    def _offsets(self, offsets: Mapping[Place, int]) -> list[kafka.TopicPartition]:
        return [
            kafka.TopicPartition(self._topic_of(source), partition, offset)
            for (source, partition), offset in offsets.items()
        ]

    def _failed(self, fault: object, error: kafka.KafkaException) -> TrilaneError:
        if isinstance(fault, kafka.KafkaError) and (fault.fatal() or fault.code() in _FENCED):
            what = f"the broker shut this worker out: {fault.str()}"
            remedy = "Give each worker a name of its own: `trilane worker --member NAME`"
            return ConflictError(what, where=f"{self._where}, worker {self.member!r}", remedy=remedy)
        return self._translated(error)


def _keep(place: Place) -> None:
    """Nothing is released between two turns: the callbacks run within them."""
