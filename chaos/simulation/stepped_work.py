"""Blocking work that can be cut off between any two calls to its disk, in virtual time. Not what work.

A checkpoint is written by a thread while the loop goes on. Here that thread moves only when the virtual loop
lets it, one call to the disk at a time: mutations, log syncs and power cuts come between any two of them, and
a seed still tells everything. What belongs to a process that has died does nothing to its disk any more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from chaos.simulation.disk import ForgetfulDisk, ForgetfulFile, PoweredOff
from chaos.simulation.loop import VirtualLoop
from gfs.disk import Bytes

_current = threading.local()


class SteppedWork:
    """One piece of blocking work, in a thread that runs only while step() waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self.finished = False
        self.result: Any = None  # Any: whatever the work returns
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let it go on to its next call to the disk, or to its end."""
        self._go.release()
        self._back.acquire()

    def run_to_end(self) -> None:
        while not self.finished:
            self.step()

    def pause(self) -> None:
        """In the work's own thread: wait for the next step()."""
        self._back.release()
        self._go.acquire()

    def _run(self) -> None:
        self._go.acquire()
        _current.work = self
        try:
            self.result = self._work()
        except Exception as error:
            self.error = error
        self.finished = True
        self._back.release()


class SteppedLoop(VirtualLoop):
    """Work given to a process's own executor is stepped; what comes without one is done at once, as ever."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._under_way: dict[Any, list[SteppedWork]] = {}
        self.stepped_seconds = self.disk_seconds  # what one call of stepped work takes

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if executor is None:
            return super().run_in_executor(executor, func, *args)
        done: asyncio.Future[Any] = self.create_future()
        work = SteppedWork(lambda: func(*args))
        self._under_way.setdefault(executor, []).append(work)

        def go_on() -> None:
            if not work.finished:
                work.step()
            if not work.finished:
                self.call_later(self.chance.uniform(*self.stepped_seconds), go_on)
                return
            if work in self._under_way.get(executor, []):
                self._under_way[executor].remove(work)
            if done.done():
                return  # cancelled: the process is gone
            if work.error is not None:
                done.set_exception(work.error)
            else:
                done.set_result(work.result)

        self.call_later(self.chance.uniform(*self.stepped_seconds), go_on)
        return done

    def end_work_of(self, executor: Any) -> None:
        """The process is dead: its threads come to their ends on a disk that refuses them everything."""
        for work in self._under_way.pop(executor, []):
            work.run_to_end()


class ProcessDisk:
    """What one process sees of its machine's disk. Implements gfs.disk.Disk.

    `on_cut` is called once on the loop, when the power goes in the middle of one of this process's calls.
    """

    def __init__(self, disk: ForgetfulDisk, loop: VirtualLoop, *, on_cut: Callable[[], None]) -> None:
        self._disk, self._loop, self._on_cut = disk, loop, on_cut
        self.is_dead = False

    def call(self, change: Callable[..., Any], *arguments: Any) -> Any:
        work: SteppedWork | None = getattr(_current, "work", None)
        if self.is_dead:
            raise PoweredOff
        if work is not None:
            work.pause()
            if self.is_dead:
                raise PoweredOff
        try:
            return change(*arguments)
        except PoweredOff:
            if not self.is_dead:
                self.is_dead = True
                if work is None:
                    self._on_cut()
                else:
                    self._loop.call_soon(self._on_cut)  # which stands still while this thread moves
            raise

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> _ProcessFile:
        found: ForgetfulFile = self.call(lambda: self._disk.open(path, create=create, exclusive=exclusive))
        return _ProcessFile(self, found)

    def rename(self, source: str, destination: str) -> None:
        self.call(self._disk.rename, source, destination)

    def unlink(self, path: str) -> None:
        self.call(self._disk.unlink, path)

    def listdir(self, path: str) -> list[str]:
        found: list[str] = self.call(self._disk.listdir, path)
        return found

    def exists(self, path: str) -> bool:
        return bool(self.call(self._disk.exists, path))

    def space(self, path: str) -> tuple[int, int]:
        found: tuple[int, int] = self.call(self._disk.space, path)
        return found

    def make_directory(self, path: str) -> None:
        self.call(self._disk.make_directory, path)

    def sync_directory(self, path: str) -> None:
        self.call(self._disk.sync_directory, path)

    def boot_id(self) -> str:
        return str(self.call(self._disk.boot_id))


class _ProcessFile:
    def __init__(self, disk: ProcessDisk, file: ForgetfulFile) -> None:
        self._disk, self._file = disk, file

    def pwrite(self, data: Bytes, offset: int) -> None:
        self._disk.call(self._file.pwrite, data, offset)

    def pread(self, length: int, offset: int) -> bytes:
        found: bytes = self._disk.call(self._file.pread, length, offset)
        return found

    def pread_into(self, buffer: memoryview, offset: int) -> int:
        return int(self._disk.call(self._file.pread_into, buffer, offset))

    def length(self) -> int:
        return int(self._disk.call(self._file.length))

    def truncate(self, length: int) -> None:
        self._disk.call(self._file.truncate, length)

    def sync(self) -> None:
        self._disk.call(self._file.sync)

    def start_writeback(self, offset: int, length: int) -> None:
        return

    def close(self) -> None:
        self._file.close()
