"""A trained model in a supervised process of its own, as a runtime that anybody may ask and wait for.

Laws: whoever asks is answered or told why not within the time of a call, whatever the model does; its process is
watched, and started anew, by a thread with a loop of its own, so that neither a server's loop nor whoever asks has to;
what it breaks is told as ModelError, and that it is not there yet as UnavailableError.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from trilane.errors import ModelError
from trilane.models.runtime.supervised import LONGEST_PAUSE, Opening, Supervised
from trilane.models.signature import Matrix, Scores, Signature

__all__ = ["ApartRuntime"]

_T = TypeVar("_T")


class ApartRuntime:
    """The model that `opening` names. Raises ModelError if it cannot be opened, SetupError if there can be no process.

    Until `hurry` is called, a call may take as long as loading the model, and waits for a process that is started anew,
    which it is at once.
    """

    def __init__(self, name: str, opening: Opening, signature: Signature) -> None:
        self.signature, self._name = signature, name
        self._timeout, self._waits, self._closed = opening.load_timeout, True, False
        self._loop = asyncio.new_event_loop()
        self._processes = ThreadPoolExecutor(1, thread_name_prefix="model-process")
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"model-{name}", daemon=True)
        self._thread.start()
        try:
            self._model = self._run(Supervised.start(name, opening, self._processes)).result()
            self._model.unhurried()
        except BaseException:
            self._end()
            raise

    @property
    def pid(self) -> int | None:
        """The id of its process, while there is one."""
        return self._model.pid

    def hurry(self, timeout: float) -> None:
        """From now on a call ends after `timeout` seconds, and waits for no process."""
        self._timeout, self._waits = timeout, False
        self._model.longest_pause = LONGEST_PAUSE

    def predict(self, matrix: Matrix) -> Scores:
        self.signature.check(matrix)
        if self._closed:
            raise ModelError("the runtime is closed", where="features", remedy="Open the artifact again")
        if not len(matrix):
            return np.empty(0, np.float64)
        asked = self._model.run([matrix], timeout=self._timeout, wait=self._waits)
        (scores,) = self._run(asked).result()
        found: Scores = scores
        return found

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._run(self._model.close()).result()
            self._end()

    def _run(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _end(self) -> None:
        self._closed = True
        self._run(self._rest()).result()  # of those who still asked
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._processes.shutdown()

    async def _rest(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)
