"""Timings and limits of replication. process.py fills them from gfs.settings; tests set their own."""

from __future__ import annotations

from dataclasses import dataclass

from gfs.tls import TlsIdentity
from gfs.vocabulary import KIB, MIB

PROPOSAL_BYTES_MAX = MIB  # one operation; a control frame is smaller than 4 MiB, an operation far smaller
ENTRY_BYTES_TARGET = 256 * KIB  # a log entry takes in waiting proposals until it is this long
ENTRY_BYTES_MAX = ENTRY_BYTES_TARGET + PROPOSAL_BYTES_MAX + 64 * KIB  # with the framing of a batch
APPEND_BYTES_MAX = 4 * MIB  # entries in one message, give or take the last one (appendEntriesBatchSizeBytes)
RAFT_FRAME_BYTES_MAX = 8 * MIB
HANDSHAKE_FRAME_BYTES_MAX = 4 * KIB  # before a peer is authenticated nothing longer is read
SEND_BUFFER_BYTES_MAX = 32 * MIB  # to one peer; beyond it the peer counts as away until it has drained
APPLY_BYTES_PER_TURN = 512 * KIB  # so that a long replay never keeps the loop from heartbeats
CHECKPOINT_PIECE_BYTES = MIB
UNAUTHENTICATED_CONNECTIONS_MAX = 32
REFUSALS_MAX = 64  # names of peers that were not let in

# pysyncobj cuts an entry of APPEND_BYTES_MAX or more into pickled pieces, and miscounts them (P5).
assert ENTRY_BYTES_MAX < APPEND_BYTES_MAX
assert APPEND_BYTES_MAX + ENTRY_BYTES_MAX < RAFT_FRAME_BYTES_MAX
assert CHECKPOINT_PIECE_BYTES < RAFT_FRAME_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftOptions:
    election_seconds_min: float = 0.25
    election_seconds_max: float = 0.5
    heartbeat_seconds: float = 0.05
    tick_seconds: float = 0.01
    failover_seconds_max: float = 0.03  # a broken connection to the leader starts the election within this
    ping_seconds: float = 0.2
    peer_silent_seconds: float = 1.0  # a connection that said nothing for so long is closed
    redial_seconds_min: float = 0.1
    redial_seconds_max: float = 0.2
    lesser_dials_seconds: float = 1.0  # without a connection, before the lesser id dials as well
    founding_seconds: float = 2.5  # for others to say that there is a cluster already: see membership
    slow_disk_seconds: float = 0.03  # a follower whose sync takes longer answers without promising anything
    no_space_retry_seconds: float = 0.25
    commit_patience_seconds: float = 3.0  # without progress; then mutations are refused: no quorum keeps them
    catch_up_patience_seconds: float = 30.0  # a new master that makes no progress for so long stays a learner
    catch_up_round_seconds: float = 0.5  # it has caught up when it takes in no longer than this what is new
    read_patience_seconds: float = 0.01  # a follower that has not confirmed by then is not waited for alone
    entries_in_flight_max: int = 3  # appended and not yet applied
    proposals_waiting_max: int = 8192
    proposals_waiting_bytes_max: int = 64 * MIB
    segment_bytes: int = 64 * MIB
    checkpoint_log_bytes: int = 64 * MIB
    tls: TlsIdentity | None = None  # with it members speak TLS to each other, below the handshake

    def __post_init__(self) -> None:
        assert self.heartbeat_seconds * 3 < self.election_seconds_min < self.election_seconds_max
        assert 0 < self.redial_seconds_min <= self.redial_seconds_max

    @property
    def fallback_seconds(self) -> float:
        """A leader that has not heard a quorum for so long steps down: before anyone else can be elected."""
        return self.election_seconds_min
