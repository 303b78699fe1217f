"""The pages of `gfs checkpoint serve`: what they answer, and to whom; a name is never more than that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gfs.errors import CorruptState, InvalidArgument, Unavailable
from gfs.inspect.checkpoint_files import find_checkpoint
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.tree_page import PAGE_ENTRIES, directory_map, entry_page, suggestions
from gfs.inspect.web_view import WebView
from tests.core.master_records import add_chunk, create, hint, mkdir
from tests.inspect.planted import World, fill

HOSTILE = "<script>alert('1')<"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("view")
    world = World(directory / "world")
    fill(world)
    for number in range(PAGE_ENTRIES + 3):
        world(mkdir(f"/empty/d{number:04}"))
    inode = world(create(f"/data/{HOSTILE}"))
    world(add_chunk(inode, 0))
    world(hint(inode, 77_777, closed=True))
    found = world.checkpoint(directory / "checkpoints")
    world.tables.close()
    return found


@pytest.fixture
async def base(path: Path) -> AsyncIterator[str]:
    server = WebView(find_checkpoint(str(path))).server("127.0.0.1", 0)
    yield await server.start()
    await server.stop()


async def get(url: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as told:
        return told.status, await told.text()


async def test_totals_are_told_at_once(base: str) -> None:
    status, text = await get(f"{base}api/about")
    about = json.loads(text)
    assert status == 200 and (about["index"], about["term"]) == (41, 3)
    assert about["totals"]["files"] == 13 and about["totals"]["content_bytes"] > 64 * 2**20


async def test_a_directory_its_entries_and_a_file_with_its_chunks(base: str) -> None:
    found = json.loads((await get(f"{base}api/map?path=/data&by=bytes"))[1])
    biggest = found["biggest"][0]
    assert (biggest["name"], biggest["is_directory"]) == ("deep", True)
    assert sum(one["content_bytes"] for one in found["biggest"]) == found["content_bytes"]
    page = json.loads((await get(f"{base}api/entries?path=/data&after=f0"))[1])
    assert page["entries"][0]["name"] == "f1" and not page["more"]
    detail = json.loads((await get(f"{base}api/path?path=/data/deep/long"))[1])
    assert [chunk["index"] for chunk in detail["chunks"]] == [0, 1, 2, 3]


async def test_sizes_and_verify_are_answered_on_demand(base: str) -> None:
    sizes = json.loads((await get(f"{base}api/sizes"))[1])
    assert sum(one["files"] for one in sizes["sizes"]) == sizes["files"]
    (verdict,) = json.loads((await get(f"{base}api/verify", method="POST"))[1])
    assert verdict["counts"] == {} and verdict["rows"]["chunks"] == sizes["chunks"]


async def test_refusals_are_told_as_such(base: str) -> None:
    for question, expected in (
        ("path?path=/nothing", 404),
        ("path?path=relative", 400),
        ("map?path=/data/f0&by=bytes", 409),
        ("map?path=/data&by=weight", 400),
    ):
        status, text = await get(f"{base}api/{question}")
        assert status == expected and json.loads(text)["message"], question
    assert (await get(f"{base}../etc/passwd"))[0] == 404


async def test_only_this_machines_names_and_pages_are_served(base: str) -> None:
    assert (await get(f"{base}api/about", Host="rebound.example"))[0] == 403
    assert (await get(f"{base}api/verify", method="POST", Origin="http://elsewhere.example"))[0] == 403
    port = base.rstrip("/").rpartition(":")[2]
    assert (await get(f"{base}api/about", Host=f"localhost:{port}"))[0] == 200


async def test_pages_run_no_script_but_their_own(base: str) -> None:
    async with aiohttp.ClientSession() as session:
        for name in ("", "page.js", "page.css"):
            async with session.get(base + name) as told:
                policy = told.headers["Content-Security-Policy"]
                assert told.status == 200 and "default-src 'none'" in policy and "unsafe" not in policy
                assert "innerHTML" not in await told.text()
        async with session.get(f"{base}api/entries?path=/data") as told:
            assert (
                told.content_type == "application/json"
                and told.headers["X-Content-Type-Options"] == "nosniff"
            )
            assert HOSTILE in [one["name"] for one in (await told.json())["entries"]]


async def test_a_checkpoint_that_is_replaced_meanwhile_is_not_taken_for_the_same(
    path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    copy.with_suffix(".manifest").write_bytes(path.with_suffix(".manifest").read_bytes())
    server = WebView(find_checkpoint(str(copy))).server("127.0.0.1", 0)
    base = await server.start()
    copy.write_bytes(path.read_bytes()[:-1])
    status, text = await get(f"{base}api/path?path=/data")
    await server.stop()
    assert status == 404 and "another file" in text
    with pytest.raises(CorruptState):
        WebView(find_checkpoint(str(copy)))


async def test_nothing_is_served_beyond_this_machine_or_at_a_port_that_is_taken(
    path: Path, base: str
) -> None:
    view = WebView(find_checkpoint(str(path)))
    for host in ("0.0.0.0", "example.org", "localhost"):
        with pytest.raises(InvalidArgument, match="loopback"):
            view.server(host, 0)
    with pytest.raises(Unavailable, match="is taken"):
        await view.server("127.0.0.1", int(base.rstrip("/").rpartition(":")[2])).start()


def test_long_directories_come_by_the_page(path: Path) -> None:
    tables = CheckpointTables(str(path))
    first = entry_page(tables, "/empty", "")
    assert len(first.entries) == PAGE_ENTRIES and first.more
    second = entry_page(tables, "/empty", first.entries[-1].name)
    assert [one.name for one in second.entries] == [f"d{PAGE_ENTRIES + n:04}" for n in range(3)]
    assert not second.more
    assert directory_map(tables, "/", "files").biggest[0].name == "data"
    assert suggestions(tables, "/da") == ["/data/"] and suggestions(tables, "/no/such") == []
    assert suggestions(tables, "/data/f0") == ["/data/f0"]
