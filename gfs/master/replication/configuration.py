"""A configuration, who the masters are, as it stands in the log and in checkpoint manifests. No decisions.

    log entry = 0x00 'M', msgpack map {members: [{id, raft, control, voter}, …], disks: {id: disk, …}}

Each entry names all masters, not a difference: dropping one leaves the one before it in force, whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gfs.errors import CorruptState
from gfs.master.replication.replicator import Member
from gfs.vocabulary import Address, MasterId

CONFIGURATION_FORMAT = b"\x00M"
MEMBERS_MAX = 16  # voters and learners; an introduction names the disk of each and has to fit in its frame

_encode = msgspec.msgpack.Encoder().encode


class ConfiguredMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: MasterId
    raft: Address
    control: Address
    voter: bool


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log entry: from here on these are the masters. `disks`: of those who begin to vote here."""

    members: tuple[ConfiguredMember, ...]
    disks: dict[MasterId, str] = {}


def configured(members: Iterable[Member]) -> tuple[ConfiguredMember, ...]:
    return tuple(ConfiguredMember(*member) for member in sorted(members))


def members_of(configuration: Iterable[ConfiguredMember]) -> tuple[Member, ...]:
    return tuple(sorted(Member(one.id, one.raft, one.control, one.voter) for one in configuration))


def encode_configuration(members: Iterable[Member], disks: Mapping[MasterId, str] | None = None) -> bytes:
    found = configured(members)
    assert 0 < len(found) <= MEMBERS_MAX and any(member.voter for member in found)
    assert len({member.id for member in found}) == len(found)
    return CONFIGURATION_FORMAT + _encode(Configuration(found, dict(sorted((disks or {}).items()))))


def decode_configuration(payload: bytes) -> Configuration | None:
    """None when the entry is something else. Raises: CorruptState."""
    if not payload.startswith(CONFIGURATION_FORMAT):
        return None
    try:
        return msgspec.msgpack.decode(payload[len(CONFIGURATION_FORMAT) :], type=Configuration)
    except msgspec.DecodeError as error:
        raise CorruptState(f"a log entry does not decode: {error}") from error
