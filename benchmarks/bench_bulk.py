"""How many rows a second does `trilane score` score on all cores, beside the bare runtime on the same matrix?

The model is 200 trees over fifty numbers. Ours reads Parquet (float32 columns), checks each row against the contract,
computes the request view, runs the model, and writes Parquet; the peer is as many processes of the bare ONNX Runtime,
each on its part of the float32 matrix in memory, in batches of the same size. The start of processes counts for
neither. Memory is the peak of the largest process, for n rows and for twice as many.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import BENCH, Result, arguments, report
from trees_project import model_of, numbers, set_up

from trilane.errors import SetupError
from trilane.models.artifact import load
from trilane.models.profile import fastest_batch, read_profile

GROUP = 65_536
# One process of the peer: its part of the matrix through a session, timed from when all are ready.
_BARE = """
import sys, time
import numpy as np, onnxruntime as ort
model, matrix, first, stop, batch = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
rows = np.array(np.load(matrix, mmap_mode="r")[first:stop])
scores = np.empty(len(rows))
print("ready", flush=True)
sys.stdin.readline()
for start in range(0, len(rows), batch):
    scores[start : start + batch] = session.run(None, {"features": rows[start : start + batch]})[0].reshape(-1)
print("done", flush=True)
"""


def made(rows: int) -> Path:
    """A folder with the rows as a matrix and as Parquet; made once, in another process, then kept."""
    folder = BENCH / f"bulk-{rows}"
    if not (folder / "rows.parquet").exists():
        # Not here: what this process starts would begin with its peak of memory.
        subprocess.run([sys.executable, __file__, "--make", str(folder), str(rows)], check=True)
    return folder


def make(folder: Path, rows: int) -> None:
    """Makes it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    matrix = numbers(rows, 11)
    np.save(folder / "rows.npy", matrix)
    table = pa.table({f"x{i:02}": matrix[:, i] for i in range(matrix.shape[1])})
    pq.write_table(table, folder / "draft", row_group_size=GROUP, use_dictionary=False)
    (folder / "draft").rename(folder / "rows.parquet")


def ours(project: Path, folder: Path, workers: int) -> tuple[float, float]:
    """Rows a second of a job from the first that were done, and the peak of its largest process in MiB."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    line = [sys.executable, __file__, "--job", str(project), str(folder), str(workers)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    told = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)  # with the workers, which it has waited for
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SetupError(f"the job failed with status {process.returncode}: {told}")
    return float(told), used.ru_maxrss / 1024


def job(project: str, folder: str, workers: str) -> None:
    """Runs one job, and prints its rate."""
    from trilane.apps.project import Project
    from trilane.apps.scoring.scoring_job import Asking, score

    ticks: list[tuple[float, int]] = []

    def tick(_stage: str, done: int, all_: int) -> None:
        if all_:
            ticks.append((time.perf_counter(), done))

    output = Path(folder) / "out"
    asking = Asking(endpoint="score", input=str(Path(folder) / "rows.parquet"), output=output, workers=int(workers))
    with Project.find(Path(project)) as opened:
        score(opened, asking, progress=tick)
    end = time.perf_counter()  # all is on disk and on record
    (start, before), (_, rows) = ticks[0], ticks[-1]
    sys.stdout.write(str((rows - before) / (end - start)))


def bare(model: Path, folder: Path, rows: int, workers: int, batch: int) -> float:
    """Seconds that the peer takes for the rows."""
    step = -(-rows // workers)
    parts = [(start, min(start + step, rows)) for start in range(0, rows, step)]
    lines = [[sys.executable, "-c", _BARE, model, folder / "rows.npy", *map(str, part), str(batch)] for part in parts]
    crew = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for line in lines]
    try:
        for one in crew:
            _expect(one, "ready")
        start = time.perf_counter()
        for one in crew:
            if one.stdin is not None:
                one.stdin.write("go\n")
                one.stdin.flush()
        for one in crew:
            _expect(one, "done")
        return time.perf_counter() - start
    finally:
        for one in crew:
            one.communicate()


def _expect(process: subprocess.Popen[str], word: str) -> None:
    if process.stdout is None or process.stdout.readline().strip() != word:
        raise SetupError("the bare runtime failed")


def main() -> None:
    """Sets up, measures, reports."""
    options = arguments(__doc__ or "")
    workers = len(os.sched_getaffinity(0))
    rows = (1 if options.quick else 8) * 131_072 * workers
    project, model = set_up(), model_of(set_up())
    batch = fastest_batch(read_profile(load(model.parent)))
    small, large = made(rows), made(2 * rows)
    rates, peaks = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(2 if options.quick else 5):
        _, half = ours(project, small, workers)
        rate, whole = ours(project, large, workers)
        rates.append((rate, 2 * rows / bare(model, large, 2 * rows, workers, batch)))
        peaks.append((whole, half))
    work = f"{2 * rows:,} rows, {workers} processes, batches of {batch}"
    peer = "bare ONNX Runtime"
    results = [Result.of("bulk", work, "throughput", "rows/s", peer=peer, pairs=rates, more_is_better=True)]
    work = f"{2 * rows:,} rows beside {rows:,}"
    results.append(Result.of("bulk", work, "peak memory", "MiB", peer="half", pairs=peaks, more_is_better=False))
    report("Bulk scoring on all cores", results, as_json=options.json)


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["--job"]:
            job(*sys.argv[2:])
        elif sys.argv[1:2] == ["--make"]:
            make(Path(sys.argv[2]), int(sys.argv[3]))
        else:
            main()
    except SetupError as error:
        sys.exit(str(error))
