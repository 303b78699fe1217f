"""Every kind of damage that can be planted in a checkpoint is found by verify, and named."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gfs.inspect.checkpoint_files import find_checkpoint
from gfs.inspect.verify import Verdict, verify
from gfs.master.core.records import (
    ChunkCopy,
    Counters,
    SnapshotFrame,
    SnapshotJob,
    chunk_copy_key,
    decode_chunk,
    decode_counters,
    decode_inode,
    decode_session,
    dentry_key,
    dentry_value,
    encode_chunk,
    encode_counters,
    encode_inode,
    file_chunk_key,
    handle_value,
    id_key,
    read_dentry,
    read_id,
    trash_key,
)
from gfs.master.core.tables import Table
from tests.inspect import planted
from tests.inspect.planted import every_row, rewrite


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.make(tmp_path_factory.mktemp("inspect"))


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    path = tmp_path / original.name
    path.write_bytes(original.read_bytes())
    path.with_suffix(".manifest").write_bytes(original.with_suffix(".manifest").read_bytes())
    return path


def look(path: Path) -> Verdict:
    return verify(find_checkpoint(str(path)))


class Rows:
    """The rows of a checkpoint, to be changed in place."""

    def __init__(self, transaction, handles) -> None:
        self._transaction, self._handles = transaction, handles

    def get(self, table: Table, key: bytes) -> bytes:
        row = self._transaction.get(key, db=self._handles[table])
        assert row is not None, (table, key)
        return row

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value, db=self._handles[table])

    def delete(self, table: Table, key: bytes) -> None:
        assert self._transaction.delete(key, db=self._handles[table])

    def all(self, table: Table) -> list[tuple[bytes, bytes]]:
        return list(self._transaction.cursor(self._handles[table]))

    def inode(self, *names: str) -> int:
        at = 1
        for name in names:
            at = read_dentry(self.get(Table.DENTRIES, dentry_key(at, name.encode())))[0]
        return at

    def change_inode(self, inode: int, **fields: object) -> None:
        record = decode_inode(self.get(Table.INODES, id_key(inode)))
        changed = msgspec.structs.replace(record, **fields)
        self.put(Table.INODES, id_key(inode), encode_inode(changed))

    def change_chunk(self, handle: int, **fields: object) -> None:
        chunk = decode_chunk(self.get(Table.CHUNKS, id_key(handle)))
        self.put(Table.CHUNKS, id_key(handle), encode_chunk(msgspec.structs.replace(chunk, **fields)))

    def first_chunk(self, *names: str) -> int:
        return decode_inode(self.get(Table.INODES, id_key(self.inode(*names)))).first_chunk

    def change_counters(self, change: Callable[[Counters], None]) -> None:
        counters = decode_counters(self.get(Table.META, b"counters"))
        change(counters)
        self.put(Table.META, b"counters", encode_counters(counters))


class Damage(NamedTuple):
    name: str
    plant: Callable[[Rows], str]  # returns the row as it is to be named
    rule: str
    table: Table


def drop_inode(rows: Rows) -> str:
    rows.delete(Table.INODES, id_key(rows.inode("data", "f3")))
    return f"{rows.inode('data')}/f3"


def drop_entry(rows: Rows) -> str:
    inode = rows.inode("data", "f3")
    rows.delete(Table.DENTRIES, dentry_key(rows.inode("data"), b"f3"))
    return str(inode)


def second_name(rows: Rows) -> str:
    inode = rows.inode("data", "f3")
    rows.put(Table.DENTRIES, dentry_key(rows.inode("data"), b"g3"), dentry_value(inode, is_directory=False))
    return str(inode)


def name_elsewhere(rows: Rows) -> str:
    inode = rows.inode("data", "f3")
    rows.put(Table.DENTRIES, dentry_key(rows.inode("empty"), b"f3"), dentry_value(inode, is_directory=False))
    return f"{rows.inode('empty')}/f3"


def wrong_kind(rows: Rows) -> str:
    key = dentry_key(rows.inode("data"), b"f3")
    rows.put(Table.DENTRIES, key, dentry_value(rows.inode("data", "f3"), is_directory=True))
    return f"{rows.inode('data')}/f3"


def entry_in_a_file(rows: Rows) -> str:
    above = rows.inode("data", "f3")
    inode = rows.inode("data", "f2")
    rows.put(Table.DENTRIES, dentry_key(above, b"x"), dentry_value(inode, is_directory=False))
    return f"{above}/x"


def entry_in_nothing(rows: Rows) -> str:
    rows.put(Table.DENTRIES, dentry_key(99, b"x"), dentry_value(rows.inode("empty"), is_directory=True))
    return "99/x"


def bad_name(rows: Rows) -> str:
    key = dentry_key(rows.inode("data"), b"f3")
    value = rows.get(Table.DENTRIES, key)
    rows.delete(Table.DENTRIES, key)
    rows.put(Table.DENTRIES, dentry_key(rows.inode("data"), b"f\xff"), value)
    return f"{rows.inode('data')}/f\\xff"


def ring(rows: Rows) -> str:
    """/data/deep/er moves below itself."""
    deep, er = rows.inode("data", "deep"), rows.inode("data", "deep", "er")
    rows.delete(Table.DENTRIES, dentry_key(rows.inode("data"), b"deep"))
    rows.put(Table.DENTRIES, dentry_key(er, b"deep"), dentry_value(deep, is_directory=True))
    rows.change_inode(deep, parent=er)
    return str(er)  # the sum of the other one happens to be right: it had all of that below it before


def wrong_sum(rows: Rows) -> str:
    key = id_key(rows.inode("data"))
    files, directories, content = struct.unpack(">QQQ", rows.get(Table.USAGE, key))
    rows.put(Table.USAGE, key, struct.pack(">QQQ", files + 1, directories, content))
    return str(rows.inode("data"))


def sum_of_an_empty_directory(rows: Rows) -> str:
    rows.put(Table.USAGE, id_key(rows.inode("empty")), struct.pack(">QQQ", 1, 0, 0))
    return str(rows.inode("empty"))


def unknown_flags(rows: Rows) -> str:
    key = id_key(rows.inode("data", "f3"))
    row = rows.get(Table.INODES, key)
    rows.put(Table.INODES, key, bytes([row[0] | 0x40]) + row[1:])
    return str(rows.inode("data", "f3"))


def short_inode(rows: Rows) -> str:
    key = id_key(rows.inode("data", "f3"))
    rows.put(Table.INODES, key, rows.get(Table.INODES, key)[:-1])
    return str(read_id(key))


def too_long(rows: Rows) -> str:
    inode = rows.inode("data", "f3")
    rows.change_inode(inode, length_bytes=65 * 2**20)
    return str(inode)


def unknown_owner(rows: Rows) -> str:
    inode = rows.inode("data", "f3")
    rows.change_inode(inode, ownership=77)
    return str(inode)


def drop_root(rows: Rows) -> str:
    rows.delete(Table.INODES, id_key(1))
    return "1"


def lost_chunk(rows: Rows) -> str:
    handle = rows.first_chunk("data", "f3")
    rows.delete(Table.CHUNKS, id_key(handle))
    return str(handle)


def orphan_chunk(rows: Rows) -> str:
    handle = decode_counters(rows.get(Table.META, b"counters")).next_handle
    rows.change_counters(lambda counters: setattr(counters, "next_handle", handle + 1))
    rows.put(Table.CHUNKS, id_key(handle), rows.get(Table.CHUNKS, id_key(rows.first_chunk("data", "f3"))))
    return str(handle)


def reference_count(rows: Rows) -> str:
    handle = rows.first_chunk("data", "f3")
    rows.change_chunk(handle, references=2)
    return str(handle)


def two_files_one_chunk(rows: Rows) -> str:
    handle = rows.first_chunk("data", "f3")
    rows.change_inode(rows.inode("data", "f2"), first_chunk=handle)
    return str(handle)


def hole_in_a_file(rows: Rows) -> str:
    inode = rows.inode("data", "deep", "long")
    rows.delete(Table.FILE_CHUNKS, file_chunk_key(inode, 2))
    return f"{inode}/3"


def chunks_cut_off(rows: Rows) -> str:
    inode = rows.inode("data", "deep", "long")
    rows.delete(Table.FILE_CHUNKS, file_chunk_key(inode, 3))
    return f"{inode}/3"


def chunk_of_nothing(rows: Rows) -> str:
    rows.put(Table.FILE_CHUNKS, file_chunk_key(7777, 1), handle_value(1))
    return "7777/1"


def short_handle(rows: Rows) -> str:
    inode = rows.inode("data", "deep", "long")
    rows.put(Table.FILE_CHUNKS, file_chunk_key(inode, 2), b"\x01")
    return f"{inode}/2"


def changes_chunk(**fields: object) -> Callable[[Rows], str]:
    def plant(rows: Rows) -> str:
        handle = rows.first_chunk("data", "f3")
        rows.change_chunk(handle, **fields)
        return str(handle)

    return plant


def unreadable_chunk(rows: Rows) -> str:
    handle = rows.first_chunk("data", "f3")
    rows.put(Table.CHUNKS, id_key(handle), b"\xc1")
    return str(handle)


def counts(**fields: int) -> Callable[[Rows], str]:
    def plant(rows: Rows) -> str:
        rows.change_counters(lambda counters: [setattr(counters, *one) for one in fields.items()])
        return "counters"

    return plant


def deletes(table: Table, key: bytes, named: str) -> Callable[[Rows], str]:
    def plant(rows: Rows) -> str:
        rows.delete(table, key)
        return named

    return plant


def puts(table: Table, key: bytes, value: bytes, named: str) -> Callable[[Rows], str]:
    def plant(rows: Rows) -> str:
        rows.put(table, key, value)
        return named

    return plant


def trash_of_nothing(rows: Rows) -> str:
    rows.put(Table.TRASH, trash_key(0, 8888), b"")
    return "0/8888"


def trash_lost(rows: Rows) -> str:
    key = rows.all(Table.TRASH)[0][0]
    rows.delete(Table.TRASH, key)
    return str(read_id(key[8:]))


def snapshot_of_nothing(rows: Rows) -> str:
    key, _ = next(row for row in rows.all(Table.UNFINISHED) if row[0][:1] == b"s")
    job = SnapshotJob(6666, "/a", "/b", (SnapshotFrame(6666, read_id(key[1:]), b""),))
    rows.put(Table.UNFINISHED, key, msgspec.msgpack.encode(job))
    return f"s{read_id(key[1:])}"


def reserved_and_there(rows: Rows) -> str:
    handle = rows.first_chunk("data", "f3")
    rows.put(Table.UNFINISHED, chunk_copy_key(handle), msgspec.msgpack.encode(ChunkCopy(1, 0, handle, 1)))
    return f"c{handle}"


def policy_of_a_file(rows: Rows) -> str:
    inode = rows.inode("data", "f3")
    rows.put(Table.POLICIES, id_key(inode), rows.all(Table.POLICIES)[0][1])
    return str(inode)


def policy_without_sense(rows: Rows) -> str:
    key = rows.all(Table.POLICIES)[0][0]
    rows.put(Table.POLICIES, key, msgspec.msgpack.encode([99, 0, -1, "", -1, -1]))
    return str(read_id(key))


def lost_outcome(rows: Rows) -> str:
    key = next(key for key, _ in rows.all(Table.SESSIONS) if len(key) == 16)
    rows.delete(Table.SESSIONS, key)
    return str(read_id(key))


def lost_session(rows: Rows) -> str:
    keys = [key for key, _ in rows.all(Table.SESSIONS)]
    rows.delete(Table.SESSIONS, keys[0])
    return f"{read_id(keys[1])}/{read_id(keys[1][8:])}"


def skipped_request(rows: Rows) -> str:
    key, row = rows.all(Table.SESSIONS)[0]
    header = decode_session(row)
    header.highest = 1
    rows.put(Table.SESSIONS, key, msgspec.msgpack.encode(header))
    return f"{read_id(key)}/2"


def server_without_name(rows: Rows) -> str:
    rows.delete(Table.SERVERS, b"#" + id_key(2))
    return "=cs-b"


def owner_without_number(rows: Rows) -> str:
    rows.delete(Table.OWNERS, b"=ann:crawl")
    return "=ann:crawl"


def silent_change(rows: Rows) -> str:
    """Nothing but the digest can tell."""
    rows.change_inode(rows.inode("data", "f3"), modified_ms=1)
    return "digest"


DAMAGES = [
    Damage("inode lost", drop_inode, "dangling entry", Table.DENTRIES),
    Damage("entry lost", drop_entry, "unreachable", Table.INODES),
    Damage("two names in one directory", second_name, "held twice", Table.INODES),
    Damage("name in another directory", name_elsewhere, "parent", Table.DENTRIES),
    Damage("kind of an entry", wrong_kind, "kind", Table.DENTRIES),
    Damage("entry in a file", entry_in_a_file, "entry of a file", Table.DENTRIES),
    Damage("entry in nothing", entry_in_nothing, "entry of nothing", Table.DENTRIES),
    Damage("name", bad_name, "name", Table.DENTRIES),
    Damage("ring of directories", ring, "ring", Table.INODES),
    Damage("sum", wrong_sum, "sum", Table.USAGE),
    Damage("sum of nothing", sum_of_an_empty_directory, "sum of nothing", Table.USAGE),
    Damage("flags", unknown_flags, "inode", Table.INODES),
    Damage("inode cut short", short_inode, "inode", Table.INODES),
    Damage("length", too_long, "inode", Table.INODES),
    Damage("owner unknown", unknown_owner, "inode", Table.INODES),
    Damage("root lost", drop_root, "no root", Table.INODES),
    Damage("chunk lost", lost_chunk, "lost chunk", Table.CHUNKS),
    Damage("chunk of no file", orphan_chunk, "orphan chunk", Table.CHUNKS),
    Damage("reference count", reference_count, "reference count", Table.CHUNKS),
    Damage("two files, one chunk", two_files_one_chunk, "shared chunk", Table.CHUNKS),
    Damage("hole in a file", hole_in_a_file, "missing chunk of a file", Table.FILE_CHUNKS),
    Damage("file cut short", chunks_cut_off, "missing chunk of a file", Table.FILE_CHUNKS),
    Damage("chunk of nothing", chunk_of_nothing, "chunk of nothing", Table.FILE_CHUNKS),
    Damage("short handle", short_handle, "file's chunk", Table.FILE_CHUNKS),
    Damage("no version", changes_chunk(version=0), "chunk", Table.CHUNKS),
    Damage("held in the future", changes_chunk(held_version=9), "chunk", Table.CHUNKS),
    Damage("server twice", changes_chunk(servers=(1, 1)), "chunk", Table.CHUNKS),
    Damage("server unknown", changes_chunk(servers=(1, 9)), "chunk", Table.CHUNKS),
    Damage("no servers", changes_chunk(servers=(), primary=0), "chunk", Table.CHUNKS),
    Damage("primary outside", changes_chunk(primary=5), "chunk", Table.CHUNKS),
    Damage("length without seal", changes_chunk(length_bytes=5), "chunk", Table.CHUNKS),
    Damage("chunk unreadable", unreadable_chunk, "chunk", Table.CHUNKS),
    Damage("count of files", counts(files=1), "counter", Table.META),
    Damage("count of directories", counts(directories=99), "counter", Table.META),
    Damage("count of chunks", counts(chunks=1), "counter", Table.META),
    Damage("count of trash", counts(trash=0), "counter", Table.META),
    Damage("count of sessions", counts(sessions=5), "counter", Table.META),
    Damage("counters lost", deletes(Table.META, b"counters", "counters"), "counter", Table.META),
    Damage("counters unreadable", puts(Table.META, b"counters", b"\xc1", "counters"), "counter", Table.META),
    Damage("digest lost", deletes(Table.META, b"digest", "digest"), "digest", Table.META),
    Damage("format of the future", puts(Table.META, b"format", b"\0\x63", "format"), "format", Table.META),
    Damage("unknown row", puts(Table.META, b"surprise", b"1", "surprise"), "meta", Table.META),
    Damage("applied", puts(Table.META, b"applied", bytes(16), "applied"), "applied", Table.META),
    Damage("trash of nothing", trash_of_nothing, "nothing held", Table.TRASH),
    Damage("trash lost", trash_lost, "unreachable", Table.INODES),
    Damage("snapshot of nothing", snapshot_of_nothing, "snapshot", Table.UNFINISHED),
    Damage("reserved and there", reserved_and_there, "copy", Table.UNFINISHED),
    Damage("policy of a file", policy_of_a_file, "policy of nothing", Table.POLICIES),
    Damage("policy", policy_without_sense, "policy", Table.POLICIES),
    Damage("outcome lost", lost_outcome, "session", Table.SESSIONS),
    Damage("session lost", lost_session, "outcome of nobody", Table.SESSIONS),
    Damage("request skipped", skipped_request, "session", Table.SESSIONS),
    Damage("server without name", server_without_name, "numbers", Table.SERVERS),
    Damage("tenure", puts(Table.SERVERS, b"!cs-d", b"asleep", "!cs-d"), "server", Table.SERVERS),
    Damage("owner without number", owner_without_number, "numbers", Table.OWNERS),
    Damage("a change that breaks no rule", silent_change, "digest", Table.META),
]


def test_what_a_master_wrote_is_sound_and_each_table_has_rows(original: Path) -> None:
    verdict = look(original)
    assert verdict.findings == [] and verdict.is_sound
    assert all(verdict.rows.values()), verdict.rows


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damage_in_a_row_is_found_and_the_row_named(copy: Path, damage: Damage) -> None:
    named = ""

    def plant(transaction, handles) -> None:
        nonlocal named
        named = damage.plant(Rows(transaction, handles))

    rewrite(copy, plant)
    verdict = look(copy)
    found = [(f.rule, f.table, f.key) for f in verdict.findings]
    assert (damage.rule, damage.table.value.decode(), named) in found, found
    assert "unreadable" not in verdict.counts, verdict.findings


@pytest.mark.parametrize("table", Table, ids=lambda table: table.name)
def test_any_flipped_bit_in_any_table_is_found(copy: Path, table: Table) -> None:
    chance = random.Random(f"flip {table.name}")
    before = copy.read_bytes()
    manifest = copy.with_suffix(".manifest").read_bytes()
    rows = sorted(row for row in every_row(copy, table).items() if row[1])
    for key, value in chance.sample(rows, min(4, len(rows))):
        bit = chance.randrange(8 * len(value))
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        rewrite(copy, lambda t, h, k=key, v=bytes(flipped): t.put(k, v, db=h[table]))
        verdict = look(copy)
        # Of META the digest's mark is what no rule can judge.
        assert not verdict.is_sound or (table is Table.META and key == b"digest_mark"), (key, value, bit)
        copy.write_bytes(before)
        copy.with_suffix(".manifest").write_bytes(manifest)


def test_many_findings_are_told_at_once_and_no_more_kept_than_are_shown(copy: Path) -> None:
    def plant(transaction, handles) -> None:
        transaction.drop(handles[Table.CHUNKS], delete=False)
        rows = Rows(transaction, handles)
        rows.delete(Table.OWNERS, b"=ann:crawl")

    rewrite(copy, plant)
    verdict = look(copy)
    assert verdict.counts["lost chunk"] == 9
    assert {"counter", "numbers", "digest"} <= set(verdict.counts)
    assert any("inode" in f.message for f in verdict.findings if f.rule == "lost chunk")


def test_a_flipped_bit_anywhere_in_the_file_is_found_and_ends_no_tool(copy: Path) -> None:
    chance = random.Random("flips in the file")
    before = copy.read_bytes()
    for _ in range(12):
        flipped = bytearray(before)
        for _ in range(chance.choice([1, 1, 40])):
            bit = chance.randrange(8 * len(flipped))
            flipped[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(flipped)
        verdict = look(copy)
        assert verdict.counts["bytes"] == 1


def test_pages_of_rubbish_under_a_fitting_manifest_end_no_tool(copy: Path) -> None:
    """The file's own pointers lead astray: whoever follows them may die of it, and that is told."""
    chance = random.Random("rubbish")
    before = copy.read_bytes()
    for page in range(0, len(before), 4096):
        copy.write_bytes(before[:page] + chance.randbytes(4096) + before[page + 4096 :])
        planted.remake_manifest(copy)
        look(copy)  # a page that nothing leads to may be missed; no page ends the tool


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, -4096, -1])
def test_a_file_cut_short_is_found_by_its_length(copy: Path, keep: int) -> None:
    content = copy.read_bytes()
    copy.write_bytes(content[:keep])
    assert "bytes" in look(copy).counts
    planted.remake_manifest(copy)
    if keep not in (-1, -4096):
        assert "unreadable" in look(copy).counts


def test_a_torn_a_foreign_and_a_missing_manifest_are_named(copy: Path) -> None:
    manifest = copy.with_suffix(".manifest")
    content = manifest.read_bytes()
    manifest.write_bytes(content[: len(content) // 2])
    assert look(copy).counts == {"manifest": 1}
    other = planted.make_manifest(b"", index=7, term=1)
    manifest.write_bytes(planted.encode_manifest(other))
    assert "its manifest is that of" in look(copy).findings[0].message
    manifest.unlink()
    assert [f.message for f in look(copy).findings] == ["it has no manifest"]


def test_a_manifest_of_the_future_is_named_by_its_format(copy: Path) -> None:
    line = b'{"format":7,"cluster":"c","colour":"blue"}\n'
    copy.with_suffix(".manifest").write_bytes(line + b"%08x\n" % planted.crc32c(line))
    assert [f.message for f in look(copy).findings] == ["the checkpoint has format 7, not 1"]


def test_rows_out_of_order_are_named_although_each_of_them_is_whole(copy: Path) -> None:
    data = next(
        key[:8] for key in every_row(copy, Table.DENTRIES) if key[8:] == b"f2"
    )  # the directory that f2 and f3 are in
    first, second = (data + name for name in (b"f2", b"f3"))
    content = copy.read_bytes()
    assert content.count(first) == content.count(second) == 1
    # The nodes of a page follow their keys, so exchanging both keys and both values changes the order alone.
    one, other = (content.index(key) for key in (first, second))
    width = len(first) + 6
    swapped = bytearray(content)
    swapped[one : one + width], swapped[other : other + width] = (
        content[other : other + width],
        content[one : one + width],
    )
    copy.write_bytes(swapped)
    planted.remake_manifest(copy)
    (finding,) = look(copy).findings
    assert finding.rule == "unreadable" and "dentries do not ascend" in finding.message
