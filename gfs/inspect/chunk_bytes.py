"""Where replicas' bytes are on a chunk server's disk, whichever of our stores keeps them. Judges nothing.

As its server finds them (stores/moving): what a store that is being left still has is the chunk, and in the
store `lmdb` a file goes before what is packed. Nothing is changed; a server may be running.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from gfs.chunkserver.stores.file import CHUNKS_DIRECTORY, chunk_file_path
from gfs.chunkserver.stores.lmdb_packed import PACKED_DIRECTORY, PackedReader
from gfs.chunkserver.stores.store_mark import UNMARKED_STORE, StorePlace, mark_of
from gfs.disk import SystemDisk
from gfs.errors import CorruptState, InvalidArgument, Unavailable
from gfs.inspect.guarded import guarded
from gfs.inspect.read_only import ReadOnlyDisk, open_read_only
from gfs.vocabulary import ChunkHandle

PACKED = "lmdb"
JOURNAL_READS_MAX = 20  # tries to read the journal between two flushes of a running server
READS_MAX = 4  # how often what looks like damage is read before it is believed
READ_AGAIN_SECONDS = 0.2


class PackedChunk(msgspec.Struct, frozen=True, array_like=True):
    handle: ChunkHandle
    content: bytes


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """`path`: of its own file, or of the one it is packed in, and then `content`."""

    path: str
    content: bytes | None
    descriptor: int = -1

    def length(self) -> int:
        return os.fstat(self.descriptor).st_size if self.content is None else len(self.content)

    def read(self, length: int, offset: int) -> bytes:
        """Raises: OSError."""
        if self.content is not None:
            return self.content[offset : offset + length]
        return os.pread(self.descriptor, length, offset)

    def close(self) -> None:
        if self.content is None:
            os.close(self.descriptor)


class ChunkBytes:
    """Of one chunk server's directory. fetch() what is asked for next: packed ones are read many at once."""

    def __init__(self, directory: str) -> None:
        """Raises: CorruptState, UnsupportedVersion."""
        mark = mark_of(SystemDisk(), directory)
        places: list[StorePlace] = [StorePlace(store=UNMARKED_STORE)]
        if mark is not None:
            places = [mark] if mark.leaving is None else [mark.leaving, mark]
        self._directory = directory
        self._places = [(place.store, place.directory(directory)) for place in places]
        self._packed: list[dict[ChunkHandle, bytes]] = [{} for _ in places]

    @property
    def is_readable(self) -> bool:
        """Whether these are stores that can be read without their server."""
        return all(store in (UNMARKED_STORE, PACKED) for store, _ in self._places)

    def require_readable(self) -> None:
        """Raises: InvalidArgument."""
        for store, _ in self._places:
            if store not in (UNMARKED_STORE, PACKED):
                raise InvalidArgument(
                    f"the chunks in {self._directory} are kept by the store {store!r}, which only its server "
                    "reads",
                    hint="'gfs fsck --deep' has running chunk servers read and verify every replica.",
                )

    def tops(self) -> list[str]:
        """Below which files of chunks lie."""
        return [os.path.join(directory, CHUNKS_DIRECTORY) for _, directory in self._places]

    def fetch(self, handles: Sequence[ChunkHandle]) -> None:
        """Get ready for find() of these. Raises: CorruptState, UnsupportedVersion, Unavailable."""
        for number, (store, directory) in enumerate(self._places):
            if store == PACKED:
                found = _read_packed(directory, list(handles))
                self._packed[number] = {chunk.handle: chunk.content for chunk in found}

    def find(self, handle: ChunkHandle) -> StoredChunk | None:
        """One that was fetched; to be closed. Raises: OSError."""
        for number, (store, directory) in enumerate(self._places):
            path = chunk_file_path(os.path.join(directory, CHUNKS_DIRECTORY), handle)
            try:
                return StoredChunk(path, None, open_read_only(path).descriptor)
            except FileNotFoundError:
                content = self._packed[number].get(handle)
            if content is not None and store == PACKED:
                return StoredChunk(_packed_file(directory), content)
        return None

    def expected_path(self, handle: ChunkHandle) -> str:
        """Where its server would look for one that is not there."""
        store, directory = self._places[-1]
        if store == PACKED:
            return _packed_file(directory)
        return chunk_file_path(os.path.join(directory, CHUNKS_DIRECTORY), handle)

    def packed_handles(self) -> list[ChunkHandle]:
        """Raises: as fetch()."""
        found: set[ChunkHandle] = set()
        for store, directory in self._places:
            if store == PACKED:
                found.update(chunk.handle for chunk in _read_packed(directory, None))
        return sorted(found)


def _packed_file(directory: str) -> str:
    return os.path.join(directory, PACKED_DIRECTORY, "packed.lmdb")


def _read_packed(directory: str, handles: list[ChunkHandle] | None) -> list[PackedChunk]:
    """These chunks as far as they are packed; None: all of them, without their bytes."""
    if not os.path.exists(_packed_file(directory)):
        return []
    for failures in range(1, READS_MAX + 1):
        try:
            told = guarded(lambda: _produce(directory, handles), _packed_file(directory))
            return [msgspec.msgpack.decode(content, type=PackedChunk) for content in told]
        except CorruptState:
            # A page that a running server has used anew looks like damage; damage stays where it is.
            if failures == READS_MAX:
                raise
            time.sleep(READ_AGAIN_SECONDS)
    raise AssertionError("unreachable")


def _produce(directory: str, handles: list[ChunkHandle] | None) -> Iterator[bytes]:
    """In the child."""
    reader = _open_current(directory)
    encode = msgspec.msgpack.Encoder().encode
    if handles is None:
        for handle in sorted(reader.handles()):
            yield encode(PackedChunk(handle, b""))
        return
    for handle in handles:
        content = reader.content(handle)
        if content is not None:
            yield encode(PackedChunk(handle, bytes(content)))


def _open_current(directory: str) -> PackedReader:
    for _ in range(JOURNAL_READS_MAX):
        try:
            reader = PackedReader(ReadOnlyDisk(), directory)
        except FileNotFoundError:
            continue  # flushed and removed meanwhile
        if reader.is_current:
            return reader
        reader.close()
    raise Unavailable(
        f"the packed chunks in {directory} changed each time their journal was read",
        hint="Try again when the chunk server has less to do.",
    )
