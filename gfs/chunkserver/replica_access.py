"""What every part of the replica store does alike to get at one chunk: find, judge, make room, make durable.

No decisions about versions or offsets, and nothing that the service calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from gfs import failpoints
from gfs.chunkserver.block_reader import BlockReader
from gfs.chunkserver.change_feed import ChangeFeed
from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.chunkserver.chunk_state import Change, ChunkState
from gfs.chunkserver.core.chunk_record import Mutated
from gfs.chunkserver.damage_marks import DamageMarks
from gfs.chunkserver.disk_health import DiskHealth, undone_on_error
from gfs.chunkserver.durable_commits import DurableCommits
from gfs.chunkserver.replica_verifier import missing_bytes
from gfs.chunkserver.stores.interface import ChunkStore, StoreUsage
from gfs.errors import ChecksumMismatch, CorruptState, NoSpace, Unavailable
from gfs.vocabulary import ChunkHandle


def failpoint(name: str) -> None:
    """A failpoint where nothing has happened yet, or all can be repeated: its OSError becomes ours."""
    with undone_on_error(name):
        failpoints.hit(name)


class ReplicaAccess:
    """Means shared by the parts of one ReplicaStore. Thread-safe; who changes a chunk holds its lock."""

    def __init__(
        self,
        index: ChunkIndex,
        store: ChunkStore,
        corrupt: Mapping[ChunkHandle, str],
        health: DiskHealth,
        *,
        free_bytes_min: int,
    ) -> None:
        """`corrupt`: replicas that the start found damaged."""
        self.index, self.store, self.health = index, store, health
        self.reader = BlockReader(store)
        self.commits = DurableCommits(index, store, health)
        self.feed = ChangeFeed()
        self.damage = DamageMarks(index, corrupt, on_marked=self._tell_of_damage)
        self._on_damage: Callable[[ChunkHandle], None] | None = None
        self._free_bytes_min = free_bytes_min
        self._free_bytes = 0  # an estimate from above: refreshed before anything is refused

    def on_damage(self, tell: Callable[[ChunkHandle], None]) -> None:
        """As ReplicaStore.on_damage."""
        self._on_damage = tell

    def load(self, handle: ChunkHandle) -> ChunkState:
        """As ChunkIndex.load; an entry that cannot be read is damage."""
        try:
            return self.index.load(handle)
        except CorruptState as error:
            self.damage.mark(handle, error.message)
            raise

    def missing(self, handle: ChunkHandle) -> Unavailable:
        """As missing_bytes()."""
        return missing_bytes(self.damage, handle)

    def is_damaged(self, state: ChunkState) -> bool:
        return state.broken or state.handle in self.damage

    def require_undamaged(self, state: ChunkState) -> None:
        """Raises: ChecksumMismatch."""
        if self.is_damaged(state):
            raise ChecksumMismatch(f"chunk {state.handle:x} is damaged: {self.damage.what(state.handle)}")

    def require_space(self, wanted_bytes: int) -> None:
        """Raises: NoSpace when writing them would leave too little; Unavailable."""
        self._free_bytes -= wanted_bytes
        if self._free_bytes < self._free_bytes_min:
            self._free_bytes = self.usage().free_bytes - wanted_bytes
            if self._free_bytes < self._free_bytes_min:
                raise NoSpace(
                    f"{self._free_bytes + wanted_bytes} bytes are free, {self._free_bytes_min} must stay so"
                )

    def create(self, state: ChunkState) -> None:
        """Make room for the bytes of a chunk the index knows nothing of. Raises: NoSpace, Unavailable."""
        with undone_on_error(f"creating chunk {state.handle:x}"):
            self.store.create(state.handle)
            if self.store.length(state.handle):  # a deletion cut short
                self.store.truncate(state.handle, 0)
        state.broken = state.has_surplus = False

    @contextmanager
    def making(self, state: ChunkState) -> Iterator[None]:
        """Bytes and row of a chunk are made inside. Without its row the bytes go again: a full disk needs the
        room, and nobody else would remove them before the next start."""
        try:
            yield
        except (NoSpace, Unavailable):  # not OutcomeUnknown: then the row may be on the disk
            if state.header is None:
                with suppress(OSError, KeyError):
                    self.store.delete(state.handle)
            raise

    def commit_durably(self, state: ChunkState, record: Mutated) -> None:
        """It is on the disk when this returns, and so are the chunk's bytes before it.

        Raises: NoSpace, Unavailable, OutcomeUnknown (a sync failed).
        """
        sync_bytes = state.header is not None and state.header.length_bytes > 0
        try:
            with undone_on_error(f"recording chunk {state.handle:x}"):
                self.commits.commit(Change(state, record), sync_bytes=sync_bytes)
        except KeyError as error:
            raise self.missing(state.handle) from error

    def sync_chunks(self, states: Sequence[ChunkState]) -> None:
        """Bytes and names of these chunks are on the disk. Raises: OutcomeUnknown; it is not retried."""
        try:
            failpoints.hit("chunk.before_sync")
            for state in states:
                if state.header is None:
                    continue
                try:
                    self.store.sync(state.handle)
                except KeyError:
                    if state.header is not None:  # else it was deleted in this moment
                        self.damage.mark(state.handle, "its bytes are missing")
            self.store.sync_names()
            failpoints.hit("chunk.synced")
        except OSError as error:
            raise self.health.fail("syncing chunk bytes", error) from error

    def note_free_space(self) -> None:
        self._free_bytes = self.usage().free_bytes

    def usage(self) -> StoreUsage:
        """Raises: Unavailable."""
        with undone_on_error("asking for free space"):
            return self.store.usage()

    def _tell_of_damage(self, handle: ChunkHandle) -> None:
        self.feed.changed(handle)  # after the mark: who reads of the change finds it
        if self._on_damage is not None:
            self._on_damage(handle)
