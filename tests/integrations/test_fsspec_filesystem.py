"""What gfs:// promises beyond fsspec's own suite: publishing, transactions, pickles, forks, threads."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from multiprocessing.connection import Connection
from pathlib import Path

import fsspec
import pytest

import gfs
from gfs.integrations.attribute_cache import AttributeCache
from gfs.integrations.fsspec_filesystem import GFSFileSystem
from gfs.vocabulary import MIB

CHILD_SECONDS = 60.0


@pytest.fixture
def folder(filesystem: GFSFileSystem, request: pytest.FixtureRequest) -> str:
    path = f"/{request.node.name}"
    filesystem.mkdir(path)
    return path


def test_file_appears_under_its_name_when_it_is_closed_and_whole(
    filesystem: GFSFileSystem, folder: str
) -> None:
    with filesystem.open(f"{folder}/a", "wb", block_size=MIB) as file:
        file.write(bytes(3 * MIB))
        assert not filesystem.exists(f"{folder}/a")
        assert filesystem.ls(folder) == filesystem.find(folder) == []
    assert filesystem.size(f"{folder}/a") == 3 * MIB


def test_file_that_is_left_by_an_exception_never_appears(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe(f"{folder}/a", b"before")
    with pytest.raises(ZeroDivisionError), filesystem.open(f"{folder}/a", "wb") as file:
        file.write(b"half of it")
        raise ZeroDivisionError
    assert filesystem.cat(f"{folder}/a") == b"before"


def test_file_that_is_dropped_unclosed_never_appears(filesystem: GFSFileSystem, folder: str) -> None:
    file = filesystem.open(f"{folder}/a", "wb")
    file.write(b"half of it")
    del file
    assert not filesystem.exists(f"{folder}/a")


def test_exclusive_file_that_lost_a_race_is_refused_at_close(filesystem: GFSFileSystem, folder: str) -> None:
    file = filesystem.open(f"{folder}/a", "xb")
    file.write(b"second")
    filesystem.pipe(f"{folder}/a", b"first")
    with pytest.raises(FileExistsError):
        file.close()
    assert filesystem.cat(f"{folder}/a") == b"first"
    assert filesystem.ls(folder, detail=False) == [f"{folder}/a"]


def test_transaction_publishes_all_its_files_at_its_end_or_none(
    filesystem: GFSFileSystem, folder: str
) -> None:
    with filesystem.transaction:
        for name in "ab":
            with filesystem.open(f"{folder}/{name}", "wb") as file:
                file.write(name.encode())
        assert filesystem.ls(folder) == []
    assert filesystem.cat([f"{folder}/a", f"{folder}/b"]) == {f"{folder}/a": b"a", f"{folder}/b": b"b"}
    with pytest.raises(ZeroDivisionError), filesystem.transaction:
        with filesystem.open(f"{folder}/c", "wb") as file:
            file.write(b"c")
        raise ZeroDivisionError
    assert filesystem.ls(folder, detail=False) == [f"{folder}/a", f"{folder}/b"]


def test_append_goes_on_at_the_end(filesystem: GFSFileSystem, folder: str) -> None:
    for word in (b"one ", b"two"):
        with filesystem.open(f"{folder}/a", "ab") as file:
            file.write(word)
    assert filesystem.cat(f"{folder}/a") == b"one two"


def test_record_append_tells_its_offset(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.touch(f"{folder}/log")
    offset = filesystem.record_append(f"{folder}/log", b"record")
    assert filesystem.cat_file(f"{folder}/log", offset, offset + 6) == b"record"


def test_move_of_a_tree_and_copy_of_a_file_keep_every_byte(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe(f"{folder}/old/deep/a", b"content")
    before = filesystem.info(f"{folder}/old/deep/a")["inode"]
    filesystem.mv(f"{folder}/old", f"{folder}/new", recursive=True)
    assert filesystem.info(f"{folder}/new/deep/a")["inode"] == before  # renamed, not copied
    filesystem.cp_file(f"{folder}/new/deep/a", f"{folder}/copy")
    filesystem.pipe(f"{folder}/new/deep/a", b"changed")
    assert filesystem.cat(f"{folder}/copy") == b"content"


def test_ranges_are_those_of_python_slices(filesystem: GFSFileSystem, folder: str) -> None:
    content = bytes(range(200))
    filesystem.pipe(f"{folder}/a", content)
    for start, end in ((None, None), (3, 9), (-5, None), (None, -190), (190, 500), (-10, -3), (500, 600)):
        assert filesystem.cat_file(f"{folder}/a", start=start, end=end) == content[start:end], (start, end)


def test_names_that_look_like_patterns_are_found(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe(f"{folder}/[a]/b?c", b"")
    filesystem.pipe(f"{folder}/a/bxc", b"")
    assert filesystem.find(f"{folder}/[a]") == [f"{folder}/[a]/b?c"]
    assert filesystem.find(folder, maxdepth=1) == []
    assert filesystem.find(folder, maxdepth=1, withdirs=True) == [folder, f"{folder}/[a]", f"{folder}/a"]
    assert filesystem.find(f"{folder}/nothing") == []


def test_what_was_deleted_is_in_the_trash_and_in_no_search(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe(f"{folder}/a", b"wanted after all")
    filesystem.rm(f"{folder}/a")
    assert not [path for path in filesystem.find("/") if path.startswith("/.trash")]
    client = gfs.connect(filesystem.storage_options["masters"])
    with client:
        client.undelete(f"{folder}/a")
    filesystem.invalidate_cache()
    assert filesystem.cat(f"{folder}/a") == b"wanted after all"


def test_missing_parents_are_refused_where_nobody_wants_them_made(masters: str) -> None:
    strict = GFSFileSystem(masters=masters, auto_mkdir=False)
    with pytest.raises(FileNotFoundError):
        strict.open("/not/there", "wb")
    with pytest.raises(FileNotFoundError):
        strict.pipe("/not/there", b"")


def test_errors_are_those_of_python_files(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe(f"{folder}/a", b"")
    with pytest.raises(FileNotFoundError, match="nothing"):
        filesystem.open(f"{folder}/nothing")
    with pytest.raises(IsADirectoryError):
        filesystem.open(folder, "wb")
    with pytest.raises(FileExistsError):
        filesystem.mkdir(folder)
    with pytest.raises(IsADirectoryError):
        filesystem.rm(folder)
    with pytest.raises(NotADirectoryError):
        filesystem.rmdir(f"{folder}/a")
    assert not filesystem.exists(f"{folder}/a/below")


def test_open_file_keeps_to_the_file_it_was_opened_at(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe(f"{folder}/a", b"x" * 100)
    assert filesystem.info(f"{folder}/a")["size"] == 100
    other = GFSFileSystem(filesystem.storage_options["masters"], skip_instance_cache=True)
    other.pipe(f"{folder}/a", b"y" * 300)
    with filesystem.open(f"{folder}/a") as file:
        # What it looked like a moment ago is remembered, and no reader believes it.
        assert file.read() == b"y" * 300


def test_installed_package_names_the_file_system_to_fsspec() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    named = project["project"]["entry-points"]["fsspec.specs"]
    assert EntryPoint("gfs", named["gfs"], "fsspec.specs").load() is GFSFileSystem
    assert "gfs" in GFSFileSystem.protocol


def test_url_names_masters_and_path() -> None:
    of_url = GFSFileSystem._get_kwargs_from_urls("gfs://m1:9500,m2:9501/a/b")
    assert of_url == {"masters": "m1:9500,m2:9501"}
    assert GFSFileSystem._strip_protocol("gfs://m1:9500,m2:9501/a/b/") == "/a/b"
    assert GFSFileSystem._get_kwargs_from_urls("gfs:///a") == {}
    assert [GFSFileSystem._strip_protocol(one) for one in ("gfs:///a", "a", "/", "gfs://m1:9500")] == [
        "/a",
        "/a",
        "/",
        "/",
    ]


def test_fsspec_open_takes_a_url(masters: str, filesystem: GFSFileSystem, folder: str) -> None:
    with fsspec.open(f"gfs://{masters}{folder}/words", "wt") as file:
        file.write("wörter\n")
    with fsspec.open(f"gfs://{masters}{folder}/words", "rt") as file:
        assert list(file) == ["wörter\n"]


def test_pickles_carry_arguments_and_no_connection(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe(f"{folder}/a", b"0123456789")
    again = pickle.loads(pickle.dumps(filesystem))
    assert again.cat(f"{folder}/a") == b"0123456789"
    with filesystem.open(f"{folder}/a") as file:
        file.seek(4)
        with pickle.loads(pickle.dumps(file)) as copy:
            assert copy.read() == b"456789"


def _use_in_child(filesystem: GFSFileSystem, file: fsspec.spec.AbstractBufferedFile, to: Connection) -> None:
    filesystem.pipe("/forked/from-child", b"written by the child")
    file.seek(0)
    to.send((file.read(), filesystem.cat("/forked/a")))
    to.close()


def test_forked_child_uses_file_systems_and_open_files_and_its_parent_goes_on(
    filesystem: GFSFileSystem,
) -> None:
    filesystem.pipe("/forked/a", b"of the parent")
    with filesystem.open("/forked/a", cache_type="none") as file:
        assert file.read(2) == b"of"
        mine, theirs = multiprocessing.get_context("fork").Pipe()
        child = multiprocessing.get_context("fork").Process(
            target=_use_in_child, args=(filesystem, file, theirs)
        )
        child.start()
        theirs.close()
        assert mine.poll(CHILD_SECONDS)
        assert mine.recv() == (b"of the parent", b"of the parent")
        child.join(CHILD_SECONDS)
        assert child.exitcode == 0
        assert file.read() == b" the parent"
    assert filesystem.cat("/forked/from-child") == b"written by the child"


def test_child_that_collects_what_it_inherited_leaves_its_parent_connected(
    filesystem: GFSFileSystem, folder: str
) -> None:
    filesystem.pipe(f"{folder}/a", b"content")
    child = os.fork()
    if child == 0:
        filesystem.__dict__.clear()
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert filesystem.cat(f"{folder}/a") == b"content"


def test_hundred_threads_share_one_instance(filesystem: GFSFileSystem, folder: str) -> None:
    together = threading.Barrier(100)

    def work(number: int) -> bytes:
        together.wait()
        with filesystem.open(f"{folder}/{number}", "wb") as file:
            file.write(b"%d" % number)
        return bytes(filesystem.cat(f"{folder}/{number}"))

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(work, range(100))) == [b"%d" % number for number in range(100)]


def test_same_instance_serves_a_loop_of_the_callers_own(masters: str) -> None:
    async def work() -> bytes:
        filesystem = GFSFileSystem(masters=masters, asynchronous=True, skip_instance_cache=True)
        async with await filesystem.open_async("/own-loop/a", "wb") as file:
            await file.write(b"0123456789")
            assert not await filesystem._exists("/own-loop/a")
        async with await filesystem.open_async("/own-loop/a") as file:
            await file.seek(-4, 2)
            tail = bytes(await file.read())
        await (await filesystem.client()).close()
        return tail

    assert asyncio.run(work()) == b"6789"


def test_attributes_are_forgotten_by_time_and_by_change() -> None:
    now = 0.0
    cache = AttributeCache(1.0, now=lambda: now)
    cache.put([{"name": "/a", "size": 1}], asked_at=0)
    assert cache.get("/a") == {"name": "/a", "size": 1}
    now = 1.0
    assert cache.get("/a") is None
    cache.clear()
    cache.put([{"name": "/a", "size": 1}], asked_at=0)  # asked before the change, answered after it
    assert cache.get("/a") is None
