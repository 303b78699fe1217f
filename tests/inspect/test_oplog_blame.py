"""Blame: the records that made a path what it is, and none that only tried to."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.errors import NotFound
from gfs.inspect.oplog_blame import Blame, blame
from gfs.messages import operations as op
from tests.core.master_records import (
    NOW_MS,
    A,
    B,
    C,
    add_chunk,
    change,
    create,
    delete,
    grant,
    hint,
    mkdir,
    reclaim,
    rename,
    seal,
    undelete,
)
from tests.inspect.lived_master import LivedMaster


@pytest.fixture
def master(tmp_path: Path) -> LivedMaster:
    return LivedMaster(tmp_path / "m1")


def told(master: LivedMaster, path: str) -> Blame:
    master.log.flush()
    return blame(str(master.directory), path)


def steps(found: Blame) -> list[tuple[str, str]]:
    return [(line.effect, line.words.split(" (request")[0]) for line in found.lines]


def inode_of(outcome: op.AnyOutcome) -> int:
    assert isinstance(outcome, op.Done)
    return outcome.inode


def test_a_file_is_followed_through_renames_of_itself_and_of_what_is_above_it(master: LivedMaster) -> None:
    master.do(mkdir("/a/b", parents=True))
    master.do(create("/a/b/f"))
    master.do(create("/a/b/other"))
    master.do(rename("/a/b/f", "/a/b/g"))
    master.do(rename("/a", "/z"))
    master.entry(rename("/z", "/nowhere/z"))  # refused
    master.do(mkdir("/y"))
    master.do(rename("/z/b", "/y/b"))
    master.do(create("/a"))  # its old name means something else by now
    found = told(master, "/y/b/g")
    assert steps(found) == [
        ("made", "create /a/b/f with 3 replicas"),
        ("moved", "rename /a/b/f to /a/b/g"),
        ("moved", "rename /a to /z"),
        ("moved", "rename /z/b to /y/b"),
    ]
    assert found.is_there and not found.existed
    assert steps(told(master, "/y/b"))[0] == ("made", "make directory /a/b with its parents")


def test_grants_and_seals_of_its_chunks_are_told_by_inode_and_by_handle(master: LivedMaster) -> None:
    inode = inode_of(master.do(create("/f")))
    other = inode_of(master.do(create("/g")))
    granted = master.do(add_chunk(inode, 0))
    assert isinstance(granted, op.ChunkGranted)
    master.do(add_chunk(other, 0))
    master.do(grant(inode, 0, granted.handle, 1, A, B))
    master.do(hint(inode, 100, closed=True))
    master.do(change(granted.handle, 2, A))
    master.do(seal(granted.handle, 3, 100))
    master.entry(grant(inode, 0, granted.handle, 1, A, C))  # refused: of an old version
    assert [effect for effect, _ in steps(told(master, "/f"))] == [
        "made",
        "chunk",
        "chunk",
        "content",
        "chunk",
        "chunk",
    ]


def test_delete_and_undelete_are_told_and_a_path_that_is_gone_is_told_of_the_last_inode(
    master: LivedMaster,
) -> None:
    inode = inode_of(master.do(create("/f")))
    master.do(delete("/f"))
    master.do(undelete(inode, "/back"))
    assert [effect for effect, _ in steps(told(master, "/back"))] == ["made", "deleted", "undeleted"]
    master.do(delete("/back"))
    master.do(reclaim(now_ms=NOW_MS * 2))
    found = told(master, "/back")
    assert not found.is_there and found.inode == inode
    assert [effect for effect, _ in steps(found)][-2:] == ["deleted", "removed"]
    with pytest.raises(NotFound, match="never did"):
        told(master, "/never")


def test_a_replaced_file_is_not_blamed_for_its_successor(master: LivedMaster) -> None:
    master.do(create("/f"))
    second = inode_of(master.do(create("/f", replace=True)))
    found = told(master, "/f")
    assert found.inode == second and [effect for effect, _ in steps(found)] == ["made"]


def test_a_snapshot_is_told_from_its_beginning_to_its_publication(master: LivedMaster) -> None:
    master.do(mkdir("/src"))
    file = inode_of(master.do(create("/src/f")))
    granted = master.do(add_chunk(file, 0))
    assert isinstance(granted, op.ChunkGranted)
    copy = inode_of(master.do(op.BeginSnapshot(source="/src", target="/copy")))
    for _ in range(8):
        master.entry(op.CopySnapshot(copy=copy, rows=1))  # type: ignore[arg-type]
    of_file = steps(told(master, "/copy/f"))
    assert ("made", "begin a snapshot of /src at /copy") in of_file
    assert of_file[0][0] == "chunk"  # its bytes came with the source's grant
    assert of_file[-1][0] == "published"
    of_directory = steps(told(master, "/copy"))
    assert of_directory[0] == ("made", "begin a snapshot of /src at /copy")
    assert of_directory[-1][0] == "published"


def test_modes_owners_and_policies_are_told(master: LivedMaster) -> None:
    master.do(mkdir("/d"))
    master.do(op.ChangeMode(path="/d", mode=0o700))
    master.do(op.ChangeOwner(path="/d", owner="ann"))
    master.do(op.SetPolicy(path="/d", replicas=2))
    assert [words for _, words in steps(told(master, "/d"))] == [
        "make directory /d",
        "change mode of /d to 700",
        "change owner of /d to ann:",
        "set policy of /d: replicas=2",
    ]


def test_what_is_older_than_the_log_is_said_to_have_existed(master: LivedMaster) -> None:
    master.do(create("/f"))
    for number in range(60):
        master.do(create(f"/filler{number}"))
    master.checkpoint(trim=True)
    master.do(rename("/f", "/g"))
    found = told(master, "/g")
    assert found.existed and found.known_from > 1
    assert [effect for effect, _ in steps(found)] == ["moved"]


def test_a_retried_request_is_blamed_once(master: LivedMaster) -> None:
    master.do(mkdir("/a"))
    master.do(mkdir("/b"))
    master.do(rename("/a", "/b/a"))
    master.sequence -= 1  # the client has not heard the answer, and asks again
    master.do(rename("/a", "/b/a"))
    assert [effect for effect, _ in steps(told(master, "/b/a"))] == ["made", "moved"]
