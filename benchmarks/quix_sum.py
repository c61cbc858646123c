"""The peer of bench_nearline, in an environment of its own: a windowed sum by Quix Streams over a topic, timed.

Prints JSON: events a second in each third of the topic, and the last sum of each key.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found,unused-ignore]

HOUR = 3_600_000


def main(broker: str, topic: str, events: int, folder: str) -> None:
    """Consumes `events` of the topic with the state of the window in RocksDB below `folder`."""
    app = Application(
        broker_address=broker,
        consumer_group="quix",
        auto_offset_reset="earliest",
        state_dir=folder,
        use_changelog_topics=False,
        loglevel="WARNING",
    )
    sums: dict[str, float] = {}
    marks: list[float] = []
    seen = 0

    def record(value: dict[str, Any], key: Any, timestamp: int, headers: Any) -> None:
        nonlocal seen
        if seen % (events // 3) == 0:
            marks.append(time.perf_counter())
        seen += 1
        sums[key if isinstance(key, str) else key.decode()] = value["value"]
        if seen == events:
            marks.append(time.perf_counter())
            app.stop()

    frame = app.dataframe(app.topic(topic, value_deserializer="json"))
    frame = frame.apply(lambda value: value["amount"]).tumbling_window(HOUR, grace_ms=HOUR // 6).sum().current()
    frame.update(record, metadata=True)
    app.run()
    rates = [events // 3 / (later - earlier) for earlier, later in itertools.pairwise(marks[:4])]
    print(json.dumps({"rates": rates, "sums": sums}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
