"""The other side of a model's process: opens one model, then answers frame after frame until its parent is gone.

Laws: it holds no more memory than it may; what the author's code prints goes to standard error; a fault of that code is
an answer that says so, one that leaves the process in doubt (no memory left) ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from trilane.errors import TrilaneError
from trilane.models.runtime.opening import fit_answer, open_runtime
from trilane.models.runtime.protocol import TensorRuntime
from trilane.models.runtime.wire import PREFIX, Frame, Head, lengths, pack, unpack
from trilane.models.tensor import TensorSpec

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_MOST = 2_000  # characters of what an error says


def main(descriptor: int, parent: int) -> None:
    """Serves the socket `descriptor` of process `parent`."""
    _end_with(parent)
    os.dup2(2, 1)  # whatever is printed must not be lost, nor get into anybody's way
    connection = socket.socket(fileno=descriptor)
    frame = _receive(connection)
    if frame is None:
        return
    model = _opened(connection, frame.head.facts)
    while model is not None and (frame := _receive(connection)) is not None:
        _answer(connection, model, frame)


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it was gone before we asked to be told
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _opened(connection: socket.socket, facts: dict[str, Any]) -> TensorRuntime | None:
    try:
        if facts["memory"]:
            # Of the kernel's limits, the one on private memory: mapped files and reserved addresses count for nothing.
            resource.setrlimit(resource.RLIMIT_DATA, (facts["memory"], facts["memory"]))
        model = _open(facts)
    except TrilaneError as error:
        _send(connection, pack(Head("failed", _plain(error.what), _plain(error.remedy), type(error).__name__)))
        return None
    except MemoryError:
        _send(connection, pack(Head("failed", _no_memory(facts["memory"]), error="ModelError")))
        return None
    except BaseException as error:  # noqa: BLE001 - whatever the author's code does, the parent must hear of it
        traceback.print_exc()
        _send(connection, pack(Head("failed", _said(error), error="ModelError")))
        return None
    specs = [[(one.name, one.datatype, one.shape) for one in side] for side in (model.inputs, model.outputs)]
    told = {"platform": model.platform, "inputs": specs[0], "outputs": specs[1], "memory": facts["memory"]}
    _send(connection, pack(Head("opened", facts=told)))
    return model


def _open(facts: dict[str, Any]) -> TensorRuntime:
    inputs, outputs = (tuple(TensorSpec(n, d, tuple(s)) for n, d, s in facts[side]) for side in ("inputs", "outputs"))
    kind, path, processing = facts["runtime"], Path(facts["path"]), facts["processing"]
    if kind == "pickled":
        from trilane.models.runtime.pickled import PickledTensors

        return PickledTensors(path, width=inputs[0].shape[1], row_wise=facts["row_wise"])
    if not processing:
        return open_runtime(kind, path, inputs=inputs, outputs=outputs, providers=facts["providers"])
    from trilane.models.runtime.python import ProcessedTensors

    inner = open_runtime(kind, path, providers=facts["providers"])
    return ProcessedTensors(inner, Path(processing), inputs=inputs, outputs=outputs)


def _answer(connection: socket.socket, model: TensorRuntime, frame: Frame) -> None:
    try:
        answers = model.run(frame.arrays)
        fit_answer(answers, model.outputs, rows=None, nan=True, where="predict")
        pieces = pack(Head("done"), answers, model.outputs)
    except TrilaneError as error:
        pieces = pack(Head("failed", _plain(error.what), _plain(error.remedy), type(error).__name__))
    except MemoryError:
        traceback.print_exc()
        _send(connection, pack(Head("dead", "it has no memory left under its limit (memory_mib)")))
        os._exit(1)  # what leaked stays; a new process begins without it
    except SystemExit as error:
        sys.stdout.flush()
        os._exit(error.code & 0xFF if isinstance(error.code, int) else error.code is not None)  # for no thread of it
    except Exception as error:  # noqa: BLE001 - the author's code may raise what it will
        traceback.print_exc()
        pieces = pack(Head("failed", _said(error), error="ModelError"))
    _send(connection, pieces)


def _said(error: BaseException) -> str:
    """The error as a text that any message can hold, whatever it is."""
    try:
        text = str(error)
    except Exception as another:  # noqa: BLE001 - as above
        text = f"({type(another).__name__} when asked what it says)"
    return _plain(f"{type(error).__name__}: {text}")


def _plain(text: str) -> str:
    text = text if len(text) <= _MOST else f"{text[:_MOST]}..."
    return text.encode(errors="backslashreplace").decode()


def _no_memory(limit: int) -> str:
    return f"it does not fit into the {limit >> 20} MiB that it may take (memory_mib)"


def _send(connection: socket.socket, pieces: list[bytes | memoryview]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for piece in pieces:
            connection.sendall(piece)


def _receive(connection: socket.socket) -> Frame | None:
    """The next frame; None if the parent has no more."""
    prefix = _exactly(connection, PREFIX.size)
    if prefix is None:
        return None
    head, body = lengths(bytes(prefix))
    text, content = _exactly(connection, head), _exactly(connection, body)
    return None if text is None or content is None else unpack(bytes(text), content)


def _exactly(connection: socket.socket, size: int) -> bytearray | None:
    found, at = bytearray(size), 0
    with memoryview(found) as view:
        while at < size:
            try:
                number = connection.recv_into(view[at:])
            except ConnectionResetError:
                return None
            if not number:
                return None
            at += number
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
