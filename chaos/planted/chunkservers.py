"""Bugs of chunk servers: the order of mutations, what is on the disk when, what readers are given."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from chaos.patches import Patches
from chaos.planted.bug import Catch, PlantedBug, Seen
from gfs.chunkserver import block_reader, replica_recovery, replica_store
from gfs.chunkserver.block_reader import BlockReader
from gfs.chunkserver.chunk_index import ChunkIndex
from gfs.chunkserver.core.append_window import AppendWindow, RecordPlace
from gfs.chunkserver.core.chunk_record import ChunkHeader
from gfs.chunkserver.core.mutations import Acknowledged, Mutation
from gfs.chunkserver.core.primary_order import PrimaryOrder
from gfs.chunkserver.core.recovery import ChunkReplay
from gfs.chunkserver.core.secondary_order import Receipt, SecondaryOrder
from gfs.chunkserver.durable_commits import DurableCommits
from gfs.chunkserver.guest_store import GuestStore
from gfs.chunkserver.replica_versions import ReplicaVersions
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import ChunkStore
from gfs.errors import NotFound
from gfs.messages.replicas import AppendedRecord
from gfs.vocabulary import ChunkHandle, ChunkVersion, ClientId, SerialNumber, ServerId


def _gaps_applied_over(patches: Patches) -> None:
    def next_run(order: SecondaryOrder) -> tuple[Mutation, ...]:
        if order._run_length or order._over is not None or not order._waiting:
            return ()
        serial = min(order._waiting)
        order.applied_through = serial - 1
        order._run_length = 1
        return (order._waiting[serial],)

    patches.replace(SecondaryOrder, "next_run", next_run)


def _ack_before_last_replica(patches: Patches) -> None:
    as_it_should = PrimaryOrder.applied_on

    def applied_on(order: PrimaryOrder, serial: SerialNumber, member: ServerId) -> Acknowledged | None:
        outstanding = order._outstanding.get(serial)
        if outstanding is not None and len(outstanding.missing) == 2:
            outstanding.missing.clear()
        return as_it_should(order, serial, member)

    patches.replace(PrimaryOrder, "applied_on", applied_on)


def _ended_lease_ignored(patches: Patches) -> None:
    as_it_should = PrimaryOrder._check_open

    def check_open(order: PrimaryOrder, version: ChunkVersion, now: float) -> None:
        as_it_should(order, version, min(now, order.lease_until - 1e-6))

    patches.replace(PrimaryOrder, "_check_open", check_open)


def _repeated_record_ordered_again(patches: Patches) -> None:
    def find(
        _window: AppendWindow, client: ClientId, sequence: int, *, repeated: bool, not_before: int = 0
    ) -> RecordPlace | None:
        return None

    patches.replace(AppendWindow, "find", find)


def _records_forgotten_with_a_restart(patches: Patches) -> None:
    def note(_window: AppendWindow, _records: Sequence[AppendedRecord], *, end_bytes: int) -> None:
        """Nothing is remembered."""

    patches.replace(AppendWindow, "note", note)


def _whoever_leads_obeyed(patches: Patches) -> None:
    as_it_should = SecondaryOrder.receive

    def receive(
        order: SecondaryOrder, mutation: Mutation, *, version: ChunkVersion, primary: ServerId
    ) -> Receipt:
        return as_it_should(order, mutation, version=order.version, primary=order.primary)

    patches.replace(SecondaryOrder, "receive", receive)


def _redo_not_repeated(patches: Patches) -> None:
    def finish_redo(replay: ChunkReplay, _store: ChunkStore, _found: object) -> None:
        replay.concluded_redo()

    patches.replace(replica_recovery, "_finish_redo", finish_redo)


def _record_before_its_bytes(patches: Patches) -> None:
    def sync(_store: FileStore, _handle: ChunkHandle) -> None:
        """Later, perhaps."""

    patches.replace(FileStore, "sync", sync)


def _journal_not_synced(patches: Patches) -> None:
    def sync_journal(_index: ChunkIndex) -> None:
        """Later, perhaps."""

    patches.replace(ChunkIndex, "sync_journal", sync_journal)


def _names_not_synced(patches: Patches) -> None:
    def sync_names(_store: FileStore) -> None:
        """The bytes are on the disk, in files that nobody will find."""

    patches.replace(FileStore, "sync_names", sync_names)


def _bytes_deleted_before_record(patches: Patches) -> None:
    def commit(commits: DurableCommits, change: object, *, sync_bytes: bool) -> None:
        if getattr(change, "record", None).__class__.__name__ == "Deleted":
            commits._store.delete(change.state.handle)  # type: ignore[attr-defined]
        as_it_should(commits, change, sync_bytes=sync_bytes)  # type: ignore[arg-type]

    as_it_should = DurableCommits.commit
    patches.replace(DurableCommits, "commit", commit)


def _bytes_never_deleted(patches: Patches) -> None:
    def delete(_store: FileStore, _handle: ChunkHandle) -> None:
        """The index forgets the chunk; its bytes stay."""

    patches.replace(FileStore, "delete", delete)


def _checksum_not_checked(patches: Patches) -> None:
    def block(
        reader: BlockReader, handle: ChunkHandle, header: ChunkHeader, full: array[int], number: int
    ) -> memoryview | None:
        start = number * block_reader._BLOCK
        scratch = reader._scratch()[: min(block_reader._BLOCK, header.length_bytes - start)]
        return scratch if reader._store.read_into(handle, scratch, start) == len(scratch) else None

    def first_bad_block(_piece: object, _expected: object) -> int:
        return -1

    patches.replace(BlockReader, "block", block)
    patches.replace(block_reader, "first_bad_block", first_bad_block)


def _stale_replica_served(patches: Patches) -> None:
    def held(header: ChunkHeader | None, handle: ChunkHandle, _version: ChunkVersion) -> ChunkHeader:
        if header is None or header.guest:
            raise NotFound(f"chunk {handle:x} is not here")
        return header

    patches.replace(replica_store, "held", held)


def _missed_mutations_forgiven(patches: Patches) -> None:
    """A replica that is older than the oldest version asked for is brought up to the new one (I5)."""
    as_it_should = ReplicaVersions.bump

    def bump(
        versions: ReplicaVersions, handle: ChunkHandle, version: ChunkVersion, **fields: object
    ) -> object:
        return as_it_should(versions, handle, version, **{**fields, "oldest_version": ChunkVersion(0)})  # type: ignore[arg-type]

    patches.replace(ReplicaVersions, "bump", bump)


def _clone_taken_for_whole(patches: Patches) -> None:
    """A copy joins the set before all of it is there."""
    as_it_should = GuestStore.finish

    def finish(
        guests: GuestStore,
        handle: ChunkHandle,
        version: ChunkVersion,
        wanted: Sequence[int],
        source_bytes: int,
        *,
        sealed: bool,
        append_window: bytes,
    ) -> None:
        header = guests._access.index.load(handle).header
        if header is not None:
            state = guests._access.index.load(handle)
            wanted = (*state.full, header.tail_sum) if header.tail_bytes else tuple(state.full)
            source_bytes = header.length_bytes
        as_it_should(
            guests, handle, version, wanted, source_bytes, sealed=sealed, append_window=append_window
        )

    patches.replace(GuestStore, "finish", finish)


BUGS = (
    PlantedBug(
        "gaps-applied-over",
        "A secondary applies a mutation although one before it is missing.",
        _gaps_applied_over,
        Catch("mutation-order", 0, r"longest\[|was given before"),
        "not in 6 seeds of pipeline-cut and half-open: links keep the order of mutations",
    ),
    PlantedBug(
        "ack-before-last-replica",
        "The primary acknowledges a mutation that the last replica of the set may not have.",
        _ack_before_last_replica,
        Catch("mutation-order", 0, r"AssertionError: \('.', Mutation|longest\["),
        Seen("pipeline-cut", 0, r"acknowledges serial \d+ .* has not applied", fault_seconds=8.0, pace=3.0),
    ),
    PlantedBug(
        "ended-lease-ignored",
        "A primary goes on ordering mutations when its lease has run out.",
        _ended_lease_ignored,
        None,
        Seen("pause-primary", 0, r"after its own lease has ended", fault_seconds=12.0, pace=3.0),
    ),
    PlantedBug(
        "repeated-record-ordered-again",
        "A record that comes again, because its answer was lost, is appended again.",
        _repeated_record_ordered_again,
        Catch("exactly-once", 0, r"here & seen"),
        Seen("hot-spot", 0, r"though appended exactly once", fault_seconds=12.0, pace=6.0),
    ),
    PlantedBug(
        "appended-records-forgotten",
        "A replica does not remember which records it has, so the next primary cannot tell.",
        _records_forgotten_with_a_restart,
        Catch("exactly-once", 0, r"here & seen"),
        Seen("hot-spot", 0, r"though appended exactly once", fault_seconds=12.0, pace=6.0),
    ),
    PlantedBug(
        "two-primaries-obeyed",
        "A replica applies what any primary sends it, also one whose version is over.",
        _whoever_leads_obeyed,
        Catch("mutation-order", 0, r"longest\[|was given before"),
        "not in 3 seeds of pause-primary: an old primary has to order a mutation after the new one has",
    ),
    PlantedBug(
        "redo-not-repeated",
        "An overwrite cut short by a kill is concluded at the start without writing its bytes.",
        _redo_not_repeated,
        Catch("store-killed", 20, r"ChecksumMismatch: .* does not verify"),
        "not in 3 seeds of torn-chunk-write: the server has to die between the redo record and its bytes",
    ),
    PlantedBug(
        "record-before-its-bytes",
        "The record of a mutation is synced, its bytes are not.",
        _record_before_its_bytes,
        Catch("store-power-cut", 8, r"does not verify|self\.store\.corrupt\(\) == \[\]"),
        Seen("power-cut-synced", 0, r"is lost|has no record", fault_seconds=12.0, pace=12.0),
    ),
    PlantedBug(
        "journal-not-synced",
        "The bytes of a mutation are synced, the record of it is not.",
        _journal_not_synced,
        Catch("store-power-cut", 2, r"found in allowed"),
        Seen("power-cut-synced", 1, r"has no record|does not verify|is lost", fault_seconds=12.0, pace=6.0),
    ),
    PlantedBug(
        "names-not-synced",
        "New chunk files are synced, the directories they stand in are not.",
        _names_not_synced,
        Catch("store-power-cut", 7, r"self\.store\.corrupt\(\) == \[\]"),
        Seen("power-cut-synced", 0, r"is lost|has no record", fault_seconds=12.0, pace=12.0),
    ),
    PlantedBug(
        "bytes-deleted-before-record",
        "The bytes of a replica are deleted before the record that says so.",
        _bytes_deleted_before_record,
        Catch("store-killed", 48, r"self\.store\.corrupt\(\) == \[\]"),
        "not in 3 seeds of gc-race: a server has to die between the two",
    ),
    PlantedBug(
        "bytes-never-deleted",
        "A deleted replica leaves the index, and its bytes stay on the disk.",
        _bytes_never_deleted,
        None,
        Seen("gc-race", 0, r"still has \d+ temporary files", pace=3.0),
    ),
    PlantedBug(
        "checksum-not-checked",
        "What is read is not compared with its checksum.",
        _checksum_not_checked,
        Catch("replica-reads", 0, r"other bytes than were acknowledged"),
        "by nature: clients compare every byte with the checksums again, and ask another replica",
    ),
    PlantedBug(
        "stale-replica-served",
        "A replica answers a reader whatever version was asked for.",
        _stale_replica_served,
        Catch("replica-reads", 0, r"other bytes than were acknowledged"),
        "not in 4 seeds of stale-comeback: masters name no stale replica to those who ask",
    ),
    PlantedBug(
        "missed-mutations-forgiven",
        "A replica that has missed mutations takes a new version all the same.",
        _missed_mutations_forgiven,
        Catch("replica-reads", 0, r"missed mutations was let in"),
        "not in 4 seeds of stale-comeback: masters know such a replica by its version before they ask it",
    ),
    PlantedBug(
        "clone-taken-for-whole",
        "A copy joins the set before all of it has been compared with its source.",
        _clone_taken_for_whole,
        Catch("replica-reads", 0, r"other bytes than were acknowledged"),
        "not in 3 seeds of two-servers-die: a copy has to be cut short and be read before it is compared",
    ),
)
