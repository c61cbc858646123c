"""Whatever a model does in its process costs its own answers: the one that asks next is answered."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trilane.errors import ModelError, TrilaneError, UnavailableError
from trilane.models.runtime.supervised import Opening, Supervised
from trilane.models.tensor import TensorSpec

CODE = """
import ctypes, os, signal, sys, threading, time
import numpy as np

kept = []

def load():
    print("loaded by", os.getpid())

class Mute(Exception):
    def __str__(self):
        raise ValueError("it has no words")


def predict(inputs):
    word = inputs["word"][0].decode()
    if word == "raise":
        raise ValueError("no such word")
    if word == "say what cannot be written":
        raise ValueError("no \\ud800 word")
    if word == "say too much":
        raise ValueError("no" * 2_000_000)
    if word == "say nothing":
        raise Mute
    if word == "exit":
        sys.exit(3)
    if word == "exit beside a thread":
        threading.Thread(target=time.sleep, args=(1000,)).start()
        sys.exit(3)
    if word == "vanish":
        os._exit(4)
    if word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "crash":
        ctypes.string_at(0)
    if word == "hang":
        print("hangs", flush=True)
        time.sleep(1000)
    if word == "loop":
        while True:
            pass
    if word == "leak":
        kept.append(np.ones(50 << 17))
    if word == "print":
        print("x" * 100_000, *range(3_000), sep="\\n")
    if word == "wrong type":
        return {"length": np.array([1.0])}
    if word == "wrong shape":
        return {"length": [[1, 2]]}
    if word == "wrong name":
        return {"width": [1]}
    if word == "nothing":
        return None
    return {"length": [len(one) for one in inputs["word"]]}
"""
INPUTS, OUTPUTS = (TensorSpec("word", "BYTES", (-1,)),), (TensorSpec("length", "INT64", (-1,)),)
Ask = Callable[..., Awaitable[list[int]]]


def words(*texts: str) -> Any:
    found = np.empty(len(texts), object)
    found[:] = [text.encode() for text in texts]
    return [found]


def on_loop(folder: Path, test: Callable[[Supervised], Awaitable[None]], **options: Any) -> None:
    (folder / "model.py").write_text(CODE)
    settings: dict[str, Any] = {"memory": 400 << 20, "timeout": 30.0, **options}
    opening = Opening(
        runtime="python", path=str(folder / "model.py"), inputs=INPUTS, outputs=OUTPUTS, threads=1, **settings
    )

    async def run() -> None:
        with ThreadPoolExecutor(2) as threads:
            model = await Supervised.start("speller", opening, threads)
            try:
                await test(model)
            finally:
                await model.close()

    asyncio.run(run())


async def answer(model: Supervised, *texts: str) -> list[int]:
    (found,) = await model.run(words(*texts))
    return list(found.tolist())


async def patiently(model: Supervised, *texts: str) -> list[int]:
    """The answer, once the process is there again."""
    while True:
        try:
            return await answer(model, *texts)
        except UnavailableError as error:
            await asyncio.sleep(float(str(error.facts["retry_after_s"])))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("raise", "ValueError: no such word"),
        ("say what cannot be written", r"ValueError: no \\ud800 word"),
        ("say too much", r"ValueError: (no){900,1100}\.\.\."),
        ("say nothing", "Mute: "),
        ("wrong type", "'length' is float64, and promised as INT64"),
        ("wrong shape", r"'length' has shape \[1, 2\]"),
        ("wrong name", "it gave an output 'width'"),
        ("nothing", "it gave a NoneType"),
    ],
)
def test_a_fault_of_its_code_is_told_and_its_process_goes_on(tmp_path: Path, word: str, told: str) -> None:
    async def test(model: Supervised) -> None:
        before = model.pid
        with pytest.raises(ModelError, match=told):
            await answer(model, word)
        assert await answer(model, "ab") == [2]
        assert model.pid == before

    on_loop(tmp_path, test)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("exit", "status 3"),
        ("exit beside a thread", "status 3"),
        ("vanish", "status 4"),
        ("killed", "killed by SIGKILL"),
        ("crash", "killed by SIG"),
    ],
)
def test_a_process_that_ends_is_started_anew_and_tells_of_what_it_died(tmp_path: Path, word: str, told: str) -> None:
    async def test(model: Supervised) -> None:
        before = model.pid
        with pytest.raises(ModelError, match=f"its process died: .*{told}"):
            await answer(model, word)
        assert await patiently(model, "ab", "c") == [2, 1]
        assert model.pid != before

    on_loop(tmp_path, test)


@pytest.mark.parametrize("word", ["hang", "loop"])
def test_a_model_that_hangs_is_ended_when_its_time_is_up(tmp_path: Path, word: str) -> None:
    async def test(model: Supervised) -> None:
        with pytest.raises(ModelError, match="did not answer within 2 s"):
            await answer(model, word)
        assert await patiently(model, "ab") == [2]

    on_loop(tmp_path, test, timeout=2.0)


def test_what_is_ended_for_its_time_is_buried_though_nothing_refers_to_it_any_more(tmp_path: Path) -> None:
    async def test(model: Supervised) -> None:
        before = model.pid
        assert before is not None
        with pytest.raises(ModelError, match="did not answer within"):
            await answer(model, "hang")
        for _ in range(3):
            await asyncio.sleep(0)
            gc.collect()
        assert await patiently(model, "ab") == [2]
        while _is_there(before):
            await asyncio.sleep(0.01)

    on_loop(tmp_path, test, timeout=0.5)


def test_what_is_closed_while_another_process_begins_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test(model: Supervised) -> None:
        with pytest.raises(ModelError, match="did not answer within"):
            await answer(model, "hang")

    on_loop(tmp_path, test, timeout=0.5)
    gc.collect()


def _is_there(pid: int) -> bool:
    """Whether a process has the id, if only as one whose status nobody has asked for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_model_killed_from_outside_in_mid_call_fails_that_call_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(model: Supervised) -> None:
        asked = asyncio.create_task(answer(model, "hang"))
        while "model speller: hangs" not in caplog.text:
            await asyncio.sleep(0)
        assert model.pid is not None
        os.kill(model.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match="killed by SIGKILL"):
            await asked
        assert await patiently(model, "ab") == [2]

    on_loop(tmp_path, test)


def test_a_model_killed_while_nobody_asks_is_there_for_the_next_question(tmp_path: Path) -> None:
    async def test(model: Supervised) -> None:
        assert model.pid is not None
        os.kill(model.pid, signal.SIGKILL)
        while model.deaths == 0:
            await asyncio.sleep(0.001)
        assert await answer(model, "ab") == [2]

    on_loop(tmp_path, test)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_model_that_leaks_reaches_its_limit_and_begins_anew(tmp_path: Path) -> None:
    async def test(model: Supervised) -> None:
        before = model.pid
        told: list[TrilaneError] = []
        while not told:
            try:
                await answer(model, "leak")
            except ModelError as error:
                told.append(error)
        assert "no memory left" in told[0].what
        assert await patiently(model, "ab") == [2]
        assert model.pid != before

    on_loop(tmp_path, test)


def test_what_it_prints_is_logged_under_its_name_and_no_more_than_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(model: Supervised) -> None:
        assert await answer(model, "print") == [5]
        while "more lines, which are left out" not in caplog.text:
            assert await answer(model, "ab") == [2]
        assert f"model speller: loaded by {model.pid}" in caplog.text
        assert max(map(len, caplog.messages)) < 2_100
        assert len(caplog.messages) < 1_000

    on_loop(tmp_path, test)


def test_a_model_that_cannot_be_loaded_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def load(code: str, **options: Any) -> None:
        (tmp_path / "model.py").write_text(code)
        opening = Opening(runtime="python", path=str(tmp_path / "model.py"), inputs=INPUTS, outputs=OUTPUTS, **options)
        with ThreadPoolExecutor(2) as threads:
            await Supervised.start("speller", opening, threads)

    for code, told in (
        ("x = (", "SyntaxError"),
        ("import nowhere", "nowhere"),
        ("y = 1", "no `predict`"),
        ("import os; os._exit(9)", "status 9"),
        ("def predict(inputs): ...\ndef load(): raise MemoryError", "does not fit into the 300 MiB"),
    ):
        with pytest.raises(TrilaneError, match=told):
            asyncio.run(load(code, memory=300 << 20))
    with pytest.raises(ModelError, match="not loaded within"):
        asyncio.run(load("import time; time.sleep(1000)", load_timeout=2.0))


PARENT = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from trilane.models.runtime.supervised import Opening, Supervised
from trilane.models.tensor import TensorSpec

async def main():
    sides = {"inputs": (TensorSpec("word", "BYTES", (-1,)),), "outputs": (TensorSpec("length", "INT64", (-1,)),)}
    model = await Supervised.start("m", Opening(runtime="python", path=sys.argv[1], **sides), ThreadPoolExecutor(2))
    print(model.pid, flush=True)
    import numpy as np
    await model.run([np.array([b"loop"], object)])

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that tells a child of its parent's death")
def test_it_dies_with_its_parent_whatever_killed_that_and_whatever_it_does(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(CODE)
    command = [sys.executable, "-c", PARENT, str(tmp_path / "model.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        descriptor = None
        try:
            descriptor = os.pidfd_open(child)
            import select

            assert select.select([descriptor], [], [], 60)[0]
        except ProcessLookupError:
            pass  # it is gone already
        finally:
            if descriptor is not None:
                os.close(descriptor)
