"""The console of a cluster that wants tokens: nothing without one, and with one what its role may do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from gfs.credentials import new_token, read_token, token_digest
from tests.client.real_cluster import RealCluster
from tests.web.conftest import Visitor

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Guarded:
    """One master that wants tokens; an admin's and a reader's."""

    def __init__(self, visitor: Visitor, admin: str, reader: str) -> None:
        self.visitor, self.admin, self.reader = visitor, admin, reader

    async def sign_in(self, token: str) -> None:
        self.visitor.session.cookie_jar.clear()
        assert (await self.visitor.post("/ui/sign-in", {"secret": token})).status == 303


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    async with RealCluster(tmp_path_factory.mktemp("guarded"), chunkservers=1, tokens=True) as cluster:
        async with await cluster.client() as client:
            await client.mkdir("/here")
            await client.write_bytes("/here/note.txt", b"only for those who may")
            reader = new_token()
            await client.operator.create_token(token_digest(reader).hex(), role="reader")
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            address = cluster.masters["m1"].address
            yield Guarded(Visitor(session, address), read_token(cluster.token_file), reader)


async def test_without_a_token_every_page_asks_for_one_and_tells_nothing(guarded: Guarded) -> None:
    guarded.visitor.session.cookie_jar.clear()
    for place in ("/ui/", "/ui/masters", "/ui/files?path=/here", "/ui/config", "/ui/calls", "/ui/live/?"):
        page = await guarded.visitor.html(place, status=401)
        assert "Sign in" in page and "test-cluster" not in page and "note.txt" not in page, place
        assert (await guarded.visitor.json(place, status=401))["code"] == "unauthenticated"
    form = await guarded.visitor.html("/ui/sign-in")
    assert "Token" in form and "test-cluster" not in form


async def test_what_is_no_token_does_not_sign_in(guarded: Guarded) -> None:
    guarded.visitor.session.cookie_jar.clear()
    answer = await guarded.visitor.post("/ui/sign-in", {"secret": "a long line nobody guesses"})
    assert answer.status == 403 and "Set-Cookie" not in answer.headers
    await guarded.visitor.post("/ui/sign-in", {"secret": guarded.admin + "x"})
    assert "Sign in" in await guarded.visitor.html("/ui/", status=401)


async def test_an_admins_token_sees_everything_and_acts(guarded: Guarded) -> None:
    await guarded.sign_in(guarded.admin)
    for place in ("/ui/", "/ui/masters", "/ui/replication", "/ui/clients", "/ui/events", "/ui/calls"):
        assert "test-cluster" in await guarded.visitor.html(place)
    shown = await guarded.visitor.json("/ui/files?path=/here/note.txt")
    assert shown["preview"]["text"] == "only for those who may"
    assert (await guarded.visitor.post("/ui/act/checkpoint", {})).status == 200
    told = await guarded.visitor.json("/ui/config")
    assert told["sections"]["access"]["first_token_sha256"] == "(not shown)"
    assert told["sections"]["access"]["tokens"] is True


async def test_a_readers_token_reads_and_does_nothing_else(guarded: Guarded) -> None:
    await guarded.sign_in(guarded.reader)
    for place in ("/ui/", "/ui/masters", "/ui/chunkservers", "/ui/replication", "/ui/chunks", "/ui/files"):
        assert "test-cluster" in await guarded.visitor.html(place)
    assert "note.txt" in await guarded.visitor.html("/ui/files?path=/here")
    for place in ("/ui/config", "/ui/calls", "/ui/events"):
        assert (await guarded.visitor.json(place, status=403))["code"] == "permission_denied"
    assert (await guarded.visitor.post("/ui/act/checkpoint", {})).status == 403
    assert (await guarded.visitor.post("/ui/act/rebalance", {})).status == 403


async def test_a_program_shows_its_token_with_each_call(guarded: Guarded) -> None:
    guarded.visitor.session.cookie_jar.clear()
    headers = {"Accept": "application/json", "Authorization": f"Bearer {guarded.reader}"}
    async with guarded.visitor.session.get(guarded.visitor.base + "/ui/masters", headers=headers) as answer:
        assert answer.status == 200 and (await answer.json())["leader"] == "m1"
