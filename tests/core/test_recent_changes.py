"""What the latest log records changed: which operations tell what, in which order, and what is forgotten."""

from __future__ import annotations

import pytest

from gfs.errors import ChangesForgotten
from gfs.master.core.recent_changes import Noted, RecentChanges, concerns
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.messages import operations as op
from gfs.vocabulary import InodeId, LogIndex
from tests.core.master_records import add_chunk, create, delete, mkdir, record, rename


class Applied:
    """A state and what is noted of the records it applies, one log entry each unless said otherwise."""

    def __init__(self, *, kept_max: int = 1000) -> None:
        self.state = MasterState(MemoryTables())
        self.recent = RecentChanges(
            begin=LogIndex(1),
            next_inode=self.state.counters.next_inode,
            kept_max=kept_max,
            kept_bytes_max=10**6,
        )
        self.index = 0

    def entry(self, *operations: op.AnyOperation, sequence: int | None = None) -> op.AnyOutcome:
        self.index += 1
        for operation in operations:
            written = record(operation, sequence=sequence)
            outcome = self.state.apply(written, index=LogIndex(self.index))
            next_inode = self.state.counters.next_inode
            self.recent.note(LogIndex(self.index), written, outcome, next_inode=next_inode)
            self.recent.check_invariants()
        return outcome

    def made(self, path: str) -> InodeId:
        outcome = self.entry(create(path))
        assert isinstance(outcome, op.Done)
        return outcome.inode

    def told(self, since: int = 1) -> list[str]:
        noted, _ = self.recent.page(since, through=LogIndex(self.index), limit=1000)
        return [_words(change) for change in noted if not change.superseded]


def _words(change: Noted) -> str:
    return " ".join(filter(None, (change.kind, change.source, change.path)))


def test_each_operation_on_a_name_is_told_in_the_order_of_the_log() -> None:
    applied = Applied()
    applied.entry(mkdir("/d"))
    inode = applied.made("/d/a")
    applied.entry(rename("/d/a", "/d/b"))
    applied.entry(add_chunk(inode, 0))
    applied.entry(op.SetLengthHint(inode=inode, length_bytes=5, closed=True))
    applied.entry(op.ChangeMode(path="/d/b", mode=0o600))
    applied.entry(delete("/d/b"))
    assert applied.told() == [
        "created /d",
        "created /d/a",
        "renamed /d/a /d/b",
        "extended",
        "written",
        "attributes /d/b",
        "deleted /d/b",
    ]
    assert applied.told(since=6) == ["attributes /d/b", "deleted /d/b"]


def test_what_was_refused_is_not_told() -> None:
    applied = Applied()
    applied.entry(create("/a"))
    applied.entry(create("/a"))
    applied.entry(delete("/nothing"))
    assert applied.told() == ["created /a"]


def test_of_a_deep_mkdir_those_that_were_missing_are_told_and_none_that_was_there() -> None:
    applied = Applied()
    applied.entry(mkdir("/a"))
    applied.entry(mkdir("/a/b/c", parents=True))
    applied.entry(mkdir("/a/b/c", parents=True))
    assert applied.told() == ["created /a", "created /a/b", "created /a/b/c"]


def test_undelete_tells_the_parents_that_it_made() -> None:
    applied = Applied()
    applied.entry(mkdir("/d"))
    inode = applied.made("/d/f")
    applied.entry(delete("/d/f", expires_at_ms=9))
    applied.entry(delete("/d", recursive=True, expires_at_ms=9))
    applied.entry(op.Undelete(entry=op.TrashName(9, inode), path="/d/f"))
    assert applied.told(since=5) == ["created /d", "undeleted /d/f"]


def test_a_repeated_request_is_told_once() -> None:
    applied = Applied()
    applied.entry(create("/a"))
    applied.entry(delete("/a"), sequence=1)
    applied.entry(create("/a"))
    applied.entry(delete("/a"), sequence=1)
    assert applied.told() == ["created /a", "deleted /a", "created /a"]


def test_a_page_ends_between_two_entries_even_when_one_is_longer_than_a_page() -> None:
    applied = Applied()
    applied.entry(create("/a"))
    applied.entry(*(create(f"/b{n}") for n in range(5)))
    applied.entry(create("/c"))
    at, pages = 1, []
    while at <= applied.index:
        noted, at = applied.recent.page(at, through=LogIndex(applied.index), limit=2)
        pages.append([change.index for change in noted])
    assert pages == [[1], [2] * 5, [3]]
    assert at == 4


def test_the_oldest_are_forgotten_as_whole_entries_and_asking_for_them_says_so() -> None:
    applied = Applied(kept_max=10)
    applied.entry(create("/first"))
    applied.entry(create("/a"), create("/b"))
    for n in range(9):
        applied.entry(create(f"/{n}"))
    assert applied.recent.begin > 1
    with pytest.raises(ChangesForgotten) as caught:
        applied.told()
    assert caught.value.details["next"] == str(applied.index + 1)
    assert applied.told(since=applied.recent.begin)[-1] == "created /8"


def test_what_concerns_a_watched_path() -> None:
    assert concerns("/a/b", "/a", tree=False)
    assert concerns("/a", "/a", tree=False)
    assert concerns("/a", "/", tree=False)
    assert not concerns("/ab", "/a", tree=True)
    assert concerns("/a", "/a/b", tree=True), "what is watched goes with the directory that holds it"
    assert not concerns("/a", "/a/b", tree=False)


def test_what_is_applied_but_not_committed_yet_is_not_told() -> None:
    applied = Applied()
    applied.entry(create("/a"))
    applied.entry(create("/b"))
    noted, following = applied.recent.page(1, through=LogIndex(1), limit=10)
    assert [change.path for change in noted] == ["/a"]
    assert following == 2
    assert applied.recent.page(2, through=LogIndex(1), limit=10) == ([], 2)
