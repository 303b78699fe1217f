"""The bytes of our files on disk do not change: what an older gfs has written stays readable.

The golden file holds a line for each: name, bytes in hexadecimal. A format that grows adds lines; a line that
would have to change means a new format version, and a migration. Log records have a golden file of their own
(tests/core/test_master_golden.py).
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from msgspec import structs

from chaos.simulation.disk import ForgetfulDisk
from gfs.backups import manifest as backups
from gfs.chunkserver import index_journal
from gfs.chunkserver.core import append_window, chunk_record
from gfs.chunkserver.core.chunk_record import ChunkHeader, Deleted, Mutated, Redo, RedoDropped
from gfs.chunkserver.disk_identity import DiskIdentity
from gfs.chunkserver.index_journal import JournalSegment, read_segment, segment_path
from gfs.chunkserver.index_tables import seal_header, seal_window
from gfs.chunkserver.known_masters import MASTERS_FILE, KnownMasters
from gfs.client.core.record_framing import RecordScanner, frame
from gfs.disk import read_whole_file
from gfs.master.checkpoint_directory import decode_manifest, encode_manifest
from gfs.master.core import records as rows
from gfs.master.core.incarnation import INCARNATION_KEY, Incarnation, encode_incarnation, read_incarnation
from gfs.master.core.tables import MemoryTables, Table
from gfs.master.directory import _check_identity
from gfs.master.replication import group_commit
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.master.replication.configuration import (
    configured,
    decode_configuration,
    encode_configuration,
    members_of,
)
from gfs.master.replication.log_format import Kind, Record, encode_header, encode_records, scan_segment
from gfs.master.replication.member_disks import MemberDisks
from gfs.master.replication.replicator import Member
from gfs.messages.replicas import AppendedRecord
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClientId, ClusterId, LogIndex, MasterId, Term

GOLDEN = Path(__file__).parent.parent / "golden" / "disk_formats_v1.txt"
HANDLE = ChunkHandle(0x1A5)

LOG_RECORDS = [
    Record(Kind.START, LogIndex(41), Term(3), b""),
    Record(Kind.VOTE, LogIndex(0), Term(3), b"m1"),
    Record(Kind.ENTRY, LogIndex(42), Term(3), b"payload"),
    Record(Kind.TRUNCATE, LogIndex(41), Term(3), b""),
    Record(Kind.RESET, LogIndex(2**40), Term(4), b""),
    Record(Kind.CLOSED, LogIndex(0), Term(0), b""),
]
MANIFEST = CheckpointManifest(
    format=CHECKPOINT_FORMAT,
    cluster=ClusterId("c"),
    index=LogIndex(42),
    term=Term(3),
    length_bytes=40960,
    crc32c=0xDEADBEEF,
    members={MasterId("m1"): "disk-1", MasterId("m2"): "disk-2"},
    made_at_ms=1_700_000_000_000,
)
BACKUP = backups.BackupManifest(
    format=backups.BACKUP_FORMAT,
    cluster=ClusterId("c"),
    index=LogIndex(42),
    term=Term(3),
    length_bytes=40960,
    crc32c=0xDEADBEEF,
    taken_at_ms=1_700_000_000_001,
    taken_from=MasterId("m1"),
    masters=[MasterId("m1"), MasterId("m2")],
    checkpoint_format=CHECKPOINT_FORMAT,
    state_format=2,
    files=3,
    directories=2,
    chunks=1,
)
LIFE = Incarnation(
    name="1795000000-00ff",
    number=1_795_000_000,
    began_ms=1_795_000_000_123,
    at_index=2**45,
    old_handles=77,
    settled=False,
    garbage_held=True,
)
MASTERS = [
    Member(MasterId("m1"), Address("a:9600"), Address("a:9500"), voter=True),
    Member(MasterId("m2"), Address("b:9600"), Address("b:9500"), voter=True),
    Member(MasterId("m3"), Address("c:9600"), Address("c:9500"), voter=False),
]
GROWN = structs.replace(MANIFEST, configuration=configured(MASTERS))
INODE = rows.InodeRecord(
    is_directory=False,
    parent=7,
    created_ms=1_700_000_000_000,
    modified_ms=1_700_000_000_001,
    length_bytes=2**33,
    length_exact=True,
    chunk_count=129,
    replication_goal=3,
    first_chunk=99,
    mode=0o640,
    ownership=5,
    goal_inherited=True,
    appended=True,
)
CHUNK = rows.StoredChunk(
    version=4, references=2, held_version=3, primary=1, servers=(1, 2, 3), sealed=1, length_bytes=77, quiet=1
)
HEADER = ChunkHeader(
    version=ChunkVersion(4),
    length_bytes=65546,
    tail_sum=0x1234,
    revision=9,
    master_term=Term(3),
    replaced_version=ChunkVersion(3),
    sealed=True,
    short_version=ChunkVersion(2),
    durable=True,
)
MUTATED = Mutated(
    HANDLE,
    HEADER,
    first_block=0,
    sums=b"\1\2\3\4",
    data_synced=True,
    appended=(AppendedRecord(ClientId(7), 1, 1, 10),),
)
# It has random parts and grows by fields with defaults, so only its reading is held fast.
OLD_MEMBER_DISKS = b'{"format":1,"cluster":"c","member":"m1","disk":"disk-1","known":{"m2":"disk-2"}}'
JOURNALLED: list[chunk_record.Record] = [
    MUTATED,
    Redo(MUTATED, 5, b"new bytes"),
    RedoDropped(HANDLE),
    Deleted(HANDLE),
]


def window() -> append_window.AppendWindow:
    found = append_window.AppendWindow()
    found.note([AppendedRecord(ClientId(7), 1, 1, 10)], end_bytes=65546)
    return found


def journal_segment(disk: ForgetfulDisk) -> bytes:
    disk.make_directory("/d")
    segment = JournalSegment.create(disk, "/d", 2, durable=True)
    segment.append(b"first")
    segment.sync()
    segment.append(b"second")
    return read_whole_file(disk, segment_path("/d", 2))


def remembered_masters(disk: ForgetfulDisk) -> bytes:
    disk.make_directory("/c")
    KnownMasters(disk, "/c", seeds=[Address("a:1")], cluster=ClusterId("c")).remember(
        [Address("b:2"), Address("a:1")], ClusterId("c")
    )
    return read_whole_file(disk, f"/c/{MASTERS_FILE}")


def master_directory(disk: ForgetfulDisk) -> bytes:
    disk.make_directory("/m")
    _check_identity(disk, "/m", ClusterId("c"), MasterId("m1"))
    return read_whole_file(disk, "/m/master.json")


def chunkserver_directory(disk: ForgetfulDisk) -> bytes:
    disk.make_directory("/s")
    DiskIdentity.load_or_create(disk, "/s")
    return read_whole_file(disk, "/s/identity.json")


def formats(disk: ForgetfulDisk) -> dict[str, bytes]:
    return {
        "operation log segment": encode_header(3)
        + encode_records(LOG_RECORDS, segment_number=3, synced_bytes=16),
        "operation log entry": group_commit.encode_entry([b"one", b"two"]),
        "operation log readmission": group_commit.encode_readmission(MasterId("m2"), "disk-9"),
        "operation log configuration": encode_configuration(MASTERS, {MasterId("m2"): "disk-2"}),
        "checkpoint manifest": encode_manifest(MANIFEST),
        "checkpoint manifest of a grown cluster": encode_manifest(GROWN),
        "inode row": rows.encode_inode(INODE),
        "chunk row": rows.encode_chunk(CHUNK),
        "policy row": rows.encode_policy(rows.PolicyRecord(replicas=2, racks=2, durability="sync")),
        "counters row": rows.encode_counters(rows.Counters(next_inode=9, files=3)),
        "dentry": rows.dentry_key(7, b"name") + rows.dentry_value(9, is_directory=True),
        "trash": rows.trash_key(2**41, 9) + rows.trash_value(b"/d/f", deleted_at_ms=2**40),
        "file chunk": rows.file_chunk_key(9, 1) + rows.handle_value(HANDLE),
        "chunk index header": seal_header(HANDLE, HEADER),
        "chunk index window": seal_window(HANDLE, window()),
        "chunk journal records": chunk_record.encode_records(JOURNALLED),
        "chunk journal segment": journal_segment(disk),
        "remembered masters": remembered_masters(disk),
        "life of the cluster": encode_incarnation(LIFE),
        "backup manifest": backups.encode_manifest(BACKUP),
        "framed record": frame(b"payload", bytes(range(16))),
        "master directory": master_directory(disk),
        "chunk server directory": chunkserver_directory(disk),
    }


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> ForgetfulDisk:
    monkeypatch.setattr(index_journal.secrets, "randbits", lambda bits: 0xABCD)
    monkeypatch.setattr(secrets, "token_hex", lambda count: "5a" * count)
    return ForgetfulDisk()


def golden() -> dict[str, bytes]:
    lines = (line.split("\t") for line in GOLDEN.read_text().splitlines())
    return {name: bytes.fromhex(content) for name, content in lines}


def test_every_format_writes_the_bytes_it_always_wrote(disk: ForgetfulDisk) -> None:
    assert {name: content.hex() for name, content in formats(disk).items()} == {
        name: content.hex() for name, content in golden().items()
    }


def test_the_bytes_of_old_files_are_read_as_what_they_meant(disk: ForgetfulDisk) -> None:
    old = golden()
    scan = scan_segment(old["operation log segment"], segment_number=3)
    assert scan.records == LOG_RECORDS and scan.fault is None
    assert group_commit.decode_entry(old["operation log entry"]) == [b"one", b"two"]
    readmission = group_commit.decode_readmission(old["operation log readmission"])
    assert readmission is not None and (readmission.member, readmission.disk) == ("m2", "disk-9")
    configuration = decode_configuration(old["operation log configuration"])
    assert configuration is not None and list(members_of(configuration.members)) == MASTERS
    assert configuration.disks == {"m2": "disk-2"}
    assert decode_manifest(old["checkpoint manifest"]) == MANIFEST
    assert decode_manifest(old["checkpoint manifest of a grown cluster"]) == GROWN
    assert rows.decode_inode(old["inode row"]) == INODE
    assert rows.decode_chunk(old["chunk row"]) == CHUNK
    assert rows.decode_policy(old["policy row"]).racks == 2
    assert rows.decode_counters(old["counters row"]) == rows.Counters(next_inode=9, files=3)
    assert chunk_record.decode_header(old["chunk index header"][4:]) == HEADER
    found = append_window.decode_window(old["chunk index window"][4:])
    assert append_window.encode_window(found) == append_window.encode_window(window())
    assert chunk_record.decode_records(old["chunk journal records"]) == JOURNALLED
    assert backups.decode_manifest(old["backup manifest"]) == BACKUP
    tables = MemoryTables()
    tables.put(Table.META, INCARNATION_KEY, old["life of the cluster"])
    assert read_incarnation(tables) == LIFE
    disk.make_directory("/d")
    disk.open(segment_path("/d", 2), create=True).pwrite(old["chunk journal segment"], 0)
    assert [payload for _, payload in read_segment(disk, "/d", 2).payloads] == [b"first", b"second"]
    disk.make_directory("/m")
    disk.open(f"/m/{MASTERS_FILE}", create=True).pwrite(old["remembered masters"], 0)
    known = KnownMasters(disk, "/m", seeds=[Address("x:9")], cluster=ClusterId("c"))
    assert known.at_start == ("a:1", "b:2", "x:9")
    scanner = RecordScanner()
    scanner.feed(old["framed record"])
    record = scanner.next(is_all=True)
    assert record is not None and (record.id, record.payload) == (bytes(range(16)), b"payload")
    check_directories(disk, old)


def check_directories(disk: ForgetfulDisk, old: dict[str, bytes]) -> None:
    for directory, name, golden_name in (
        ("/old-master", "master.json", "master directory"),
        ("/old-server", "identity.json", "chunk server directory"),
    ):
        disk.make_directory(directory)
        disk.open(f"{directory}/{name}", create=True).pwrite(old[golden_name], 0)
    disk.make_directory("/old-log")
    disk.open("/old-log/identity.json", create=True).pwrite(OLD_MEMBER_DISKS, 0)
    me, cluster = MasterId("m1"), ClusterId("c")
    disks = MemberDisks("/old-log", disk, me=me, cluster=cluster, has_history=True)
    assert disks.all() == {"m1": "disk-1", "m2": "disk-2"}
    _check_identity(disk, "/old-master", cluster, me)
    assert DiskIdentity.load_or_create(disk, "/old-server").server == "cs-" + "5a" * 4
