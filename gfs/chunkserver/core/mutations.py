"""What the orders of mutations speak of (GFS §3.1, §3.3): a mutation in its place, and its outcomes.

The orders are next door: primary_order gives serial numbers, secondary_order obeys them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gfs.errors import GfsError
from gfs.messages.replicas import AppendedRecord, MutationKind
from gfs.vocabulary import PushId, SerialNumber


class Mutation(NamedTuple):
    """One mutation in its place in the order. Two with one serial number are the same only if all is equal.

    `push` of a pad is the record that had no room: it names the pad, none of its bytes are used. `records`
    are those that the bytes consist of.
    """

    serial: SerialNumber
    offset_bytes: int
    length_bytes: int
    push: PushId
    kind: MutationKind = "write"
    records: tuple[AppendedRecord, ...] = ()

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.length_bytes


class InlineBytes(NamedTuple):
    """A mutation's bytes that came with it instead of being pushed; sums of each block they touch there."""

    data: bytes
    checksums: Sequence[int]


class UnderWay(NamedTuple):
    """A repeat of a mutation that is not yet decided: share its outcome."""

    serial: SerialNumber


class Acknowledged(NamedTuple):
    """Every member of the set has the mutation; `length_bytes` is the chunk's after it."""

    serial: SerialNumber
    length_bytes: int


class AppendAt(NamedTuple):
    """The first `taken` of the records that wait go to this offset, behind each other, on every replica."""

    serial: SerialNumber
    offset_bytes: int
    taken: int = 1


class PadChunk(NamedTuple):
    """A record would cross the chunk's end: every replica gets zeros from this offset to the end."""

    serial: SerialNumber
    offset_bytes: int


class ChunkFull(NamedTuple):
    """The chunk is ordered up to its end already: nothing to be done but to try the next one."""


def fresh(error: GfsError) -> GfsError:
    """A new exception for each raise: a shared one would collect tracebacks and contexts."""
    return type(error)(error.message, hint=error.hint, details=error.details)
