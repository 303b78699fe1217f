"""Proposals on their way through the log: all that wait share one entry, a few entries are in flight. No I/O.

An entry's payload is a msgpack list of proposals behind one byte that names its format.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

import msgspec

from gfs.errors import CorruptState, GfsError, InvalidArgument, Overloaded
from gfs.master.replication.engine import NO_OP
from gfs.master.replication.log import Position
from gfs.master.replication.options import (
    ENTRY_BYTES_MAX,
    ENTRY_BYTES_TARGET,
    PROPOSAL_BYTES_MAX,
    RaftOptions,
)
from gfs.vocabulary import LogIndex, MasterId

BATCH_FORMAT = b"\x00B"  # pysyncobj's "regular command", then ours
READMISSION_FORMAT = b"\x00D"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


def encode_entry(proposals: list[bytes]) -> bytes:
    payload = BATCH_FORMAT + _encode(proposals)
    assert len(payload) <= ENTRY_BYTES_MAX
    return payload


def decode_entry(payload: bytes) -> list[bytes]:
    """The proposals in an entry; none in a new leader's first one.

    Raises: CorruptState for anything else: an entry of an unknown kind is never guessed at.
    """
    if payload == NO_OP:
        return []
    if not payload.startswith(BATCH_FORMAT):
        raise CorruptState(f"a log entry has the unknown kind {payload[:2]!r}; a newer gfs has written it")
    try:
        return _decode(memoryview(payload)[len(BATCH_FORMAT) :])
    except msgspec.DecodeError as error:
        raise CorruptState(f"a log entry does not decode: {error}") from error


class Readmission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log entry: from here on `member` votes from the disk `disk`."""

    member: MasterId
    disk: str


def encode_readmission(member: MasterId, disk: str) -> bytes:
    return READMISSION_FORMAT + _encode(Readmission(member, disk))


def decode_readmission(payload: bytes) -> Readmission | None:
    """None when the entry is something else."""
    if not payload.startswith(READMISSION_FORMAT):
        return None
    try:
        return msgspec.msgpack.decode(payload[len(READMISSION_FORMAT) :], type=Readmission)
    except msgspec.DecodeError as error:
        raise CorruptState(f"a log entry does not decode: {error}") from error


class _Waiting(NamedTuple):
    proposal: bytes
    outcome: asyncio.Future[bytes]


class GroupCommit:
    def __init__(self, options: RaftOptions) -> None:
        self._options = options
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._in_flight: deque[tuple[Position, list[_Waiting]]] = deque()
        self._answers: list[tuple[asyncio.Future[bytes], bytes]] = []
        self._taken = 0

    def submit(self, proposal: bytes) -> asyncio.Future[bytes]:
        """Raises: InvalidArgument, Overloaded."""
        if len(proposal) > PROPOSAL_BYTES_MAX:
            raise InvalidArgument(
                f"the operation is {len(proposal)} bytes long; at most {PROPOSAL_BYTES_MAX} fit in the log"
            )
        options = self._options
        if (
            len(self._waiting) >= options.proposals_waiting_max
            or self._waiting_bytes + len(proposal) > options.proposals_waiting_bytes_max
        ):
            raise Overloaded(f"{len(self._waiting)} operations are already waiting for the log")
        outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(proposal, outcome))
        self._waiting_bytes += len(proposal)
        return outcome

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def may_place(self, committed: LogIndex) -> bool:
        """Whether an entry should be made now of what waits.

        Each entry costs every master a sync and several wake-ups, however little is in it. So while one is
        being committed another one is made only of at least as many proposals: a few at a time never wait
        for each other, and many gather in few entries.
        """
        if not self._waiting or len(self._in_flight) >= self._options.entries_in_flight_max:
            return False
        uncommitted = sum(len(batch) for position, batch in self._in_flight if position.index > committed)
        return len(self._waiting) >= uncommitted

    def next_entry(self) -> bytes:
        """Payload of the next entry; what it holds goes in flight with placed()."""
        proposals: list[bytes] = []
        length = 0
        for waiting in self._waiting:
            proposals.append(waiting.proposal)
            length += len(waiting.proposal)
            if length >= ENTRY_BYTES_TARGET:
                break
        self._taken = len(proposals)
        return encode_entry(proposals)

    def placed(self, position: Position) -> None:
        """The payload of next_entry() is in the log at `position`."""
        taken = [self._waiting.popleft() for _ in range(self._taken)]
        self._waiting_bytes -= sum(len(waiting.proposal) for waiting in taken)
        self._in_flight.append((position, taken))

    def applied(self, position: Position, outcomes: list[bytes]) -> None:
        """An entry was applied; if it is one of ours, its callers get their answer with release()."""
        if not self._in_flight or self._in_flight[0][0] != position:
            return
        _, batch = self._in_flight.popleft()
        assert len(outcomes) == len(batch), "one outcome for each proposal"
        self._answers.extend(zip((future for _, future in batch), outcomes, strict=True))

    def release(self) -> None:
        """The state that answers rest on can be read now."""
        answers, self._answers = self._answers, []
        for future, outcome in answers:
            if not future.done():
                future.set_result(outcome)

    def fail_waiting(self, error: GfsError) -> None:
        """Nothing that waits has reached the log: it certainly did not happen."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def fail_in_flight(self, error: GfsError) -> None:
        """What is in the log may still be committed, by whoever leads next."""
        in_flight, self._in_flight = self._in_flight, deque()
        for _, batch in in_flight:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
