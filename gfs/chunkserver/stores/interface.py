"""The plug for chunk bytes. Bytes only: versions, lengths and checksums live in chunk_index.

Every implementation passes gfs.testing.ChunkStoreContract; how a chunk server finds one is told by
`registry`. Methods block; they are called from worker threads, for different chunks at the same time, for one
chunk never two mutations at once.
OSError (ENOSPC, EIO) passes through; the service turns it into NoSpace or takes the disk out of service.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from gfs.disk import Bytes
from gfs.vocabulary import ChunkHandle


class StoreUsage(NamedTuple):
    total_bytes: int
    free_bytes: int


class StoreCapabilities(NamedTuple):
    """What a store can do, told by its plug-in before it is opened.

    append: bytes may be added behind a chunk's end. random_write: and over those that are there.
    durable: chunks outlive the process. A chunk server writes into a store with all of append and
    random_write only; one with neither holds chunks that change no more, beside such a store.
    """

    append: bool = True
    random_write: bool = True
    durable: bool = True

    @property
    def immutable_only(self) -> bool:
        return not (self.append or self.random_write)


class BytesUnreachable(OSError):
    """The bytes are on another machine that cannot be asked now. Of the chunk it says nothing: no damage."""


class ChunkStore(Protocol):
    def create(self, handle: ChunkHandle) -> None:
        """Make an empty chunk; no error when it is there (a creation cut short by a crash)."""
        ...

    def make_local(self, handle: ChunkHandle, offset: int, length: int) -> None:
        """Fetch bytes that this store has put elsewhere: called before anything is noted of a change to them.

        A failure leaves all as it was. KeyError, where they are elsewhere: they are lost. The bytes need not
        be there yet: an append asks for room behind the end.
        """
        ...

    def write_at(self, handle: ChunkHandle, data: Bytes, offset: int) -> None:
        """Write all of `data`; a gap before `offset` reads as zeros."""
        ...

    def read_into(self, handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns bytes read, short only at the end. KeyError: no such chunk."""
        ...

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        """Send at most `length` bytes from `offset` to the socket `out`, as one send(2) would.

        Returns: bytes sent; 0 only at the end. KeyError: no such chunk. OSError: of the store or the socket.
        """
        ...

    def length(self, handle: ChunkHandle) -> int:
        """Bytes held, committed or not. KeyError: no such chunk."""
        ...

    def is_stored(self, handle: ChunkHandle) -> bool:
        """Whether a start would find this chunk: False too when its bytes were taken away from outside."""
        ...

    def truncate(self, handle: ChunkHandle, length: int) -> None: ...

    def clone(self, source: ChunkHandle, destination: ChunkHandle) -> None:
        """Copy locally, sharing blocks where the file system can (GFS §3.4)."""
        ...

    def delete(self, handle: ChunkHandle) -> None:
        """Forget a chunk; no error when it is not there. A crash leaves all of it, or nothing."""
        ...

    def handles(self) -> Iterator[ChunkHandle]: ...

    def sync(self, handle: ChunkHandle) -> None:
        """Bytes and length of this chunk are on the disk when this returns. A failure is fatal."""
        ...

    def sync_names(self) -> None:
        """Creations and deletions so far are on the disk when this returns."""
        ...

    def usage(self) -> StoreUsage: ...

    def close(self) -> None: ...
