"""The master's calls to the replicas of one chunk, all at once, each with its deadline. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gfs import failpoints
from gfs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    GfsError,
    NotFound,
    StaleVersion,
    Superseded,
    Unavailable,
)
from gfs.master.core.grants import BumpAnswer
from gfs.master.core.locations import KnownServer, Locations
from gfs.master.core.records import ChunkRecord
from gfs.messages.base import Ack, Ping
from gfs.messages.chunks import Replica
from gfs.messages.replicas import (
    AlignReplica,
    BumpReply,
    BumpVersion,
    ChunkStatus,
    ChunkStatusReply,
    CloneChunk,
    CloneReply,
    SealReplica,
)
from gfs.messages.snapshots import CopyReplica, CopyReply, RevokeLeases, RevokeReply
from gfs.telemetry import logger
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import ChunkHandle, ChunkVersion, ClusterId, ServerId, Term

SUSPECT_PING_SECONDS = 0.15  # how long a replica that a client blames may take to show that it is there

_log = logger("master.leases")


@dataclass(frozen=True, slots=True)
class Grant:
    """One logged grant: version and replica set. `term` is the leadership it was made under.

    `quiet`: made by ChangeReplicas, for no client; what follows upon it is made in the same way.
    """

    handle: ChunkHandle
    version: ChunkVersion
    replicas: tuple[ServerId, ...]
    primary: ServerId
    held_version: ChunkVersion
    term: Term
    created: bool  # this very call added the chunk: nobody was told of any version yet
    quiet: bool = False


class ReplicaCalls:
    """Bump, align, seal and ping, to several servers in parallel; what failed is told apart by server."""

    def __init__(
        self,
        rpc: RpcCaller,
        locations: Locations,
        *,
        cluster: ClusterId,
        bump_seconds: float,
        lease_seconds: float,
    ) -> None:
        self._rpc = rpc
        self._locations = locations
        self.cluster = cluster
        self._bump_seconds = bump_seconds
        self._lease_seconds = lease_seconds

    def replicas(self, servers: Iterable[ServerId]) -> list[Replica]:
        known = (self._locations.get(server) for server in servers)
        return [server.replica() for server in known if server is not None]

    async def bump(
        self, grant: Grant, *, durable: bool = False
    ) -> tuple[dict[ServerId, BumpAnswer], dict[ServerId, GfsError]]:
        """Tell each replica of the set its new version; returns the answers, and why the others gave none.

        `durable`: under this version mutations are on the disk before they are acknowledged.

        Raises: Superseded when a replica has heard of a newer master: this one leads no more.
        """
        replicas = self.replicas(grant.replicas)
        assert len(replicas) == len(grant.replicas), grant  # a set is chosen from servers heard of
        request = BumpVersion(
            cluster=self.cluster,
            master_term=grant.term,
            handle=grant.handle,
            version=grant.version,
            oldest_version=grant.held_version,
            create=grant.held_version == 0,
            primary=grant.primary,
            replicas=replicas,
            lease_seconds=self._lease_seconds,
            durable=durable,
        )
        results = await asyncio.gather(*(self._bump_one(server, request) for server in grant.replicas))
        answers: dict[ServerId, BumpAnswer] = {}
        failures: dict[ServerId, GfsError] = {}
        for server, result in zip(grant.replicas, results, strict=True):
            if isinstance(result, BumpAnswer):
                answers[server] = result
            else:
                failures[server] = result
        for failure in failures.values():
            if isinstance(failure, Superseded):
                raise failure
        failpoints.hit("lease.bumped_all")
        return answers, failures

    async def align(self, grant: Grant, servers: Sequence[ServerId], length_bytes: int) -> set[ServerId]:
        """Cut `servers` back to `length_bytes`; returns those that did not confirm it."""
        request = AlignReplica(
            cluster=self.cluster,
            master_term=grant.term,
            handle=grant.handle,
            version=grant.version,
            length_bytes=length_bytes,
        )
        failures = await asyncio.gather(*(self._send(server, request) for server in servers))
        failpoints.hit("lease.aligned")
        return {server for server, failure in zip(servers, failures, strict=True) if failure is not None}

    async def seal(self, grant: Grant, length_bytes: int) -> None:
        """Tell the replicas that the chunk is sealed. The log has said so already; one that misses it learns
        it is behind when it is next asked for a mutation, as its version is never granted again."""
        request = SealReplica(
            cluster=self.cluster,
            master_term=grant.term,
            handle=grant.handle,
            version=grant.version,
            length_bytes=length_bytes,
        )
        await asyncio.gather(*(self._send(server, request) for server in grant.replicas))

    async def clone(self, target: KnownServer, request: CloneChunk, *, seconds: float) -> CloneReply:
        """Let `target` copy a chunk; a target that cannot be reached is doubted."""
        try:
            return await self._rpc.call(target.control, request, CloneReply, deadline_seconds=seconds)
        except GfsError as error:
            self._doubt(target.id, error)
            raise

    async def copy(self, server: ServerId, request: CopyReplica, *, seconds: float) -> CopyReply | GfsError:
        """Let `server` copy a chunk on its own disk; returns why it did not."""
        known = self._locations.get(server)
        if known is None:
            return Unavailable(f"chunk server {server} has not been heard of")
        try:
            return await self._rpc.call(known.control, request, CopyReply, deadline_seconds=seconds)
        except GfsError as error:
            self._doubt(server, error)
            _log.warning(
                "a shared chunk was not copied", server=server, handle=request.handle, error=error.message
            )
            return error

    async def revoke(
        self, server: ServerId, chunks: Sequence[ChunkRecord], *, seconds: float
    ) -> dict[ChunkHandle, int]:
        """Take back the leases of these chunks, as far as `server` is concerned. Returns the lengths of its
        replicas that stay as they are from now on; of those that are missing nothing is certain."""
        known = self._locations.get(server)
        if known is None:
            return {}
        handles = [chunk.handle for chunk in chunks]
        request = RevokeLeases(
            cluster=self.cluster, handles=handles, versions=[chunk.version for chunk in chunks]
        )
        try:
            reply = await self._rpc.call(known.control, request, RevokeReply, deadline_seconds=seconds)
        except GfsError as error:
            self._doubt(server, error)
            return {}
        failpoints.hit("lease.revoked")
        lengths = {
            handle: length for handle, length in zip(handles, reply.lengths, strict=False) if length >= 0
        }
        for handle in reply.unsettled:
            lengths.pop(handle, None)
        return lengths

    async def any_is_complete(
        self, present: Grant, servers: Sequence[ServerId], *, acknowledged_bytes: int
    ) -> bool:
        """Whether one of `servers`, members of the set of `present`, holds every acknowledged byte.

        `acknowledged_bytes`: as for judge_answers. Returns with the first that does.
        """
        asking = [
            asyncio.ensure_future(self._is_complete(present, server, acknowledged_bytes))
            for server in servers
        ]
        try:
            for answer in asyncio.as_completed(asking):
                if await answer:
                    return True
            return False
        finally:
            for task in asking:
                task.cancel()

    async def silent(self, servers: Sequence[ServerId]) -> set[ServerId]:
        """Which of `servers` do not answer a ping within SUSPECT_PING_SECONDS."""
        failures = await asyncio.gather(
            *(self._send(server, Ping(server=server), seconds=SUSPECT_PING_SECONDS) for server in servers)
        )
        return {server for server, failure in zip(servers, failures, strict=True) if failure is not None}

    async def _is_complete(self, present: Grant, server: ServerId, acknowledged_bytes: int) -> bool:
        known = self._locations.get(server)
        if known is None:
            return False
        version = self._locations.version_at(server, present.handle) or present.version
        for _ in range(2):
            try:
                status = await self._rpc.call(
                    known.control,
                    ChunkStatus(handle=present.handle, version=version, server=server),
                    ChunkStatusReply,
                    deadline_seconds=self._bump_seconds,
                )
            except NotFound:
                # It missed even the first grant, so nothing was ever acknowledged (F4); or it lost its disk.
                return present.held_version == 0 and acknowledged_bytes == 0
            except StaleVersion as error:
                theirs = error.details.get("version", "")
                version = ChunkVersion(int(theirs) if theirs.isdigit() else 0)
                continue
            except GfsError as error:
                self._doubt(server, error)
                return False
            if status.version < present.held_version:
                return False
            return not status.may_be_short or 0 < acknowledged_bytes <= status.length_bytes
        return False

    async def _bump_one(self, server: ServerId, request: BumpVersion) -> BumpAnswer | GfsError:
        known = self._locations.get(server)
        if known is None:
            return Unavailable(f"chunk server {server} has not been heard of")
        try:
            reply = await self._rpc.call(
                known.control, request, BumpReply, deadline_seconds=self._bump_seconds
            )
        except GfsError as error:
            self._doubt(server, error)
            _log.warning(
                "a replica did not take its new version",
                server=server,
                handle=request.handle,
                version=request.version,
                error=error.message,
            )
            return error
        self._locations.note_bump(server, request.handle, request.version)
        failpoints.hit("lease.bumped_one")
        return BumpAnswer(reply.replaced_version, reply.length_bytes, reply.may_be_short)

    async def _send(
        self, server: ServerId, request: AlignReplica | SealReplica | Ping, seconds: float = 0.0
    ) -> GfsError | None:
        known = self._locations.get(server)
        if known is None:
            return Unavailable(f"chunk server {server} has not been heard of")
        try:
            await self._rpc.call(known.control, request, Ack, deadline_seconds=seconds or self._bump_seconds)
        except GfsError as error:
            self._doubt(server, error)
            return error
        return None

    def _doubt(self, server: ServerId, error: GfsError) -> None:
        if isinstance(error, Unavailable | ConnectionLost | DeadlineExceeded):
            self._locations.doubt(server)
