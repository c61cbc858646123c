"""What a scoring job writes: a row for each row that was scored, and one for each that was refused.

`file` and `row` say which row of the input it was; then come the kept columns as they were, and `score`, `positive` (of
an endpoint with a threshold), `rung` of the ladder, `degraded`, and `why`, the reasons, or null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trilane.apps.scoring.job import Job, Part
from trilane.apps.scoring.kept import KeptColumns, check_keepable
from trilane.clock import format_instant
from trilane.contract import Rejection
from trilane.decisions.bundle import Bundle
from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers

__all__ = ["OWN", "OutputColumns", "Rejects"]

OWN = ("file", "row", "score", "positive", "rung", "degraded", "why")


class OutputColumns:
    """The output of one bundle; `read`: the input columns that are needed, `keep` those that go along."""

    def __init__(self, bundle: Bundle, schema: pa.Schema, *, read: Sequence[str], keep: Sequence[str]) -> None:
        check_keepable(schema, keep, own=OWN)
        self.read = list(dict.fromkeys([*read, *keep]))
        self._bundle, self._kept = bundle, KeptColumns(schema, keep)
        fields = [pa.field("file", pa.string()), pa.field("row", pa.int64()), *self._kept.fields]
        fields.append(pa.field("score", pa.float64()))
        fields += [pa.field("positive", pa.bool_())] if bundle.threshold is not None else []
        fields += [pa.field("rung", pa.string()), pa.field("degraded", pa.bool_()), pa.field("why", pa.string())]
        self.schema = pa.schema(fields)
        self.encoding: dict[str, Any] = {
            "compression": "zstd",
            "use_dictionary": [name for name in self.schema.names if name not in ("row", "score")],
            "column_encoding": {"row": "DELTA_BINARY_PACKED"},
        }

    def facts(self, job: Job, part: Part) -> dict[str, str]:
        """What the metadata of a file says of where its scores come from."""
        own = {
            "endpoint": job.endpoint,
            "bundle": job.bundle,
            "model": self._bundle.model_digest,
            "views": msgspec.json.encode(self._bundle.views).decode(),
            "at": format_instant(job.at),
            "event_time": job.event_time,
            "job": job.digest,
            "input": job.name_of(part),
        }
        return {f"trilane.{name}": value for name, value in own.items() if value}

    def batch(
        self, answers: Answers, table: pa.Table, rows: npt.NDArray[np.int64], *, first: int, file: str
    ) -> pa.RecordBatch:
        """Answers to `rows` of `table`, whose first row is row `first` of `file`."""
        size = len(rows)
        degraded, why = _reasons(answers)
        columns: list[Any] = [pa.repeat(pa.scalar(file), size), pa.array(rows + first)]
        columns += self._kept.of(table, rows, file=file)
        columns.append(pa.array(answers.scores))
        if self._bundle.threshold is not None:
            columns.append(pa.array(answers.scores >= self._bundle.threshold))
        rungs = pa.DictionaryArray.from_arrays(pa.array(answers.rungs.astype(np.int8)), pa.array(RUNGS)).cast(
            pa.string()
        )
        return pa.RecordBatch.from_arrays([*columns, rungs, degraded, why], schema=self.schema)

    def degraded(self, batch: pa.RecordBatch) -> int:
        """How many rows of a batch are worse than promised."""
        return int(pc.sum(batch.column("degraded")).as_py() or 0)


class Rejects:
    """Rows that were refused."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, Rejection]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: int, rejection: Rejection) -> None:
        """Row `row` of the input file was refused."""
        self._rows.append((row, rejection))

    def table(self, file: str) -> pa.Table:
        """`file`, `row`, `path` and `reason` of each, in order."""
        found = sorted(self._rows, key=lambda one: one[0])
        return pa.table(
            {
                "file": pa.array([file] * len(found), pa.string()),
                "row": pa.array([row for row, _ in found], pa.int64()),
                "path": pa.array([one.path for _, one in found], pa.string()),
                "reason": pa.array([one.reason for _, one in found], pa.string()),
            }
        )


def _reasons(answers: Answers) -> tuple[pa.Array, pa.Array]:
    """Whether each answer is worse than promised, and why."""
    size = len(answers.scores)
    common = [fault.reason for fault in answers.faults if fault.rows is None]
    some: set[int] = set().union(*(fault.rows for fault in answers.faults if fault.rows is not None))
    if not some:
        told = "; ".join(common) or None
        return pa.repeat(pa.scalar(bool(common)), size), pa.repeat(pa.scalar(told, pa.string()), size)
    whys = ["; ".join(answers.why(row) if row in some else common) or None for row in range(size)]
    return pa.array([why is not None for why in whys]), pa.array(whys, pa.string())
