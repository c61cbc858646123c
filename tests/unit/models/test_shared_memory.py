"""Four processes that serve one large model hold one copy of its weights, as the kernel counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.graphs import mlp
from trilane.models.runtime.sharing import laid_out
from trilane.models.stamps import Stamps

WIDTH, LAYERS = 2_048, 12
WEIGHTS = WIDTH * WIDTH * LAYERS * 4  # 192 MiB
CODE = """
import sys
import numpy as np
from trilane.models.runtime.tensors import OnnxTensors

def own():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    facts = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines[1:]}
    return facts["Anonymous"], facts["Pss"]

row = [np.ones((1, %d), np.float32)]
small = OnnxTensors(sys.argv[2])
small.run([np.ones((1, 8), np.float32)])  # what the library takes is no weight
before = own()
model = OnnxTensors(sys.argv[1], shared=True)
print(model.run(row)[0].tobytes()[:64].hex(), flush=True)
sys.stdin.readline()
after = own()
print(after[0] - before[0], after[1] - before[1], flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells in /proc")
def test_a_further_process_takes_less_than_a_fifth_of_the_weights(tmp_path: Path) -> None:
    whole, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    whole.write_bytes(mlp(width=WIDTH, layers=LAYERS))
    small.write_bytes(mlp(width=8, layers=1))
    place = laid_out(whole, tmp_path / "weights", Stamps(None))
    command = [sys.executable, "-c", CODE % WIDTH, str(place), str(small)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    try:
        answers = {_line(one) for one in processes}
        assert len(answers) == 1
        told = []
        for one in processes:  # all have it mapped by now
            _say(one)
            told.append([int(word) for word in _line(one).split()])
        for anonymous, _ in told:
            assert anonymous < 0.2 * WEIGHTS
        # The set of all is shared in equal parts, so that the parts add up to one copy and what each has alone.
        assert sum(share for _, share in told) < 1.8 * WEIGHTS
        for one in processes:
            _say(one)
            one.wait()
    finally:
        for one in processes:
            one.kill()
            one.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
