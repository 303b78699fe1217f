"""The master's methods: which handler answers which request. What they do is in the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gfs.master.chunk_service import ChunkService
from gfs.master.cluster_service import ClusterService
from gfs.master.lease_service import LeaseService
from gfs.master.namespace_service import NamespaceService
from gfs.master.policy_service import PolicyService
from gfs.master.snapshot_service import SnapshotService
from gfs.master.trash_service import TrashService
from gfs.messages.base import Ping, Request
from gfs.messages.chunks import AcquireLease, FindChunks, SealChunk
from gfs.messages.cluster import ClusterStatus, ReadmitMaster, TakeCheckpoint
from gfs.messages.heartbeat import Heartbeat
from gfs.messages.methods import MASTER_REQUESTS
from gfs.messages.namespace import (
    CreateFile,
    DeletePath,
    Glob,
    ListDirectory,
    MakeDirectory,
    RenamePath,
    SetLengthHint,
    Stat,
    StatMany,
)
from gfs.messages.policies import ChangeMode, ChangeOwner, SetPolicy, ShowPolicy
from gfs.messages.snapshots import TakeSnapshot
from gfs.messages.trash import ListTrash, PurgeTrash, Undelete
from gfs.transport.dispatch import answer_ping
from gfs.transport.interface import Handler


@dataclass(frozen=True, slots=True)
class MasterService:
    namespace: NamespaceService
    chunks: ChunkService
    leases: LeaseService
    snapshots: SnapshotService
    cluster: ClusterService
    trash: TrashService
    policies: PolicyService

    def handlers(self) -> Mapping[type[Request], Handler]:
        """One handler for each of MASTER_REQUESTS."""
        handlers: dict[type[Request], Handler] = {
            Ping: answer_ping,
            Stat: self.namespace.stat,
            StatMany: self.namespace.stat_many,
            ListDirectory: self.namespace.list_directory,
            Glob: self.namespace.glob,
            MakeDirectory: self.namespace.make_directory,
            CreateFile: self.namespace.create,
            DeletePath: self.trash.delete,
            RenamePath: self.namespace.rename,
            SetLengthHint: self.namespace.set_length_hint,
            ListTrash: self.trash.list_trash,
            Undelete: self.trash.undelete,
            PurgeTrash: self.trash.purge,
            SetPolicy: self.policies.set_policy,
            ShowPolicy: self.policies.show_policy,
            ChangeMode: self.policies.change_mode,
            ChangeOwner: self.policies.change_owner,
            FindChunks: self.chunks.find_chunks,
            AcquireLease: self.leases.acquire,
            SealChunk: self.leases.seal,
            TakeSnapshot: self.snapshots.take,
            ClusterStatus: self.cluster.status,
            TakeCheckpoint: self.cluster.take_checkpoint,
            ReadmitMaster: self.cluster.readmit_master,
            Heartbeat: self.cluster.heartbeat,
        }
        assert set(handlers) == set(MASTER_REQUESTS)
        return handlers
