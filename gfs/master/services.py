"""The services and duties of one master, made and made known to each other. When they run, process says."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Mapping
from typing import Any

from gfs.clock import Clock
from gfs.errors import InvalidArgument
from gfs.identity import system_identity
from gfs.master.adoption_duty import AdoptionDuty
from gfs.master.backup_service import BackupService, BackupStore
from gfs.master.callers import Callers
from gfs.master.check_service import CheckService
from gfs.master.chunk_service import ChunkService
from gfs.master.cluster_service import ClusterService
from gfs.master.commit import Commits
from gfs.master.console_service import ConsoleService
from gfs.master.copy_on_write import CopyOnWrite
from gfs.master.core.chunk_homes import ChunkHomes
from gfs.master.core.garbage import Garbage
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import read_counters
from gfs.master.core.recent_grants import RecentGrants
from gfs.master.core.records import PolicyRecord
from gfs.master.core.repair_queue import Limits
from gfs.master.core.replica_survey import RACKS_WANTED
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.core.server_pool import ServerPool
from gfs.master.damage_duty import DamageDuty
from gfs.master.digest_rounds import DigestRounds
from gfs.master.duties import Duties
from gfs.master.garbage_collection import GarbageCollection
from gfs.master.gate import Bearer, MasterGate
from gfs.master.granting import Granting
from gfs.master.keyring import SIGNED_REQUESTS, MasterKeys, keep_rotating
from gfs.master.lease_revocation import LeaseRevocation
from gfs.master.lease_service import LeaseService
from gfs.master.member_service import MemberService
from gfs.master.namespace_service import NamespaceService
from gfs.master.placement_service import PlacementService
from gfs.master.policy_service import PolicyService
from gfs.master.quarantine import Quarantine
from gfs.master.quiet_grants import QuietGrants
from gfs.master.reads import Reads
from gfs.master.repair_duty import RepairDuty
from gfs.master.replica_calls import ReplicaCalls
from gfs.master.replica_moves import ReplicaMoves
from gfs.master.replication.raft_node import RaftNode
from gfs.master.roster import Roster
from gfs.master.row_check import RowCheck
from gfs.master.security_service import SecurityService
from gfs.master.service import MasterService
from gfs.master.settling_duty import SettlingDuty
from gfs.master.snapshot_service import SnapshotService
from gfs.master.standing import Standing
from gfs.master.state_machine import ReplicatedState
from gfs.master.trash_service import TrashService
from gfs.master.watch_service import WatchService
from gfs.messages.base import Request
from gfs.messages.operations import AnyOutcome, ChunkGranted, LogRecord
from gfs.settings import CHUNK_HOMES_KEPT, Settings
from gfs.telemetry import Metrics
from gfs.tls import TlsIdentity
from gfs.transport.interface import Handler, Handlers, RpcCaller
from gfs.vocabulary import ChunkIndex, ClusterId, InodeId, LogIndex, ServerId
from gfs.web.traffic import Vitals

SETTLE_HEARTBEATS = 3  # after a start, how many heartbeats a chunk server may take to be heard of


class MasterServices:
    """All of a master above its replicated state. Made before the node starts, so that nothing is missed."""

    def __init__(
        self,
        settings: Settings,
        *,
        cluster: ClusterId,
        node: RaftNode,
        roster: Roster,
        state: ReplicatedState,
        rpc: RpcCaller,
        locations: Locations,
        standing: Standing,
        checkpoints: BackupStore,
        quarantine: Quarantine,
        metrics: Metrics,
        clock: Clock,
        chance: random.Random,
        secret: bytes,
        tls: TlsIdentity | None = None,
    ) -> None:
        self._tls = tls
        self._settings, self._cluster, self._node, self._state = settings, cluster, node, state
        self._rpc, self._standing, self._roster = rpc, standing, roster
        self._clock, self._chance, self._checkpoints = clock, chance, checkpoints
        self.superuser = settings.access.superuser or system_identity().user
        self._callers = Callers(superuser=self.superuser, check=settings.access.check)
        self.locations = locations
        self.leases = LeaseTable()
        self.scan = ReplicationScan()
        self._pool = ServerPool(locations)
        self._homes = ChunkHomes(kept_max=CHUNK_HOMES_KEPT)
        self._recent = RecentGrants(now=clock.monotonic(), lease_seconds=settings.master.lease_seconds)
        state.on_applied(self._note_grants)
        state.on_replaced(lambda: self._recent.forget_all(now=clock.monotonic()))
        self.commits = Commits(node, clock, roster=roster, metrics=metrics, standing=standing)
        self._reads = Reads(
            node,
            self.commits,
            clock,
            committed=state.committed,
            applied_index=state.committed_index,
            standing=standing,
        )
        self.watching = WatchService(
            self._reads,
            clock,
            applied=lambda: state.applied()[0],
            next_inode=lambda: state.state.counters.next_inode,
            callers=self._callers,
        )
        state.on_applied(self.watching.note)
        state.on_replaced(self.watching.forget_all)
        self.gate = self._make_gate(secret)
        self.keys = self._make_keys(self.gate, secret)
        self._make_grants()
        self._collection = GarbageCollection(
            commits=self.commits,
            reads=self._reads,
            clock=clock,
            garbage=Garbage(locations, is_moving=self.moves.is_moving),
            metrics=metrics,
        )
        self.repair = self._make_repair()
        self._snapshots = self._make_snapshots()
        self._members: MemberService | None = None
        self._rows = RowCheck(state)
        self._digests = DigestRounds(
            replicator=node,
            state=state,
            quarantine=quarantine,
            rows=self._rows,
            rpc=rpc,
            clock=clock,
            commits=self.commits,
            callers=self._callers,
            voters=roster.voters,
            addresses=roster.controls,
        )
        node.on_leadership(self._snapshots.lead)
        self._backups = BackupService(
            replicator=node,
            commits=self.commits,
            reads=self._reads,
            store=checkpoints,
            clock=clock,
            roster=roster,
        )

    async def stop(self) -> None:
        if self._members is not None:
            await self._members.stop()
        self._backups.stop()
        await self._rows.stop()
        await self._snapshots.stop()

    def handlers(self) -> Handlers:
        """Those of MASTER_REQUESTS, before they are guarded."""
        checks = CheckService(
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            clock=self._clock,
            urge=self.repair.note_shortage,
        )
        placing = PlacementService(
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            pool=self._pool,
            repair=self.repair,
            clock=self._clock,
        )
        security = SecurityService(
            self.commits, self._reads, self._clock, chance=self._chance, bearer=self._bearer
        )
        console = ConsoleService(
            reads=self._reads,
            locations=self.locations,
            leases=self.leases,
            scan=self.scan,
            surveyor=self.repair.surveyor,
            checkpoints=self._checkpoints.kept,
            clock=self._clock,
        )
        service = self._make_service()
        self._members = self._make_members(service.cluster)
        found: dict[type[Request], Handler] = {
            **service.handlers(),
            **checks.handlers(),
            **placing.handlers(),
            **console.handlers(),
            **self._members.handlers(),
            **self._backups.handlers(),
            **self._digests.handlers(),
            **security.handlers(),
            **self.watching.handlers(),
        }
        if self.keys is not None:
            found |= {kind: self.keys.signed(found[kind]) for kind in SIGNED_REQUESTS}
        return found

    def vitals(self, calls: int) -> Vitals:
        """What the console's charts are made of; `calls` were answered."""
        alive = self.locations.alive(now=self._clock.monotonic())
        return Vitals(
            log_index=self._reads.applied_index(),
            calls=calls,
            chunks=read_counters(self._reads.now()).chunks,
            used_bytes=sum(server.disk_total_bytes - server.disk_free_bytes for server in alive),
            leases=len(self.leases),
        )

    def guarded(self, handlers: Handlers) -> Handlers:
        """As Callers.guarded."""
        return self._callers.guarded(handlers)

    def works(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What this master does by itself, by name: each goes on until it is cancelled."""
        # Any: what a coroutine passes to the loop is its own
        duties = Duties(
            clock=self._clock,
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            leases=self.leases,
            scan=self.scan,
            garbage=self._collection,
            settle_seconds=SETTLE_HEARTBEATS * self._settings.chunkserver.heartbeat_seconds,
        )
        damage = DamageDuty(
            cluster=self._cluster,
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            homes=self._homes,
            rpc=self._rpc,
            clock=self._clock,
            remove=self.moves.remove_replica,
            urge=self.repair.note_shortage,
        )
        settling = SettlingDuty(
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            homes=self._homes,
            clock=self._clock,
            settle=self.moves.settle_replicas,
            urge=self.repair.note_shortage,
        )
        adoption = AdoptionDuty(
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            clock=self._clock,
            patience_seconds=self._settings.master.restore_patience_seconds,
        )
        rotating: dict[str, Coroutine[Any, Any, None]] = {}
        if self.keys is not None:
            rotating["keys"] = keep_rotating(
                self.commits,
                tables=self._state.committed,
                clock=self._clock,
                chance=self._chance,
                rotation_seconds=self._settings.access.key_rotation_seconds,
            )
        return rotating | {
            "duties": duties.run(),
            "digests": self._digests.run(),
            "damage": damage.run(),
            "settling": settling.run(),
            "repair": self.repair.run(),
            "adoption": adoption.run(),
        }

    # --- wiring --------------------------------------------------------------------------------

    def _make_gate(self, secret: bytes) -> MasterGate | None:
        access = self._settings.access
        if not access.tokens:
            return None
        gate = MasterGate(
            tables=self._state.committed,
            committed_index=self._state.committed_index,
            clock=self._clock,
            secret=secret,
            cluster=self._cluster,
            superuser=self.superuser,
            first_token_sha256=access.first_token_sha256,
            tls=self._tls,
            unknown=lambda: None if self.commits.is_leading else self.commits.not_leader(),
        )
        self._state.on_applied(lambda index, record, _outcome: gate.note(index, record.operation))
        self._state.on_replaced(gate.forget_all)
        return gate

    def _make_keys(self, gate: MasterGate | None, secret: bytes) -> MasterKeys | None:
        if gate is None:
            return None
        access = self._settings.access
        return MasterKeys(
            tables=self._state.committed,
            secret=secret,
            clock=self._clock,
            capability_seconds=access.capability_seconds,
            subject=lambda credential: gate.bearer(credential).subject,
            first_token_sha256=access.first_token_sha256,
        )

    def _bearer(self, credential: str) -> Bearer:
        if self.gate is None:
            raise InvalidArgument(
                "this cluster wants no tokens", hint="access.tokens = true in gfs.toml makes it want them."
            )
        return self.gate.bearer(credential)

    def _make_grants(self) -> None:
        tuning = self._settings.master
        self._calls = calls = ReplicaCalls(
            self._rpc,
            self.locations,
            cluster=self._cluster,
            bump_seconds=tuning.bump_seconds,
            lease_seconds=tuning.lease_seconds,
        )
        granting = Granting(
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            pool=self._pool,
            leases=self.leases,
            calls=calls,
            clock=self._clock,
            chance=self._chance,
            configured_servers=len(self._settings.chunkservers),
        )
        self.grants_logged: Mapping[str, int] = granting.logged
        self._copies = copies = CopyOnWrite(
            commits=self.commits,
            reads=self._reads,
            granting=granting,
            calls=calls,
            locations=self.locations,
        )
        self._leasing = leases = LeaseService(
            commits=self.commits,
            reads=self._reads,
            leases=self.leases,
            calls=calls,
            granting=granting,
            copies=copies,
            clock=self._clock,
            lease_seconds=tuning.lease_seconds,
            callers=self._callers,
            short=self._note_shortage,
        )
        self._grants = grants = QuietGrants(commits=self.commits, reads=self._reads, granting=granting)
        self.moves = ReplicaMoves(
            commits=self.commits,
            locations=self.locations,
            grants=grants,
            leases=leases,
            calls=calls,
            clock=self._clock,
            chance=self._chance,
            bytes_per_second=tuning.clone_bytes_per_second,
        )

    def _make_repair(self) -> RepairDuty:
        tuning = self._settings.master
        return RepairDuty(
            clock=self._clock,
            chance=self._chance,
            commits=self.commits,
            reads=self._reads,
            locations=self.locations,
            pool=self._pool,
            leases=self.leases,
            moves=self.moves,
            limits=Limits(
                active_max=tuning.clones_max,
                per_server_max=tuning.clones_per_server_max,
                rebalancing_max=max(1, min(tuning.rebalancing_max, tuning.clones_max)),
            ),
            patience_seconds=tuning.repair_delay_seconds,
            levels_by_itself=tuning.rebalancing_max > 0,
        )

    def _make_snapshots(self) -> SnapshotService:
        return SnapshotService(
            commits=self.commits,
            reads=self._reads,
            revocation=LeaseRevocation(
                commits=self.commits,
                reads=self._reads,
                locations=self.locations,
                leases=self.leases,
                recent=self._recent,
                service=self._leasing,
                grants=self._grants,
                calls=self._calls,
                clock=self._clock,
            ),
            copies=self._copies,
            clock=self._clock,
            callers=self._callers,
        )

    def _make_service(self) -> MasterService:
        tuning = self._settings.master
        namespace = NamespaceService(
            self.commits,
            self._reads,
            self._clock,
            replication_goal=tuning.replication_goal,
            trash_seconds=tuning.trash_seconds,
            callers=self._callers,
        )
        return MasterService(
            namespace=namespace,
            trash=TrashService(
                self.commits,
                self._reads,
                namespace,
                # Each time of the state there is: a checkpoint from the leader replaces it.
                deletion_rank=lambda inode: self._state.state.deletion_rank(inode),
                callers=self._callers,
            ),
            chunks=ChunkService(
                self._reads,
                self.locations,
                self._clock,
                homes=self._homes,
                callers=self._callers,
                short=self._note_shortage,
            ),
            policies=PolicyService(
                self.commits,
                self._reads,
                callers=self._callers,
                defaults=PolicyRecord(
                    replicas=tuning.replication_goal,
                    racks=RACKS_WANTED,
                    trash_ms=round(tuning.trash_seconds * 1000),
                    durability=self._settings.chunkserver.durability,
                ),
            ),
            leases=self._leasing,
            snapshots=self._snapshots,
            cluster=ClusterService(
                cluster=self._cluster,
                replicator=self._node,
                commits=self.commits,
                reads=self._reads,
                locations=self.locations,
                leases=self.leases,
                scan=self.scan,
                garbage=self._collection,
                rpc=self._rpc,
                clock=self._clock,
                roster=self._roster,
                lease_seconds=tuning.lease_seconds,
                replication_goal=tuning.replication_goal,
                standing=self._standing,
                outlook=self.repair.outlook,
                keys=None if self.keys is None else self.keys.told,
            ),
        )

    def _make_members(self, cluster: ClusterService) -> MemberService:
        settings = self._settings.cluster
        return MemberService(
            cluster=self._cluster,
            replicator=self._node,
            commits=self.commits,
            rpc=self._rpc,
            clock=self._clock,
            masters=cluster.all_masters,
            not_heard_since=self._not_heard_since,
            has_secret=bool(settings.secret_file),
            allow_insecure_network=settings.allow_insecure_network or self._tls is not None,
        )

    def _not_heard_since(self, since: float) -> list[ServerId]:
        alive = self.locations.alive(now=self._clock.monotonic())
        return [server.id for server in alive if server.heard_at <= since]

    def _note_shortage(self, inode: InodeId, index: ChunkIndex) -> None:
        self.repair.note_shortage(inode, index)

    def _note_grants(self, _index: LogIndex, _record: LogRecord, outcome: AnyOutcome) -> None:
        if isinstance(outcome, ChunkGranted):
            self._recent.note(outcome.handle, now=self._clock.monotonic())
