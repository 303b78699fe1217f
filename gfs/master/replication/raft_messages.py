"""What masters say to each other on the Raft port, after the handshake. Only data; msgpack on the wire.

Names follow Raft's RPCs. A frame that does not decode to one of these closes the connection.
"""

from __future__ import annotations

import msgspec

from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.vocabulary import Address, LogIndex


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


class Ping(_Message, frozen=True):
    pass


class AppendEntries(_Message, frozen=True):
    """Raft §5.3; without entries a heartbeat. `previous_index` 0: a sign of life and nothing to compare."""

    term: int
    commit_index: int
    previous_index: int
    previous_term: int
    entries: list[tuple[bytes, int, int]]


class AppendAnswer(_Message, frozen=True):
    """`success`: the log is durable, and the leader's, below `next_index`. `reset`: send from there."""

    term: int
    next_index: int
    success: bool
    reset: bool


class VoteRequest(_Message, frozen=True):
    term: int
    last_index: int
    last_term: int


class Vote(_Message, frozen=True):
    term: int


class PreVoteRequest(_Message, frozen=True):
    """Would you vote for me in the term after `term`? (Raft dissertation §9.6)"""

    term: int
    last_index: int
    last_term: int


class PreVote(_Message, frozen=True):
    term: int


class ReadIndexRequest(_Message, frozen=True):
    """Am I still your leader? (Raft dissertation §6.4)"""

    term: int
    round: int


class ReadIndexAnswer(_Message, frozen=True):
    term: int
    round: int


class TimeoutNow(_Message, frozen=True):
    """Stand for election at once: the leader is about to stop (Raft dissertation §3.10)."""

    term: int


class CheckpointOffer(_Message, frozen=True):
    """The log no longer goes back to where this follower is: fetch a checkpoint.

    No commit index: what a checkpoint covers says nothing of the follower's own entries (P1).
    `source`: where to dial the leader, for one who has not yet been told of it by the log.
    """

    term: int
    manifest: CheckpointManifest
    source: Address = Address("")


class CheckpointWanted(_Message, frozen=True):
    """This follower's state is to be thrown away: it needs a checkpoint of `index_min` or later.

    Not an earlier one: its log begins there, and what it has acknowledged must stay in it.
    """

    term: int
    index_min: int


class CheckpointInstalled(_Message, frozen=True):
    term: int
    index: LogIndex


Message = (
    Ping
    | AppendEntries
    | AppendAnswer
    | VoteRequest
    | Vote
    | PreVoteRequest
    | PreVote
    | ReadIndexRequest
    | ReadIndexAnswer
    | TimeoutNow
    | CheckpointOffer
    | CheckpointWanted
    | CheckpointInstalled
)


class FetchPiece(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """On a checkpoint connection, follower to leader. Answered by Piece or NoSuchCheckpoint."""

    index: int
    term: int
    offset: int


class Piece(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    offset: int
    content: bytes


class NoSuchCheckpoint(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


FRAME_HEAD_BYTES = 4  # the body's length, little-endian

_encode = msgspec.msgpack.Encoder().encode


def frame(message: msgspec.Struct) -> bytes:
    body = _encode(message)
    return len(body).to_bytes(FRAME_HEAD_BYTES, "little") + body
