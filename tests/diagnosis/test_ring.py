"""The ring on disk: bounded, in order, good up to the first torn record."""

from __future__ import annotations

from pathlib import Path

from gfs.diagnosis.recorder import read_ring
from gfs.diagnosis.ring import Ring, file_numbers


def contents(directory: Path, after: int = 0) -> list[bytes]:
    return [payload for _, payload in read_ring(str(directory), after)]


def test_records_come_back_in_order_and_behind_a_position(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path), bytes_max=100_000, files_max=4)
    positions = ring.append([b"one", b"two"]) + ring.append([b"three"])
    assert positions == sorted(positions)
    assert contents(tmp_path) == [b"one", b"two", b"three"]
    assert contents(tmp_path, positions[0]) == [b"two", b"three"]
    assert contents(tmp_path, positions[2]) == []


def test_ring_never_grows_past_its_limit_and_keeps_the_newest(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path), bytes_max=40_000, files_max=4)
    for number in range(1000):
        ring.append([b"%04d" % number + bytes(96)])
        assert len(file_numbers(str(tmp_path))) <= 4
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000 + 108 * 4
    kept = contents(tmp_path)
    assert kept[-1].startswith(b"0999")
    assert [payload[:4] for payload in kept] == [b"%04d" % n for n in range(1000 - len(kept), 1000)]


def test_start_after_a_torn_record_goes_on_behind_the_last_whole_one(tmp_path: Path) -> None:
    first = Ring(str(tmp_path), bytes_max=100_000, files_max=4)
    before = first.append([b"whole", b"torn away"])
    first.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert contents(tmp_path) == [b"whole"]
    again = Ring(str(tmp_path), bytes_max=100_000, files_max=4)
    after = again.append([b"later"])
    assert after[0] >= before[1] > before[0]
    assert contents(tmp_path) == [b"whole", b"later"]
    assert len(list(tmp_path.iterdir())) == 1  # restarts do not push history out


def test_a_changed_byte_ends_its_file_only(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path), bytes_max=400, files_max=4)  # a file is full after two records
    for number in range(6):
        ring.append([b"%d" % number * 60])
    ring.close()
    first = min(tmp_path.iterdir())
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    assert [payload[:1] for payload in contents(tmp_path)] == [b"0", b"2", b"3", b"4", b"5"]
