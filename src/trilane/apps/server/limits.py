"""What a server takes in one request, and how long: what both ends of HTTP must know."""

from __future__ import annotations

__all__ = [
    "BODIES",
    "CODING",
    "DEADLINE",
    "DECISIONS",
    "EXPLAIN",
    "FEATURE_ROWS",
    "HEAD",
    "LARGEST_BODY",
    "PIPELINED",
    "SMALL_BODY",
]

HEAD = 64 << 10  # bytes of a request's first line and headers
LARGEST_BODY = 8 << 20
BODIES = 512 << 20  # bytes of larger bodies that a process takes at a time
SMALL_BODY = 64 << 10  # bytes of a body that is taken off a connection before anybody asks for it
PIPELINED = 256  # requests that a connection may have waiting
DECISIONS = 2_000  # rows of a request for decisions
FEATURE_ROWS = 10_000  # rows of a feature read, unless configured otherwise
CODING = "content-encoding"  # the header that says how a body is compressed
DEADLINE = "x-request-timeout-ms"  # the header that says how long its caller will wait
EXPLAIN = "x-trilane-explain"  # the header that asks what an answer was made with; its one value is "batch"
