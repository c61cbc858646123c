"""A writer of metadata may be killed at any point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from trilane.lifecycle.metadata.protocol import DeploymentRecord
from trilane.lifecycle.metadata.sql import open_metadata

WRITER = """
import sys
from trilane.lifecycle.metadata.protocol import DeploymentRecord, EdgeRecord
from trilane.lifecycle.metadata.sql import open_metadata

store = open_metadata(sys.argv[1])
for at in range(int(sys.argv[3])):
    store.add_deployment(DeploymentRecord(endpoint=sys.argv[2], bundle="b", facts={}, at=at))
    edge = dict(source="s", target="t", relation="reads", run=sys.argv[2])
    store.see_edges([EdgeRecord(**edge, first_seen=at, last_seen=at)])
    print(at, flush=True)
"""


def test_what_a_killed_writer_was_told_is_there_is_there(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/metadata.db"
    arguments = [sys.executable, "-c", WRITER, url, "a", "100000"]
    writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    told += [int(line) for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    writer.stdout.close()
    store = open_metadata(url)
    found = [record.at for record in store.deployments(endpoint="a")][::-1]
    assert found == list(range(len(found)))
    assert len(found) >= len(told)
    store.add_deployment(DeploymentRecord(endpoint="a", bundle="after", facts={}, at=0))
