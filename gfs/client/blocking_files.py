"""Open files of the sync SDK as the io module wants them. The verbs that open them are in blocking.py."""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING

from gfs.client.file import AsyncReader, AsyncWriter
from gfs.client.loop_thread import LoopThread
from gfs.errors import InvalidArgument
from gfs.vocabulary import KIB

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

WRITE_GATHER_BYTES = 256 * KIB  # small writes are gathered before they cross to the loop's thread


class BlockingReader(io.RawIOBase):
    """A file open for reading; what io.BufferedReader and shutil.copyfileobj need of a raw file."""

    def __init__(self, file: AsyncReader, thread: LoopThread) -> None:
        self._file = file
        self._thread = thread

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._check_open()
        view = memoryview(buffer)
        return self._thread.run(self._file.readinto(view))

    def readall(self) -> bytes:
        self._check_open()
        return self._thread.run(self._file.read())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Raises: ValueError for a place before the start, as the io module does."""
        self._check_open()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise ValueError(f"whence {whence} is none of 0, 1 and 2")
        if whence == io.SEEK_CUR:
            offset += self._file.tell()
        elif whence == io.SEEK_END:
            offset += self._thread.run(self._file.length())
        if offset < 0:
            raise ValueError(f"cannot seek to {offset}: that is before the start of the file")
        return self._file.seek(offset)

    def tell(self) -> int:
        self._check_open()
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            try:
                self._thread.finish(self._file.close())
            finally:
                super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")  # what the io module promises


class BlockingWriter(io.RawIOBase):
    """A file open for writing; every write() takes all it is given. Small writes are gathered.

    Leaving `with` by an exception discards: an atomic file then never appears.
    """

    def __init__(self, file: AsyncWriter, thread: LoopThread) -> None:
        self._file = file
        self._thread = thread
        self._gathered = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Accept all of `data`. Raises: what made an earlier write fail."""
        self._check_open()
        view = memoryview(data).cast("B")
        if len(self._gathered) + len(view) < WRITE_GATHER_BYTES:
            self._gathered += view
        else:
            self._hand_over()
            self._thread.run(self._file.write(data if isinstance(data, bytes) else view))
        return len(view)

    def tell(self) -> int:
        return self._file.tell() + len(self._gathered)

    def flush(self) -> None:
        """Return when every byte written so far is on every replica."""
        if not self.closed:
            self._hand_over()
            self._thread.run(self._file.flush())

    def close(self) -> None:
        """Flush and publish. Raises: when any byte is not acknowledged."""
        if self.closed:
            return
        try:
            self._hand_over()
            self._thread.run(self._file.close())
        except BaseException:
            self._end_by_discarding()
            raise
        self._end()

    def discard(self) -> None:
        """Stop. An atomic file never appears; another keeps what has been written of it."""
        if not self.closed:
            self._end_by_discarding()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        # io's finalizer would close, and so publish, what its owner has dropped in the middle.
        pass

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")  # what the io module promises

    def _hand_over(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, bytearray()
            self._thread.run(self._file.write(gathered))

    def _end_by_discarding(self) -> None:
        try:
            self._thread.run(self._file.discard())
        finally:
            self._end()

    def _end(self) -> None:
        self._gathered = bytearray()
        # RawIOBase.close() would flush first; there is nothing left to flush.
        self._is_closed = True

    _is_closed = False

    @property
    def closed(self) -> bool:
        return self._is_closed


def check_text(encoding: str | None, errors: str | None, newline: str | None) -> None:
    """Raises: InvalidArgument for what io.TextIOWrapper would not take."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding or "utf-8", errors, newline).close()
        codecs.lookup_error(errors or "strict")
    except (LookupError, ValueError) as error:
        raise InvalidArgument(
            f"text cannot be read or written so: {error}",
            hint="encoding, errors and newline are those of Python's own open().",
        ) from error
