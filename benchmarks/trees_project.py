"""The project of `benchmarks/trees`: 200 trees over fifty numbers, trained and deployed, made once and then kept."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import BENCH, ROOT

from examples.flights.running import command
from trilane.clock import instant

__all__ = ["WIDTH", "model_of", "numbers", "set_up"]

WIDTH = 50
_ROWS = 20_000


def numbers(rows: int, seed: int = 7) -> np.ndarray:
    """Rows of fifty numbers, float32 [rows, 50], the same each time."""
    return np.random.default_rng(seed).normal(0, 1, (rows, WIDTH)).astype(np.float32)


def set_up() -> Path:
    """The folder of the project."""
    folder, made_by = BENCH / "trees", _code()
    if (folder / "made_by").exists() and (folder / "made_by").read_text() == made_by:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "trees" / "definitions.py", folder)
    (folder / "trilane.toml").write_text('name = "trees"\nstate = "state"\nlog_level = "warning"\n')
    matrix = numbers(_ROWS)
    noise = np.random.default_rng(8).normal(0, 1, _ROWS)
    label = (matrix[:, :10].sum(axis=1) + matrix[:, 10] * matrix[:, 11] + noise > 0).astype(np.float64)
    known = pa.array(np.full(_ROWS, instant("2026-01-01T00:00:00Z")), pa.timestamp("us", "UTC"))
    columns = {f"x{i:02}": matrix[:, i].astype(np.float64) for i in range(WIDTH)}
    pq.write_table(pa.table({**columns, "known_at": known, "label": label}), folder / "past.parquet")
    command(folder, "apply")
    command(folder, "train", "trees")
    command(folder, "apply")
    (folder / "made_by").write_text(made_by)
    return folder


def model_of(folder: Path) -> Path:
    """The trained model as ONNX."""
    [found] = (folder / "state" / "artifacts" / "models" / "trees").glob("*/model.onnx")
    return found


def _code() -> str:
    """Digest of the code that makes the project: what other code made may be laid out otherwise."""
    files = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/trees*/*.py"), Path(__file__)])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
