"""Which requests each program answers: the one list that servers and the JSON door are built from."""

from __future__ import annotations

from gfs.messages.backup import CloseBackup, HoldCollection, OpenBackup, ReadBackup
from gfs.messages.base import Ping, Request
from gfs.messages.changes import WatchChanges
from gfs.messages.check import CheckFiles, MendReplica, RepairFiles, VerifyReplica
from gfs.messages.chunks import AcquireLease, FindChunks, SealChunk
from gfs.messages.cluster import (
    ClusterStatus,
    CompareStates,
    DiskStatus,
    ReadmitMaster,
    StateDigest,
    TakeCheckpoint,
)
from gfs.messages.console import (
    ListCheckpoints,
    ListLeases,
    ListMatrixCell,
    ListSessions,
    ListSnapshots,
    ShowChunk,
    ShowChunkMatrix,
)
from gfs.messages.diagnosis import ReadEvents, ReadRpcLog
from gfs.messages.heartbeat import Heartbeat
from gfs.messages.members import AddMember, FindMasters, ListMembers, RemoveMember, TransferLeadership
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
from gfs.messages.placement import (
    Explain,
    ListChunkServers,
    Rebalance,
    ReplicationQueue,
    SetServerTenure,
)
from gfs.messages.policies import ChangeMode, ChangeOwner, SetPolicy, ShowPolicy
from gfs.messages.replicas import (
    AlignReplica,
    AppendRecord,
    ApplyMutation,
    BumpVersion,
    ChunkStatus,
    CloneChunk,
    FindRecord,
    SealReplica,
    WriteChunk,
)
from gfs.messages.security import CreateToken, InspectToken, ListTokens, RevokeToken, RotateKeys
from gfs.messages.snapshots import CopyReplica, RevokeLeases, TakeSnapshot
from gfs.messages.stores import MigrateStore, ShowTier
from gfs.messages.trash import ListTrash, PurgeTrash, Undelete

DIAGNOSIS_REQUESTS: tuple[type[Request], ...] = (ReadRpcLog, ReadEvents)  # answered by every program

CHECK_REQUESTS: tuple[type[Request], ...] = (CheckFiles, RepairFiles)  # by masters

WATCH_REQUESTS: tuple[type[Request], ...] = (WatchChanges,)  # by masters

PLACEMENT_REQUESTS: tuple[type[Request], ...] = (  # by masters
    ListChunkServers,
    SetServerTenure,
    ReplicationQueue,
    Rebalance,
    Explain,
)

DIGEST_REQUESTS: tuple[type[Request], ...] = (StateDigest, CompareStates)  # by masters

MEMBER_REQUESTS: tuple[type[Request], ...] = (  # by masters
    FindMasters,
    ListMembers,
    AddMember,
    RemoveMember,
    TransferLeadership,
)

BACKUP_REQUESTS: tuple[type[Request], ...] = (  # by masters
    OpenBackup,
    ReadBackup,
    CloseBackup,
    HoldCollection,
)

SECURITY_REQUESTS: tuple[type[Request], ...] = (  # by masters
    CreateToken,
    ListTokens,
    InspectToken,
    RevokeToken,
    RotateKeys,
)

CONSOLE_REQUESTS: tuple[type[Request], ...] = (  # by masters
    ShowChunkMatrix,
    ListMatrixCell,
    ShowChunk,
    ListLeases,
    ListSessions,
    ListCheckpoints,
    ListSnapshots,
)

REPLICA_CHECK_REQUESTS: tuple[type[Request], ...] = (VerifyReplica, MendReplica)  # by chunk servers

STORE_REQUESTS: tuple[type[Request], ...] = (MigrateStore, ShowTier)  # by chunk servers

MASTER_REQUESTS: tuple[type[Request], ...] = (
    Ping,
    Stat,
    StatMany,
    ListDirectory,
    Glob,
    MakeDirectory,
    CreateFile,
    DeletePath,
    RenamePath,
    SetLengthHint,
    ListTrash,
    Undelete,
    PurgeTrash,
    SetPolicy,
    ShowPolicy,
    ChangeMode,
    ChangeOwner,
    FindChunks,
    AcquireLease,
    SealChunk,
    TakeSnapshot,
    ClusterStatus,
    TakeCheckpoint,
    ReadmitMaster,
    Heartbeat,
)

CHUNKSERVER_REQUESTS: tuple[type[Request], ...] = (
    Ping,
    BumpVersion,
    AlignReplica,
    ChunkStatus,
    CloneChunk,
    SealReplica,
    WriteChunk,
    AppendRecord,
    ApplyMutation,
    FindRecord,
    DiskStatus,
    RevokeLeases,
    CopyReplica,
)
