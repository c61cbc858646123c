"""The models of a folder, hundreds in one process: loaded by the first question, kept while there is room, swapped
whole.

Laws: a question is answered by one version, whole, and one that was begun is ended by what began it; questions that
come while a model loads wait for that one load; what cannot be loaded is told with the reason, and the one before goes
on. A model that is not loaded costs a few hundred bytes; one that is loaded here costs no thread, process or timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from trilane.clock import WallClock
from trilane.errors import DefinitionError, ModelError, TrilaneError, UnavailableError
from trilane.models.folder import Found, ModelFolder
from trilane.models.wishes import Wish, Wishes
from trilane.serving.admission import Admission
from trilane.serving.door import afford
from trilane.serving.entries import Entry, Slot, facts_of, known_versions, no_model, number, state_of, unloaded
from trilane.serving.inference import About, Inference, Question, State, Statistics
from trilane.serving.opened import Opened
from trilane.serving.opening import Opener
from trilane.serving.policy import STANDARD
from trilane.serving.residency import Residency
from trilane.serving.tally import Tally

__all__ = ["ModelRepository"]

_log = logging.getLogger(__name__)
_RUNNING = 2  # threads for models that take long, so that one of them does not hold up all others
_MIB = 1 << 20
_T = TypeVar("_T")


class ModelRepository:
    """Keeps the promise of Inferences for the models below `folder`. `budget`: bytes that those in memory may take.

    `state`: the folder of what is kept of them, which all processes of a server share; `admission`: lets questions in;
    `loaded` is called when a version is in memory for the first time. Raises SetupError if the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        state: Path,
        budget: int,
        loop: asyncio.AbstractEventLoop,
        admission: Admission | None = None,
        loaded: Callable[[], None] | None = None,
    ) -> None:
        self._folder, self._loop = ModelFolder(folder), loop
        self._loaded = loaded
        self._admission = admission or Admission()
        self._answering: set[Opened] = set()
        self._wishes = Wishes(state)
        self._heeded = self._wishes.count
        self._loading = ThreadPoolExecutor(2, thread_name_prefix="model-load")
        self._running = ThreadPoolExecutor(_RUNNING, thread_name_prefix="model-run")
        self._opener = Opener(state, loop=loop, loading=self._loading, running=self._running, admission=self._admission)
        self._room = Residency[Slot](budget)
        self._wall, self._entries = WallClock(), dict[str, Entry]()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warming: set[str] = set()
        self._scan()
        for entry in self._entries.values():
            found = entry.listed.versions.get(entry.served)
            if found is not None and found.options.warm and not entry.wish.off:
                self._warming.add(entry.listed.name)
                self._in_background(self._warm(entry))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, model: str) -> bool:
        return self._look(model) is not None

    # -- questions ----------------------------------------------------------------------------------------------

    def foresee(self, question: Question) -> None:
        self._slot(self._find(question.model), question.version).foresee(question)

    async def infer(self, question: Question) -> Inference:
        began = time.perf_counter()
        entry = self._find(question.model)
        slot, paid = self._slot(entry, question.version), False
        try:
            if (opened := slot.opened) is None:
                found = entry.listed.versions.get(slot.version)
                afford(self._admission, question, found.options.tier if found else STANDARD)
                paid = True
            while opened is None:
                slot, opened = await self._opened(entry, slot, question)
                if slot.opened is not opened:  # it was put out again before we had our turn
                    opened = None
            self._room.asked(slot)
            answer, share = await opened.infer(question, paid=paid)
        except TrilaneError as error:
            slot.failed(error, time.perf_counter() - began)
            raise
        slot.tally.succeeded(share, time.perf_counter() - began)
        return answer

    async def about(self, model: str, version: str = "") -> About:
        entry = self._find(model)
        slot = self._slot(entry, version)
        if (opened := slot.opened) is None:
            slot, opened = await self._opened(entry, slot, Question(model, (), version))
        return opened.about(tuple(entry.listed.versions))

    def ready(self, model: str, version: str = "") -> State:
        entry = self._find(model)
        return state_of(entry, self._slot(entry, version))

    def index(self) -> list[State]:
        self._heed()
        self._scan()
        states = []
        for _, entry in sorted(self._entries.items()):
            known = sorted({*known_versions(entry.listed), entry.served}, key=number, reverse=True)
            states += [state_of(entry, self._slot(entry, version)) for version in known]
        return states

    def waits_for(self) -> list[str]:
        """The warm models whose first load is not over yet."""
        return sorted(self._warming)

    def statistics(self, model: str = "", version: str = "") -> Sequence[Statistics]:
        entries = [self._find(model)] if model else [entry for _, entry in sorted(self._entries.items())]
        if model and version:
            self._slot(entries[0], version)
        slots = [slot for entry in entries for slot in entry.slots.values() if version in ("", slot.version)]
        return [slot.tally.statistics() for slot in slots if model or slot.loads or any(slot.failures.values())]

    def slots(self) -> Iterator[Slot]:
        """Every version that was asked for or loaded; any thread may ask."""
        return (slot for entry in list(self._entries.values()) for slot in list(entry.slots.values()))

    def settings(self, model: str, version: str = "") -> Mapping[str, object]:
        entry = self._find(model)
        return facts_of(entry, self._slot(entry, version))

    # -- loading ------------------------------------------------------------------------------------------------

    async def load(self, model: str) -> None:
        entry = self._find(model, heed=False)
        entry.wish = self._wishes.load(model)
        await self._renew(entry)

    async def unload(self, model: str) -> None:
        entry = self._find(model, heed=False)
        entry.wish = self._wishes.unload(model)
        await self._leave(entry)

    def close(self) -> None:
        """Ends what runs, at once: whoever still waits hears that the server ends."""
        for task in (*self._tasks, *(task for entry in self._entries.values() for task in entry.leaving)):
            task.cancel()
        for entry in self._entries.values():
            for slot in entry.slots.values():
                if slot.opening is not None:
                    slot.opening.cancel()
                if slot.opened is not None:
                    slot.opened.kill()
        self._loading.shutdown(wait=False, cancel_futures=True)
        self._running.shutdown(wait=False, cancel_futures=True)
        self._wishes.close()

    async def _renew(self, entry: Entry) -> None:
        """Loads the highest version that can be, unless it is there as it is on disk. Raises if none can."""
        listed = self._folder.find(entry.listed.name)
        if listed is None:
            self._entries.pop(entry.listed.name, None)
            await self._leave(entry)
            raise no_model(entry.listed.name, self._folder.names())
        entry.listed = listed
        for slot in list(entry.slots.values()):
            found = listed.versions.get(slot.version)
            gone = found is None and slot.version not in listed.errors and slot.version != entry.served
            if gone or (
                slot.version != entry.served and found and slot.opened and slot.opened.found.mark != found.mark
            ):
                self._retire(entry, slot)  # the next question for it loads it anew
        first = known_versions(listed)[0]
        try:
            await asyncio.shield(self._start(entry, self._slot(entry, first)))
        except TrilaneError:
            if all(slot.opened is None for slot in entry.slots.values()):
                await self._fall_back(entry, first)
            raise
        before = entry.slots.get(entry.served)
        entry.served = first
        if before is not None and before.version != first:
            self._retire(entry, before)

    async def _fall_back(self, entry: Entry, broken: str) -> None:
        """Has an older version answer, if one can, where nothing answers yet."""
        for version in entry.listed.versions:
            if number(version) < number(broken):
                try:
                    await asyncio.shield(self._start(entry, self._slot(entry, version)))
                except TrilaneError:
                    continue
                entry.served = version
                return

    async def _opened(self, entry: Entry, slot: Slot, question: Question) -> tuple[Slot, Opened]:
        """The model, loaded for a question that waits for it."""
        if entry.wish.off:
            raise unloaded(slot.name)
        try:
            return slot, await self._in_time(self._start(entry, slot), slot, question.deadline)
        except TrilaneError as error:
            if question.version or isinstance(error, UnavailableError):
                raise
            await self._in_time(self._loop.create_task(self._fall_back(entry, slot.version)), slot, question.deadline)
            other = entry.slots.get(entry.served)
            if other is None or other.opened is None:
                raise error from None
            return other, other.opened

    async def _in_time(self, task: asyncio.Task[_T], slot: Slot, deadline: float) -> _T:
        wait = deadline - time.perf_counter()
        done, _ = await asyncio.wait([task], timeout=max(wait, 0.0) if wait < 86_400 else None)
        if not done:
            what, remedy = "it is still being loaded", "Ask again, or give more time; `warm = true` loads it early"
            raise UnavailableError(what, where=f"model {slot.name!r}", remedy=remedy, deadline=True)
        return task.result()

    def _start(self, entry: Entry, slot: Slot) -> asyncio.Task[Opened]:
        """The one load of this version that is under way, or a new one."""
        if slot.opening is None:
            slot.opening = self._loop.create_task(self._load(entry, slot))
            slot.opening.add_done_callback(lambda task: task.cancelled() or task.exception())  # it is noted in the slot
        return slot.opening

    async def _load(self, entry: Entry, slot: Slot) -> Opened:
        try:
            found = self._found(entry, slot)
            before = slot.opened
            if before is not None and before.found.mark == found.mark:
                return before
            slot.check_tried(found.mark, self._loop.time())
            if not self._room.fits(found.size):
                what = f"it takes {found.size / _MIB:.3g} MiB, more than `models_mib` leaves beside pinned models"
                raise ModelError(what, where=f"model {slot.name!r}", remedy="Raise `models_mib` in trilane.toml")
            try:
                opened = await self._opener.open(found)
            except TrilaneError:
                slot.could_not_load(found.mark, self._loop.time())
                raise
            if entry.wish.off:
                self._later(entry, opened)
                raise unloaded(slot.name)
            slot.answer_by(opened)
            slot.loads += 1
            if slot.loads == 1 and self._loaded is not None:
                self._loaded()
            self._answering.add(opened)
            self._watch()
            if before is not None:
                self._later(entry, before)
            slot.memory = opened.size
            for other in self._room.add(slot, slot.memory, pinned=found.options.pinned):
                _log.info("model %s is put out of memory to make room for %s", other.name, slot.name)
                self._retire(self._entries.get(other.name, entry), other)
            _log.info("model %s, version %s, is loaded", slot.name, slot.version)
            return opened
        except TrilaneError as error:
            if slot.reason != str(error):
                _log.error("model %s, version %s: %s", slot.name, slot.version, error)
            slot.reason, slot.error = str(error), error
            raise
        finally:
            slot.opening = None

    def _found(self, entry: Entry, slot: Slot) -> Found:
        """The version as it is on disk now."""
        listed = self._folder.find(slot.name)
        if listed is None:
            raise no_model(slot.name, self._folder.names())
        entry.listed = listed
        error = listed.errors.get(slot.version)
        if error is not None:
            raise error
        found = listed.versions.get(slot.version)
        if found is None:
            raise ModelError("its files are gone", where=f"model {slot.name!r}", remedy="Copy them there again")
        return found

    async def _leave(self, entry: Entry) -> None:
        for slot in list(entry.slots.values()):
            self._retire(entry, slot)
        while entry.leaving:
            await asyncio.wait(set(entry.leaving))

    def _retire(self, entry: Entry, slot: Slot) -> None:
        """Lets nobody else ask what is loaded, and closes it once those who did are answered."""
        self._room.remove(slot)
        opened = slot.answer_by(None)
        if opened is not None:
            self._later(entry, opened)

    def _later(self, entry: Entry, opened: Opened) -> None:
        task = self._loop.create_task(self._closed(opened))
        entry.leaving.add(task)
        task.add_done_callback(entry.leaving.discard)

    async def _closed(self, opened: Opened) -> None:
        """Closes it once nobody waits for it any more, who until then may be put out for others."""
        try:
            await opened.leave()
        finally:
            self._answering.discard(opened)
            self._watch()

    def _watch(self) -> None:
        self._admission.watch((one.batcher for one in self._answering), of="models")

    async def _warm(self, entry: Entry) -> None:
        try:
            await self._renew(entry)
        except TrilaneError as error:
            _log.error("model %s cannot be loaded: %s", entry.listed.name, error)
        finally:
            self._warming.discard(entry.listed.name)

    # -- what there is ------------------------------------------------------------------------------------------

    def _find(self, name: str, *, heed: bool = True) -> Entry:
        if heed and self._wishes.count != self._heeded:
            self._heed()
        entry = self._entries.get(name) or self._look(name)
        if entry is None:
            raise no_model(name, self._folder.names())
        return entry

    def _look(self, name: str) -> Entry | None:
        """The model, as it is on disk if it was not known before."""
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        listed = self._folder.find(name)
        if listed is None:
            return None
        entry = self._entries[name] = Entry(listed, known_versions(listed)[0], self._wishes.all().get(name, Wish()))
        return entry

    def _scan(self) -> None:
        """Learns of models that came, and forgets those that went and are not loaded."""
        names = set(self._folder.names())
        for name in names:
            entry = self._look(name)
            if entry is not None and not any(slot.opened or slot.opening for slot in entry.slots.values()):
                entry.renew(self._folder.find(name), keep=True)
        for name in set(self._entries) - names:
            if not any(slot.opened or slot.opening for slot in self._entries[name].slots.values()):
                del self._entries[name]

    def _slot(self, entry: Entry, version: str) -> Slot:
        version = version or entry.served
        slot = entry.slots.get(version)
        if slot is None:
            name, known = entry.listed.name, {*entry.listed.versions, *entry.listed.errors}
            if version not in known:
                remedy = f"Ask for {', '.join(sorted(known, key=number)) or 'another model'}, or for none"
                what = f"{name!r} has no version {version!r}"
                raise DefinitionError(what, where=name, remedy=remedy, status=404, file="")
            slot = entry.slots[version] = Slot(name, version, Tally(name, version, now=self._wall.now))
        return slot

    def _heed(self) -> None:
        """Does what was wished of another process of this server."""
        count = self._wishes.count
        if count == self._heeded:
            return
        self._heeded = count
        for name, wish in self._wishes.all().items():
            entry = self._entries.get(name)
            if entry is None or entry.wish == wish:
                continue
            loads, entry.wish = wish.loads != entry.wish.loads, wish
            if wish.off:
                for slot in entry.slots.values():
                    self._retire(entry, slot)
            elif loads and any(slot.opened or slot.opening for slot in entry.slots.values()):
                self._in_background(self._warm(entry))
            elif loads:
                entry.renew(self._folder.find(name))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
