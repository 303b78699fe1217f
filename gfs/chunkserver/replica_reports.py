"""What a chunk server tells the masters of its replicas: all of them, or what has changed. Sends nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gfs.chunkserver.replica_access import ReplicaAccess
from gfs.errors import CorruptState, GfsError
from gfs.messages.heartbeat import HeldChunk
from gfs.vocabulary import ChunkHandle, ChunkVersion


@dataclass(frozen=True, slots=True)
class Changes:
    """`complete` False: the cursor is too far back; send a full report, then go on from `cursor`."""

    cursor: int
    changed: list[HeldChunk]
    removed: list[ChunkHandle]
    complete: bool


class ReplicaReports:
    """Part of a ReplicaStore. Every method blocks and may be called from any thread."""

    def __init__(self, access: ReplicaAccess, unsettled: Collection[ChunkHandle]) -> None:
        """`unsettled`: replicas that may be short since a power cut (replica_recovery); none comes later."""
        self._access = access
        self._unsettled = tuple(sorted(unsettled))

    def unsettled(self, *, limit: int) -> list[ChunkHandle]:
        """Replicas that may still lack acknowledged bytes since a power cut, the first `limit` of them."""
        left = tuple(filter(self._is_unsettled, self._unsettled[:limit])) + self._unsettled[limit:]
        self._unsettled = left
        return list(left[:limit])

    def _is_unsettled(self, handle: ChunkHandle) -> bool:
        try:
            header = self._access.load(handle).header
        except GfsError:
            return False  # it is damaged, which is told otherwise
        return header is not None and not header.guest and header.short_version > 0

    def inventory(self) -> Iterator[HeldChunk]:
        """All replicas by handle; one whose index entry is damaged has version 0, and corrupt() lists it.

        Changes meanwhile may be missing: take changes_since()'s cursor before.
        Raises: OutcomeUnknown when the index cannot be read: the disk is out of service.
        """
        headers = self._access.index.headers()
        while True:
            try:
                handle, header = next(headers)
            except StopIteration:
                return
            except CorruptState as error:
                # What is here can no longer be told: better leave the cluster than tell it of a part.
                raise self._access.health.fail("reading the chunk index", error) from error
            if header is None:
                self._access.damage.mark(handle, "its index entry is damaged")
                yield _unreadable(handle)
            elif not header.guest:
                yield HeldChunk(handle, header.version, header.length_bytes)

    def changes_since(self, cursor: int) -> Changes:
        """What changed or was found damaged after `cursor` (0: the start), each chunk once, as it is now."""
        following, handles, complete = self._access.feed.since(cursor)
        changed: list[HeldChunk] = []
        removed: list[ChunkHandle] = []
        for handle in handles:
            try:
                header = self._access.load(handle).header
            except CorruptState:
                changed.append(_unreadable(handle))
                continue
            if header is None or header.guest:
                removed.append(handle)
            else:
                changed.append(HeldChunk(handle, header.version, header.length_bytes))
        return Changes(following, changed, removed, complete)


def _unreadable(handle: ChunkHandle) -> HeldChunk:
    """A replica whose version cannot be told."""
    return HeldChunk(handle, ChunkVersion(0), 0)
