"""Every kind of planted damage: `verify` finds and names it, and no tool crashes or hangs on it.

Damage in single rows of a checkpoint is planted and judged in test_verify; here all tools meet it too. What a
tool answers is its own matter: rows, an error of ours with a sentence, or damage told with exit status 7.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gfs.cli.checkpoint import EXIT_DAMAGE
from gfs.errors import GfsError
from gfs.master.checkpoint_directory import encode_manifest
from gfs.master.core.tables import Table
from gfs.master.replication.log_format import HEADER, LOG_FORMAT, MAGIC, Kind, Record
from gfs.vocabulary import LogIndex, Term
from tests.inspect import planted
from tests.inspect.lived_master import LivedMaster, live
from tests.inspect.logs import entry, flip, segments, start, vote, write_segment
from tests.inspect.shell import gfs
from tests.inspect.test_chunk_disk import (
    BLOCK,
    CHUNKS_DIRECTORY,
    change_row,
    file_of,
    fill,
    journals,
    key,
    open_store,
)
from tests.inspect.test_verify import DAMAGES, Rows

pytestmark = pytest.mark.timeout(60)


def run(*arguments: str) -> tuple[int, str]:
    """(exit status, everything that was said). Any exception that is not ours fails the test."""
    ran = gfs(*arguments)
    error = ran.exception
    assert error is None or isinstance(error, SystemExit | GfsError), (arguments, error)
    assert "Traceback" not in ran.output, arguments
    if isinstance(error, GfsError):
        assert error.message and "\n" not in error.message, arguments
        return EXIT_DAMAGE, ran.output + error.message
    return ran.exit_code, ran.output


# --- checkpoints --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.make(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def checkpoint(sound_checkpoint: Path, tmp_path: Path) -> Path:
    """A master's directory with this one checkpoint, to be damaged."""
    folder = tmp_path / "master" / "checkpoints"
    folder.mkdir(parents=True)
    for suffix in (".lmdb", ".manifest"):
        shutil.copy(sound_checkpoint.with_suffix(suffix), folder)
    return folder / sound_checkpoint.name


def checkpoint_tools(path: Path, sound: Path, handle: str) -> list[tuple[str, ...]]:
    return [
        ("ls", str(path.parent.parent)),
        ("inspect", str(path)),
        ("inspect", "--path", "/data/f3", str(path)),
        ("inspect", "--handle", handle, str(path)),
        ("diff", str(sound), str(path)),
        ("diff", "--chunks", str(path), str(sound)),
        ("export", "--format", "csv", "--table", "files", str(path)),
        ("export", "--format", "jsonl", "--table", "chunks", str(path)),
        ("query", str(path), "SELECT count(*), sum(length_bytes) FROM files"),
        ("what-if", "lose-server", str(path), "cs-b"),
    ]


def every_checkpoint_tool_survives(path: Path, sound: Path) -> None:
    for tool in checkpoint_tools(path, sound, "1"):
        code, told = run("checkpoint", *tool)
        assert code in (0, 1, EXIT_DAMAGE) and told, (tool, code)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name.replace(" ", "-"))
def test_damage_in_a_row_of_a_checkpoint(checkpoint: Path, sound_checkpoint: Path, damage) -> None:
    planted.rewrite(checkpoint, lambda t, handles: damage.plant(Rows(t, handles)))
    code, told = run("checkpoint", "verify", str(checkpoint))
    assert code == EXIT_DAMAGE and damage.rule in told
    every_checkpoint_tool_survives(checkpoint, sound_checkpoint)


class FileDamage(NamedTuple):
    name: str
    plant: Callable[[Path], None]
    named: str  # what verify says of it


def flipped_row(table: Table) -> FileDamage:
    def plant(path: Path) -> None:
        chance = random.Random(table.name)
        rows = [row for row in planted.every_row(path, table).items() if row[1] and row[0] != b"digest_mark"]
        row_key, value = chance.choice(sorted(rows))
        bit = chance.randrange(8 * len(value))
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        planted.rewrite(path, lambda t, handles: t.put(row_key, bytes(flipped), db=handles[table]))

    return FileDamage(f"flipped bit in {table.value.decode()}", plant, "damaged")


def rewritten(change: Callable[[bytes], bytes], *, manifest: bool = False) -> Callable[[Path], None]:
    """Other bytes in the file; `manifest`: under a manifest that fits them."""

    def plant(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))
        if manifest:
            planted.remake_manifest(path)

    return plant


def manifest_rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        manifest = path.with_suffix(".manifest")
        manifest.write_bytes(change(manifest.read_bytes()))

    return plant


def rubbish_pages(content: bytes) -> bytes:
    return content[: 2 * 4096] + random.Random(5).randbytes(len(content) - 2 * 4096)


def future_manifest(_: bytes) -> bytes:
    line = b'{"format":7,"cluster":"c","colour":"blue"}\n'
    return line + b"%08x\n" % planted.crc32c(line)


def table_dropped(path: Path) -> None:
    planted.rewrite(path, lambda t, handles: t.drop(handles[Table.INODES], delete=True))


CHECKPOINT_FILE_DAMAGES = [
    *(flipped_row(table) for table in Table),
    FileDamage(
        "flipped bit in the file", rewritten(lambda c: c[:9000] + bytes([c[9000] ^ 4]) + c[9001:]), "bytes"
    ),
    FileDamage("file cut short", rewritten(lambda c: c[: len(c) // 2]), "bytes"),
    FileDamage("empty file", rewritten(lambda c: b""), "bytes"),
    FileDamage("bytes added", rewritten(lambda c: c + b"x"), "bytes"),
    FileDamage("a page of zeros", rewritten(lambda c: c[:20480] + bytes(4096) + c[24576:]), "bytes"),
    FileDamage("cut short, fitting manifest", rewritten(lambda c: c[:30000], manifest=True), "unreadable"),
    FileDamage("pages of rubbish, fitting manifest", rewritten(rubbish_pages, manifest=True), "unreadable"),
    FileDamage(
        "head of rubbish, fitting manifest", rewritten(lambda c: b"?" * 8192 + c[8192:], manifest=True), ""
    ),
    FileDamage("a table dropped", table_dropped, "damaged"),
    FileDamage("no manifest", lambda path: path.with_suffix(".manifest").unlink(), "manifest"),
    FileDamage("no file", lambda path: path.unlink(), ""),
    FileDamage("torn manifest", manifest_rewritten(lambda c: c[: len(c) // 2]), "manifest"),
    FileDamage("empty manifest", manifest_rewritten(lambda c: b""), "manifest"),
    FileDamage(
        "flipped bit in the manifest", manifest_rewritten(lambda c: c[:20] + b"#" + c[21:]), "manifest"
    ),
    FileDamage("manifest of the future", manifest_rewritten(future_manifest), "format 7"),
    FileDamage(
        "manifest of another checkpoint",
        manifest_rewritten(lambda c: encode_manifest(planted.make_manifest(b"", index=7, term=1))),
        "manifest is that of",
    ),
]


@pytest.mark.parametrize("damage", CHECKPOINT_FILE_DAMAGES, ids=lambda damage: damage.name.replace(" ", "-"))
def test_damage_in_the_files_of_a_checkpoint(
    checkpoint: Path, sound_checkpoint: Path, damage: FileDamage
) -> None:
    damage.plant(checkpoint)
    code, told = run("checkpoint", "verify", str(checkpoint))
    assert code == EXIT_DAMAGE and damage.named in told, told
    every_checkpoint_tool_survives(checkpoint, sound_checkpoint)


# --- operation logs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A master's directory: log of several segments, a checkpoint in the middle."""
    directory = tmp_path_factory.mktemp("lived") / "master"
    master = LivedMaster(directory)
    live(master, 20, seed=4)
    master.checkpoint()
    live(master, 20, seed=5)
    master.close()
    assert len(segments(directory / "log")) > 3
    return directory


@pytest.fixture
def master(sound_master: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound_master, tmp_path / "master")
    return tmp_path / "master"


def truncated_segment(number: int) -> Callable[[Path], None]:
    def plant(log: Path) -> None:
        path = segments(log)[number]
        path.write_bytes(path.read_bytes()[:-5])

    return plant


def swapped_segments(log: Path) -> None:
    one, two = segments(log)[1:3]
    spare = log / "spare"
    one.rename(spare)
    two.rename(one)
    spare.rename(two)


def future_segment(log: Path) -> None:
    last = segments(log)[-1]
    last.write_bytes(HEADER.pack(MAGIC, LOG_FORMAT + 1, int(last.stem)) + b"\x99" * 60)


def emptied_segment(log: Path) -> None:
    segments(log)[1].write_bytes(b"")


def zeroed_segment(log: Path) -> None:
    path = segments(log)[1]
    path.write_bytes(bytes(path.stat().st_size))


def instead(*records: Record) -> Callable[[Path], None]:
    """A log of these records and nothing else, each sound in itself."""

    def plant(log: Path) -> None:
        for path in segments(log):
            path.unlink()
        write_segment(log, 1, records)

    return plant


LOG_DAMAGES = [
    FileDamage("flipped bit in a header", lambda log: flip(segments(log)[0], 3), "header"),
    FileDamage("flipped bit in a record", lambda log: flip(segments(log)[1], 200), "damaged record"),
    FileDamage("older segment cut short", truncated_segment(1), "damaged record"),
    FileDamage("segment lost", lambda log: segments(log)[1].unlink(), "missing segment"),
    FileDamage("segments swapped", swapped_segments, "foreign segment"),
    FileDamage("segment of the future", future_segment, f"format {LOG_FORMAT + 1}"),
    FileDamage("segment emptied", emptied_segment, "DAMAGE"),
    FileDamage("segment of zeros", zeroed_segment, "DAMAGE"),
    FileDamage("no start", instead(entry(2)), "no start"),
    FileDamage("gap in log indices", instead(start(), entry(2), entry(4)), "index gap"),
    FileDamage("index repeated", instead(start(), entry(2), entry(2)), "index repeated"),
    FileDamage("wrong term order", instead(start(), entry(2, 5), entry(3, 4)), "term falls"),
    FileDamage("term of a vote falls", instead(start(), vote(4, "m1"), vote(3, "m2")), "vote term falls"),
    FileDamage("two votes in a term", instead(start(), vote(4, "m1"), vote(4, "m2")), "second vote"),
    FileDamage("vote for no text", instead(start(), vote(4, b"\xff\xfe")), "undecodable vote"),
    FileDamage(
        "truncation after nothing",
        instead(start(), entry(2), Record(Kind.TRUNCATE, LogIndex(7), Term(1), b"")),
        "unknown truncation",
    ),
    FileDamage(
        "entry of an unknown kind", instead(start(), entry(2, content=b"\x00Z?")), "undecodable entry"
    ),
    FileDamage("entry cut short", instead(start(), entry(2, content=b"\x00B\x92\xc4")), "undecodable entry"),
    FileDamage(
        "operation of the future", instead(start(), entry(2, content=b"\x00B\x91\xc4\x02{}")), "undecodable"
    ),
    FileDamage("all segments lost", lambda log: [path.unlink() for path in segments(log)] and None, ""),
]


def log_tools(master: Path, out: Path) -> list[tuple[str, ...]]:
    return [
        ("ls", str(master)),
        ("inspect", str(master)),
        ("inspect", "--path", "/a", str(master)),
        ("stats", str(master)),
        ("tail", str(master)),
        ("blame", str(master), "/a"),
        ("replay", str(master), "--to", "9", "--out", str(out / "nine.lmdb")),
        ("replay", str(master), "--to", "60", "--out", str(out / "sixty.lmdb")),
    ]


@pytest.mark.parametrize("damage", LOG_DAMAGES, ids=lambda damage: damage.name.replace(" ", "-"))
def test_damage_in_an_operation_log(master: Path, tmp_path: Path, damage: FileDamage) -> None:
    damage.plant(master / "log")
    code, told = run("oplog", "verify", str(master))
    assert code == EXIT_DAMAGE and damage.named in told, told
    for tool in log_tools(master, tmp_path):
        code, told = run("oplog", *tool)
        assert code in (0, 1, EXIT_DAMAGE), (tool, code, told)


def test_a_torn_tail_is_named_and_is_no_damage(master: Path, tmp_path: Path) -> None:
    truncated_segment(-1)(master / "log")
    code, told = run("oplog", "verify", str(master))
    assert code == 0 and "torn tail" in told
    for tool in log_tools(master, tmp_path):
        run("oplog", *tool)


# --- chunk servers' disks -----------------------------------------------------------------------------


@pytest.fixture
def chunk_disk(tmp_path: Path) -> Path:
    store = open_store(tmp_path)
    fill(store)
    store.close()
    return tmp_path


@pytest.fixture
def killed_chunk_disk(tmp_path: Path) -> Path:
    store = open_store(tmp_path)
    fill(store)
    store.abandon()
    return tmp_path


def truncated_chunk(directory: Path) -> None:
    path = file_of(directory, 4)
    path.write_bytes(path.read_bytes()[: 2 * BLOCK])


def misplaced_chunk(directory: Path) -> None:
    file_of(directory, 2).rename(directory / CHUNKS_DIRECTORY / file_of(directory, 2).name)


def row_becomes(table: bytes, row: bytes, value: bytes | None) -> Callable[[Path], None]:
    return lambda directory: change_row(directory, table, row, value)


def index_rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def plant(directory: Path) -> None:
        path = directory / "chunks.lmdb"
        path.write_bytes(change(path.read_bytes()))

    return plant


CHUNK_DAMAGES = [
    FileDamage("flipped bit in a chunk", lambda d: flip(file_of(d, 5), 3 * BLOCK + 7), "bad blocks"),
    FileDamage("chunk file cut short", truncated_chunk, "truncated file"),
    FileDamage("chunk file lost", lambda d: file_of(d, 5).unlink(), "missing file"),
    FileDamage("chunk file misplaced", misplaced_chunk, "misplaced file"),
    FileDamage("header row of rubbish", row_becomes(b"headers", key(4), b"not a header"), "damaged entry"),
    FileDamage("checksum row lost", row_becomes(b"rows", key(4, 0), None), "damaged entry"),
    FileDamage("wrong checksums", row_becomes(b"rows", key(4, 0), bytes(12)), "bad blocks"),
    FileDamage("window row of rubbish", row_becomes(b"windows", key(4), b"not a window"), "damaged entry"),
    FileDamage("index of the future", row_becomes(b"meta", b"format", (99).to_bytes(8, "big")), "format 99"),
    FileDamage("index cut short", index_rewritten(lambda c: c[: len(c) // 2]), ""),
    FileDamage("index of zeros", index_rewritten(lambda c: c[:8192] + bytes(len(c) - 8192)), ""),
    FileDamage("index emptied", index_rewritten(lambda c: b""), ""),
]
JOURNAL_DAMAGES = [
    FileDamage(
        "flipped bit in the journal",
        lambda d: flip(journals(d)[0], journals(d)[0].stat().st_size // 2),
        "damaged index",
    ),
    FileDamage("journal lost", lambda d: journals(d)[0].unlink(), "damaged index"),
]


def every_chunk_tool_survives(directory: Path, damage: FileDamage) -> None:
    damage.plant(directory)
    code, told = run("chunk", "verify", str(directory))
    assert code == EXIT_DAMAGE and damage.named in told, told
    for tool in (("inspect", str(directory)), ("inspect", "--handle", "4", str(directory))):
        code, told = run("chunk", *tool)
        assert code in (0, 1, EXIT_DAMAGE), (tool, code, told)


@pytest.mark.parametrize("damage", CHUNK_DAMAGES, ids=lambda damage: damage.name.replace(" ", "-"))
def test_damage_on_a_chunk_servers_disk(chunk_disk: Path, damage: FileDamage) -> None:
    every_chunk_tool_survives(chunk_disk, damage)


@pytest.mark.parametrize("damage", JOURNAL_DAMAGES, ids=lambda damage: damage.name.replace(" ", "-"))
def test_damage_in_a_chunk_servers_journal(killed_chunk_disk: Path, damage: FileDamage) -> None:
    every_chunk_tool_survives(killed_chunk_disk, damage)
