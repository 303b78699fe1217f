"""The walk of fsck sees each file and chunk once, however small its pages; and finds the file of a chunk."""

from __future__ import annotations

import pytest

from gfs.errors import NotADirectory, NotFound
from gfs.master.core.check_walk import walk_page
from gfs.master.core.chunk_homes import ChunkHomes
from gfs.master.core.lookup import chunk_of
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId
from tests.core.master_records import A, B, add_chunk, create, delete, mkdir, record

FILES = {"/a/1": 2, "/a/2": 0, "/a/[x]*": 1, "/a/b/deep": 7, "/a-b": 1, "/z": 3}


class World:
    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        for directory in ("/a", "/a/b", "/empty"):
            self.state.apply(record(mkdir(directory)))
        self.inodes: dict[str, InodeId] = {}
        for path, chunks in FILES.items():
            made = self.state.apply(record(create(path)))
            assert isinstance(made, op.Done)
            self.inodes[path] = made.inode
            for index in range(chunks):
                self.state.apply(record(add_chunk(made.inode, index, A, B)))

    def handle(self, path: str, index: int) -> ChunkHandle:
        chunk = chunk_of(self.tables, self.inodes[path], index)
        assert chunk is not None
        return chunk.handle

    def walk(self, path: str, limit: int) -> list[tuple[str, int]]:
        """(path, chunk) of everything seen; (path, -1) for the beginning of a file."""
        seen: list[tuple[str, int]] = []
        after, first = "", 0
        while True:
            page = walk_page(self.tables, path, after=after, first_chunk=first, limit=limit)
            for file in page.files:
                if file.first == 0:
                    seen.append((file.path, -1))
                seen += [(file.path, file.first + n) for n in range(len(file.chunks))]
                for n, chunk in enumerate(file.chunks):
                    assert chunk.handle == self.handle(file.path, file.first + n)
            after, first = page.next_after, page.next_chunk
            if not after:
                return seen


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("top", ["/", "/a", "/a/[x]*", "/a/b", "/z", "/a/2", "/empty"])
def test_every_file_and_chunk_below_a_path_is_seen_once_in_order(world: World, top: str, limit: int) -> None:
    inside = [path for path in FILES if path == top or path.startswith(top.rstrip("/") + "/")]
    expected = [
        (path, index)
        for path in sorted(inside, key=lambda path: path.split("/"))
        for index in range(-1, FILES[path])
    ]
    assert world.walk(top, limit) == expected


def test_a_path_that_is_not_there_is_said_so(world: World) -> None:
    with pytest.raises(NotFound):
        world.walk("/nothing", 10)
    with pytest.raises(NotADirectory):
        world.walk("/z/inside", 10)


def test_a_file_deleted_between_two_pages_of_its_chunks_is_passed_over(world: World) -> None:
    page = walk_page(world.tables, "/a", after="/a/2", first_chunk=0, limit=4)
    page = walk_page(world.tables, "/a", after=page.next_after, first_chunk=page.next_chunk, limit=4)
    assert page.next_after == "/a/b/deep" and 0 < page.next_chunk < FILES["/a/b/deep"]
    world.state.apply(record(delete("/a/b/deep")))
    page = walk_page(world.tables, "/a", after="/a/b/deep", first_chunk=page.next_chunk, limit=4)
    assert page.files == [] and page.next_after == ""


# --- which file a chunk is of ---------------------------------------------------------------------


def test_the_file_of_a_chunk_is_known_when_it_was_asked_for_and_else_found_by_walking(world: World) -> None:
    homes = ChunkHomes(kept_max=100)
    handle = world.handle("/a/b/deep", 5)
    assert homes.find(world.tables, handle) is None
    for _ in range(30):
        homes.search(world.tables, {handle}, chunks_max=2)
    assert homes.find(world.tables, handle) == (world.inodes["/a/b/deep"], 5)
    homes.note(world.handle("/z", 1), world.inodes["/z"], ChunkIndex(1))
    assert homes.find(world.tables, world.handle("/z", 1)) == (world.inodes["/z"], 1)


def test_a_home_that_has_gone_is_forgotten_and_only_so_many_are_kept(world: World) -> None:
    homes = ChunkHomes(kept_max=2)
    homes.note(ChunkHandle(999), InodeId(12345), ChunkIndex(0))
    assert homes.find(world.tables, ChunkHandle(999)) is None
    homes.note(world.handle("/z", 0), world.inodes["/z"], ChunkIndex(1))  # another chunk is there
    assert homes.find(world.tables, world.handle("/z", 0)) is None
    for index in range(3):
        homes.note(world.handle("/z", index), world.inodes["/z"], ChunkIndex(index))
    known = [homes.find(world.tables, world.handle("/z", index)) is not None for index in range(3)]
    assert known == [False, True, True]
