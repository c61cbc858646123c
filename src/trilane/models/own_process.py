"""What a trained model is kept as, and what its process may take where it runs in one of its own.

Laws: the words are those of the models folder; a model whose answers are made by code (pickled objects, the author's
classes) never runs in the server's own process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trilane.clock import SECOND, duration
from trilane.errors import DefinitionError

__all__ = ["ONNX", "OwnProcess", "PYTHON", "RUNTIMES", "python", "runtime_of"]

ONNX, PYTHON = "onnx", "python"
RUNTIMES = (ONNX, "lightgbm", "xgboost", PYTHON)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnProcess:
    """A model kept as a Python object, in a process of its own.

    `row_wise`: whether a row gets the same bits in every batch; else each is asked alone. `memory_mib`: of private
    memory that it may take (0: any); `threads`: that libraries may start in it; `timeout`, `load_timeout`:
    microseconds of a batch and of opening it, after which it is ended.
    """

    row_wise: bool = False
    memory_mib: int = 4_096
    threads: int = 1
    timeout: int = SECOND
    load_timeout: int = 60 * SECOND

    @property
    def memory(self) -> int:
        """`memory_mib` in bytes."""
        return self.memory_mib * _MIB

    def spec(self) -> dict[str, Any]:
        """The process as plain facts."""
        return asdict(self)


def python(
    *,
    row_wise: bool = False,
    memory_mib: int = 4_096,
    threads: int = 1,
    timeout: str | int = "1s",
    load_timeout: str | int = "60s",
) -> OwnProcess:
    """Keeps what `train` returns as it is, with the author's code, and runs it in a process of its own: an estimator,
    an object with `predict(matrix)`, or a function; `runtime="python"` is the same with all defaults.

    `row_wise=True` promises that a row gets the same bits in every batch, so that a batch is asked at once; training
    checks it. `timeout`: of one batch, at least the endpoint's deadline, after which the process is started anew.
    """
    limits = duration(timeout), duration(load_timeout)
    if memory_mib < 0 or threads < 1 or min(limits) <= 0:
        raise DefinitionError(
            f"no process can live on memory_mib={memory_mib}, threads={threads}, {timeout!r} and {load_timeout!r}",
            where="tl.python",
            remedy="Give at least one thread and some time; memory_mib=0 sets no limit",
        )
    return OwnProcess(
        row_wise=row_wise, memory_mib=memory_mib, threads=threads, timeout=limits[0], load_timeout=limits[1]
    )


def runtime_of(declared: str | OwnProcess, *, where: str) -> tuple[str, OwnProcess]:
    """The runtime that is declared, and its process. Raises DefinitionError for what is none."""
    if isinstance(declared, OwnProcess):
        return PYTHON, declared
    if declared not in RUNTIMES:
        known = ", ".join(repr(one) for one in RUNTIMES)
        raise DefinitionError(f"{declared!r} is no runtime", where=where, remedy=f"Write {known} or tl.python(...)")
    return declared, OwnProcess()
