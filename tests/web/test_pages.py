"""Every page of the console on a live cluster, as HTML and as JSON; what keeps a page from doing harm."""

from __future__ import annotations

import asyncio
import html
import json
import sys

import pytest

from tests.web.conftest import HOSTILE, SECRET, WORDS, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = [
    "/ui/",
    "/ui/masters",
    "/ui/chunkservers",
    "/ui/replication",
    "/ui/explain",
    "/ui/explain?path=/logs/words.txt",
    "/ui/snapshots",
    "/ui/chunks",
    "/ui/cell?goal=3&good=3",
    "/ui/files",
    "/ui/files?path=/logs",
    "/ui/files?path=/logs/words.txt",
    "/ui/files?path=/logs/noise.bin",
    "/ui/trash",
    "/ui/clients",
    "/ui/events",
    "/ui/calls",
    "/ui/calls?method=create",
    "/ui/config",
]


async def test_every_page_is_there_as_html_and_as_json_at_leader_and_follower(site: Site) -> None:
    for place in PAGES:
        for visitor in (site.leader, site.follower):
            if visitor is site.follower and "explain?" in place:
                told = await visitor.json(place, status=503)
                assert told["code"] == "not_leader"
                assert "Open this at the leader" in await visitor.html(place, status=503)
                continue
            page = await visitor.html(place)
            assert "<main" in page and "Traceback" not in page
            assert await visitor.json(place)


async def test_pages_tell_what_the_cluster_has(site: Site) -> None:
    overview = await site.leader.json("/ui/")
    assert overview["status"]["health"] == "ok" and overview["servers_alive"] == 4
    assert {series["name"] for series in overview["series"]} >= {"log records", "calls answered"}
    masters = await site.leader.json("/ui/masters")
    assert sorted(member["id"] for member in masters["members"]) == ["m1", "m2", "m3"]
    servers = await site.leader.json("/ui/chunkservers")
    assert len(servers["counted"]) == 4
    assert (await site.follower.json("/ui/chunkservers"))["counted"] is None
    assert "Only the leader knows this" in await site.follower.html("/ui/replication")
    clients = await site.leader.json("/ui/clients")
    assert clients["sessions"]["total"] >= 1
    assert clients["leases"]["total"] >= 3


async def test_a_follower_says_how_far_it_is_behind_and_leads_to_the_leader(site: Site) -> None:
    page = await site.follower.html("/ui/files?path=/logs")
    assert "follower" in page and "behind" in page
    assert f'href="{site.leader.base}/ui/files?path=/logs"' in page
    assert "words.txt" in page


async def test_a_chunk_can_be_followed_from_the_matrix_to_its_replicas(site: Site) -> None:
    site.walk_over_chunks()
    cells = (await site.leader.json("/ui/chunks"))["matrix"]["cells"]
    assert cells == [{"goal": 3, "good": 3, "chunks": 4}]
    cell = await site.leader.json("/ui/cell?goal=3&good=3")
    row = next(chunk for chunk in cell["chunks"] if chunk["path"] == "/logs/words.txt")
    place = f"/ui/chunk?handle={row['handle']:016x}&inode={row['inode']}&index={row['index']}"
    assert place.replace("&", "&amp;") in await site.leader.html("/ui/cell?goal=3&good=3")
    shown = await site.leader.json(place)
    assert shown["chunk"]["path"] == "/logs/words.txt" and shown["chunk"]["goal"] == 3
    assert [held["row"]["state"] for held in shown["replicas"]] == ["good"] * 3
    assert {held["length_bytes"] for held in shown["replicas"]} == {len(WORDS)}
    assert len({held["sums"] for held in shown["replicas"]}) == 1 and shown["replicas"][0]["sums"]
    assert "/logs/words.txt" in await site.leader.html(place)
    without_home = await site.leader.json(f"/ui/chunk?handle={row['handle']:016x}")
    assert "path" not in without_home["chunk"] and len(without_home["replicas"]) == 3


async def test_a_file_is_shown_with_its_first_bytes(site: Site) -> None:
    text = await site.leader.json("/ui/files?path=/logs/words.txt")
    assert text["preview"]["kind"] == "text" and text["preview"]["text"].startswith("first line\n")
    noise = await site.leader.json("/ui/files?path=/logs/noise.bin")
    assert noise["preview"]["kind"] == "bytes" and noise["preview"]["text"].startswith("000000  00 01 02")
    assert noise["chunks"][0]["replicas"]


async def test_names_and_contents_are_shown_and_never_taken_for_markup(site: Site) -> None:
    name = HOSTILE.replace("/", "_")
    for place in ("/ui/files?path=/logs", "/ui/calls", "/ui/clients"):
        page = await site.leader.html(place)
        assert "<script>alert" not in page, place
    listing = await site.leader.html("/ui/files?path=/logs")
    assert "&lt;script&gt;alert(1)&lt;_script&gt;" in listing
    listed = await site.leader.json("/ui/files?path=/logs")
    assert f"/logs/{name}" in [entry["path"] for entry in listed["entries"]]
    content = await site.leader.html("/ui/files?path=/logs/words.txt")
    assert "second &lt;b&gt;line&lt;/b&gt;" in content
    refused = await site.leader.html(f"/ui/files?path=/{'<b>x</b>'.replace('/', '%2F')}", status=404)
    assert "<b>x" not in refused and html.escape("<b>x") in refused


@pytest.mark.parametrize(
    "place", ["/ui/", "/ui/files", "/ui/nothing", "/ui/sign-in", "/ui/static/console.css"]
)
async def test_nothing_may_be_loaded_from_elsewhere_or_stand_in_a_page(site: Site, place: str) -> None:
    answer = await site.leader.head(place)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if place != "/ui/static/console.css":
        page = await answer.text()
        assert "<style" not in page and " style=" not in page and " onclick" not in page
        assert page.count("<script") == page.count('<script src="/ui/static/')


async def test_secrets_are_not_shown(site: Site) -> None:
    told = await site.leader.json("/ui/config")
    assert told["sections"]["cluster"]["secret_file"] == "(not shown)"
    assert told["sections"]["cluster"]["id"] == "test-cluster"
    assert SECRET not in await site.leader.html("/ui/config")


async def test_wrong_questions_are_refused_in_words(site: Site) -> None:
    for place, status in (
        ("/ui/nothing", 404),
        ("/ui/chunk?handle=xyz", 400),
        ("/ui/chunk?handle=00000000000fffff", 404),
        ("/ui/cell?goal=-1&good=3", 400),
        ("/ui/files?path=/not/there", 404),
        ("/ui/files?path=not-absolute", 400),
        ("/ui/act/explode", 404),
        ("/ui/act/drain", 400),
        ("/ui/live/files", 404),
        ("/ui/static/../console.py", 404),
        ("/ui/static/VENDOR.toml", 404),
    ):
        answer = await site.leader.head(place)
        assert answer.status == status, (place, answer.status)


async def test_a_live_page_is_sent_anew_when_something_changes(site: Site) -> None:
    async with site.leader.session.get(site.leader.base + "/ui/live/?") as stream:
        assert stream.content_type == "text/event-stream"
        seen = b""
        while b"cluster <b>test-cluster</b>" not in seen or b"\n\n" not in seen:
            seen += await stream.content.readany()
        assert all(line.startswith(b"data: ") for line in seen.split(b"\n\n")[0].split(b"\n"))
        async with await site.cluster.client() as client:
            await client.mkdir("/seen-by-the-page")
            directories = (await client.cluster_status()).directories
        while f"{directories} directories".encode() not in seen:
            seen = seen[-2000:] + await stream.content.readany()


async def test_gfs_ui_says_where_the_leaders_console_is(site: Site) -> None:
    address = site.follower.base.removeprefix("http://")
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gfs", "--master", address, "-o", "json", "ui", stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await asking.communicate()
    assert asking.returncode == 0
    told = json.loads(printed)
    assert told["url"] == f"{site.leader.base}/ui/"
    assert sorted(told["consoles"]) == ["m1", "m2", "m3"]
