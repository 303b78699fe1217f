"""A live cluster with files of hostile names, and one who asks its consoles as browsers and programs do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gfs.vocabulary import Address
from tests.client.real_cluster import RealCluster

HOSTILE = "<script>alert(1)</script>&\"'"
WORDS = b"first line\nsecond <b>line</b>\n" * 40
SECRET = "a long line nobody guesses"  # RealCluster's


class Visitor:
    """Asks one master's console."""

    def __init__(self, session: aiohttp.ClientSession, address: Address) -> None:
        self.session = session
        self.base = f"http://{address}"

    async def html(self, place: str, *, status: int = 200) -> str:
        async with self.session.get(self.base + place, headers={"Accept": "text/html,*/*"}) as answer:
            text = await answer.text()
            assert answer.status == status, (place, answer.status, text)
            assert answer.content_type == "text/html"
            return text

    async def json(self, place: str, *, status: int = 200) -> dict[str, Any]:
        async with self.session.get(self.base + place, headers={"Accept": "application/json"}) as answer:
            assert answer.status == status, (place, answer.status, await answer.text())
            assert answer.content_type == "application/json"
            told: dict[str, Any] = await answer.json()
            return told

    async def post(
        self,
        place: str,
        form: dict[str, str],
        *,
        origin: str | None = "own",
        headers: dict[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        sent = {"Accept": "text/html", **(headers or {})}
        if origin is not None:
            sent["Origin"] = self.base if origin == "own" else origin
        async with self.session.post(
            self.base + place, data=form, headers=sent, allow_redirects=False
        ) as answer:
            await answer.read()
            return answer

    async def sign_in(self) -> None:
        answer = await self.post("/ui/sign-in", {"secret": SECRET})
        assert answer.status == 303, await answer.text()

    async def head(self, place: str) -> aiohttp.ClientResponse:
        async with self.session.get(self.base + place, headers={"Accept": "text/html"}) as answer:
            await answer.read()
            return answer


class Site:
    """Three masters, of which `leader` and `follower` are two; four chunk servers, some files."""

    def __init__(self, cluster: RealCluster, leader: Visitor, follower: Visitor) -> None:
        self.cluster, self.leader, self.follower = cluster, leader, follower

    def walk_over_chunks(self) -> None:
        """What the leader does by itself every few seconds."""
        for master in self.cluster.masters.values():
            if master.is_leading:
                services = master.services
                for _ in range(2):  # the first may have been under way
                    while not services.scan.step(
                        services._reads.now(), master.locations, now=time.monotonic(), chunks_max=100
                    ):
                        pass

    def visitor(self, master: str) -> Visitor:
        return Visitor(self.leader.session, self.cluster.masters[master].address)

    def forget_cookies(self) -> None:
        self.leader.session.cookie_jar.clear()

    async def servers(self) -> list[str]:
        return sorted((await self.leader.json("/ui/chunkservers"))["counted"])


@asynccontextmanager
async def site_in(directory: Path) -> AsyncIterator[Site]:
    async with RealCluster(directory, masters=3, chunkservers=4) as cluster:
        async with await cluster.client() as client:
            await client.mkdir("/logs/old", parents=True)
            await client.write_bytes("/logs/words.txt", WORDS)
            await client.write_bytes("/logs/noise.bin", bytes(range(256)) * 64)
            await client.write_bytes(f"/logs/{HOSTILE.replace('/', '_')}", HOSTILE.encode())
            await client.write_bytes("/logs/gone.txt", b"to be had back")
            await client.delete("/logs/gone.txt")
        leader = await cluster.leader()
        follower = next(name for name in cluster.masters if name != leader)
        # Cookies of numeric hosts are kept only by a jar that is told so.
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            yield Site(
                cluster,
                Visitor(session, cluster.masters[leader].address),
                Visitor(session, cluster.masters[follower].address),
            )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One for all tests of a module: they leave it as they found it, and no session open."""
    async with site_in(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(autouse=True)
def _signed_out(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "site" in request.fixturenames:
        request.getfixturevalue("site").forget_cookies()
