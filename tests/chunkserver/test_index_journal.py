"""The index journal on disk: a torn end is cut, damage is named, and a crash is told from damage."""

from __future__ import annotations

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.chunkserver.index_journal import (
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    JournalSegment,
    read_segment,
    segment_path,
    segment_sequences,
)
from gfs.errors import CorruptState, UnsupportedVersion

PATH = segment_path("/index", 1)
PAYLOADS = [b"first", b"the second", b"third" * 20]


def new_disk() -> ForgetfulDisk:
    disk = ForgetfulDisk()
    disk.make_directory("/index")
    return disk


def written(disk: ForgetfulDisk, *, synced: int = 0) -> JournalSegment:
    segment = JournalSegment.create(disk, "/index", 1, durable=True)
    for number, payload in enumerate(PAYLOADS, 1):
        segment.append(payload)
        if number == synced:
            segment.sync()
    return segment


def payloads(disk: ForgetfulDisk) -> list[bytes]:
    return [payload for _, payload in read_segment(disk, "/index", 1).payloads]


def test_frames_are_read_back_in_order() -> None:
    disk = new_disk()
    written(disk, synced=2)
    found = read_segment(disk, "/index", 1)
    assert payloads(disk) == PAYLOADS
    assert (found.sequence, found.durable, found.power_cut, found.torn) == (1, True, False, False)
    assert found.says_synced


def test_segments_are_listed_by_number_and_leftovers_are_not() -> None:
    disk = new_disk()
    for sequence in (10, 9, 2):
        JournalSegment.create(disk, "/index", sequence, durable=False)
    disk.open(segment_path("/index", 3) + ".tmp", create=True)
    assert segment_sequences(disk, "/index") == [2, 9, 10]


def test_an_end_torn_at_any_byte_is_cut() -> None:
    disk = new_disk()
    segment = written(disk)
    ends = [SEGMENT_HEADER_BYTES]
    for payload in PAYLOADS:
        ends.append(ends[-1] + FRAME_HEADER_BYTES + len(payload))
    assert segment.end == ends[-1]
    for length in range(segment.end, SEGMENT_HEADER_BYTES - 1, -1):
        disk.open(PATH).truncate(length)
        whole = sum(end <= length for end in ends) - 1
        found = read_segment(disk, "/index", 1)
        assert [payload for _, payload in found.payloads] == PAYLOADS[:whole]
        assert found.torn == (length not in ends)


def test_a_torn_header_cannot_come_from_a_crash() -> None:
    disk = new_disk()
    written(disk)
    disk.open(PATH).truncate(SEGMENT_HEADER_BYTES - 1)
    with pytest.raises(CorruptState, match="header"):
        read_segment(disk, "/index", 1)


def test_a_journal_of_a_later_gfs_is_refused_by_its_format() -> None:
    disk = new_disk()
    disk.open(PATH, create=True).pwrite(b"GFSJRNL2" + bytes(range(200)), 0)
    with pytest.raises(UnsupportedVersion, match=r"chunks-0000000000000001\.journal has journal format 2"):
        read_segment(disk, "/index", 1)


def test_a_bit_flipped_anywhere_is_named_with_its_record() -> None:
    for offset in range(SEGMENT_HEADER_BYTES + sum(FRAME_HEADER_BYTES + len(p) for p in PAYLOADS)):
        disk = new_disk()
        written(disk)
        disk.flip_bit(PATH, offset, offset % 8)
        with pytest.raises(CorruptState, match=r"chunks-0000000000000001\.journal.*offset"):
            read_segment(disk, "/index", 1)


def test_after_a_power_cut_what_was_synced_is_there_and_the_rest_is_a_prefix() -> None:
    for seed in range(40):
        disk = ForgetfulDisk(seed)
        disk.make_directory("/index")
        segment = JournalSegment.create(disk, "/index", 1, durable=False)
        expected = [bytes([number]) * (number * 50) for number in range(1, 20)]
        for number, payload in enumerate(expected):
            segment.append(payload)
            if number == 7:
                segment.sync()
        disk.power_cut(torn=True)
        disk.power_on()
        found = read_segment(disk, "/index", 1)
        assert found.power_cut
        kept = [payload for _, payload in found.payloads]
        assert len(kept) >= 8 and kept == expected[: len(kept)]


def test_after_a_power_cut_damage_in_the_synced_part_is_still_damage() -> None:
    disk = new_disk()
    segment = written(disk, synced=2)
    segment.sync()
    disk.power_cut()
    disk.power_on()
    disk.flip_bit(PATH, SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES)
    with pytest.raises(CorruptState, match="record 0"):
        read_segment(disk, "/index", 1)


def test_after_a_power_cut_a_lost_part_that_was_not_synced_ends_the_journal() -> None:
    disk = new_disk()
    written(disk)
    disk.open(PATH).sync()  # the kernel wrote it back, unasked; one sector did not make it
    disk.flip_bit(PATH, SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + len(PAYLOADS[0]) + 1)
    disk.power_cut()
    disk.power_on()
    assert payloads(disk) == PAYLOADS[:1]


def test_a_journal_stored_inside_a_record_is_no_journal() -> None:
    disk = new_disk()
    written(disk)
    inner = disk.open(PATH).pread(10_000, SEGMENT_HEADER_BYTES)
    segment = JournalSegment.create(disk, "/index", 2, durable=False)
    segment.append(inner)
    path = segment_path("/index", 2)
    disk.open(path).truncate(segment.end - 1)
    assert read_segment(disk, "/index", 2).payloads == []


def test_a_failed_append_leaves_the_segment_as_it_was() -> None:
    disk = new_disk()
    segment = written(disk)
    disk.space_bytes_left = 20
    with pytest.raises(OSError):
        segment.append(b"does not fit" * 10)
    disk.space_bytes_left = None
    segment.append(b"short")
    assert payloads(disk) == [*PAYLOADS, b"short"]
