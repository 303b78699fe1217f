"""A chunk that several files share, copied for the one that is about to be written (GFS §3.4).

Every chunk server that holds the chunk copies it on its own disk; then one record puts the copy in its place.
Why no byte is lost whatever stops half-way: core/chunk_copies. The grant that follows is granting's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from gfs import failpoints
from gfs.errors import DataUnavailable, GfsError, InvalidArgument, NotFound, StaleVersion, Unavailable
from gfs.master.commit import Commits
from gfs.master.core.chunk_copies import COPIES_FORGOTTEN_MAX
from gfs.master.core.locations import Locations
from gfs.master.core.records import ChunkRecord
from gfs.master.granting import Granting
from gfs.master.member_choice import ChunkKey
from gfs.master.reads import Reads
from gfs.master.replica_calls import ReplicaCalls
from gfs.messages import operations
from gfs.messages.snapshots import CopyReplica, CopyReply
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, ServerId

# A whole chunk read and written on one disk, by each of its servers, and synced: slow disks take a while.
COPY_SECONDS = 30.0

_log = logger("master.copies")


class CopyOnWrite:
    """Used while this master leads; the caller keeps other changes of the file's chunk away."""

    def __init__(
        self, *, commits: Commits, reads: Reads, granting: Granting, calls: ReplicaCalls, locations: Locations
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._granting = granting
        self._calls = calls
        self._locations = locations
        self.under_way: set[ChunkHandle] = set()  # reserved here, and neither adopted nor forgotten yet

    async def part(self, key: ChunkKey, shared: ChunkRecord, blamed: Collection[ServerId]) -> None:
        """Give the file a copy of its own of a chunk it shares.

        Raises: Unavailable (the chunk changed meanwhile: ask again); DataUnavailable when no replica, or none
            that certainly is complete, can be copied; NotFound, PathBusy, NotLeader, OutcomeUnknown …
        """
        inode, index = key
        term = self._commits.leading()
        await self._granting.members.await_heartbeats(shared.replicas)
        members = await self._granting.members.candidates(key, shared, blamed)
        try:
            reserved = await self._commits.commit(
                operations.ReserveChunkCopy(
                    inode=inode, index=index, handle=shared.handle, version=shared.version
                )
            )
        except (InvalidArgument, StaleVersion) as error:
            raise self._changed(shared, error) from error
        assert isinstance(reserved, operations.ChunkGranted), reserved
        failpoints.hit("copy.reserved")
        request = CopyReplica(
            cluster=self._calls.cluster,
            master_term=term,
            handle=shared.handle,
            oldest_version=shared.held_version,
            version=reserved.version,
            copy=reserved.handle,
        )
        self.under_way.add(reserved.handle)
        try:
            made = await self._make(key, shared, members, request)
            failpoints.hit("copy.made")
            await self._adopt(key, shared, reserved.handle, made)
        except GfsError as error:
            if error.definite:
                await self._forget(reserved.handle)
            raise
        finally:
            self.under_way.discard(reserved.handle)
        for server in made:
            self._locations.note_bump(server, reserved.handle, reserved.version)
        failpoints.hit("copy.adopted")
        _log.info(
            "a shared chunk was copied", handle=shared.handle, copy=reserved.handle, servers=",".join(made)
        )

    async def forget(self, copies: Sequence[ChunkHandle]) -> None:
        """Give up copies that a leader before this one had begun, or that nobody goes on with.

        Raises: NotLeader, OutcomeUnknown …
        """
        for first in range(0, len(copies), COPIES_FORGOTTEN_MAX):
            some = tuple(copies[first : first + COPIES_FORGOTTEN_MAX])
            await self._commits.commit(operations.ForgetChunkCopies(copies=some))

    async def _make(
        self, key: ChunkKey, shared: ChunkRecord, members: list[ServerId], request: CopyReplica
    ) -> tuple[ServerId, ...]:
        """Have the copy made; returns the servers that have it, in the order of the shared chunk's set."""
        answers = await asyncio.gather(
            *(self._calls.copy(server, request, seconds=COPY_SECONDS) for server in members)
        )
        copied: dict[ServerId, CopyReply] = {}
        failures: dict[ServerId, GfsError] = {}
        for server, answer in zip(members, answers, strict=True):
            if isinstance(answer, CopyReply):
                copied[server] = answer
            else:
                failures[server] = answer
        if not copied:
            raise self._granting.members.unavailable(*key, shared.replicas, failures)
        away = [server for server in shared.replicas if server not in copied]
        if away and all(reply.may_be_short for reply in copied.values()):
            raise DataUnavailable(
                f"chunk {key[1]} of {self._reads.path_of(key[0])}: {', '.join(copied)} may have lost bytes "
                f"in a power cut, and {', '.join(away)}, which may have them, cannot be reached",
                hint="The chunk can be written again when one of these chunk servers is back.",
                details={"inode": str(key[0]), "index": str(key[1]), "servers": ",".join(away)},
            )
        return tuple(server for server in shared.replicas if server in copied)

    async def _adopt(
        self, key: ChunkKey, shared: ChunkRecord, copy: ChunkHandle, made: tuple[ServerId, ...]
    ) -> None:
        try:
            await self._commits.commit(
                operations.AdoptChunkCopy(inode=key[0], copy=copy, replicas=made, primary=made[0])
            )
        except (InvalidArgument, StaleVersion, NotFound) as error:
            raise self._changed(shared, error) from error

    async def _forget(self, copy: ChunkHandle) -> None:
        with suppress(GfsError):  # the next leader forgets it, too
            await self._commits.commit(operations.ForgetChunkCopies(copies=(copy,)))

    def _changed(self, shared: ChunkRecord, why: GfsError) -> Unavailable:
        return Unavailable(f"chunk {shared.handle} changed while it was copied; ask again ({why.message})")
