"""Listing and globbing, page by page."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs.errors import CorruptState, NotADirectory, NotFound
from gfs.master.core.glob import glob_page
from gfs.master.core.lookup import list_page
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, ReadTables, Table
from gfs.messages import operations as op
from gfs.settings import LIST_PAGE_MAX
from tests.core.master_records import create, delete, mkdir, record

PATHS = [
    "/a",
    "/a/b",
    "/a/b/c.txt",
    "/a/b/d.txt",
    "/a/c.txt",
    "/a-b",
    "/a-b/x.txt",
    "/logs",
    "/logs/1",
    "/logs/1/part-0",
    "/logs/1/part-1",
    "/logs/2",
    "/logs/2/part-0",
    "/logs/[x]",
    "/ä",
    "/ä/ö.txt",
]


def tree(paths: list[str]) -> MemoryTables:
    tables = MemoryTables()
    state = MasterState(tables)
    for path in paths:
        leaf = not any(other.startswith(path + "/") for other in paths)
        outcome = state.apply(record(create(path) if leaf else mkdir(path)))
        assert isinstance(outcome, op.Done), outcome
    state.save()
    return tables


@pytest.fixture(scope="module")
def tables() -> MemoryTables:
    return tree(PATHS)


def listed(tables: ReadTables, path: str, limit: int) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        entries, after = list_page(tables, path, after=after, limit=limit)
        assert len(entries) <= limit
        found += [entry.path for entry in entries]
        if not after:
            return found


def globbed(tables: ReadTables, pattern: str, *, limit: int = 1000, scan_max: int = 1000) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        entries, after = glob_page(tables, pattern, after=after, limit=limit, scan_max=scan_max)
        assert len(entries) <= limit
        found += [entry.path for entry in entries]
        if not after:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_a_listing_is_in_byte_order_whatever_the_page(tables: MemoryTables, limit: int) -> None:
    assert listed(tables, "/", limit) == ["/a", "/a-b", "/logs", "/ä"]
    assert listed(tables, "//a/", limit) == ["/a/b", "/a/c.txt"]


def test_a_listing_goes_on_behind_a_name_that_is_gone(tables: MemoryTables) -> None:
    assert [entry.path for entry in list_page(tables, "/", after="a-a")[0]] == ["/a-b", "/logs", "/ä"]
    assert [entry.path for entry in list_page(tables, "/", after="x" * 5000)[0]] == ["/ä"]
    assert list_page(tables, "/", after="\udcff") == ([], "")


def test_a_page_of_a_listing_is_capped() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    for number in range(LIST_PAGE_MAX + 1):
        state.apply(record(create(f"/{number:05}")))
    entries, after = list_page(tables, "/", limit=10**9)
    assert (len(entries), after) == (LIST_PAGE_MAX, f"{LIST_PAGE_MAX - 1:05}")


def test_listing_a_file_or_nothing_is_refused(tables: MemoryTables) -> None:
    with pytest.raises(NotADirectory):
        list_page(tables, "/a/c.txt")
    with pytest.raises(NotFound):
        list_page(tables, "/nothing")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/", ["/"]),
        ("/a/c.txt", ["/a/c.txt"]),
        ("/nothing", []),
        ("/*", ["/a", "/a-b", "/logs", "/ä"]),
        ("/a*", ["/a", "/a-b"]),
        ("/?", ["/a", "/ä"]),
        ("/*/*.txt", ["/a/c.txt", "/a-b/x.txt", "/ä/ö.txt"]),
        ("/logs/*/part-[0-9]", ["/logs/1/part-0", "/logs/1/part-1", "/logs/2/part-0"]),
        ("/logs/*/part-[!0]", ["/logs/1/part-1"]),
        ("/logs/[[]x]", ["/logs/[x]"]),
        ("/logs/[", []),
        ("/**/c.txt", ["/a/b/c.txt", "/a/c.txt"]),
        ("/a/**", ["/a", "/a/b", "/a/b/c.txt", "/a/b/d.txt", "/a/c.txt"]),
        ("/**/b/**/*.txt", ["/a/b/c.txt", "/a/b/d.txt"]),
        ("/logs/**/part-0", ["/logs/1/part-0", "/logs/2/part-0"]),
        ("/a.c", []),
        ("/A", []),
        ("/a/c.txt/**/x", []),
    ],
)
@pytest.mark.parametrize("page", [(1, 1), (2, 3), (1000, 1000)])
def test_a_pattern_matches(
    tables: MemoryTables, pattern: str, expected: list[str], page: tuple[int, int]
) -> None:
    assert globbed(tables, pattern, limit=page[0], scan_max=page[1]) == expected


def test_one_page_of_a_glob_looks_at_a_bounded_number_of_entries() -> None:
    tables = tree([f"/f{number:03}" for number in range(100)])
    entries, after = glob_page(tables, "/g*", scan_max=10)
    assert entries == []
    assert after == "/f008", "the root and nine entries"
    assert globbed(tables, "/f09*", scan_max=10) == [f"/f09{digit}" for digit in range(10)]


def test_certain_names_are_looked_up_not_searched_for() -> None:
    """A pattern with its wildcard further down does not pay for the size of the directories above."""
    tables = tree([*(f"/f{number:03}" for number in range(100)), "/z", "/z/x.txt"])
    assert [entry.path for entry in glob_page(tables, "/z/*", scan_max=5)[0]] == ["/z/x.txt"]


def test_a_glob_goes_on_when_the_tree_it_was_in_is_gone() -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    for path in ("/a", "/a/b", "/c", "/c/d"):
        state.apply(record(mkdir(path)))
    entries, after = glob_page(tables, "/**", limit=3)
    assert [entry.path for entry in entries] == ["/", "/a", "/a/b"]
    state.apply(record(delete("/a", recursive=True)))
    assert [entry.path for entry in glob_page(tables, "/**", after=after)[0]] == ["/c", "/c/d"]


WORDS = st.sampled_from(["a", "ab", "b", "ba", "*", "a*", "?", "[ab]", "**"])
NAMES = st.sampled_from(["a", "ab", "b", "ba", "aab"])


def matches(names: list[str], pattern: list[str]) -> bool:
    """The definition, by recursion."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        return matches(names, pattern[1:]) or (bool(names) and matches(names[1:], pattern))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and matches(names[1:], pattern[1:])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    pattern=st.lists(WORDS, min_size=1, max_size=4),
    paths=st.sets(st.lists(NAMES, min_size=1, max_size=4).map(tuple), max_size=12),
    page=st.tuples(st.integers(1, 5), st.integers(1, 7)),
)
def test_any_pattern_finds_what_the_definition_says_in_any_pages(
    pattern: list[str], paths: set[tuple[str, ...]], page: tuple[int, int]
) -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    every = {path[:depth] for path in paths for depth in range(len(path) + 1)} | {()}
    for path in sorted(every):
        state.apply(record(mkdir("/" + "/".join(path), parents=True)))
    expected = ["/" + "/".join(path) for path in sorted(every) if matches(list(path), pattern)]
    found = globbed(tables, "/" + "/".join(pattern), limit=page[0], scan_max=page[1])
    assert found == expected


def test_an_entry_without_its_inode_is_reported_not_guessed() -> None:
    tables = tree(["/f"])
    for key, _ in list(tables.scan(Table.INODES))[1:]:
        tables.delete(Table.INODES, key)
    with pytest.raises(CorruptState):
        list_page(tables, "/")
