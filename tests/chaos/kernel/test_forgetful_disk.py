"""What a power cut leaves of a disk: beside a plain model, and through the real mounted file system."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.kernel import machine
from chaos.kernel.forgetful_disk import PAGE_BYTES, SECTOR_BYTES, Content, ForgetfulDisk, PoweredOff
from chaos.kernel.forgetful_mount import ForgetfulMount

OFFSETS = st.integers(0, 3 * PAGE_BYTES)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, st.integers(1, 2 * PAGE_BYTES)),
        st.tuples(st.just("truncate"), OFFSETS, st.just(0)),
        st.tuples(st.just("sync"), st.just(0), st.just(0)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_a_file_reads_as_it_was_written_and_after_a_cut_as_it_was_synced(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    content = Content(str(tmp_path_factory.getbasetemp()))
    model, durable, tag = bytearray(), bytearray(), 0
    for step, offset, length in steps:
        if step == "write":
            tag = tag % 255 + 1
            content.write(bytes([tag]) * length, offset)
            model.extend(bytes(max(0, offset + length - len(model))))
            model[offset : offset + length] = bytes([tag]) * length
        elif step == "truncate":
            content.truncate(offset)
            model.extend(bytes(max(0, offset - len(model))))
            del model[offset:]
        elif step == "sync":
            content.sync()
            durable = bytearray(model)
        else:
            content.power_cut(None)
            model = bytearray(durable)
        assert content.length == len(model)
        assert content.read(0, len(model) + 10) == bytes(model)
        middle = len(model) // 2
        assert content.read(middle, 700) == bytes(model[middle : middle + 700])


def test_a_torn_write_keeps_some_sectors_and_no_half_one(tmp_path: Path) -> None:
    content = Content(str(tmp_path))
    content.write(b"o" * 64 * SECTOR_BYTES, 0)
    content.sync()
    content.write(b"n" * 64 * SECTOR_BYTES, 0)
    content.power_cut(random.Random(1))
    kinds = set()
    for number in range(64):
        sector = content.read(number * SECTOR_BYTES, SECTOR_BYTES)
        assert sector in (b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES)
        kinds.add(sector[0])
    assert kinds == set(b"on")


@pytest.mark.parametrize("reorders", [False, True])
def test_names_that_no_directory_sync_made_durable_may_be_lost(tmp_path: Path, reorders: bool) -> None:
    outcomes = set()
    for seed in range(40):
        disk = ForgetfulDisk(str(tmp_path), seed, reorders_names=reorders)
        disk.make_directory("/m")
        for name in ("old", "new"):
            file = disk.open(f"/m/{name}.tmp", create=True)
            disk.write(file, name.encode(), 0)
            disk.sync(file)
            disk.rename(f"/m/{name}.tmp", "/m/it")
            if name == "old":
                disk.sync_directory("/m")
        disk.open("/m/after", create=True)
        disk.power_cut()
        with pytest.raises(PoweredOff):
            disk.read(file, 0, 3)
        disk.power_on()
        with pytest.raises(PoweredOff):
            disk.read(file, 0, 3)  # another boot
        found = disk.open("/m/it")
        outcomes.add((disk.read(found, 0, 3), "after" in disk.listdir("/m")))
    assert {content for content, _ in outcomes} == {b"old", b"new"}
    assert ((b"old", True) in outcomes) == reorders


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[ForgetfulMount]:
    with machine.taken() as run:
        (tmp_path / "store").mkdir()
        files = ForgetfulMount(
            run.directory / "disks", tmp_path / "store", ["a", "b"], seed=3, name=f"{run.name}-forgetful"
        )
        try:
            yield files
        finally:
            files.close()


@pytest.mark.needs_tools("fuse", "mounts")
def test_the_mounted_file_system_loses_what_was_not_synced_on_that_machine_alone(
    mount: ForgetfulMount,
) -> None:
    for name in ("a", "b"):
        directory = mount.mountpoint / name
        for kind in ("synced", "unsynced"):
            with open(directory / kind, "wb") as file:
                file.write(os.urandom(200_000))
                file.flush()
                if kind == "synced":
                    os.fsync(file.fileno())
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    before = {path: path.read_bytes() for path in sorted(mount.mountpoint.rglob("*synced"))}
    assert len(before) == 4
    with open(mount.mountpoint / "a" / "synced", "rb") as open_file:
        mount.cut(["a"])
        with pytest.raises(OSError):
            (mount.mountpoint / "a" / "synced").read_bytes()
        mount.on(["a"])
        with pytest.raises(OSError):
            open_file.read()
    lost = {str(path.relative_to(mount.mountpoint)) for path in before if path.read_bytes() != before[path]}
    assert lost == {"a/unsynced"}


@pytest.mark.needs_tools("fuse", "mounts")
def test_a_mounted_disk_is_full_or_slow_when_told_to_be_and_others_are_not(mount: ForgetfulMount) -> None:
    mount.tell("full", "a")
    with pytest.raises(OSError, match="No space left"):
        (mount.mountpoint / "a" / "file").write_bytes(b"x")
    (mount.mountpoint / "b" / "file").write_bytes(b"x")
    mount.tell("room", "a")
    (mount.mountpoint / "a" / "file").write_bytes(b"x")
    mount.tell("slow", "a", "0.2")
    for name, is_slow in (("a", True), ("b", False)):
        began = time.monotonic()
        (mount.mountpoint / name / "file").write_bytes(b"y")
        assert (time.monotonic() - began > 0.2) == is_slow


@pytest.mark.needs_tools("fuse", "mounts", "namespaces")
def test_a_program_sees_another_boot_of_its_machine_after_each_cut(mount: ForgetfulMount) -> None:
    words = ["cat", "/proc/sys/kernel/random/boot_id"]
    first = machine.command(*mount.as_of_this_boot("a", words))
    assert first == machine.command(*mount.as_of_this_boot("a", words))
    mount.cut(["a"])
    mount.on(["a"])
    assert first != machine.command(*mount.as_of_this_boot("a", words))
