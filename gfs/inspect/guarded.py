"""Reading mapped files in a child process: one that is damaged can end its reader by SIGBUS or SIGSEGV."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import msgspec

from gfs.errors import CorruptState, GfsError, from_code

COLLECT_OBJECTS = 100_000  # more objects than this make Python look for cycles among them
_HEAD_BYTES = 5  # b"D" (what was produced) or b"E" (an error, in msgpack), then the length


class _Failure(msgspec.Struct, array_like=True):
    code: str
    message: str
    hint: str


class GuardedReader:
    """Runs `produce` in a child process, at once, and hands out what it yields, once.

    For programs of one thread: the child is a fork. It never writes to this process's files.
    """

    def __init__(self, produce: Callable[[], Iterable[bytes]], what: str) -> None:
        """`what`: the file that is read, for messages."""
        self._what = what
        self._source, sink = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._source)
            _run_child(produce, sink, what)
        os.close(sink)

    def __iter__(self) -> Iterator[bytes]:
        """Raises: CorruptState when the child died of what it read; what `produce` raised, if it is ours."""
        failure: GfsError | None = None
        status: int | None = None
        try:
            with os.fdopen(self._source, "rb") as source:
                while len(head := source.read(_HEAD_BYTES)) == _HEAD_BYTES:
                    body = source.read(int.from_bytes(head[1:], "big"))
                    if head[:1] == b"E":
                        told = msgspec.msgpack.decode(body, type=_Failure)
                        failure = from_code(told.code, told.message, hint=told.hint)
                        break
                    yield body
            status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        finally:
            if status is None:  # nobody wants the rest
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
        if failure is not None:
            raise failure
        if status != 0:
            died = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise CorruptState(
                f"{self._what} is damaged: reading it ended {died}",
                hint="'gfs checkpoint verify' says what is wrong with it; take another checkpoint.",
            )


def guarded(produce: Callable[[], Iterable[bytes]], what: str) -> Iterator[bytes]:
    """What `produce` yields, from a child process; see GuardedReader."""
    return iter(GuardedReader(produce, what))


def _run_child(produce: Callable[[], Iterable[bytes]], sink: int, what: str) -> NoReturn:
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()  # that it dies is told by the parent
        gc.freeze()
        gc.set_threshold(COLLECT_OBJECTS)  # rows come by the thousand, and none of them is part of a cycle
        with os.fdopen(sink, "wb") as pipe:
            try:
                for body in produce():
                    pipe.write(b"D" + len(body).to_bytes(4, "big") + body)
            except BrokenPipeError:
                raise
            except GfsError as error:
                _send(pipe.write, _Failure(error.code, error.message, error.hint))
            except Exception as error:
                # Whatever rows may hold must not look like a fault of the program that reads them.
                told = f"{what} cannot be read: {type(error).__name__}: {error}"
                _send(pipe.write, _Failure(CorruptState.code, told, ""))
        status = 0
    except BaseException:
        status = 1
    finally:
        os._exit(status)  # the parent's buffers and exit handlers are not the child's to run


def _send(write: Callable[[bytes], int], failure: _Failure) -> None:
    body = msgspec.msgpack.encode(failure)
    write(b"E" + len(body).to_bytes(4, "big") + body)
