"""A backup is published when it is whole, and otherwise leaves nothing that could be taken for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from crc32c import crc32c

from gfs import failpoints
from gfs.backups import catalogue, places
from gfs.backups.manifest import BackupManifest
from gfs.backups.places import DirectoryPlace, Place, Writing
from gfs.backups.taking import TRIES, take
from gfs.errors import ChecksumMismatch, ConnectionLost, GfsError
from gfs.messages.backup import BackupOpened
from gfs.messages.base import Consistency
from gfs.vocabulary import Address, ClusterId, LogIndex, MasterId, Term

CONTENT = bytes(range(256)) * 20
NOW_MS = 1_795_000_000_000


class Master:
    """Serves CONTENT; the first tries end with `failure` after some pieces."""

    def __init__(self, failure: GfsError | None = None, *, failing: int = 0) -> None:
        self.failure, self.failing, self.opened = failure, failing, 0

    async def open(self, consistency: Consistency) -> BackupOpened:
        self.opened += 1
        return BackupOpened(
            session=str(self.opened),
            master=MasterId("m1"),
            control=Address("m1:1"),
            cluster=ClusterId("c"),
            index=LogIndex(40 + self.opened),
            term=Term(3),
            length_bytes=len(CONTENT),
            crc32c=crc32c(CONTENT),
            made_at_ms=NOW_MS,
            members=[MasterId("m1")],
            format=1,
            state_format=2,
        )

    async def pieces(self, opened: BackupOpened) -> AsyncIterator[bytes]:
        yield CONTENT[:2000]
        if self.failure is not None and self.opened <= self.failing:
            raise self.failure
        yield CONTENT[2000:]


class FullPlace(DirectoryPlace):
    def begin(self, name: str) -> Writing:
        writing = super().begin(name)

        def refuse(_: bytes) -> None:
            raise OSError(28, "No space left on device")

        writing.write = refuse  # type: ignore[method-assign]
        return writing


async def taken(master: Master, place: Place) -> BackupManifest:
    return await take(master, place, consistency="linearizable", now_ms=lambda: NOW_MS, say=lambda _: None)


def states(place: Place) -> list[tuple[int, str]]:
    return [(row.index, row.state) for row in catalogue.rows(place)]


async def test_a_master_that_goes_away_is_followed_by_another_try_that_leaves_one_backup(
    tmp_path: Path,
) -> None:
    place, master = DirectoryPlace(str(tmp_path)), Master(ConnectionLost("gone"), failing=TRIES - 1)
    manifest = await taken(master, place)
    assert manifest.index == 40 + TRIES
    assert states(place) == [(40 + TRIES, "whole")]
    assert b"".join(catalogue.choose(place).pieces()) == CONTENT
    assert len(list(tmp_path.iterdir())) == 2


async def test_one_that_fails_for_good_leaves_nothing_behind(tmp_path: Path) -> None:
    place = DirectoryPlace(str(tmp_path))
    with pytest.raises(ConnectionLost):
        await taken(Master(ConnectionLost("gone"), failing=TRIES), place)
    with pytest.raises(ChecksumMismatch):
        await taken(Master(ChecksumMismatch("rotten"), failing=1), place)
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_leaves_nothing_that_is_taken_for_a_backup(tmp_path: Path) -> None:
    place = FullPlace(str(tmp_path))
    with pytest.raises(OSError, match="No space"):
        await taken(Master(), place)
    assert list(tmp_path.iterdir()) == []


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["backup.written", "backup.synced", "backup.renamed"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_backup_killed_at_any_step_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, nth: int
) -> None:
    """Each step is passed twice: by the bytes, and by the manifest that makes a backup of them."""
    place, passes = DirectoryPlace(str(tmp_path)), 0

    def told(passed: str) -> None:
        nonlocal passes
        passes += passed == name
        if passed == name and passes == nth:
            raise Killed

    failpoints.intercept(told)
    try:
        with monkeypatch.context() as dead, pytest.raises(Killed):
            dead.setattr(catalogue, "withdraw", lambda *_: None)  # who is dead clears nothing away
            dead.setattr(places._FileWriting, "give_up", lambda _: None)
            await taken(Master(), place)
    finally:
        failpoints.intercept(None)
    was_renamed = (name, nth) == ("backup.renamed", 2)
    assert ((41, "whole") in states(place)) == was_renamed
    again = Master()
    again.opened = 1
    await taken(again, place)
    assert (42, "whole") in states(place)
    assert b"".join(catalogue.choose(place).pieces()) == CONTENT
