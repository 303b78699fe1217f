"""What the chunk index keeps in `chunks.lmdb`: rows, their seals, transactions over them. The door to lmdb.

Per chunk one header and one append window, each behind a CRC32C over handle and content; its full blocks'
checksums in rows of 64; and what damage is known of it. When something is written here, and what lies over it
in memory, is chunk_index's.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import lmdb
import msgspec

from gfs.checksums import crc32c
from gfs.chunkserver.chunk_state import ChunkState
from gfs.chunkserver.core.append_window import AppendWindow, decode_window, encode_window
from gfs.chunkserver.core.checksums import SUM_BYTES
from gfs.chunkserver.core.chunk_record import (
    ROW_BYTES,
    SUMS_PER_ROW,
    ChunkHeader,
    decode_header,
    encode_header,
)
from gfs.chunkserver.disk_health import undone_on_error
from gfs.disk import reserve_lock_file
from gfs.errors import CorruptState, GfsError, NoSpace, NotFound, UnsupportedVersion
from gfs.vocabulary import BLOCKS_PER_CHUNK, ChunkHandle

FORMAT_VERSION = 2  # 1 knew no append windows and no guests; its chunks have none
INDEX_BYTES_MAX = 16 * 2**30  # address space, not memory or disk
READERS_MAX = 512  # threads reading at one moment
PAGE_CHUNKS = 1024  # headers read in one transaction of a walk
HANDLE_BYTES = 8
ROWS_PER_CHUNK = BLOCKS_PER_CHUNK // SUMS_PER_ROW
assert BLOCKS_PER_CHUNK % SUMS_PER_ROW == 0

_FLUSHED, _CLEAN, _FORMAT = b"flushed", b"clean", b"format"


@dataclass(slots=True)
class SetAside:
    """What one flush writes: sealed rows; a header that is None deletes all of its chunk."""

    headers: dict[ChunkHandle, bytes | None] = field(default_factory=dict)
    rows: list[tuple[ChunkHandle, int, bytes]] = field(default_factory=list)
    windows: dict[ChunkHandle, bytes] = field(default_factory=dict)
    clean: bool = False


class IndexTables:
    """Thread-safe, as LMDB is. Every method blocks."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._headers = environment.open_db(b"headers")
        self._rows = environment.open_db(b"rows")
        self._windows = environment.open_db(b"windows")
        self._meta = environment.open_db(b"meta")
        self._damage = environment.open_db(b"damage")

    @classmethod
    def open(cls, directory: str) -> Self:
        """Raises: CorruptState, UnsupportedVersion, NoSpace, Unavailable."""
        path = os.path.join(directory, "chunks.lmdb")
        with undone_on_error(f"opening {path}"):
            reserve_lock_file(path, readers=READERS_MAX)
        environment: lmdb.Environment | None = None
        try:
            environment = lmdb.open(
                path, map_size=INDEX_BYTES_MAX, max_dbs=5, max_readers=READERS_MAX, mode=0o600, subdir=False
            )
            tables = cls(environment)
            found = tables._read_meta(_FORMAT)
            tables.count()  # a first look at the headers: what cannot be read shows here
        except lmdb.Error as error:
            if environment is not None:
                environment.close()  # another try in this process opens it anew
            if _is_full(error):
                raise NoSpace(f"{path} cannot be written: {error}") from error
            raise CorruptState(f"{path}: cannot be opened as an index: {error}") from error
        if found > FORMAT_VERSION:
            environment.close()
            raise UnsupportedVersion(f"{path} has format {found}; this program knows up to {FORMAT_VERSION}")
        return tables

    @classmethod
    def open_to_read(cls, directory: str) -> Self:
        """The tables as they are on the disk, for looking only: neither a lock nor a byte is written.

        A chunk server may be running. It reuses pages that a long look still reads: look in short steps,
        believe nothing that is found only once, and do it in a process that may die of it, since LMDB trusts
        what it maps. Nothing that changes the tables may be called.
        Raises: NotFound, CorruptState, UnsupportedVersion.
        """
        path = os.path.join(directory, "chunks.lmdb")
        if not os.path.exists(path):
            raise NotFound(f"there is no chunks.lmdb in {directory}")
        try:
            environment = lmdb.open(
                path,
                map_size=INDEX_BYTES_MAX,
                max_dbs=5,
                subdir=False,
                readonly=True,
                lock=False,
                create=False,
            )
            tables = cls(environment)
            found = tables._read_meta(_FORMAT)
        except lmdb.Error as error:
            raise CorruptState(f"{path}: cannot be opened as an index: {error}") from error
        if found == 0:
            raise CorruptState(f"{path} does not say in which format it is")
        if found != FORMAT_VERSION:
            raise UnsupportedVersion(f"{path} has format {found}; this program reads format {FORMAT_VERSION}")
        return tables

    @property
    def is_new(self) -> bool:
        with self._environment.begin() as transaction:
            return transaction.get(_FORMAT, db=self._meta) is None

    @property
    def flushed_sequence(self) -> int:
        """The last segment whose contents are here."""
        return self._read_meta(_FLUSHED)

    @property
    def clean_sequence(self) -> int:
        """As ChunkIndex.clean_sequence."""
        return self._read_meta(_CLEAN)

    def count(self) -> int:
        """Chunks that have a header."""
        with self._environment.begin() as transaction:
            return int(transaction.stat(self._headers)["entries"])

    def header_page(self, first: ChunkHandle) -> tuple[dict[ChunkHandle, ChunkHeader | None], bool]:
        """Up to PAGE_CHUNKS headers from `first` on (None: a damaged one), and whether these are the last.

        Raises: CorruptState.
        """
        page: dict[ChunkHandle, ChunkHeader | None] = {}
        try:
            with self._environment.begin() as transaction, transaction.cursor(self._headers) as cursor:
                found = first < 2**64 and cursor.set_range(_header_key(first))
                while found and len(page) < PAGE_CHUNKS:
                    key = cursor.key()
                    if len(key) == HANDLE_BYTES:  # else it has rotted, and names no chunk any more
                        handle = ChunkHandle(int.from_bytes(key, "big"))
                        page[handle] = _unseal_header(handle, cursor.value())
                    found = cursor.next()
        except lmdb.Error as error:
            raise CorruptState(f"chunks.lmdb cannot be walked: {error}") from error
        return page, len(page) < PAGE_CHUNKS

    def read_state(self, handle: ChunkHandle) -> ChunkState:
        """As ChunkIndex.load, of what is here."""
        try:
            return self._read_state(handle)
        except lmdb.Error as error:
            raise CorruptState(f"chunks.lmdb: chunk {handle:x} cannot be looked up: {error}") from error

    def _read_state(self, handle: ChunkHandle) -> ChunkState:
        with self._environment.begin() as transaction:
            sealed = transaction.get(_header_key(handle), db=self._headers)
            if sealed is None:
                return ChunkState(handle, None, array("I"))
            header = _unseal_header(handle, sealed)
            if header is None:
                raise CorruptState(f"chunks.lmdb: the entry of chunk {handle:x} is damaged")
            full = array("I")
            for row in range(-(-header.full_blocks // SUMS_PER_ROW)):
                sums = transaction.get(_row_key(handle, row), db=self._rows)
                if sums is None or len(sums) > ROW_BYTES or len(sums) % SUM_BYTES:
                    raise CorruptState(f"chunks.lmdb: checksum row {row} of chunk {handle:x} is damaged")
                full.frombytes(sums)
            window = _unseal_window(handle, transaction.get(_header_key(handle), db=self._windows))
        if len(full) < header.full_blocks:
            raise CorruptState(f"chunks.lmdb: checksums of chunk {handle:x} are missing")
        del full[header.full_blocks :]
        if window is None:
            raise CorruptState(f"chunks.lmdb: the append window of chunk {handle:x} is damaged")
        return ChunkState(handle, header, full, window)

    def drop(self, handle: ChunkHandle) -> None:
        """Remove all of a chunk, readable or not."""
        with self._environment.begin(write=True) as transaction:
            self._delete_entry(transaction, handle)

    def noted_damage(self) -> dict[ChunkHandle, str]:
        """What note_damage() was last told of each replica."""
        with self._environment.begin() as transaction, transaction.cursor(self._damage) as cursor:
            return {
                ChunkHandle(int.from_bytes(key, "big")): what.decode("utf-8", "replace")
                for key, what in cursor
            }

    def note_damage(self, found: Mapping[ChunkHandle, str]) -> None:
        """Note replicas as damaged, or, with "", as whole again; on the disk when this returns.

        Raises: NoSpace, CorruptState.
        """
        try:
            with self._environment.begin(write=True) as transaction:
                for handle, what in found.items():
                    if what:
                        transaction.put(_header_key(handle), what.encode("utf-8"), db=self._damage)
                    else:
                        transaction.delete(_header_key(handle), db=self._damage)
        except lmdb.Error as error:
            raise _index_error(error) from error

    def write(self, aside: SetAside, *, flushed: int) -> None:
        """Commit what a flush has set aside, and that segments up to `flushed` are here.

        Raises: NoSpace, CorruptState.
        """
        try:
            with self._environment.begin(write=True) as transaction:
                for handle, header in aside.headers.items():
                    if header is None:
                        self._delete_entry(transaction, handle)
                    else:
                        transaction.put(_header_key(handle), header, db=self._headers)
                for handle, window in aside.windows.items():
                    if window:
                        transaction.put(_header_key(handle), window, db=self._windows)
                    else:
                        transaction.delete(_header_key(handle), db=self._windows)
                for handle, row, sums in aside.rows:
                    transaction.put(_row_key(handle, row), sums, db=self._rows)
                transaction.put(_FLUSHED, flushed.to_bytes(8, "big"), db=self._meta)
                transaction.put(_FORMAT, FORMAT_VERSION.to_bytes(8, "big"), db=self._meta)
                clean = flushed + 1 if aside.clean else 0
                transaction.put(_CLEAN, clean.to_bytes(8, "big"), db=self._meta)
        except lmdb.Error as error:
            raise _index_error(error) from error

    def _delete_entry(self, transaction: lmdb.Transaction, handle: ChunkHandle) -> None:
        transaction.delete(_header_key(handle), db=self._headers)
        transaction.delete(_header_key(handle), db=self._windows)
        for row in range(ROWS_PER_CHUNK):
            transaction.delete(_row_key(handle, row), db=self._rows)

    def _read_meta(self, key: bytes) -> int:
        with self._environment.begin() as transaction:
            return int.from_bytes(transaction.get(key, default=b"", db=self._meta), "big")

    def close(self) -> None:
        self._environment.close()


def _header_key(handle: ChunkHandle) -> bytes:
    return handle.to_bytes(HANDLE_BYTES, "big")


def _row_key(handle: ChunkHandle, row: int) -> bytes:
    return handle.to_bytes(8, "big") + row.to_bytes(2, "big")


def seal_header(handle: ChunkHandle, header: ChunkHeader) -> bytes:
    content = encode_header(header)
    return crc32c(content, crc32c(_header_key(handle))).to_bytes(SUM_BYTES, "little") + content


def _unseal_header(handle: ChunkHandle, sealed: bytes) -> ChunkHeader | None:
    content = sealed[SUM_BYTES:]
    if int.from_bytes(sealed[:SUM_BYTES], "little") != crc32c(content, crc32c(_header_key(handle))):
        return None
    try:
        return decode_header(content)
    except msgspec.MsgspecError:
        return None


def seal_window(handle: ChunkHandle, window: AppendWindow) -> bytes:
    content = encode_window(window)
    if not content:
        return b""
    return crc32c(content, crc32c(_header_key(handle))).to_bytes(SUM_BYTES, "little") + content


def _unseal_window(handle: ChunkHandle, sealed: bytes | None) -> AppendWindow | None:
    if sealed is None:
        return AppendWindow()
    content = sealed[SUM_BYTES:]
    if int.from_bytes(sealed[:SUM_BYTES], "little") != crc32c(content, crc32c(_header_key(handle))):
        return None
    try:
        return decode_window(content)
    except msgspec.MsgspecError:
        return None


def _is_full(error: lmdb.Error) -> bool:
    return os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)


def _index_error(error: lmdb.Error) -> GfsError:
    if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or _is_full(error):
        return NoSpace(f"chunks.lmdb cannot grow: {error}")
    return CorruptState(f"chunks.lmdb refuses a change: {error}")
