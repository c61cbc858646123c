"""Rows scored by a model alone, and what its output holds: a row for each that was scored.

`file` and `row` say which row of the input it was; then come the kept columns as they were, and the model's outputs by
their names: a number or a text a row, or lists. Laws: the answer to a row is the model's, as a server gives it; a row
that the model fails on is refused alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.apps.scoring.job import PORTION, Job, Part
from trilane.apps.scoring.kept import KeptColumns, check_keepable
from trilane.apps.scoring.model import OpenModel
from trilane.apps.scoring.part import Tally, Unanswered, by_runs
from trilane.apps.scoring.tensors import TensorColumns, arrow_type, as_column
from trilane.errors import ContractError, DefinitionError, ModelError

__all__ = ["ByModel", "check_kept"]

_PLACE = ("file", "row")


class ByModel:
    """Keeps the promise of Answering by `model`, whose inputs are read by `columns` from tables of `schema`."""

    whole = False

    def __init__(
        self, model: OpenModel, columns: TensorColumns, schema: pa.Schema, *, keep: Sequence[str] = ()
    ) -> None:
        self._model, self._columns, self._kept = model, columns, KeptColumns(schema, keep)
        self.read = list(dict.fromkeys([*columns.read, *keep]))
        fields = [pa.field("file", pa.string()), pa.field("row", pa.int64()), *self._kept.fields]
        fields += [pa.field(spec.name, arrow_type(spec)) for spec in model.outputs]
        self.schema = pa.schema(fields)
        self.encoding: dict[str, Any] = {
            "compression": "zstd",
            "use_dictionary": ["file", *keep],
            "column_encoding": {"row": "DELTA_BINARY_PACKED"},
        }

    def facts(self, job: Job, part: Part) -> dict[str, str]:
        own = {
            "model": job.model,
            "version": job.model_version,
            "digest": job.model_digest,
            "job": job.digest,
            "input": job.name_of(part),
        }
        return {f"trilane.{name}": value for name, value in own.items()}

    def batches(self, table: pa.Table, place: int, tally: Tally) -> Iterator[pa.RecordBatch]:
        arrays, kept, rejected = self._columns.checked(table)
        tally.refuse(rejected, place)
        step = min(PORTION, self._model.most or PORTION)
        for start in range(0, len(kept), step):
            stop = min(start + step, len(kept))
            runs = by_runs(
                lambda start, stop: self._outputs([array[start:stop] for array in arrays], stop - start),
                start,
                stop,
                lambda row, error: tally.unanswered(int(kept[row]) + place, error),
            )
            for begin, outputs in runs:
                rows = kept[begin : begin + len(outputs[0])]
                tally.scored += len(rows)
                yield self._batch(outputs, table, rows, first=place, file=tally.file)
            tally.progress(stop - start)
        if rejected:
            tally.progress(len(rejected))

    def close(self) -> None:
        self._model.close()

    def _outputs(self, arrays: Sequence[npt.NDArray[Any]], rows: int) -> Sequence[npt.NDArray[Any]]:
        try:
            outputs = self._model.run(arrays)
        except (ContractError, ModelError) as error:  # the first: of a NaN that came in with a row
            raise Unanswered(error) from error
        for spec, array in zip(self._model.outputs, outputs, strict=True):
            if len(array) != rows:
                what = f"its output {spec.name!r} has {len(array)} rows for {rows}"
                raise ModelError(what, where="model", remedy="Mend the model")
        return outputs

    def _batch(
        self,
        outputs: Sequence[npt.NDArray[Any]],
        table: pa.Table,
        rows: npt.NDArray[np.int64],
        *,
        first: int,
        file: str,
    ) -> pa.RecordBatch:
        columns: list[Any] = [pa.repeat(pa.scalar(file), len(rows)), pa.array(rows + first)]
        columns += self._kept.of(table, rows, file=file)
        columns += [as_column(array, spec) for array, spec in zip(outputs, self._model.outputs, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def check_kept(model: OpenModel, schema: pa.Schema, keep: Sequence[str]) -> None:
    """Raises DefinitionError for a name that cannot be both kept and the output's, or that is no column."""
    own = [*_PLACE, *(spec.name for spec in model.outputs)]
    if len(set(own)) < len(own):
        what = f"its outputs are called {', '.join(own[2:])}, and each row has its `file` and `row`"
        raise DefinitionError(what, where="--model", remedy="Export it with other names", file="")
    check_keepable(schema, keep, own=own)
