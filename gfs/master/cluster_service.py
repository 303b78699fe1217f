"""The cluster as servers and operators see it: heartbeats, status and health, digest, checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

import msgspec

from gfs.clock import Clock
from gfs.errors import GfsError, InvalidArgument, PermissionDenied, WrongCluster
from gfs.master.commit import Commits
from gfs.master.core.adoption import awaited_servers
from gfs.master.core.health import ClusterView, RepairOutlook, judge_health
from gfs.master.core.incarnation import read_incarnation
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import KnownServer, Locations
from gfs.master.core.lookup import chunk_by_handle, read_counters, state_digest
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.core.snapshots import jobs_under_way
from gfs.master.core.tenure import check_server_id, tenure_of
from gfs.master.core.trash import trash_bytes
from gfs.master.garbage_collection import GarbageCollection
from gfs.master.reads import Reads
from gfs.master.replication.replicator import Replicator
from gfs.master.roster import Roster
from gfs.master.standing import Standing
from gfs.messages.base import Ack, Reply, Request
from gfs.messages.cluster import (
    ChunkServerStatus,
    ClusterStatus,
    ClusterStatusReply,
    MasterStatus,
    ReadmitMaster,
    StateDigestReply,
    TakeCheckpoint,
)
from gfs.messages.heartbeat import CapabilityKeys, Heartbeat, HeartbeatReply, HeldLease
from gfs.transport.interface import CallContext, RpcCaller
from gfs.vocabulary import Address, ClusterId, MasterId, Term

PEER_STATUS_SECONDS = 0.5  # what a person at a terminal waits for a master that does not answer


class ClusterService:
    """Answered by every master, leader or not; only a leader extends leases."""

    def __init__(
        self,
        *,
        cluster: ClusterId,
        replicator: Replicator,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        leases: LeaseTable,
        scan: ReplicationScan,
        garbage: GarbageCollection,
        rpc: RpcCaller,
        clock: Clock,
        roster: Roster,
        lease_seconds: float,
        replication_goal: int,
        standing: Standing,
        outlook: Callable[[], RepairOutlook | None] = lambda: None,
        keys: Callable[[], CapabilityKeys | None] | None = None,
    ) -> None:
        """`outlook`: what the leader is doing about replicas. `keys`: what chunk servers hear of them."""
        self._cluster = cluster
        self._replicator = replicator
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._leases = leases
        self._scan = scan
        self._garbage = garbage
        self._rpc = rpc
        self._clock = clock
        self._roster = roster
        self._lease_seconds = lease_seconds
        self._replication_goal = replication_goal
        self._standing = standing
        self._outlook = outlook
        self._keys = keys

    # --- chunk servers -------------------------------------------------------------------------

    async def heartbeat(self, request: Request, _context: CallContext) -> Reply:
        """Take in what a chunk server says of itself, and extend its leases if this master leads.

        A leader names replicas that are garbage, too.
        Raises: WrongCluster; AlreadyExists for a second living server with this id; PermissionDenied for
            one that was removed.
        Source: GFS §2.3, §3.1, §4.4, §4.5.
        """
        assert isinstance(request, Heartbeat)
        if request.cluster and request.cluster != self._cluster:
            raise WrongCluster(
                f"chunk server {request.server} belongs to cluster {request.cluster}, not to {self._cluster}",
                details={"cluster": self._cluster},
            )
        check_server_id(request.server)
        if tenure_of(self._reads.now(), request.server) == "removed":
            raise PermissionDenied(
                f"chunk server {request.server} was removed from the cluster",
                hint=f"'gfs admin chunkservers undrain {request.server}' takes it back with its replicas; "
                "with an empty directory it joins as a new one.",
            )
        now = self._clock.monotonic()
        report_wanted = self._locations.hear(request, now=now)
        extended = []
        if request.leases:
            self._leases.adopt(request.server, request.leases, now=now)
            if self._commits.is_leading:
                current = [lease for lease in request.leases if self._is_current(request, lease)]
                extended = self._leases.extend(
                    request.server, current, now=now, lease_seconds=self._lease_seconds
                )
        garbage = await self._garbage.name_for(request.server)
        return HeartbeatReply(
            cluster=self._cluster,
            term=self._replicator.term(),
            is_leader=self._commits.is_leading,
            report_wanted=report_wanted,
            extended=extended,
            lease_seconds=self._lease_seconds if extended else 0.0,
            garbage=garbage,
            masters=sorted(self._roster.controls().values()),
            capability_keys=None if self._keys is None else self._keys(),
        )

    def _is_current(self, beat: Heartbeat, lease: HeldLease) -> bool:
        """Whether this is the newest grant of the chunk. A follower may lag behind the log: it adopts what
        it hears, and a lease is handed out only when its version is the logged one."""
        chunk = chunk_by_handle(self._reads.now(), lease.handle)
        return chunk is not None and chunk.version == lease.version and chunk.primary == beat.server

    # --- operators -----------------------------------------------------------------------------

    async def status(self, request: Request, _context: CallContext) -> Reply:
        """Who is there, what they hold, and what a person should know about it."""
        assert isinstance(request, ClusterStatus)
        mine = self._my_status()
        masters = [mine] if request.alone else await self.all_masters()
        now = self._clock.monotonic()
        servers = [self._server_status(server, now) for server in self._locations.servers()]
        known = self._replicator.status()
        leader, term = known.leader, known.term
        if leader is None:
            leaders = [master for master in masters if master.role == "leader"]
            newest = max(leaders, key=lambda master: master.term, default=None)
            leader, term = (newest.id, newest.term) if newest else (MasterId(""), term)
        life = read_incarnation(self._reads.now())
        awaited = () if life.settled else awaited_servers(self._reads.now(), self._locations)
        view = ClusterView(
            masters=tuple(masters),
            leader=leader,
            chunkservers=tuple(servers),
            replication_goal=self._replication_goal,
            replication=self._scan.result,
            damaged_replicas=self._locations.damaged_count(now=now),
            snapshots=tuple(
                (j.source_path, j.target_path) for j in jobs_under_way(self._reads.now()).values()
            ),
            repair=self._outlook(),
            life=life,
            awaited=tuple(awaited),
        )
        health, reasons = judge_health(view)
        counters = read_counters(self._reads.now())
        return ClusterStatusReply(
            cluster=self._cluster,
            answered_by=known.me,
            leader=leader,
            term=term,
            masters=masters,
            chunkservers=servers,
            health=health,
            reasons=reasons,
            files=counters.files,
            directories=counters.directories,
            chunks=counters.chunks,
            trash=counters.trash,
            trash_bytes=trash_bytes(self._reads.now()),
        )

    async def take_checkpoint(self, request: Request, _context: CallContext) -> Reply:
        """Write a checkpoint now. The digest is of the state after it, at the index answered.

        Raises: Unavailable when this master's state is not to be trusted.
        """
        assert isinstance(request, TakeCheckpoint)
        await self._replicator.checkpoint()
        return self._digest_reply()

    async def readmit_master(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader, InvalidArgument (unknown, or not refused here), OutcomeUnknown."""
        assert isinstance(request, ReadmitMaster)
        self._commits.leading()
        members = self._roster.controls()
        if request.member not in members:
            raise InvalidArgument(
                f"the cluster has no master {request.member!r}", hint=f"It has: {', '.join(members)}."
            )
        await self._replicator.readmit(request.member)
        return Ack()

    def _digest_reply(self) -> StateDigestReply:
        return StateDigestReply(
            applied_index=self._reads.applied_index(), digest=state_digest(self._reads.now())
        )

    def _my_status(self) -> MasterStatus:
        known = self._replicator.status()
        role, reason = known.role, ""
        if self._standing.reason:
            role, reason = self._standing.role, f"{self._standing.reason}. {self._standing.next_step()}"
        elif outside := self._roster.outside():
            role, reason = outside, self._roster.why_outside()
        elif known.role != "leader" and (why := dict(known.kept_out).get(known.me)):
            role, reason = "refused", why
        elif known.role != "leader" and known.disk_full:
            role = "disk full"
        member = self._roster.find(known.me)
        is_voter = member is not None and member.voter
        if member is not None and not is_voter and role in ("follower", "candidate"):
            role = "learner"
        reason = reason or known.stalled
        return MasterStatus(
            id=known.me,
            control=self._roster.control(known.me),
            role=role,
            voter=is_voter,
            reason=reason,
            lag_seconds=round(known.lag_seconds, 3),
            term=known.term,
            applied_index=known.applied,
            commit_index=known.committed,
        )

    async def all_masters(self) -> list[MasterStatus]:
        """Of every member, as it says itself, and of this master; sorted by id."""
        addresses = self._roster.with_me()
        mine = self._my_status()
        others = [master for master in addresses if master != mine.id]
        found = [mine, *await asyncio.gather(*(self._ask(master, addresses[master]) for master in others))]
        # Who is kept out may not know it yet; who keeps him out does.
        kept_out = dict(self._replicator.status().kept_out)
        voters = self._roster.voters()
        found = [_as_known_here(master, kept_out, voters) for master in found]
        newest = max(master.commit_index for master in found)
        return sorted((_with_lag(master, newest) for master in found), key=lambda master: master.id)

    async def _ask(self, master: MasterId, address: Address) -> MasterStatus:
        why = dict(self._replicator.status().silent).get(master, "")
        away = MasterStatus(id=master, control=address, role="unreachable", term=Term(0), reason=why)
        try:
            reply = await self._rpc.call(
                address,
                ClusterStatus(alone=True),
                ClusterStatusReply,
                deadline_seconds=PEER_STATUS_SECONDS,
            )
        except GfsError:
            return away
        return next((one for one in reply.masters if one.id == master), away)

    def _server_status(self, server: KnownServer, now: float) -> ChunkServerStatus:
        return ChunkServerStatus(
            id=server.id,
            control=server.control,
            data=server.data,
            rack=server.rack,
            alive=self._locations.is_alive(server.id, now=now),
            disk_total_bytes=server.disk_total_bytes,
            disk_free_bytes=server.disk_free_bytes,
            chunk_count=server.chunk_count,
            tenure=tenure_of(self._reads.now(), server.id),
            last_heartbeat_seconds=now - server.heard_at,
            version=server.release,
        )


def _as_known_here(
    master: MasterStatus, kept_out: Mapping[MasterId, str], voters: Collection[MasterId]
) -> MasterStatus:
    if master.role != "removed":
        master = msgspec.structs.replace(master, voter=master.id in voters)
    if master.id in kept_out and master.role in ("follower", "candidate"):
        return msgspec.structs.replace(master, role="refused", reason=kept_out[master.id])
    return master


def _with_lag(master: MasterStatus, newest: int) -> MasterStatus:
    if master.role == "unreachable":
        return master
    return msgspec.structs.replace(master, lag_entries=max(0, newest - master.applied_index))
