"""Deleting, undeleting, purging and reclaiming in the replicated state (GFS §4.4)."""

from __future__ import annotations

import msgspec
import pytest

from gfs.errors import InvalidArgument, NotFound
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_of, find_chunks, list_page, read_counters, stat
from gfs.master.core.records import decode_chunk, decode_inode, encode_chunk, encode_inode, id_key
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.master.core.trash import below, reclaim_due, trash_bytes, trash_page
from gfs.messages import operations as op
from gfs.settings import PURGE_ENTRIES_MAX, RECLAIM_ROWS_MAX
from gfs.vocabulary import CHUNK_BYTES, InodeId
from tests.core.master_records import (
    NOW_MS,
    add_chunk,
    create,
    delete,
    grant,
    mkdir,
    purge,
    reclaim,
    record,
    rename,
    undelete,
)

EXPIRES = NOW_MS + 1000
EVERYTHING = below("/")
SERVERS = add_chunk(1, 0).replicas


class CountedTables(MemoryTables):
    """Counts the rows written, which is what a record's apply costs."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self.writes += 1
        super().put(table, key, value)

    def delete(self, table: Table, key: bytes) -> bool:
        self.writes += 1
        return super().delete(table, key)


class Master:
    def __init__(self) -> None:
        self.tables = CountedTables()
        self.state = MasterState(self.tables)

    def __call__(self, operation: op.AnyOperation) -> op.AnyOutcome:
        outcome = self.state.apply(record(operation))
        self.state.save()
        check_invariants(self.tables)
        return outcome

    def inode(self, operation: op.AnyOperation) -> int:
        outcome = self(operation)
        assert isinstance(outcome, op.Done), outcome
        return outcome.inode

    def refused(self, operation: op.AnyOperation) -> str:
        outcome = self(operation)
        assert isinstance(outcome, op.Refused), outcome
        return outcome.code

    def file(self, path: str, chunks: int = 1) -> int:
        inode = self.inode(create(path))
        for index in range(chunks):
            self(add_chunk(inode, index))
        return inode

    def drain(self, *, now_ms: int = 0, rows_max: int = 500) -> int:
        steps = 0
        while reclaim_due(self.tables, now_ms=now_ms):
            assert self(reclaim(now_ms, rows_max)) == op.Done()
            steps += 1
        return steps

    def chunks(self) -> list[int]:
        return [int.from_bytes(key, "big") for key, _ in self.tables.scan(Table.CHUNKS)]


@pytest.fixture
def master() -> Master:
    return Master()


class TestUndelete:
    def test_a_deleted_file_comes_back_as_it_was(self, master: Master) -> None:
        inode = master.file("/f", 2)
        before = stat(master.tables, "/f")
        master(delete("/f"))
        assert master.inode(undelete(inode, "/f")) == inode
        assert stat(master.tables, "/f") == before
        assert read_counters(master.tables).trash == 0
        assert isinstance(master(grant(inode, 1, 2, 1, *SERVERS)), op.ChunkGranted), "it can be written again"

    def test_a_tree_comes_back_whole_and_elsewhere_when_asked(self, master: Master) -> None:
        top = master.inode(mkdir("/a"))
        master.file("/a/f")
        master(delete("/a", recursive=True))
        master(undelete(top, "/b"))
        assert stat(master.tables, "/b/f").chunk_count == 1

    def test_parents_that_are_gone_are_made(self, master: Master) -> None:
        master(mkdir("/a/b", parents=True))
        inode = master.file("/a/b/f")
        master(delete("/a/b/f"))
        master(delete("/a", recursive=True))
        assert master.inode(undelete(inode, "/a/b/f")) == inode
        assert stat(master.tables, "/a/b/f").inode == inode

    def test_nothing_that_exists_is_replaced(self, master: Master) -> None:
        inode = master.file("/f")
        master(delete("/f"))
        newer = master.file("/f")
        assert master.refused(undelete(inode, "/f")) == "already_exists"
        assert master.refused(undelete(inode, "/")) == "invalid_argument"
        assert master.refused(undelete(inode, "/f/g")) == "not_a_directory"
        assert master.refused(undelete(inode, "/f/g/h")) == "not_a_directory"
        assert stat(master.tables, "/f").inode == newer

    def test_what_is_not_in_the_trash_is_not_found(self, master: Master) -> None:
        inode = master.file("/f")
        assert master.refused(undelete(inode, "/g")) == "not_found"
        master(delete("/f"))
        assert master.refused(undelete(inode, "/g", expires_at_ms=EXPIRES + 1)) == "not_found"
        assert master.refused(undelete(inode, "/g", expires_at_ms=0)) == "not_found"


class TestReading:
    def test_what_was_deleted_can_be_read_under_its_hidden_name(self, master: Master) -> None:
        top = master.inode(mkdir("/a"))
        inode = master.file("/a/f", 2)
        master(delete("/a", recursive=True))
        assert stat(master.tables, f"/.trash/{top}").kind == "directory"
        assert [entry.path for entry in list_page(master.tables, f"/.trash/{top}")[0]] == [f"/.trash/{top}/f"]
        entry, chunks = find_chunks(master.tables, f"/.trash/{top}/f", 0, 9)
        assert (entry.inode, [chunk.handle for chunk in chunks]) == (inode, [1, 2])

    def test_the_hidden_name_leads_to_nothing_else(self, master: Master) -> None:
        inode, other = master.file("/f"), master.file("/g")
        master(delete("/f"))
        for path in ("/.trash", f"/.trash/{other}", "/.trash/x", "/.trash/1", f"/.trash/{'9' * 20}"):
            with pytest.raises(NotFound):
                stat(master.tables, path)
        master(purge(inode))
        with pytest.raises(NotFound):
            stat(master.tables, f"/.trash/{inode}")

    def test_nothing_is_changed_under_a_hidden_name(self, master: Master) -> None:
        top = master.inode(mkdir("/a"))
        master.file("/a/f")
        master(delete("/a", recursive=True))
        hidden = f"/.trash/{top}"
        master.file("/g")
        for operation in (
            create(f"{hidden}/new"),
            mkdir(f"{hidden}/new"),
            delete(f"{hidden}/f"),
            delete(hidden, recursive=True),
            rename(f"{hidden}/f", "/f"),
            rename("/g", f"{hidden}/g"),
            undelete(top, f"{hidden}/g"),
            mkdir("/.trash"),
        ):
            assert master.refused(operation) == "invalid_argument"

    def test_the_trash_is_listed_page_by_page_soonest_first(self, master: Master) -> None:
        master(mkdir("/d"))
        for number, path in enumerate(("/c", "/d/b", "/a")):
            master.file(path)
            master(delete(path, expires_at_ms=EXPIRES - number))
        first, after = trash_page(master.tables, EVERYTHING, limit=2)
        rest, end = trash_page(master.tables, EVERYTHING, after=after, limit=2)
        assert [found.path for found in (*first, *rest)] == ["/a", "/d/b", "/c"] and end == ""
        assert {found.deleted_ms for found in first} == {NOW_MS}
        assert [found.path for found in trash_page(master.tables, below("/d"))[0]] == ["/d/b"]
        with pytest.raises(InvalidArgument):
            trash_page(master.tables, EVERYTHING, after="nonsense")

    def test_what_is_in_the_trash_is_added_up(self, master: Master) -> None:
        master(mkdir("/d"))
        inode = master.file("/d/f", 2)
        master(op.SetLengthHint(inode=InodeId(inode), length_bytes=CHUNK_BYTES + 5, closed=True))
        master.file("/g", 1)
        assert trash_bytes(master.tables) == 0
        master(delete("/d", recursive=True))
        master(delete("/g"))
        sizes = {found.path: found.content_bytes for found in trash_page(master.tables, EVERYTHING)[0]}
        assert sizes == {"/d": CHUNK_BYTES + 5, "/g": CHUNK_BYTES}, "one that was not closed counts in full"
        assert trash_bytes(master.tables) == 2 * CHUNK_BYTES + 5
        master(purge(*(found.entry.inode for found in trash_page(master.tables, EVERYTHING)[0])))
        assert trash_bytes(master.tables) == 0

    def test_rows_of_an_older_master_tell_no_time_of_deletion(self, master: Master) -> None:
        inode = master.file("/f")
        master(delete("/f"))
        [(key, _)] = master.tables.scan(Table.TRASH)
        master.tables.put(Table.TRASH, key, b"/f")
        [found] = trash_page(master.tables, EVERYTHING)[0]
        assert (found.path, found.deleted_ms, found.entry.inode) == ("/f", 0, inode)


class TestReclaiming:
    def test_nothing_is_reclaimed_before_its_time(self, master: Master) -> None:
        inode = master.file("/f", 2)
        master(delete("/f"))
        assert not reclaim_due(master.tables, now_ms=EXPIRES - 1)
        master(reclaim(EXPIRES - 1))
        assert chunk_of(master.tables, inode, 1) is not None
        assert master.inode(undelete(inode, "/f")) == inode

    def test_what_has_expired_is_gone_with_its_chunks(self, master: Master) -> None:
        inode, kept = master.file("/f", 2), master.file("/g", 2)
        master(delete("/f"))
        assert reclaim_due(master.tables, now_ms=EXPIRES)
        master.drain(now_ms=EXPIRES)
        counters = read_counters(master.tables)
        assert (counters.files, counters.chunks, counters.trash) == (1, 2, 0)
        assert master.chunks() == [3, 4] and stat(master.tables, "/g").inode == kept
        assert master.refused(undelete(inode, "/f")) == "not_found"
        assert master.inode(create("/h")) > kept, "ids and handles are never given out again"

    def test_purging_does_not_wait_and_cannot_be_undone(self, master: Master) -> None:
        inode = master.file("/f")
        master(delete("/f"))
        assert master(purge(inode)) == op.Done()
        assert master.refused(undelete(inode, "/f")) == "not_found"
        assert master.refused(purge(inode)) == "not_found"
        assert trash_page(master.tables, EVERYTHING)[0] == []
        master.drain(now_ms=0)
        assert master.chunks() == []

    def test_purging_some_that_are_there_and_some_that_are_not_purges_those(self, master: Master) -> None:
        inode = master.file("/f")
        master(delete("/f"))
        assert master(purge(inode, inode, 999)) == op.Done()
        assert master.refused(purge()) == "not_found"
        assert master.refused(purge(*range(2, PURGE_ENTRIES_MAX + 3))) == "invalid_argument"

    @pytest.mark.parametrize("rows_max", [1, 2, 7, 500, 10**9, -1])
    def test_a_tree_goes_in_steps_that_leave_sound_tables(self, master: Master, rows_max: int) -> None:
        for directory in ("/t", "/t/a", "/t/a/b", "/t/c"):
            master(mkdir(directory))
            for number in range(3):
                master.file(f"{directory}/{number}", number)
        master.file("/t/long", 12)
        master.file("/kept")
        master(delete("/t", recursive=True))
        steps = master.drain(now_ms=EXPIRES, rows_max=rows_max)
        assert steps > 10 if rows_max < 8 else steps == 1
        counters = read_counters(master.tables)
        assert (counters.files, counters.directories, counters.chunks) == (1, 1, 1)
        assert not list(master.tables.scan(Table.TRASH))

    def test_one_step_of_a_long_file_or_a_wide_tree_is_short(self) -> None:
        master = Master()
        tables, state = master.tables, master.state
        state.apply(record(mkdir("/t")))
        long = state.apply(record(create("/t/long")))
        assert isinstance(long, op.Done)
        for index in range(3000):
            state.apply(record(add_chunk(long.inode, index)))
        for number in range(3000):
            state.apply(record(mkdir(f"/t/{number}")))
            state.apply(record(create(f"/t/f{number}")))
        state.apply(record(delete("/t", recursive=True)))
        steps = 0
        while reclaim_due(tables, now_ms=EXPIRES):
            before = tables.writes
            state.apply(record(reclaim(EXPIRES, 10**9)))
            # An entry hung into the trash is three writes, and its inode and rows three more at its end.
            assert tables.writes - before <= 3 * RECLAIM_ROWS_MAX + 20
            steps += 1
        assert steps > 20
        state.save()
        check_invariants(tables)
        assert master.chunks() == [] and read_counters(tables).files == 0

    def test_a_chunk_that_another_file_shares_stays_until_the_last_one_goes(self, master: Master) -> None:
        shared, other = master.file("/f"), master.file("/g", 0)
        self.share(master, shared, other)
        master(delete("/f"))
        master.drain(now_ms=EXPIRES)
        assert master.chunks() == [1]
        found = chunk_of(master.tables, other, 0)
        assert found is not None and (found.handle, found.references) == (1, 1)
        master(delete("/g"))
        master.drain(now_ms=EXPIRES)
        assert master.chunks() == []

    def share(self, master: Master, source: int, target: int) -> None:
        """What a snapshot does: `target` names the chunk of `source`, whose references grow."""
        master(add_chunk(target, 0))
        rows = master.tables
        row = rows.get(Table.INODES, id_key(target))
        assert row is not None
        twin = msgspec.structs.replace(decode_inode(row), first_chunk=1)
        state = master.state
        state._tables.replace(Table.INODES, id_key(target), old=row, new=encode_inode(twin))
        lone = rows.get(Table.CHUNKS, id_key(2))
        chunk = rows.get(Table.CHUNKS, id_key(1))
        assert lone is not None and chunk is not None
        state._tables.remove(Table.CHUNKS, id_key(2), old=lone)
        state.counters.chunks -= 1
        two = msgspec.structs.replace(decode_chunk(chunk), references=2)
        state._tables.replace(Table.CHUNKS, id_key(1), old=chunk, new=encode_chunk(two))
        state.save()
        check_invariants(master.tables)

    def test_a_purged_file_takes_no_more_chunks_and_no_grants(self, master: Master) -> None:
        inode = master.file("/f", 30)
        master(delete("/f"))
        master(purge(inode))
        master(reclaim(0, 3))
        assert 0 < len(master.chunks()) < 30
        assert master.refused(add_chunk(inode, len(master.chunks()))) == "not_found"
        assert master.refused(grant(inode, 0, 1, 1, *SERVERS)) == "not_found"
