"""What acts through the console: a session, by POST, from a page of the same origin; or the bare secret."""

from __future__ import annotations

import pytest

from tests.waiting import until
from tests.web.conftest import SECRET, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _drain(site: Site) -> dict[str, str]:
    return {"server": (await site.servers())[0]}


async def _tenure(site: Site) -> str:
    servers = (await site.leader.json("/ui/chunkservers"))["counted"]
    tenure: str = servers[min(servers)]["tenure"]
    return tenure


async def test_without_a_session_nothing_is_done(site: Site) -> None:
    answer = await site.leader.post("/ui/act/drain", await _drain(site))
    assert answer.status == 401
    assert await _tenure(site) == "serving"
    page = await site.leader.html(f"/ui/act/drain?server={(await site.servers())[0]}")
    assert "Sign in" in page and 'action="/ui/act/drain"' not in page


async def test_a_page_of_another_origin_or_of_none_does_nothing_in_a_session(site: Site) -> None:
    await site.leader.sign_in()
    for origin in ("http://elsewhere.example", "null", None):
        answer = await site.leader.post("/ui/act/drain", await _drain(site), origin=origin)
        assert answer.status == 403, origin
    assert (
        await site.leader.head(f"/ui/act/drain?server={(await site.servers())[0]}")
    ).status == 200  # asks, does nothing
    assert await _tenure(site) == "serving"


async def test_a_forged_or_altered_session_is_none(site: Site) -> None:
    await site.leader.sign_in()
    jar = site.leader.session.cookie_jar
    good = next(cookie.value for cookie in jar if cookie.key == "gfs_console")
    expires, nonce, mac = good.split(".")
    for forged in ("", "x", f"{int(expires) + 1}.{nonce}.{mac}", f"{expires}.{nonce}.{'0' * 64}", "9" * 300):
        jar.clear()
        answer = await site.leader.post(
            "/ui/act/drain", await _drain(site), headers={"Cookie": f"gfs_console={forged}"}
        )
        assert answer.status == 401, forged
    assert await _tenure(site) == "serving"


async def test_a_wrong_secret_does_not_sign_in(site: Site) -> None:
    answer = await site.leader.post("/ui/sign-in", {"secret": "a guess"})
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers
    answer = await site.leader.post("/ui/sign-in", {"secret": SECRET}, origin="http://elsewhere.example")
    assert answer.status == 403 and "Set-Cookie" not in answer.headers


async def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site) -> None:
    answer = await site.leader.post("/ui/sign-in", {"secret": SECRET, "back": "//elsewhere.example/"})
    assert answer.status == 303 and answer.headers["Location"] == "/ui/"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/ui" in cookie
    assert SECRET not in cookie


async def test_drain_and_keep_as_an_operator_would(site: Site) -> None:
    await site.leader.sign_in()
    assert "Drain it" in await site.leader.html(f"/ui/act/drain?server={(await site.servers())[0]}")
    done = await site.leader.post("/ui/act/drain", await _drain(site))
    assert done.status == 200 and "gets no new replicas" in await done.text()
    assert await _tenure(site) == "draining"
    assert f'href="/ui/act/undrain?server={(await site.servers())[0]}"' in await site.leader.html(
        "/ui/chunkservers"
    )
    assert (await site.leader.post("/ui/act/undrain", await _drain(site))).status == 200
    assert await _tenure(site) == "serving"
    await site.leader.post("/ui/sign-out", {})
    assert (await site.leader.post("/ui/act/drain", await _drain(site))).status == 401


async def test_every_page_is_there_for_somebody_who_is_signed_in(site: Site) -> None:
    await site.leader.sign_in()
    for place in ("/ui/", "/ui/masters", "/ui/chunkservers", "/ui/replication", "/ui/trash", "/ui/chunks"):
        assert "Sign out" in await site.leader.html(place)
    assert "Balance" in await site.leader.html("/ui/replication")


async def test_undelete_gives_back_what_was_deleted(site: Site) -> None:
    await site.leader.sign_in()
    (gone,) = (await site.leader.json("/ui/trash"))["entries"]
    assert gone["path"] == "/logs/gone.txt"
    done = await site.leader.post("/ui/act/undelete", {"path": gone["path"], "hidden": gone["entry"]["path"]})
    assert done.status == 200 and "/logs/gone.txt" in await done.text()
    async with await site.cluster.client() as client:
        assert await client.read_bytes("/logs/gone.txt") == b"to be had back"


async def test_a_program_acts_with_the_secret_itself(site: Site) -> None:
    headers = {"Authorization": f"Bearer {SECRET}", "Accept": "application/json"}
    answer = await site.leader.post("/ui/act/checkpoint", {}, origin=None, headers=headers)
    assert answer.status == 200

    async def kept() -> bool:
        return bool((await site.leader.json("/ui/masters"))["checkpoints"])

    await until(kept, "the checkpoint is on the page")
    headers["Authorization"] = "Bearer a guess"
    assert (await site.leader.post("/ui/act/checkpoint", {}, origin=None, headers=headers)).status == 403


async def test_leadership_is_handed_over(site: Site) -> None:
    await site.leader.sign_in()
    before = (await site.leader.json("/ui/masters"))["leader"]
    target = next(name for name in ("m1", "m2", "m3") if name != before)
    for source, next_one in ((before, target), (target, before)):
        visitor = site.visitor(source)
        await visitor.sign_in()
        done = await visitor.post("/ui/act/transfer", {"source": source, "target": next_one})
        assert done.status == 200, await done.text()

        async def leads(name: str = next_one) -> bool:
            return bool((await site.visitor(name).json("/ui/masters"))["leader"] == name)

        await until(leads, f"{next_one} leads")


async def test_a_follower_sends_actions_on_to_the_leader(site: Site) -> None:
    await site.follower.sign_in()
    answer = await site.follower.post("/ui/act/drain", await _drain(site))
    assert answer.status == 503
    assert f'href="{site.leader.base}' in await answer.text()
    assert await _tenure(site) == "serving"
