"""What the tools say of a checkpoint is what the master that wrote it would say."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import tracemalloc
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from gfs.errors import CorruptState, InvalidArgument, NotFound, UnsupportedVersion
from gfs.inspect.checkpoint_files import CheckpointFile, find_checkpoint, list_checkpoints
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.diff import Difference, diff_chunks, diff_paths
from gfs.inspect.disk_sorter import DiskSorter
from gfs.inspect.export import export
from gfs.inspect.guarded import guarded
from gfs.inspect.query import query
from gfs.inspect.relations import RELATIONS
from gfs.inspect.summary import detail_of_handle, detail_of_path, summarize
from gfs.inspect.what_if import read_racks, what_if
from gfs.master.checkpoint_directory import encode_manifest
from gfs.master.core.digest import digest_rows
from gfs.master.core.invariants import find_faults
from gfs.master.core.records import read_trash_key
from gfs.master.core.tables import Table
from gfs.messages import operations as op
from tests.core.master_records import A, B, C, D, add_chunk, change, create, delete, hint, mkdir, rename
from tests.inspect import planted
from tests.inspect.planted import World, fill


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.make(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def file(original: Path) -> CheckpointFile:
    return find_checkpoint(str(original))


def rows_of(file: CheckpointFile, sql: str) -> list[list[object]]:
    return [list(row) for row in query(file, sql).rows]


class TestFinding:
    def test_a_path_may_be_the_file_its_manifest_or_a_directory_above(self, original: Path) -> None:
        for path in (original, original.with_suffix(".manifest"), original.parent, original.parent.parent):
            assert find_checkpoint(str(path)).path == str(original)

    def test_of_a_directory_the_newest_is_taken_that_is_not_torn(
        self, original: Path, tmp_path: Path
    ) -> None:
        content = original.read_bytes()
        for index in (7, 9):
            manifest = planted.make_manifest(content, index=index, term=1)
            path = tmp_path / f"checkpoint-{index:020}-1.lmdb"
            path.write_bytes(content if index == 7 else content[:-1])
            path.with_suffix(".manifest").write_bytes(encode_manifest(manifest))
        (tmp_path / f"checkpoint-{10:020}-1.lmdb").write_bytes(content)  # its manifest was never written
        found = find_checkpoint(str(tmp_path))
        assert found.path.endswith("7-1.lmdb")
        assert [path[-8:] for path in found.passed_over] == ["9-1.lmdb", "0-1.lmdb"]
        rows = {row.index: (row.wholeness, row.why) for row in list_checkpoints(str(tmp_path))}
        assert rows[7] == ("whole", "")
        assert rows[9][0] == "torn" and "bytes long" in rows[9][1]

    def test_ls_tells_whole_torn_damaged_newer_and_leftover_apart(
        self, original: Path, tmp_path: Path
    ) -> None:
        content = original.read_bytes()

        def put(index: int, content: bytes, manifest: bytes | None) -> None:
            path = tmp_path / f"checkpoint-{index:020}-1.lmdb"
            path.write_bytes(content)
            if manifest is not None:
                path.with_suffix(".manifest").write_bytes(manifest)

        for index in (1, 2):
            manifest = encode_manifest(planted.make_manifest(content, index=index, term=1))
            put(index, content if index == 1 else content[:-1] + b"?", manifest)
        put(3, content, None)
        newer = b'{"format":2}\n'
        put(4, content, newer + b"%08x\n" % planted.crc32c(newer))
        (tmp_path / "checkpoint-00000000000000000005-1.tmp").write_bytes(b"x")
        (tmp_path / "checkpoint-00000000000000000006-1.manifest").write_bytes(b"")
        rows = {row.index: row.wholeness for row in list_checkpoints(str(tmp_path))}
        assert rows == {1: "whole", 2: "damaged", 3: "torn", 4: "newer format", 5: "leftover", 6: "torn"}

    def test_nothing_there_is_said_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            find_checkpoint(str(tmp_path / "nowhere"))
        with pytest.raises(NotFound, match="no checkpoint"):
            find_checkpoint(str(tmp_path))

    def test_no_question_is_put_to_bytes_that_are_not_those_of_the_manifest(
        self, original: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / original.name
        path.write_bytes(original.read_bytes()[:-4096] + bytes(4096))
        path.with_suffix(".manifest").write_bytes(original.with_suffix(".manifest").read_bytes())
        with pytest.raises(CorruptState, match="checksum"):
            summarize(find_checkpoint(str(path)))

    def test_a_newer_state_is_refused_by_its_format(self, original: Path, tmp_path: Path) -> None:
        path = tmp_path / original.name
        path.write_bytes(original.read_bytes())
        planted.rewrite(path, lambda t, handles: t.put(b"format", b"\0\x63", db=handles[Table.META]))
        with pytest.raises(UnsupportedVersion, match="format 99"):
            summarize(find_checkpoint(str(path)))


class TestInspect:
    def test_totals_sizes_and_the_biggest_directories(self, file: CheckpointFile) -> None:
        found = summarize(file)
        assert (found.index, found.term, found.files, found.directories) == (41, 3, 12, 8)
        assert (found.chunks, found.shared_chunks, found.sealed_chunks, found.in_trash) == (9, 4, 1, 2)
        assert found.replicas == {3: 9} and found.servers == 4
        assert [(size.bytes_max, size.files) for size in found.sizes] == [
            (0, 5),
            (4096, 4),
            (16384, 1),
            (2**28, 2),
        ]
        assert [d.path for d in found.biggest if d.depth == 1] == ["/data", "/copy", "/empty"]
        assert next(d for d in found.biggest if d.path == "/data").files == 7

    def test_one_path_with_its_chunks(self, file: CheckpointFile) -> None:
        found = detail_of_path(file, "/data/deep/long")
        assert (found.chunk_count, found.length_bytes) == (4, 3 * 64 * 2**20 + 5)
        assert [chunk.index for chunk in found.chunks] == [0, 1, 2, 3]
        assert found.chunks[2].sealed and found.chunks[2].length_bytes == 64 * 2**20
        assert found.chunks[0].replicas == [B, C, D]
        assert detail_of_path(file, "/data/f1").owner == "ann"
        assert detail_of_path(file, "/data").files_below == 7
        with pytest.raises(NotFound, match="/data/none"):
            detail_of_path(file, "/data/none")

    def test_one_handle_with_the_files_that_share_it(self, file: CheckpointFile) -> None:
        handle = detail_of_path(file, "/data/deep/long").chunks[1].handle
        found = detail_of_handle(file, handle)
        assert [(one.path, one.index) for one in found.files] == [("/data/deep/long", 1), ("/copy/long", 1)]
        assert found.chunk.files == 2
        with pytest.raises(NotFound):
            detail_of_handle(file, 12345)


class TestQuery:
    @pytest.mark.parametrize("name", RELATIONS)
    def test_every_documented_column_of_every_table_is_there(self, file: CheckpointFile, name: str) -> None:
        answer = query(file, f"SELECT * FROM {name}")
        assert answer.columns == list(RELATIONS[name].columns)
        kinds = {"INTEGER": int, "TEXT": str}
        rows = list(answer.rows)
        assert rows
        for row in rows:
            assert [type(cell) for cell in row] == [
                kinds[kind] for kind, _ in RELATIONS[name].columns.values()
            ]

    def test_joins_and_groups(self, file: CheckpointFile) -> None:
        sql = (
            """SELECT path, count(*) FROM files JOIN file_chunks USING (inode) GROUP BY path ORDER BY path"""
        )
        assert ["/copy/long", 4] in rows_of(file, sql) and ["/data/f0", 1] in rows_of(file, sql)
        assert rows_of(file, "SELECT server, tenure FROM servers WHERE tenure <> 'serving'") == [
            [D, "draining"]
        ]
        assert rows_of(file, "SELECT count(*) FROM files WHERE deleted")[0] == [3]
        assert rows_of(file, "SELECT value FROM meta WHERE name = 'applied_index'") == [["41"]]

    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM files",
            "INSERT INTO files SELECT * FROM files",
            "DROP TABLE chunks",
            "CREATE TABLE mine (a)",
            "ATTACH '/tmp/stolen' AS other",
            "PRAGMA journal_mode=WAL",
            "VACUUM INTO '/tmp/stolen'",
            "SELECT load_extension('evil')",
            "BEGIN",
        ],
    )
    def test_nothing_but_reading_is_let_through(self, file: CheckpointFile, sql: str) -> None:
        with pytest.raises(InvalidArgument):
            rows_of(file, sql)

    @pytest.mark.parametrize(
        "sql", ["selec", "", "SELECT * FROM nothing", "SELECT 1; SELECT 2", "SELECT nope"]
    )
    def test_what_is_no_query_is_refused_with_sqlites_words(self, file: CheckpointFile, sql: str) -> None:
        with pytest.raises(InvalidArgument):
            rows_of(file, sql)


class TestExport:
    def test_json_lines_and_csv_hold_the_same(self, file: CheckpointFile) -> None:
        for name in RELATIONS:
            lines = [json.loads(line) for line in b"".join(export(file, name, "jsonl")).splitlines()]
            table = list(csv.DictReader(io.StringIO(b"".join(export(file, name, "csv")).decode())))
            assert [{key: str(value) for key, value in line.items()} for line in lines] == table

    def test_parquet_is_refused_by_name_where_pyarrow_is_missing(
        self, file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(InvalidArgument, match="pyarrow"):
            list(export(file, "files", "parquet"))

    def test_parquet_holds_the_same(self, file: CheckpointFile, tmp_path: Path) -> None:
        (tmp_path / "files.parquet").write_bytes(b"".join(export(file, "files", "parquet")))
        lines = [json.loads(line) for line in b"".join(export(file, "files", "jsonl")).splitlines()]
        assert parquet.read_table(tmp_path / "files.parquet").to_pylist() == lines


class TestWhatIf:
    def test_sets_in_the_checkpoint_say_what_is_lost_and_what_is_one_failure_away(
        self, file: CheckpointFile
    ) -> None:
        outlook, files = what_if(file, servers=[A, B], rack_of={})
        assert outlook.chunks == {"lost": 0, "last_replica": 5, "one_rack": 0, "short": 4, "untouched": 0}
        assert {(one.path, one.fate) for one in files} == {
            (path, "last_replica")
            for path in ("/data/f0", "/data/f1", "/data/f2", "/data/f3", "/data/renamed")
        }
        outlook, files = what_if(file, servers=[A, B, C], rack_of={})
        assert outlook.chunks["lost"] == 5
        found = list(files)
        assert next(one.path for one in found if one.fate == "lost") == "/data/f0"
        assert ("/copy/long", "last_replica", 4) in [(one.path, one.fate, one.chunks) for one in found]

    def test_racks_come_from_a_saved_report(self, file: CheckpointFile, tmp_path: Path) -> None:
        report = tmp_path / "servers.json"
        rows = [
            {"id": server, "rack": rack, "free": 1}
            for server, rack in ((A, "x"), (B, "y"), (C, "y"), (D, "z"))
        ]
        report.write_text(json.dumps(rows))
        outlook, files = what_if(file, racks=["x"], rack_of=read_racks(str(report)))
        assert outlook.servers_lost == [A]
        assert outlook.chunks["one_rack"] == 5, "what is left of A, B, C lies in rack y"
        assert {one.fate for one in files} == {"one_rack"}
        with pytest.raises(InvalidArgument, match="rack 'nowhere'"):
            what_if(file, racks=["nowhere"], rack_of=read_racks(str(report)))
        with pytest.raises(InvalidArgument, match="no chunk server 'cs-q'"):
            what_if(file, servers=["cs-q"], rack_of={})
        report.write_text("nonsense")
        with pytest.raises(InvalidArgument, match="no list of chunk servers"):
            read_racks(str(report))


class TestDiff:
    @pytest.fixture(scope="class")
    @classmethod
    def two(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckpointFile, CheckpointFile]:
        folder = tmp_path_factory.mktemp("diff")
        world = World(folder / "world")
        fill(world)
        world(mkdir("/short-lived"))
        world(create("/short-lived/file"))
        for number in range(5000):
            world(create(f"/empty/e{number:05}"))
        before = world.checkpoint(folder / "a", index=41)
        world(create("/data/deep/new"))
        world(add_chunk(world(create("/empty/a")), 0))
        world(mkdir("/fresh/sub", parents=True))
        world(create("/fresh/sub/x"))
        world(rename("/data/deep/er", "/empty/er"))
        world(rename("/data/f1", "/fresh/f1"))
        world(create("/empty/er/later"))
        world(delete("/data/f2"))
        world(delete("/short-lived", recursive=True))
        world(op.PurgeTrash(entries=(trash_name(world, "short-lived"),)))
        world(op.Reclaim(now_ms=0, rows_max=500))
        world(op.ChangeMode(path="/data/f3", mode=0o777))
        world(delete("/empty/e02500"))
        world(change(1, 1, A, B, C))
        after = world.checkpoint(folder / "b", index=99)
        world.tables.close()
        return find_checkpoint(str(before)), find_checkpoint(str(after))

    def test_each_change_is_told_once_by_its_path(self, two: tuple[CheckpointFile, CheckpointFile]) -> None:
        found = [(one.change, one.path) for one in diff_paths(*two)]
        assert len(found) == len(set(found))
        assert set(found) == {
            ("added", "/data/deep/new"),
            ("added", "/empty/a"),
            ("added", "/fresh"),
            ("added", "/fresh/sub"),
            ("added", "/fresh/sub/x"),
            ("moved away", "/data/deep/er"),
            ("moved here", "/empty/er"),
            ("added", "/empty/er/later"),
            ("moved away", "/data/f1"),
            ("moved here", "/fresh/f1"),
            ("deleted", "/data/f2"),
            ("removed", "/short-lived"),
            ("removed", "/short-lived/file"),
            ("changed", "/data/f3"),
            ("deleted", "/empty/e02500"),
        } | {("changed", path) for path in touched(found)}

    def test_a_change_says_what_was_and_what_is(self, two: tuple[CheckpointFile, CheckpointFile]) -> None:
        (one,) = [one for one in diff_paths(*two) if one.path == "/data/f3"]
        assert one.fields["mode"] == ("644", "777")

    def test_chunks_are_compared_by_handle(self, two: tuple[CheckpointFile, CheckpointFile]) -> None:
        found = {one.handle: one for one in diff_chunks(*two)}
        assert found[1].change == "changed" and found[1].fields["version"] == ("1", "2")
        assert [one.change for handle, one in found.items() if handle > 1] == ["added"]

    def test_the_other_way_round_additions_are_removals(
        self, two: tuple[CheckpointFile, CheckpointFile]
    ) -> None:
        back = {(one.change, one.path) for one in diff_paths(two[1], two[0])}
        assert ("removed", "/fresh/sub/x") in back and ("moved here", "/data/deep/er") in back

    def test_a_checkpoint_does_not_differ_from_itself(
        self, two: tuple[CheckpointFile, CheckpointFile]
    ) -> None:
        same: list[Difference] = [*diff_paths(two[1], two[1]), *diff_chunks(two[1], two[1])]
        assert same == []


def touched(found: list[tuple[str, str]]) -> list[str]:
    """Directories whose time of change moved because of what happened in them."""
    return [
        path
        for change, path in found
        if change == "changed" and path in ("/", "/data", "/data/deep", "/empty")
    ]


def trash_name(world: World, name: str) -> op.TrashName:
    for key, row in world.tables.scan(Table.TRASH):
        if name.encode() in row:
            return op.TrashName(*read_trash_key(key))
    raise AssertionError(name)


def test_numbers_come_back_in_order_whether_or_not_they_fit() -> None:
    numbers = [(number * 7919) % 10007 for number in range(10007)]
    for run in (100, 10**6):
        sorter = DiskSorter(run_numbers=run)
        for start in range(0, len(numbers), 77):
            sorter.add(numbers[start : start + 77])
        assert list(sorter.in_order()) == sorted(numbers)


def test_verifying_five_times_the_files_takes_no_more_memory(tmp_path: Path) -> None:
    def peak_bytes(files: int) -> int:
        world = World(tmp_path / f"world{files}")
        world(mkdir("/d"))
        for number in range(files):
            world(add_chunk(world(create(f"/d/f{number}")), 0))
        path = world.checkpoint(tmp_path / f"c{files}")
        world.tables.close()
        tables = CheckpointTables(str(path))
        tracemalloc.start()
        try:
            find_faults(tables, lambda *fault: pytest.fail(str(fault)), sorter=DiskSorter)
            digest_rows(tables)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(35_000) < 1.2 * peak_bytes(7_000)


class TestGuarded:
    def test_a_child_that_dies_of_what_it_reads_is_an_error_that_names_the_file(self) -> None:
        def produce():
            yield b"first"
            os.kill(os.getpid(), signal.SIGSEGV)

        found = []
        with pytest.raises(CorruptState, match=r"some file is damaged: reading it ended by SIGSEGV"):
            found.extend(guarded(produce, "some file"))

    def test_whoever_wants_no_more_leaves_no_child_behind(self) -> None:
        def produce():
            while True:
                yield b"x" * 1000

        reader = guarded(produce, "endless")
        assert next(reader) == b"x" * 1000
        reader.close()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_errors_of_ours_come_back_as_they_were(self) -> None:
        def produce():
            yield b""
            raise NotFound("gone", hint="look elsewhere")

        with pytest.raises(NotFound, match="gone") as caught:
            list(guarded(produce, "file"))
        assert caught.value.hint == "look elsewhere"

    def test_rows_that_cannot_be_read_are_damage_not_a_fault_of_the_program(self) -> None:
        def produce():
            yield bytes([300])

        with pytest.raises(CorruptState, match="file cannot be read: ValueError"):
            list(guarded(produce, "file"))


def test_no_column_is_named_like_a_table_as_a_query_that_names_it_would_load_that() -> None:
    assert not set(RELATIONS) & {column for relation in RELATIONS.values() for column in relation.columns}


def test_lengths_of_files(file: CheckpointFile) -> None:
    lengths = dict(
        map(tuple, rows_of(file, "SELECT path, length_bytes FROM files WHERE path LIKE '/data/f%'"))
    )
    assert lengths["/data/f0"] == 1000


def test_a_hint_alone_is_no_exact_length(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    inode = world(create("/open"))
    world(add_chunk(inode, 0))
    world(hint(inode, 12))
    found = find_checkpoint(str(world.checkpoint(tmp_path / "c")))
    world.tables.close()
    assert rows_of(found, "SELECT length_bytes, length_exact FROM files WHERE path = '/open'") == [[12, 0]]
