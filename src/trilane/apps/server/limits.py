"""What a server takes in one request, and how long: what both ends of HTTP must know."""

from __future__ import annotations

__all__ = ["DEADLINE", "DECISIONS", "EXPLAIN", "FEATURE_ROWS", "LARGEST_BODY"]

LARGEST_BODY = 8 << 20
DECISIONS = 2_000  # rows of a request for decisions
FEATURE_ROWS = 10_000  # rows of a feature read, unless configured otherwise
DEADLINE = "x-request-timeout-ms"  # the header that says how long its caller will wait
EXPLAIN = "x-trilane-explain"  # the header that asks what an answer was made with; its one value is "batch"
