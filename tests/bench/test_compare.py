"""Comparing with others: who is missing is named, who breaks off leaves nothing, and all work is done."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from gfs.bench import compare
from gfs.bench.peers.local_disk import LocalDisk
from gfs.bench.peers.peer import Peer
from gfs.errors import InvalidArgument, Unavailable
from gfs.vocabulary import MIB
from tests.waiting import until


class Absent(Peer):
    name = "Absent"
    needs = ("gfs-no-such-program",)
    get = "apt install no-such-program"

    def start(self) -> str:
        raise AssertionError("not reached")


class BreaksOff(Peer):
    """Its second program ends at once."""

    name = "BreaksOff"

    def start(self) -> str:
        self.run("first", sys.executable, "-c", "import time; time.sleep(600)")
        self.run("second", sys.executable, "-c", "print('the disk is on fire')")
        self.wait_until(lambda: False, "ready")
        raise AssertionError("not reached")


def test_a_peer_that_is_not_installed_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    assert Absent(str(tmp_path)).missing() == (
        "gfs-no-such-program not installed: apt install no-such-program"
    )
    assert LocalDisk(str(tmp_path)).missing() == ""


def test_a_peer_that_breaks_off_tells_its_last_words_and_leaves_no_program(tmp_path: Path) -> None:
    peer = BreaksOff(str(tmp_path))
    with pytest.raises(Unavailable, match="second ended by itself: the disk is on fire"):
        peer.start()
    first = peer.processes()[0]
    os.kill(first, 0)
    peer.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert peer.processes() == []


class StartsChildren(Peer):
    """A program that works in a child, and is never ready."""

    name = "StartsChildren"

    def start(self) -> str:
        sleeper = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
        )
        self.run("parent", sys.executable, "-c", sleeper)
        self.wait_until(lambda: False, "ready")
        raise AssertionError("not reached")


async def test_a_peer_stopped_in_the_middle_of_its_start_ends_with_all_it_has_started(tmp_path: Path) -> None:
    peer = StartsChildren(str(tmp_path))
    starting = asyncio.create_task(asyncio.to_thread(peer.start))

    async def has_a_child() -> bool:
        return len(peer.processes()) == 2

    await until(has_a_child, "the program's child is running")
    everyone = peer.processes()
    await asyncio.to_thread(peer.stop)
    with pytest.raises(Unavailable, match="stopped while it was being started"):
        await starting
    with pytest.raises(Unavailable, match="stopped"):
        peer.run("late", sys.executable, "-c", "pass")

    async def are_gone() -> bool:
        return not any(
            Path(f"/proc/{process}/cmdline").exists() and _is_alive(process) for process in everyone
        )

    await until(are_gone, "parent and child have ended")


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_an_unknown_peer_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidArgument, match="afs"):
        await compare.measure(wanted=("local", "afs"))


@pytest.mark.timeout(180)
async def test_all_work_is_done_on_ours_and_the_local_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "FILE_BYTES", 8 * MIB)
    monkeypatch.setitem(compare.PEERS, "absent", Absent)  # type: ignore[arg-type]
    told: list[str] = []
    found = await compare.measure(wanted=("local", "absent"), rounds=1, seconds=0.1, say=told.append)
    assert list(found.subjects) == ["gfs", "local disk", "bare limit"] and list(found.missing) == ["Absent"]
    assert {(row.subject, row.work) for row in found.measured} == {
        *((subject, work) for subject in ("gfs", "local disk") for work in compare.UNITS),
        *(("bare limit", work) for work in ("write", "read")),
    }
    assert all(row.rates[0] > 0 and row.ratio > 0 for row in found.measured)
    text = compare.in_words(found)
    assert "apt install no-such-program" in text and "local disk" in text
    assert "gfs is so many times as fast" in compare.chart(found)
