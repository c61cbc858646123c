"""A model in a process of its own, asked and waited for: what it breaks is told, and costs nobody else anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.servers import until
from trilane.apps.module_files import import_files, name_elsewhere
from trilane.errors import ModelError, UnavailableError
from trilane.models.own_process import OwnProcess
from trilane.models.packing import packed
from trilane.models.runtime.apart import ApartRuntime
from trilane.models.runtime.trained import open_files
from trilane.models.signature import Signature

SIGNATURE = Signature.of(("what", "x"))
# What the first column says, the model does.
MODEL = """
import os, time
import numpy as np

class Moody:
    def predict(self, matrix):
        what, x = matrix[0]
        if what == 1:
            raise ValueError("a mood")
        if what == 2:
            os._exit(7)
        if what == 3:
            time.sleep(600)
        if what == 4:
            return matrix
        if what == 5:
            return "much"
        if what == 6:
            return [bytearray(1 << 40)]
        return np.array([x * 2.0])
"""
RAISE, DIE, HANG, WIDE, TEXT, HOARD = (np.array([[what, 1]], np.float32) for what in range(1, 7))
WELL = np.array([[0, 1.5], [0, 2.5]], np.float32)


@pytest.fixture
def moody(tmp_path: Path) -> Iterator[ApartRuntime]:
    (tmp_path / "moody.py").write_text(MODEL)
    found = import_files(tmp_path / "moody.py")
    files = packed(
        found.module.Moody(),
        SIGNATURE,
        runtime="python",
        code=found.files,
        name_of=lambda module: name_elsewhere(module, found.files),
    )
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    opened = open_files(tmp_path, SIGNATURE, name="moody", runtime="python", process=OwnProcess(memory_mib=512))
    assert isinstance(opened, ApartRuntime)
    with contextlib.closing(opened):
        yield opened


def _is_well(moody: ApartRuntime) -> bool:
    try:
        return bool(np.array_equal(moody.predict(WELL), [3.0, 5.0]))
    except UnavailableError:
        return False


def test_what_the_code_does_wrong_is_told_and_the_next_call_is_answered(moody: ApartRuntime) -> None:
    first = moody.pid
    for bad, reason in (
        (RAISE, "ValueError: a mood"),
        (WIDE, r"shape \[1, 2\] for 1 row"),
        (TEXT, "str instead of numbers"),
    ):
        with pytest.raises(ModelError, match=reason):
            moody.predict(bad)
        assert _is_well(moody)
    assert moody.pid == first
    with pytest.raises(ModelError, match="takes 2 columns"):
        moody.predict(WELL[:, :1])


def test_one_that_dies_or_takes_all_memory_is_started_anew_and_nobody_has_to_wait(moody: ApartRuntime) -> None:
    moody.hurry(5.0)
    for bad, reason in ((DIE, "its process died: it ended with status 7"), (HOARD, "no memory left")):
        first = moody.pid
        with pytest.raises(ModelError, match=reason):
            moody.predict(bad)
        with pytest.raises(UnavailableError, match="started anew") as caught:
            moody.predict(WELL)
        assert "retry_after_s" in caught.value.facts
        until(lambda: _is_well(moody), "the next process")
        assert moody.pid != first


def test_one_that_hangs_is_ended_after_its_time(moody: ApartRuntime) -> None:
    first = moody.pid
    assert first is not None
    moody.hurry(0.2)
    with pytest.raises(ModelError, match=r"did not answer within 0\.2 s") as caught:
        moody.predict(HANG)
    assert "tl.python" in caught.value.remedy
    until(lambda: not Path(f"/proc/{first}").exists(), "its end")
    until(lambda: _is_well(moody), "the next process")


def test_a_closed_one_leaves_no_process_and_refuses(moody: ApartRuntime) -> None:
    pid = moody.pid
    moody.close()
    moody.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ModelError, match="closed"):
        moody.predict(WELL)


def test_whoever_waits_hears_of_the_end(moody: ApartRuntime) -> None:
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(moody.predict, HANG)
        until(waiting.running, "the call")
        moody.close()
        with pytest.raises(ModelError):
            waiting.result(timeout=10)
