"""What the bulk port asks of its owner: where pushes go, where reads come from. No sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gfs.messages.data import PushAnswer
from gfs.transport.data_head import PushHead, ReadHead
from gfs.vocabulary import ChunkHandle, ChunkVersion

# Looks at a request before the owner does, on the connection's thread. Raises: GfsError, which refuses it.
DataGate = Callable[[PushHead | ReadHead], None]


class PushSink(Protocol):
    """Where one push goes. The server calls arrived() as bytes come, then finish() or abandon(), once."""

    @property
    def memory(self) -> memoryview:
        """Exactly the memory the body is received into."""
        ...

    def arrived(self, end: int) -> None:
        """memory[:end] is there. Must not raise: what goes wrong downstream is told by finish()."""
        ...

    def finish(self) -> PushAnswer:
        """All has arrived. Raises: GfsError when this hop does not keep the bytes."""
        ...

    def abandon(self) -> None:
        """The sender went away or was cut off: keep nothing."""
        ...


class ChunkReader(Protocol):
    """Verified bytes of one chunk, from the offset asked for."""

    @property
    def length(self) -> int:
        """How many bytes there are to send: the range asked for, cut back to the committed length."""
        ...

    @property
    def committed_length(self) -> int: ...

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` with verified bytes from `offset` of the chunk; short only at the committed end.

        Raises: GfsError (ChecksumMismatch, StaleVersion …): no unverified byte is ever in the buffer's
        returned part.
        """
        ...

    def checksums(self) -> Sequence[int] | None:
        """CRC32C of each block the range touches, over the bytes in the range alone; None: not to be had.

        Asked for a reader that verifies what send_to() sends. The bytes may change in the next moment, by an
        overwrite or a cut: then they do not fit, and the reader asks for verified ones.
        Raises: GfsError, as read_into().
        """
        ...

    def send_to(self, out: int, offset: int, length: int) -> int:
        """Send bytes from `offset` to the socket `out` as they are on the disk, unverified.

        Returns: how many, 1 … `length`; 0 when the disk does not give them. Raises: OSError of the socket.
        """
        ...


class DataHandler(Protocol):
    """What a chunk server does with the bulk port. Called from many threads."""

    def begin_push(self, head: PushHead) -> PushSink:
        """Raises: GfsError to refuse the push before its body is read."""
        ...

    def open_read(
        self, handle: ChunkHandle, version: ChunkVersion, first: int, last: int | None
    ) -> ChunkReader:
        """`last` is inclusive and may lie past the end; None reads to the end.

        Raises: NotFound, StaleVersion.
        """
        ...
