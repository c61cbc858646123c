"""What a server counts of the models of its folder, for Prometheus.

Laws: nothing is counted for each question; what was counted since the last time is told together, of some models at a
time, since those who ask must not wait for all of them. Only the folder makes labels, never a caller, and of more than
`MOST` models the rest are told as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge

from trilane.serving.entries import Slot

__all__ = ["MOST", "OTHERS", "ModelMetrics"]

MOST = 500  # models that have a label of their own
OTHERS = "(others)"
_PIECE = 5  # models that are told of at a time: what a question takes, or two
_NOTHING = (0, 0, 0)


class ModelMetrics:
    """Counters and gauges by model, in `own`."""

    def __init__(self, own: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["model", *labels], registry=own)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model"], registry=own, multiprocess_mode="livesum")

        self._loaded = gauge("trilane_model_loaded", "Versions of a model in memory, of all processes.")
        self._memory = gauge("trilane_model_memory_bytes", "Memory that a model took when it was loaded.")
        self._open = gauge("trilane_model_breaker_open", "Versions of a model that are left alone, of all processes.")
        broke = counter("trilane_model_breaker_opened_total", "How often a breaker of a model opened.")
        loads = counter("trilane_model_loads_total", "Loads of a model.", "result")
        questions = counter("trilane_model_questions_total", "Questions to a model.", "result")
        rows = counter("trilane_model_rows_total", "Rows that a model answered.")
        batches = counter("trilane_model_batches_total", "Batches that a model answered.")
        seconds = counter("trilane_model_seconds_total", "Seconds of the questions answered.", "stage")
        self._counters = (  # in the order of a tally's counts, loads, breaks and failures
            (questions, "answered"),
            (rows,),
            (batches,),
            (seconds, "queue"),
            (seconds, "compute"),
            (loads, "loaded"),
            (broke,),
            (loads, "failed"),
            *((questions, result) for result in ("invalid", "refused", "failed")),
        )
        self._of = cache(lambda counter, *labels: counter.labels(*labels))  # which takes longer than to count
        self._labels: dict[str, str] = {}
        self._there: dict[str, tuple[int, int, int]] = {}

    def tell(self, slots: Iterable[Slot]) -> None:
        """Tells what became of the models since this was told the last time."""
        for _ in self.telling(slots):
            pass

    def telling(self, slots: Iterable[Slot]) -> Iterator[None]:
        """The same in pieces, between which others may have their turn."""
        there: dict[str, tuple[int, int, int]] = {}
        for place, slot in enumerate(tuple(slots), 1):
            if not place % _PIECE:
                yield
            now = (*slot.tally.counts(), slot.loads, slot.breaks, *slot.failures.values())
            if now != slot.told:
                self._count(self._label(slot.name), now, slot.told or (0,) * len(now))
                slot.told = now
            if slot.opened is not None:
                label = self._label(slot.name)
                loaded, memory, broken = there.get(label, _NOTHING)
                broken += slot.breaker is not None and not slot.breaker.is_closed
                there[label] = loaded + 1, memory + slot.memory, broken
        for label in self._there.keys() | there.keys():
            if self._there.get(label) != there.get(label):
                loaded, memory, broken = there.get(label, _NOTHING)
                self._loaded.labels(label).set(loaded)
                self._memory.labels(label).set(memory)
                self._open.labels(label).set(broken)
        self._there = there

    def _label(self, name: str) -> str:
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= MOST:
                return OTHERS
            label = self._labels[name] = name
        return label

    def _count(self, label: str, now: tuple[float, ...], before: tuple[float, ...]) -> None:
        for (counter, *kind), number, known in zip(self._counters, now, before, strict=True):
            if number != known:
                self._of(counter, label, *kind).inc(number - known)
