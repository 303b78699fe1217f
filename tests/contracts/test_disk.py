"""What every Disk does, and what only the forgetful one must show: that unsynced bytes do not survive."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk, PoweredOff
from gfs.disk import Disk, SystemDisk, read_whole_file, write_file_durably


@pytest.fixture(params=["system", "forgetful"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Disk, str]]:
    if request.param == "system":
        yield SystemDisk(), str(tmp_path)
    else:
        disk = ForgetfulDisk()
        disk.make_directory("/data")
        yield disk, "/data"


def test_bytes_written_are_read_back_and_a_hole_reads_as_zeros(place: tuple[Disk, str]) -> None:
    disk, root = place
    file = disk.open(f"{root}/a", create=True)
    file.pwrite(b"tail", 10)
    file.pwrite(b"head", 0)
    assert file.length() == 14
    assert file.pread(100, 0) == b"head" + bytes(6) + b"tail"
    buffer = bytearray(4)
    assert file.pread_into(memoryview(buffer), 10) == 4 and buffer == b"tail"
    file.truncate(2)
    assert file.pread(100, 0) == b"he"
    file.sync()
    file.close()


def test_a_closed_file_can_be_neither_written_nor_synced(place: tuple[Disk, str]) -> None:
    disk, root = place
    file = disk.open(f"{root}/a", create=True)
    file.pwrite(b"x", 0)
    file.close()
    with pytest.raises(OSError) as raised:
        file.pwrite(b"y", 1)
    assert raised.value.errno == errno.EBADF
    with pytest.raises(OSError) as raised:
        file.sync()
    assert raised.value.errno == errno.EBADF


def test_open_refuses_what_is_missing_and_exclusive_refuses_what_is_there(place: tuple[Disk, str]) -> None:
    disk, root = place
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/missing")
    disk.open(f"{root}/a", create=True, exclusive=True).close()
    with pytest.raises(FileExistsError):
        disk.open(f"{root}/a", exclusive=True)


def test_names_follow_rename_and_unlink(place: tuple[Disk, str]) -> None:
    disk, root = place
    disk.make_directory(f"{root}/deep/er")
    write_file_durably(disk, f"{root}/b", b"one")
    write_file_durably(disk, f"{root}/a", b"two")
    disk.rename(f"{root}/a", f"{root}/b")
    assert disk.listdir(root) == ["b", "deep"]
    assert read_whole_file(disk, f"{root}/b") == b"two"
    disk.unlink(f"{root}/b")
    assert not disk.exists(f"{root}/b") and disk.exists(f"{root}/deep")
    disk.sync_directory(root)
    with pytest.raises(FileNotFoundError):
        disk.unlink(f"{root}/b")
    assert disk.boot_id() == disk.boot_id()


def test_a_disk_says_how_large_it_is_and_what_of_it_is_free(place: tuple[Disk, str]) -> None:
    disk, root = place
    total_bytes, free_bytes = disk.space(root)
    assert 0 < free_bytes <= total_bytes


@pytest.fixture
def forgetful() -> ForgetfulDisk:
    disk = ForgetfulDisk(seed=1)
    disk.make_directory("/data")
    return disk


def test_a_power_cut_forgets_bytes_and_names_that_were_not_synced(forgetful: ForgetfulDisk) -> None:
    file = forgetful.open("/data/kept", create=True)
    file.pwrite(b"synced", 0)
    file.sync()
    forgetful.sync_directory("/data")
    file.pwrite(b"+unsynced", 6)
    forgetful.open("/data/lost", create=True).sync()
    forgetful.power_cut()
    with pytest.raises(PoweredOff):
        forgetful.listdir("/data")
    before = forgetful.boot_id()
    forgetful.power_on()
    assert forgetful.boot_id() != before
    assert forgetful.listdir("/data") == ["kept"]
    assert read_whole_file(forgetful, "/data/kept") == b"synced"
    with pytest.raises(PoweredOff):
        file.pread(1, 0)


def test_a_torn_cut_keeps_some_sectors_and_never_touches_synced_ones(forgetful: ForgetfulDisk) -> None:
    file = forgetful.open("/data/a", create=True)
    file.pwrite(b"s" * 1000, 0)
    file.sync()
    forgetful.sync_directory("/data")
    file.pwrite(b"u" * 20 * 512, 1000)
    forgetful.power_cut(torn=True)
    forgetful.power_on()
    content = read_whole_file(forgetful, "/data/a")
    assert content[:1000] == b"s" * 1000
    assert 0 < content.count(b"u") < 20 * 512


def test_a_durable_replacement_is_old_or_new_wherever_the_power_goes() -> None:
    for operations in range(12):
        disk = ForgetfulDisk(seed=operations)
        disk.make_directory("/data")
        write_file_durably(disk, "/data/a", b"old")
        disk.cut_power_after(operations, torn=True)
        cut = False
        try:
            write_file_durably(disk, "/data/a", b"new")
        except PoweredOff:
            cut = True
        disk.operations_until_cut = None
        disk.power_on()
        assert read_whole_file(disk, "/data/a") in ((b"old", b"new") if cut else (b"new",))


def test_what_is_written_is_not_free_and_a_full_disk_has_nothing(forgetful: ForgetfulDisk) -> None:
    before = forgetful.space("/data")[1]
    forgetful.open("/data/a", create=True).pwrite(bytes(1000), 0)
    assert forgetful.space("/data")[1] == before - 1000
    forgetful.space_bytes_left = 0
    assert forgetful.space("/data")[1] == 0


def test_a_full_disk_and_a_failing_sync_say_so(forgetful: ForgetfulDisk) -> None:
    file = forgetful.open("/data/a", create=True)
    forgetful.space_bytes_left = 3
    with pytest.raises(OSError) as full:
        file.pwrite(b"12345", 0)
    assert full.value.errno == errno.ENOSPC and file.pread(10, 0) == b"123"
    forgetful.space_bytes_left = None
    forgetful.failing_sync = True
    with pytest.raises(OSError) as failed:
        file.sync()
    assert failed.value.errno == errno.EIO
