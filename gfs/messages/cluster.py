"""Anyone to a master or a chunk server: how the cluster is doing, and what operators may ask of it."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Ack, Reply, Request
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId, MasterId, ServerId, Term


class MasterStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: MasterId
    control: Address
    # leader, follower, learner, candidate, unreachable, refused, waiting, removed, disk full, out of service
    role: str
    term: Term = Term(0)
    applied_index: int = 0
    commit_index: int = 0
    lag_entries: int = 0
    lag_seconds: float = 0.0  # of a follower; below zero: it has heard no leader since it started
    reason: str = ""  # why it is refused, full or out of service, and what to do
    voter: bool = True  # false: a learner, or no member at all


class ChunkServerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: ServerId
    control: Address
    data: Address
    rack: str = ""
    alive: bool = True
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    chunk_count: int = 0
    tenure: str = "serving"  # or draining
    last_heartbeat_seconds: float = 0.0
    version: str = ""


class ClusterStatusReply(Reply, tag="cluster_status_reply", frozen=True, kw_only=True):
    """`health`: ok, degraded or down; `reasons`: one sentence each, for a person."""

    cluster: ClusterId
    answered_by: MasterId
    leader: MasterId
    term: Term
    masters: list[MasterStatus]
    chunkservers: list[ChunkServerStatus]
    health: str
    reasons: list[str]
    files: int = 0
    directories: int = 0
    chunks: int = 0
    trash: int = 0  # deleted entries that can be had back; what they hold counts above
    trash_bytes: int = 0  # what their files hold, not counting copies; -1: too many to add up


class ClusterStatus(Request, tag="cluster_status", frozen=True, kw_only=True):
    """`alone`: the master asked answers for itself only (so that masters can ask each other)."""

    reply: ClassVar[type[Reply]] = ClusterStatusReply
    alone: bool = False


class StateDigestReply(Reply, tag="state_digest_reply", frozen=True, kw_only=True):
    """`mark_digest`: of the state just before the log entry at `mark_index`, the last CheckDigest.

    `quarantine`: empty, or the phase of it (see master/quarantine). `copied`: the state came from the leader
    and was never compared since. `rows`: whether the rows are those of the
    digest: sound, unsound, running (being read), or empty when it is not known.
    """

    applied_index: int
    digest: str
    mark_index: int = 0
    mark_digest: str = ""
    quarantine: str = ""
    copied: bool = False
    rows: str = ""


class StateDigest(Request, tag="state_digest", frozen=True, kw_only=True):
    """Digest of all tables at the applied index; equal on all masters at equal index (I7).

    `read_rows`: have all rows read and compared with the digest; ask again until that is done.
    """

    reply: ClassVar[type[Reply]] = StateDigestReply
    read_rows: bool = False


class ComparedMaster(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One master in a comparison of states.

    `verdict`: equal, differs, unsound (its rows are not those of its digest), undecided (too few answers),
    quarantined (its state is being thrown away), behind (it has not applied the log so far), away.
    """

    id: MasterId
    verdict: str
    digest: str = ""
    votes: bool = True


class CompareStatesReply(Reply, tag="compare_states_reply", frozen=True, kw_only=True):
    """`agreed`: so many masters that vote had `digest`; 0: too few to tell, or, when `split`, no majority."""

    index: int
    digest: str
    agreed: int
    voters: int
    split: bool
    masters: list[ComparedMaster]


class CompareStates(Request, tag="compare_states", frozen=True, kw_only=True):
    """Have all masters compare their states now, at one index of the log (I7). Answered by the leader.

    `trust`: an operator's word that this master's state is the right one, when no majority can say.
    `read_rows`: as in StateDigest; a master whose rows are not those of its digest has no vote.
    """

    reply: ClassVar[type[Reply]] = CompareStatesReply
    trust: MasterId = MasterId("")
    read_rows: bool = False


class TakeCheckpoint(Request, tag="take_checkpoint", frozen=True, kw_only=True):
    """Write a checkpoint of this master's state now."""

    reply: ClassVar[type[Reply]] = StateDigestReply


class ReadmitMaster(Request, tag="readmit_master", frozen=True, kw_only=True):
    """Let a master vote again that was refused because it came back with another, empty disk."""

    reply: ClassVar[type[Reply]] = Ack
    member: MasterId


class CloneProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a chunk that a chunk server is making (§4.3). `copied_bytes` of `to_copy_bytes` have come."""

    handle: ChunkHandle
    version: ChunkVersion
    source: ServerId
    copied_bytes: int
    to_copy_bytes: int
    seconds: float


class DiskStatusReply(Reply, tag="disk_status_reply", frozen=True, kw_only=True):
    server: ServerId
    cluster: ClusterId
    disk_total_bytes: int
    disk_free_bytes: int
    chunk_count: int
    push_buffer_bytes: int
    clones: list[CloneProgress] = []


class DiskStatus(Request, tag="disk_status", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = DiskStatusReply
