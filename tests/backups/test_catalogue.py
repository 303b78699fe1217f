"""Backups in a directory and in an object store: what is listed as good, what is not, which are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from crc32c import crc32c

from gfs.backups import catalogue
from gfs.backups.manifest import BACKUP_FORMAT, MANIFEST_SUFFIX, STATE_SUFFIX, BackupManifest, encode_manifest
from gfs.backups.places import DirectoryPlace, Place, open_place, put
from gfs.errors import CorruptState, InvalidArgument, NotFound, UnsupportedVersion
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term

NOW_MS = 1_795_000_000_000
HOUR_MS = 3_600_000
OURS = ClusterId("ours")


def directory_place(directory: Path) -> Place:
    return DirectoryPlace(str(directory / "backups"))


def object_place(directory: Path) -> Place:
    pytest.importorskip("obstore")
    return open_place(f"file://{directory}/bucket/prefix")


def memory_place(_: Path) -> Place:
    pytest.importorskip("obstore")
    from obstore.store import MemoryStore

    from gfs.backups.object_place import ObjectPlace

    return ObjectPlace(MemoryStore(), "memory://")


@pytest.fixture(params=[directory_place, object_place, memory_place])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    make: Callable[[Path], Place] = request.param
    return make(tmp_path)


def manifest(index: int, content: bytes, *, cluster: ClusterId = OURS) -> BackupManifest:
    return BackupManifest(
        format=BACKUP_FORMAT,
        cluster=cluster,
        index=LogIndex(index),
        term=Term(3),
        length_bytes=len(content),
        crc32c=crc32c(content),
        taken_at_ms=NOW_MS + index * HOUR_MS,
        taken_from=MasterId("m1"),
        masters=[MasterId("m1")],
        checkpoint_format=1,
        state_format=2,
        files=index,
    )


def store(place: Place, made: BackupManifest, content: bytes) -> None:
    writing = catalogue.begin(place, made)
    for start in range(0, len(content), 1000):
        writing.write(content[start : start + 1000])
    writing.publish()
    catalogue.publish(place, made)


def content_of(index: int) -> bytes:
    return bytes([index]) * 2500


def test_what_was_stored_is_listed_and_read_back(place: Place) -> None:
    for index in (2, 1):
        store(place, manifest(index, content_of(index)), content_of(index))
    found = catalogue.rows(place)
    assert [(row.index, row.state, row.files, row.length_bytes) for row in found] == [
        (1, "whole", 1, 2500),
        (2, "whole", 2, 2500),
    ]
    newest = catalogue.choose(place)
    assert newest.manifest.index == 2
    assert b"".join(newest.pieces()) == content_of(2)
    older = catalogue.choose(place, found[0].name + ".lmdb")
    assert b"".join(older.pieces()) == content_of(1)


def test_one_that_was_not_finished_is_never_listed_as_good_or_chosen(place: Place) -> None:
    store(place, manifest(1, content_of(1)), content_of(1))
    half = catalogue.begin(place, manifest(2, content_of(2)))
    half.write(content_of(2)[:1000])
    whole = catalogue.begin(place, manifest(3, content_of(3)))
    whole.write(content_of(3))
    whole.publish()  # … and then the program was killed, before the manifest
    states = {row.name: row.state for row in catalogue.rows(place)}
    assert [name for name, state in states.items() if state == "whole"] == [manifest(1, content_of(1)).name]
    assert states[manifest(3, content_of(3)).name] == "incomplete"
    assert catalogue.choose(place).manifest.index == 1
    with pytest.raises(CorruptState, match="incomplete"):
        catalogue.choose(place, manifest(3, content_of(3)).name)
    half.give_up()
    assert manifest(2, content_of(2)).name not in {row.name for row in catalogue.rows(place)}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[:-1], "2499 bytes long"),
        (lambda content: content + b"x", "2501 bytes long"),
    ],
)
def test_one_of_another_length_is_listed_as_damaged(
    place: Place, spoil: Callable[[bytes], bytes], said: str
) -> None:
    made = manifest(1, content_of(1))
    store(place, made, content_of(1))
    put(place, made.name + STATE_SUFFIX, spoil(content_of(1)))
    row = catalogue.rows(place)[0]
    assert (row.state, said in row.why) == ("damaged", True)
    with pytest.raises(NotFound, match="no whole backup"):
        catalogue.choose(place)


def test_a_flipped_bit_is_found_when_it_is_read(place: Place) -> None:
    made = manifest(1, content_of(1))
    spoiled = bytearray(content_of(1))
    spoiled[1234] ^= 4
    store(place, made, bytes(spoiled))
    with pytest.raises(CorruptState, match="checksum"):
        b"".join(catalogue.choose(place).pieces())


def test_a_damaged_and_a_newer_manifest_are_told_apart(place: Place) -> None:
    made = manifest(1, content_of(1))
    store(place, made, content_of(1))
    line = encode_manifest(made)
    put(place, made.name + MANIFEST_SUFFIX, line.replace(b"m1", b"m2"))
    assert catalogue.rows(place)[0].state == "damaged"
    body = line.partition(b"\n")[0].replace(b'"format":1', b'"format":9', 1) + b"\n"
    put(place, made.name + MANIFEST_SUFFIX, body + b"%08x\n" % crc32c(body))
    assert catalogue.rows(place)[0].state == "newer format"
    with pytest.raises(UnsupportedVersion, match="format 9"):
        catalogue.choose(place, made.name)


def test_the_newest_whole_ones_of_the_cluster_are_kept_and_nothing_else_is_touched(place: Place) -> None:
    for index in range(1, 6):
        store(place, manifest(index, content_of(index)), content_of(index))
    foreign = manifest(1, b"x", cluster=ClusterId("theirs"))
    foreign = BackupManifest(**{f: getattr(foreign, f) for f in foreign.__struct_fields__} | {"index": 9})
    store(place, foreign, b"x")
    damaged = manifest(7, content_of(7))
    store(place, damaged, content_of(7))
    put(place, damaged.name + STATE_SUFFIX, b"short")
    put(place, "a-file-of-somebody", b"hello")
    removed = catalogue.retain(place, keep=2, cluster=OURS, now_ms=NOW_MS)
    assert removed == [manifest(index, content_of(index)).name for index in (1, 2, 3)]
    left = {(row.cluster, row.index, row.state) for row in catalogue.rows(place)}
    assert left == {
        ("ours", 4, "whole"),
        ("ours", 5, "whole"),
        ("theirs", 9, "whole"),
        ("ours", 7, "damaged"),
    }
    assert "a-file-of-somebody" in {kept.name for kept in place.listed()}


def test_what_was_left_half_written_goes_a_day_later(place: Place) -> None:
    store(place, manifest(1, content_of(1)), content_of(1))
    writing = catalogue.begin(place, manifest(2, content_of(2)))
    writing.write(b"half")
    writing.publish()
    begun_ms = catalogue.rows(place)[1].taken_at_ms
    soon, late = begun_ms + HOUR_MS, begun_ms + 25 * HOUR_MS
    assert catalogue.retain(place, keep=5, cluster=OURS, now_ms=soon) == []
    assert catalogue.retain(place, keep=5, cluster=OURS, now_ms=late) == [manifest(2, content_of(2)).name]
    assert [row.index for row in catalogue.rows(place)] == [1]


def test_an_address_of_no_store_is_refused_in_words() -> None:
    pytest.importorskip("obstore")
    with pytest.raises(InvalidArgument, match="no object store"):
        open_place("nowhere://bucket/prefix")


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no directory"):
        catalogue.rows(open_place(str(tmp_path / "nothing")))
