"""Traces of requests, sent to an OpenTelemetry collector.

Laws: a caller's `traceparent` says whether its request is traced; of the others a share is, drawn at random; spans are
made after the answer, and sent by a thread of their own, so that a collector that is slow or gone holds up nobody.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trilane.clock import WallClock
from trilane.serving.story import Story

__all__ = ["Traces"]

_SAMPLED = 1  # the flag of a `traceparent`, https://www.w3.org/TR/trace-context/#sampled-flag
_LENGTH = 55
_FAULTS = 500


class Traces:
    """Sends stories to the collector at `url` (OTLP over HTTP), of requests by themselves a part `share`.

    `timer`: the clock of the stories, in seconds.
    """

    def __init__(
        self, url: str, *, share: float, service: str, timer: Callable[[], float], seed: int | None = None
    ) -> None:
        endpoint = url if url.rstrip("/").endswith("/v1/traces") else f"{url.rstrip('/')}/v1/traces"
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
        self._tracer = self._provider.get_tracer("trilane")
        self._context = TraceContextTextMapPropagator()
        self._share, self._random = share, random.Random(seed)
        self._offset = WallClock().now() * 1_000 - int(timer() * 1e9)

    def wanted(self, parent: str | None) -> bool:
        """Whether a request with this `traceparent` header is to be traced."""
        if parent is not None and len(parent) == _LENGTH:
            flags = parent[-2:]
            if flags.isalnum() and parent.startswith("00-"):
                return bool(_flags(flags) & _SAMPLED)
        return self._random.random() < self._share

    def tell(self, story: Story) -> str:
        """Hands a story over to be sent, and tells the id of its trace, 32 hex digits."""
        context = self._context.extract({"traceparent": story.parent}) if story.parent else None
        root = self._tracer.start_span(
            f"{story.route} {story.name}".strip(),
            context=context,
            kind=SpanKind.SERVER,
            start_time=self._instant(story.start),
            attributes={
                "http.response.status_code": story.status,
                **{f"trilane.{k}": v for k, v in story.facts.items()},
            },
        )
        if story.status >= _FAULTS:
            root.set_status(Status(StatusCode.ERROR))
        spans = {"": root}
        for stage in story.stages:
            inside = trace.set_span_in_context(spans.get(stage.within, root))
            spans[stage.name] = span = self._tracer.start_span(
                stage.name, context=inside, start_time=self._instant(stage.start)
            )
            span.end(end_time=self._instant(stage.end))
        root.end(end_time=self._instant(story.end))
        return format(root.get_span_context().trace_id, "032x")

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()

    def _instant(self, seconds: float) -> int:
        return int(seconds * 1e9) + self._offset


def _flags(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0
