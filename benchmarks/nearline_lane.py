"""Our side of bench_nearline, in a process of its own that is pinned to a core: the nearline lane of a project, timed.

Prints JSON: seconds until `events` were servable, how long after its arrival each was (percentiles, ms), and the sums
and counts of `keys` at `instant`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.lanes.rows import shards_of
from trilane.sources.log.protocol import EventLog


class Listening:
    """An event log that remembers when what it read last had arrived, and when it was first asked in earnest."""

    def __init__(self, log: EventLog) -> None:
        self._log, self.arrived, self.began = log, np.empty(0, np.int64), 0.0

    def read(self, source: str, partition: int, offset: int, limit: int) -> pa.RecordBatch:
        asked = time.perf_counter()
        batch = self._log.read(source, partition, offset, limit)
        if batch.num_rows and not self.began:
            self.began = asked  # joining a group is no part of the work, as it is none of the peer's
        self.arrived = batch.column("arrived_at").to_numpy()
        return batch

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)


def warm_up(folder: Path, events: int) -> None:
    """Runs the lane of another project, so that all is imported: the peer's clock, too, starts at its first event."""
    with Project(load_config(folder, environment={})) as project:
        worker = Worker(project)
        while sum(worker.offsets.values()) < events:
            worker.step()
        worker.close()


def main(folder: Path, events: int, instant: int, before: Path, warm: int) -> None:
    """Runs the lane until it has applied `events`."""
    warm_up(before, warm)
    with Project(load_config(folder, environment={})) as project:
        worker = Worker(project)
        log = Listening(project.log)
        worker._tools = replace(worker._tools, log=log)  # type: ignore[arg-type]
        print("ready", flush=True)
        sys.stdin.readline()
        waits = []
        read = 0
        while read < events:
            worker.step()
            if len(log.arrived):
                waits.append(project.clock.now() - log.arrived)
                read += len(log.arrived)
                log.arrived = log.arrived[:0]
            else:
                time.sleep(0.001)  # as the worker does when it is idle
        seconds = time.perf_counter() - log.began
        waited = np.concatenate(waits) / 1e3
        view = next(iter(project.definitions.views.values()))
        source = next(iter(project.definitions.sources.values()))
        keys = [encode_key((f"shop-{number}",)) or b"" for number in range(5_000)]
        partitions = source.partitions
        [rows] = project.online.read([(view.space, shards_of(keys, partitions))])
        found = TileLayout(view).read(rows, np.full(len(keys), instant), shards=partitions)
        worker.close()
    names = list(view.feature_names)
    answer = {
        "seconds": seconds,
        "p50_ms": float(np.percentile(waited, 50)),
        "p99_ms": float(np.percentile(waited, 99)),
        "sums": np.nan_to_num(found[:, names.index("sum")]).tolist(),
        "counts": found[:, names.index("n")].tolist(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
