"""The replicas one chunk server holds: bytes and index together, for the service. No network, no leases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gfs.chunkserver.stores.interface import ChunkStore, StoreUsage
from gfs.disk import Bytes, Disk
from gfs.messages.control import HeldChunk
from gfs.vocabulary import ChunkHandle, ChunkVersion, Term

Durability = Literal["flush", "sync"]


class Bumped(NamedTuple):
    replaced_version: ChunkVersion
    length_bytes: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    version: ChunkVersion
    length_bytes: int
    sealed: bool
    block_checksums: tuple[int, ...]
    may_be_short: bool


@dataclass(frozen=True, slots=True)
class Changes:
    cursor: int
    changed: list[HeldChunk]
    removed: list[ChunkHandle]
    complete: bool


class ReplicaStore:
    """Every method blocks and may be called from any thread; one chunk never sees two mutations at once."""

    @classmethod
    def open(
        cls,
        directory: str,
        store: ChunkStore,
        disk: Disk,
        *,
        durability: Durability = "flush",
        free_bytes_min: int = 0,
        on_fatal: Callable[[str], None],
    ) -> ReplicaStore:
        """Recover from whatever the last stop left. Raises: CorruptState, UnsupportedVersion."""
        raise NotImplementedError

    def bump(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        *,
        oldest_version: ChunkVersion,
        create: bool,
        master_term: Term,
    ) -> Bumped:
        """Raises: NotFound, Superseded, StaleVersion, NoSpace."""
        raise NotImplementedError

    def write(
        self,
        handle: ChunkHandle,
        version: ChunkVersion,
        offset: int,
        data: Bytes,
        checksums: Sequence[int] | None = None,
    ) -> int:
        """Returns the new committed length. Raises: NotFound, StaleVersion, ChunkSealed, ChecksumMismatch, NoSpace, Unavailable."""
        raise NotImplementedError

    def align(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, *, master_term: Term = Term(0)
    ) -> None:
        """Cut back to `length`. Raises: NotFound, StaleVersion (also when shorter), Superseded."""
        raise NotImplementedError

    def seal(
        self, handle: ChunkHandle, version: ChunkVersion, length: int, *, master_term: Term = Term(0)
    ) -> None:
        raise NotImplementedError

    def status(
        self, handle: ChunkHandle, version: ChunkVersion, *, with_checksums: bool = False
    ) -> ReplicaStatus:
        """Raises: NotFound, StaleVersion."""
        raise NotImplementedError

    def read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        """Verified bytes of the committed prefix; short only at its end (0 past it).

        Raises: NotFound, StaleVersion, ChecksumMismatch (also listed by corrupt()), Unavailable.
        """
        raise NotImplementedError

    def committed_length(self, handle: ChunkHandle, version: ChunkVersion) -> int:
        raise NotImplementedError

    def inventory(self) -> Iterator[HeldChunk]:
        raise NotImplementedError

    def changes_since(self, cursor: int) -> Changes:
        """What differs since `cursor` (0 at first); not `complete`: too far back, send a full report."""
        raise NotImplementedError

    def corrupt(self) -> list[ChunkHandle]:
        raise NotImplementedError

    def delete(self, handle: ChunkHandle) -> None:
        """Forget a replica for good; no error when there is none."""
        raise NotImplementedError

    def flush(self) -> None:
        """Everything acknowledged before this call is on the disk when it returns."""
        raise NotImplementedError

    @property
    def chunk_count(self) -> int:
        raise NotImplementedError

    def usage(self) -> StoreUsage:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
