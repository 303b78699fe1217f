"""Chunk server to every master: state up, instructions down (GFS §2.3, §4.5)."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Reply, Request
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId, ServerId, Term


class HeldLease(msgspec.Struct, frozen=True, array_like=True):
    """A lease this server holds as primary; `active`: mutated since the last heartbeat."""

    handle: ChunkHandle
    version: ChunkVersion
    seconds_left: float
    active: bool


class HeldChunk(msgspec.Struct, frozen=True, array_like=True):
    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int


class GarbageReplica(msgspec.Struct, frozen=True, array_like=True):
    """Delete the replica if it is still held at `version` or less; 0: if its version cannot be read."""

    handle: ChunkHandle
    version: ChunkVersion


class CapabilityKeys(msgspec.Struct, frozen=True, array_like=True):
    """By what a chunk server knows capabilities of masters: the `number`th key and, behind it, former ones.

    `admins`: SHA-256 of the tokens whose owners may ask it anything but chunks' bytes.
    """

    number: int
    keys: list[bytes]
    admins: list[bytes] = []


class HeartbeatReply(Reply, tag="heartbeat_reply", frozen=True, kw_only=True):
    """`extended`: leases prolonged to `lease_seconds` from now; only a leader extends.

    `report_wanted`: this master lacks the server's full chunk list; send it from the start.
    `garbage`: replicas the server must delete (I6: only what is named here).
    `masters`: control addresses of all masters to be told, as this master's log has them; see MastersReply.
    `capability_keys`: where clients have to show capabilities.
    """

    cluster: ClusterId
    term: Term
    is_leader: bool
    report_wanted: bool
    extended: list[ChunkHandle] = []
    lease_seconds: float = 0.0
    garbage: list[GarbageReplica] = []
    masters: list[Address] = []
    capability_keys: CapabilityKeys | None = None


class Heartbeat(Request, tag="heartbeat", frozen=True, kw_only=True):
    """State up, instructions down. Sent to all masters, so that a new leader knows all locations.

    A full report is split in pages: `report_page` counts from 0, `report_last` ends it. Afterwards
    `changed` and `removed` carry only what differs from what this master has acknowledged.
    `guests`: whole copies that no bump has made replicas yet (§4.3), as many as fit.
    `incarnation` is drawn at each start of the process: a master that sees a new one asks for a report.
    `corrupt` names all damaged replicas among those in `changed` and `report`, and others too; a replica
    whose version cannot be told any more has version 0 there.
    `unsettled`: replicas that may have lost acknowledged bytes in a power cut, which no newer set has settled
    yet; as many as fit, the others follow once these are.
    """

    reply: ClassVar[type[Reply]] = HeartbeatReply
    server: ServerId
    cluster: ClusterId  # empty on a fresh disk: it joins the cluster that answers
    incarnation: str
    control: Address
    data: Address
    rack: str = ""
    version: str = ""
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    chunk_count: int = 0
    leases: list[HeldLease] = []
    report_page: int = -1  # -1: no report in this heartbeat
    report_last: bool = False
    report: list[HeldChunk] = []
    changed: list[HeldChunk] = []
    removed: list[ChunkHandle] = []
    corrupt: list[ChunkHandle] = []
    guests: list[HeldChunk] = []
    unsettled: list[ChunkHandle] = []
