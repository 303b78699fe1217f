"""Group commit: changes that must be on the disk before they are answered share their syncs. No decisions."""

from __future__ import annotations

import threading

from gfs import failpoints
from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.chunkserver.chunk_state import Change
from gfs.chunkserver.disk_health import DiskHealth
from gfs.chunkserver.stores.interface import ChunkStore
from gfs.errors import GfsError, OutcomeUnknown


class _Waiting:
    __slots__ = ("change", "error", "is_done", "sync_bytes")

    def __init__(self, change: Change, sync_bytes: bool) -> None:
        self.change, self.sync_bytes = change, sync_bytes
        self.is_done = False
        self.error: OSError | GfsError | KeyError | None = None


class DurableCommits:
    """Whoever comes while a round is under way joins the next one; one of those waiting carries it out.

    Order within a round: the chunks' bytes, then the names of new files, then the records in one frame, then
    the journal. So a record that says its bytes are synced is never on the disk before they are.
    """

    def __init__(self, index: ChunkIndex, store: ChunkStore, health: DiskHealth) -> None:
        self._index, self._store, self._health = index, store, health
        self._turn = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._is_under_way = False

    def commit(self, change: Change, *, sync_bytes: bool) -> None:
        """Commit one change; the chunk's lock is held. It is on the disk when this returns.

        Args:
            sync_bytes: the chunk's bytes must be there before the record.
        Raises: OSError, KeyError (the chunk's bytes are missing): not committed.
            OutcomeUnknown: a sync failed, the disk is out of service.
        """
        self._health.require()
        item = _Waiting(change, sync_bytes)
        with self._turn:
            self._waiting.append(item)
            while self._is_under_way and not item.is_done:
                self._turn.wait()
            if item.is_done:
                if item.error is not None:
                    raise item.error
                return
            self._is_under_way = True
            batch, self._waiting = self._waiting, []
        error: OSError | GfsError | None = OutcomeUnknown("the commit was cut short")
        try:
            error = self._round(batch)
        finally:
            with self._turn:
                self._is_under_way = False
                for member in batch:
                    member.is_done = True
                    member.error = member.error or error
                self._turn.notify_all()
        if item.error is not None:
            raise item.error

    def _round(self, batch: list[_Waiting]) -> OSError | GfsError | None:
        try:
            failpoints.hit("chunk.before_sync")
            for item in batch:
                if item.sync_bytes:
                    try:
                        self._store.sync(item.change.state.handle)
                    except KeyError as error:
                        item.error = error  # damage to one chunk, no failure of the disk
            if any(item.sync_bytes for item in batch):
                self._store.sync_names()
            failpoints.hit("chunk.bytes_synced")
        except OSError as error:
            return self._health.fail("syncing chunk bytes", error)
        changes = [item.change for item in batch if item.error is None]
        if not changes:
            return None
        try:
            self._index.commit(changes)
        except OSError as error:
            return error
        try:
            failpoints.hit("chunk.journaled")
            self._index.sync_journal()
            failpoints.hit("chunk.synced")
        except OSError as error:
            return self._health.fail("syncing the index journal", error)
        return None
