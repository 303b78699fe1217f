"""A chunk server's disk looked at from outside: damage is found and named, and nothing is changed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.stores.file import CHUNKS_DIRECTORY, FileStore, chunk_file_path
from gfs.disk import SystemDisk
from gfs.errors import CorruptState, NotFound, UnsupportedVersion
from gfs.inspect.chunk_rows import chunkserver_directory
from gfs.inspect.chunk_verify import ChunkFinding, ChunkVerifier, ReplicaRow, replica_rows
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle, ChunkVersion
from tests.chunkserver.replicas import T1, V1, create
from tests.inspect.logs import flip
from tests.inspect.shell import gfs

BLOCK = CHECKSUM_BLOCK_BYTES
LENGTHS = [0, 10, BLOCK, 3 * BLOCK, 5 * BLOCK + 77, 20 * BLOCK + 1]


def open_store(directory: Path) -> ReplicaStore:
    chunks = FileStore(SystemDisk(), str(directory / CHUNKS_DIRECTORY))
    return ReplicaStore.open(str(directory), chunks, SystemDisk(), on_fatal=lambda reason: None)


def file_of(directory: Path, handle: int) -> Path:
    return Path(chunk_file_path(str(directory / CHUNKS_DIRECTORY), ChunkHandle(handle)))


def fill(store: ReplicaStore, lengths: list[int] = LENGTHS, *, first: int = 1) -> None:
    chance = random.Random(1)
    for handle, length in enumerate(lengths, start=first):
        create(store, ChunkHandle(handle))
        if length:
            store.write(ChunkHandle(handle), V1, 0, chance.randbytes(length))


@pytest.fixture(params=["closed", "killed"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A disk with a replica of each of LENGTHS: all in the index, or half of them in the journal only."""
    store = open_store(tmp_path)
    fill(store, LENGTHS[:3])
    if request.param == "killed":
        store.flush()
    fill(store, LENGTHS[3:], first=4)
    if request.param == "closed":
        store.close()
    else:
        store.abandon()
    return tmp_path


def verify(directory: Path, only: int | None = None) -> list[ChunkFinding]:
    return list(ChunkVerifier(str(directory), None if only is None else ChunkHandle(only)).findings())


def kinds(directory: Path) -> list[tuple[str, int]]:
    return [(finding.kind, finding.handle) for finding in verify(directory)]


def everything(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_sound_disk_is_verified_to_the_last_byte_and_not_changed(disk: Path) -> None:
    before = everything(disk)
    verifier = ChunkVerifier(str(disk))
    assert list(verifier.findings()) == []
    assert verifier.summary.replicas == verifier.summary.files == len(LENGTHS)
    assert verifier.summary.verified_bytes == sum(LENGTHS)
    assert everything(disk) == before


def test_replicas_are_listed_with_what_the_index_and_its_journal_say(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store)
    store.flush()
    store.versions.bump(
        ChunkHandle(4), ChunkVersion(2), oldest_version=ChunkVersion(1), create=False, master_term=T1
    )
    store.versions.seal(ChunkHandle(5), V1, BLOCK + 7)
    store.delete(ChunkHandle(6))
    store.abandon()
    rows = {row.handle: row for row in replica_rows(str(tmp_path)) if isinstance(row, ReplicaRow)}
    assert sorted(rows) == [1, 2, 3, 4, 5]
    assert rows[4].version == 2 and rows[4].replaced_version == 1
    assert rows[5].sealed and rows[5].length_bytes == BLOCK + 7
    assert rows[3].stored_bytes == rows[3].length_bytes == BLOCK
    (only,) = replica_rows(str(tmp_path), ChunkHandle(4))
    assert only == rows[4]


def test_a_flipped_bit_is_found_in_its_block(disk: Path) -> None:
    chance = random.Random(3)
    for handle, length in enumerate(LENGTHS, start=1):
        for byte in {0, length - 1, chance.randrange(length)} if length else ():
            bit = chance.randrange(8)
            flip(file_of(disk, handle), byte, bit)
            (found,) = verify(disk)
            assert (found.kind, found.handle, found.blocks) == ("bad_blocks", handle, [byte // BLOCK])
            assert found.is_damage
            flip(file_of(disk, handle), byte, bit)
    assert verify(disk) == []


def test_truncated_missing_misplaced_and_orphaned_files_are_told_apart(disk: Path) -> None:
    os.truncate(file_of(disk, 4), 2 * BLOCK)
    file_of(disk, 5).unlink()
    file_of(disk, 2).rename(disk / CHUNKS_DIRECTORY / file_of(disk, 2).name)
    orphan = file_of(disk, 99)
    orphan.write_bytes(b"whose?")
    (orphan.parent / "notes.txt").write_text("?")
    (orphan.parent / f"{7:016x}.chunk.clone").write_bytes(b"half")
    with file_of(disk, 3).open("ab") as file:
        file.write(b"never acknowledged")
    found = verify(disk)
    assert {(finding.kind, finding.handle) for finding in found} == {
        ("truncated_file", 4),
        ("missing_file", 5),
        ("missing_file", 2),
        ("misplaced_file", 2),
        ("orphan_file", 99),
        ("stray_file", 0),
        ("leftover_file", 0),
        ("surplus_bytes", 3),
    }
    assert {finding.kind for finding in found if finding.is_damage} == {
        "truncated_file",
        "missing_file",
        "misplaced_file",
    }


def change_row(directory: Path, table: bytes, key: bytes, value: bytes | None) -> None:
    with lmdb.open(str(directory / "chunks.lmdb"), max_dbs=5, subdir=False) as environment:
        rows = environment.open_db(table)
        with environment.begin(write=True) as transaction:
            if value is None:
                assert transaction.delete(key, db=rows)
            else:
                transaction.put(key, value, db=rows)


def key(handle: int, row: int | None = None) -> bytes:
    return handle.to_bytes(8, "big") + (b"" if row is None else row.to_bytes(2, "big"))


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    store = open_store(tmp_path)
    fill(store)
    store.close()
    return tmp_path


@pytest.mark.parametrize(
    ("table", "row", "value", "kind"),
    [
        (b"headers", key(4), b"rubbish, not a header", "damaged_entry"),
        (b"rows", key(4, 0), None, "damaged_entry"),
        (b"rows", key(4, 0), b"\0" * 12, "bad_blocks"),
        (b"rows", key(4, 0), b"odd", "damaged_entry"),
        (b"windows", key(4), b"rubbish, not a window", "damaged_entry"),
        (b"damage", key(4), b"block 1 does not verify", "marked_damaged"),
        (b"headers", key(4), None, "orphan_file"),
    ],
)
def test_damage_in_each_table_of_the_index_is_named(
    closed: Path, table: bytes, row: bytes, value: bytes | None, kind: str
) -> None:
    change_row(closed, table, row, value)
    assert (kind, 4) in kinds(closed)
    assert [finding for finding in verify(closed) if finding.handle not in (0, 4)] == []
    list(replica_rows(str(closed)))


def test_an_index_of_a_newer_format_is_refused_by_name(closed: Path) -> None:
    change_row(closed, b"meta", b"format", (99).to_bytes(8, "big"))
    with pytest.raises(UnsupportedVersion, match="format 99"):
        verify(closed)


@pytest.mark.parametrize("damage", ["truncated", "zeros", "rubbish", "empty"])
def test_a_ruined_index_ends_with_an_error_and_never_kills_the_tool(closed: Path, damage: str) -> None:
    path = closed / "chunks.lmdb"
    content = path.read_bytes()
    ruined = {
        "truncated": content[: len(content) // 2],
        "zeros": content[:8192] + bytes(len(content) - 8192),
        "rubbish": content[:8192] + random.Random(1).randbytes(len(content) - 8192),
        "empty": b"",
    }[damage]
    path.write_bytes(ruined)
    try:
        assert [finding for finding in verify(closed) if finding.is_damage]
    except (CorruptState, UnsupportedVersion):
        pass


def journals(directory: Path) -> list[Path]:
    return sorted(directory.glob("chunks-*.journal"))


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    store = open_store(tmp_path)
    fill(store)
    store.abandon()
    return tmp_path


def test_a_damaged_journal_is_named_and_a_torn_one_is_none(killed: Path) -> None:
    (journal,) = journals(killed)
    content = journal.read_bytes()
    flip(journal, len(content) // 2)
    assert ("damaged_index", 0) in kinds(killed)
    journal.write_bytes(content[:-3])
    assert "damaged_index" not in dict(kinds(killed))
    journal.write_bytes(content)
    assert kinds(killed) == []
    journal.unlink()
    assert ("damaged_index", 0) in kinds(killed)


def test_what_a_power_cut_took_of_unsynced_bytes_is_no_damage(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(file_of(killed, 4), BLOCK)
    flip(file_of(killed, 5), 3 * BLOCK)
    assert dict(kinds(killed)) == {"truncated_file": 4, "bad_blocks": 5}  # the page cache had everything
    monkeypatch.setattr(SystemDisk, "boot_id", lambda self: "after the cut")
    found = verify(killed)
    assert {(finding.kind, finding.handle, finding.is_damage) for finding in found} == {
        ("unsynced_tail", 4, False),
        ("unsynced_tail", 5, False),
    }
    store = open_store(killed)  # a start gives up what was never promised
    store.close()
    assert verify(killed) == []


def test_a_directory_or_a_file_in_it_may_be_named(closed: Path, tmp_path: Path) -> None:
    assert chunkserver_directory(str(closed)) == (str(closed), None)
    assert chunkserver_directory(str(closed / "chunks.lmdb")) == (str(closed), None)
    assert chunkserver_directory(str(file_of(closed, 4))) == (str(closed), 4)
    with pytest.raises(NotFound):
        chunkserver_directory(str(closed / CHUNKS_DIRECTORY))
    with pytest.raises(NotFound):
        chunkserver_directory(str(tmp_path / "nowhere"))


def test_the_commands_print_and_exit_as_promised(closed: Path) -> None:
    ran = gfs("chunk", "verify", str(closed))
    assert ran.exit_code == 0 and "6 replicas" in ran.stdout and ran.stdout.endswith("sound\n")
    listed = gfs("chunk", "inspect", str(closed)).stdout.splitlines()
    assert len(listed) == len(LENGTHS) and "v1" in listed[0]
    flip(file_of(closed, 5), 5 * BLOCK)
    ran = gfs("chunk", "verify", str(file_of(closed, 5)))
    assert ran.exit_code == 7 and "DAMAGE  chunk 5  bad blocks: 1 blocks" in ran.stdout
    told = json.loads(gfs("-o", "json", "chunk", "verify", str(closed)).stdout)
    assert told["summary"]["damage"] == 1 and told["findings"][0]["blocks"] == [5]
    assert gfs("chunk", "verify", "--handle", "4", str(closed)).exit_code == 0
    assert isinstance(gfs("chunk", "inspect", "--handle", "77", str(closed)).exception, NotFound)
    assert gfs("chunk", "verify", "--handle", "xyz", str(closed)).exit_code == 2


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ReplicaStore]:
    store = open_store(tmp_path)
    fill(store)
    yield store
    store.abandon()


def test_beside_a_server_that_writes_all_the_time_only_true_damage_is_told(
    tmp_path: Path, running: ReplicaStore
) -> None:
    flip(file_of(tmp_path, 4), 5)
    command = [sys.executable, "-m", "gfs", "-o", "json", "chunk", "verify", str(tmp_path)]
    for attempt in range(2):
        looking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        chance = random.Random(attempt)
        rounds = 0
        while looking.poll() is None:
            rounds += 1
            for handle in (2, 3, 5):
                length = running.committed_length(ChunkHandle(handle), V1)
                running.write(ChunkHandle(handle), V1, length, chance.randbytes(3000))
            running.write(ChunkHandle(6), V1, chance.randrange(BLOCK), chance.randbytes(500))
            created = ChunkHandle(1000 * (attempt + 1) + rounds)
            create(running, created)
            running.write(created, V1, 0, b"new")
            if rounds % 7 == 0:
                running.flush()
            if rounds % 3 == 0:
                running.delete(created)
        output, _ = looking.communicate()
        assert rounds > 5
        told = json.loads(output)
        damaged = [finding for finding in told["findings"] if finding["is_damage"]]
        assert [(finding["kind"], finding["handle"]) for finding in damaged] == [("bad_blocks", 4)]
        assert looking.returncode == 7
