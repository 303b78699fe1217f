"""Bugs of what masters decide of chunks: versions, leases, sets, snapshots, trash and garbage."""

from __future__ import annotations

import msgspec

import gfs.master.garbage_collection as collection_room
from chaos.patches import Patches
from chaos.planted.bug import Catch, PlantedBug, Seen
from gfs.errors import GfsError
from gfs.master.core import garbage
from gfs.master.core.chunk_table import ChunkTable
from gfs.master.core.garbage import Garbage
from gfs.master.core.grants import BumpAnswer
from gfs.master.core.reclamation import Reclamation
from gfs.master.core.records import ChunkRecord, StoredChunk, decode_chunk, id_key
from gfs.master.core.snapshots import Snapshots
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.trash import reclaim_due
from gfs.master.lease_revocation import LeaseRevocation
from gfs.master.replica_calls import Grant, ReplicaCalls
from gfs.messages.heartbeat import GarbageReplica
from gfs.messages.operations import Reclaim
from gfs.vocabulary import InodeId, ServerId

_MANY_LIVES_MS = 10 * 86_400_000


def _version_not_bumped(patches: Patches) -> None:
    def next_version(_table: ChunkTable, chunk: StoredChunk) -> int:
        return chunk.version

    patches.replace(ChunkTable, "_next_version", next_version)


def _silent_replica_in_set(patches: Patches) -> None:
    as_it_should = ReplicaCalls.bump

    async def bump(
        calls: ReplicaCalls, grant: Grant, *, durable: bool = False
    ) -> tuple[dict[ServerId, BumpAnswer], dict[ServerId, GfsError]]:
        answers, failures = await as_it_should(calls, grant, durable=durable)
        if answers:
            said = max(answers.values(), key=lambda answer: answer.length_bytes)
            answers.update(dict.fromkeys(failures, said))
            failures.clear()
        return answers, failures

    patches.replace(ReplicaCalls, "bump", bump)


def _members_collected(patches: Patches) -> None:
    def is_still_stale(_garbage: Garbage, server: object, chunk: ChunkRecord, found: object) -> bool:
        return True

    def without_members(row: bytes) -> StoredChunk:
        return msgspec.structs.replace(decode_chunk(row), servers=())

    patches.replace(Garbage, "_is_still_stale", is_still_stale)
    patches.replace(garbage, "decode_chunk", without_members)


def _shared_chunk_mutated(patches: Patches) -> None:
    def share(_snapshots: Snapshots, _handle: int) -> None:
        """Nobody counts, so nobody copies before writing."""

    patches.replace(Snapshots, "_share", share)


def _leases_not_revoked(patches: Patches) -> None:
    async def revoke_below(_revocation: LeaseRevocation, _source: InodeId) -> None:
        """Writers go on as they are."""

    patches.replace(LeaseRevocation, "revoke_below", revoke_below)


def _orphans_not_named(patches: Patches) -> None:
    as_it_should = Garbage.look

    def look(
        garbage: Garbage, tables: ReadTables, server_id: ServerId, *, now: float
    ) -> list[GarbageReplica]:
        as_it_should(garbage, tables, server_id, now=now)
        return []

    patches.replace(Garbage, "look", look)


def _purged_early(patches: Patches) -> None:
    def due(tables: ReadTables, *, now_ms: int) -> bool:
        return reclaim_due(tables, now_ms=now_ms + _MANY_LIVES_MS)

    as_it_should = Reclaim

    def reclaim(*, now_ms: int, rows_max: int) -> object:
        return as_it_should(now_ms=now_ms + _MANY_LIVES_MS, rows_max=rows_max)

    patches.replace(collection_room, "reclaim_due", due)
    patches.replace(collection_room, "Reclaim", reclaim)


def _undeleted_after_purge(patches: Patches) -> None:
    as_it_should = Reclamation._condemn_row

    def condemn_row(reclamation: Reclamation, key: bytes, row: bytes) -> None:
        as_it_should(reclamation, key, row)
        if row:
            reclamation._tables.insert(Table.TRASH, key, row)
            reclamation._counters.trash += 1

    patches.replace(Reclamation, "_condemn_row", condemn_row)


def _references_ignored(patches: Patches) -> None:
    """What a file leaves is deleted for all, also for the copies that share it."""

    def release(reclamation: Reclamation, handle: int) -> None:
        key = id_key(handle)
        row = reclamation._tables.get(Table.CHUNKS, key)
        if row is not None:
            reclamation._tables.remove(Table.CHUNKS, key, old=row)
            reclamation._counters.chunks -= 1

    patches.replace(Reclamation, "_release", release)


BUGS = (
    PlantedBug(
        "version-not-bumped",
        "A new grant of a chunk keeps the version of the one before it.",
        _version_not_bumped,
        Catch("leases", 0, r"setdefault|I1|failed at bump"),
        Seen("stale-comeback", 0, r"refused for good|nothing acknowledged", fault_seconds=12.0, pace=3.0),
    ),
    PlantedBug(
        "silent-replica-in-set",
        "A replica that has not taken its new version counts as if it had.",
        _silent_replica_in_set,
        Catch("leases", 9, r"AssertionError: \[\["),
        "not in 8 seeds of stale-comeback and heartbeat-loss: a replica has to be silent while "
        "it can be written",
    ),
    PlantedBug(
        "members-collected",
        "Replicas of a live chunk's own set are named as garbage.",
        _members_collected,
        Catch("garbage", 1, r"not in chunk\.replicas"),
        Seen("rack-cut", 0, r"is lost|cannot be read", fault_seconds=12.0, pace=3.0),
    ),
    PlantedBug(
        "shared-chunk-mutated",
        "A chunk that a snapshot shares is written to in place.",
        _shared_chunk_mutated,
        Catch("snapshots", 0, r"self\.why\(taken, member\)"),
        Seen(
            "snapshot-under-fire",
            0,
            r"has changed since it was made|of no single moment",
            fault_seconds=7.0,
            pace=3.0,
        ),
    ),
    PlantedBug(
        "leases-not-revoked",
        "A snapshot is taken while writers hold leases of what it shares.",
        _leases_not_revoked,
        Catch("snapshots", 0, r"self\.why\(taken, member\)"),
        Seen(
            "snapshot-under-fire",
            0,
            r"has changed since it was made|of no single moment",
            fault_seconds=7.0,
            pace=3.0,
        ),
    ),
    PlantedBug(
        "references-ignored",
        "A chunk goes with the first file that is reclaimed, although a snapshot shares it.",
        _references_ignored,
        None,
        Seen("snapshot-under-fire", 0, r"nothing acknowledged", pace=3.0),
    ),
    PlantedBug(
        "orphans-not-named",
        "Chunk servers are never told which of their replicas are of no file any more.",
        _orphans_not_named,
        None,
        Seen("gc-race", 0, r"still has \d+ replicas of no file", pace=3.0),
    ),
    PlantedBug(
        "purged-early",
        "Deleted files are reclaimed long before their time has come.",
        _purged_early,
        Catch("garbage", 1, r"NotFound: nothing that was deleted from /f"),
        Seen("gc-race", 0, r"could not be had back", pace=3.0),
    ),
    PlantedBug(
        "undeleted-after-purge",
        "A purged file can still be had back, while its chunks go.",
        _undeleted_after_purge,
        Catch("everything-of-chunks", 3, r"held twice"),
        Seen("gc-race", 0, r"nothing acknowledged|had left the trash|cannot be read", pace=3.0),
    ),
)
