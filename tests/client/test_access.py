"""Owners, modes, policies and quotas on real programs, by clients that act for different users (GFS §7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument, PermissionDenied, QuotaExceeded
from gfs.messages.policies import PolicyFields
from gfs.settings import ClientSettings
from gfs.vocabulary import CHUNK_BYTES, MIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps
from tests.waiting import until


@asynccontextmanager
async def cluster(path: Path) -> AsyncIterator[tuple[AsyncClient, AsyncClient, AsyncClient]]:
    """Clients of the superuser, who is whoever runs this test, of ann and of ben, both of group crawl."""
    async with RealCluster(path, chunkservers=1) as here:
        async with (
            await here.client() as superuser,
            await here.client(ClientSettings(user="ann", groups="crawl")) as ann,
            await here.client(ClientSettings(user="ben", groups="crawl")) as ben,
        ):
            yield superuser, ann, ben


@keeps("rights-and-quotas")
async def test_each_user_may_do_what_owner_group_and_mode_say(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (superuser, ann, ben):
        with pytest.raises(PermissionDenied, match="ann may not change /,"):
            await ann.mkdir("/ann")
        await superuser.mkdir("/ann")
        await superuser.chown("/ann", owner="ann", group="crawl")
        await ann.write_bytes("/ann/f", b"hers")
        entry = await ann.stat("/ann/f")
        assert (entry.owner, entry.group, entry.mode) == ("ann", "crawl", 0o644)
        assert await ben.read_bytes("/ann/f") == b"hers"
        with pytest.raises(PermissionDenied, match="ben may not change /ann,"):
            await ben.delete("/ann/f")
        with pytest.raises(PermissionDenied):
            await ben.chmod("/ann/f", 0o777)
        await ann.chmod("/ann/f", 0o600)
        with pytest.raises(PermissionDenied, match="ben may not read /ann/f"):
            await ben.read_bytes("/ann/f")
        with pytest.raises(PermissionDenied, match="ben may not write /ann/f"):
            await ben.record_append("/ann/f", b"his")
        await ann.chmod("/ann", 0o700)
        with pytest.raises(PermissionDenied, match="ben may not enter /ann"):
            await ben.stat("/ann/f")
        together = await asyncio.gather(*(ben.stat("/ann/f") for _ in range(3)), return_exceptions=True)
        assert [type(refused) for refused in together] == [PermissionDenied] * 3
        with pytest.raises(PermissionDenied, match="ben may not list /ann"):
            await ben.listdir("/ann")
        assert await superuser.read_bytes("/ann/f") == b"hers"
        assert await ann.read_bytes("/ann/f") == b"hers"


@keeps("rights-and-quotas")
async def test_what_was_acknowledged_before_the_quota_was_reached_stays_readable(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (superuser, _, _):
        await superuser.mkdir("/q")
        await superuser.set_policy("/q", PolicyFields(bytes_max=CHUNK_BYTES, files_max=2))
        piece = b"0123456789abcdef" * (MIB // 16)
        with pytest.raises(QuotaExceeded, match="the quota of /q is 67108864 bytes"):
            async with await superuser.open("/q/big", "wb") as file:
                for _ in range(64):
                    await file.write(piece)
                await file.flush()  # all of it is acknowledged now
                for _ in range(16):
                    await file.write(piece)
        found = await superuser.read_bytes("/q/big")
        assert len(found) == CHUNK_BYTES and found == piece * 64
        use = (await superuser.policy("/q")).quotas[0]
        assert (use.files, use.content_bytes) == (1, CHUNK_BYTES)
        await superuser.create("/q/second")
        with pytest.raises(QuotaExceeded, match="2 files and directories"):
            await superuser.create("/q/third")
        await superuser.delete("/q/big")
        await superuser.write_bytes("/q/second", b"room again")
        assert await superuser.read_bytes("/q/second") == b"room again"


async def test_a_policy_is_set_shown_and_refused_in_words(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (superuser, ann, _):
        await superuser.mkdir("/d")
        await superuser.set_policy("/d", PolicyFields(replicas=1, durability="sync"))
        await superuser.write_bytes("/d/f", b"on the disk when this returns")
        shown = await ann.policy("/d/f")
        assert (shown.effective.replicas, shown.effective.durability) == (1, "sync")
        assert shown.set_at == {"replicas": "/d", "durability": "/d"}
        with pytest.raises(InvalidArgument, match="replicas cannot be 40"):
            await superuser.set_policy("/d", PolicyFields(replicas=40))
        with pytest.raises(PermissionDenied, match="ann may not set the policy of /d"):
            await ann.set_policy("/d", PolicyFields(replicas=2))


async def test_only_the_superuser_operates_the_cluster(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (superuser, ann, _):
        with pytest.raises(PermissionDenied, match="ann may not ask for readmit_master: only the superuser"):
            await ann.readmit_master("m1")
        with pytest.raises(InvalidArgument):
            await superuser.readmit_master("m1")


async def test_how_safe_a_file_is_follows_the_policy_and_not_the_number_it_was_made_with(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path, chunkservers=3) as cluster, await cluster.client() as superuser:
        await superuser.mkdir("/d")
        await superuser.write_bytes("/d/f", b"x" * 100)
        await superuser.set_policy("/d", PolicyFields(replicas=2))

        async def is_given_up() -> bool:
            return len((await superuser.chunks("/d/f"))[0].replicas) <= 2

        await until(is_given_up, "the needless replica is given up")
        [page] = [page async for page in superuser.check("/d")]
        assert page.counts["ok"] == 1 and page.at_risk == []
        assert await superuser.repair(["/d/f"]) == 0


async def test_a_watcher_is_told_only_what_it_could_list_and_no_name_outside_of_what_it_watches(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as (superuser, ann, ben):
        await superuser.mkdir("/ann")
        await superuser.chown("/ann", owner="ann")
        watch, below = await ben.watch("/"), await ben.watch("/ann")
        await ann.mkdir("/ann/secret")
        await ann.chmod("/ann/secret", 0o700)
        await ann.write_bytes("/ann/secret/f", b"hers")
        await ann.rename("/ann/secret/f", "/ann/g")
        await superuser.rename("/ann/g", "/elsewhere")
        await superuser.create("/ann/end")
        for following, left in ((watch, "/elsewhere"), (below, "")):
            told = []
            async for change in following:
                told.append((change.kind, change.source, change.path))
                if change.path == "/ann/end":
                    break
            assert ("renamed", "", "/ann/g") in told
            assert ("renamed", "/ann/g", left) in told
            assert not [change for change in told if "/ann/secret/" in "".join(change)]
        with pytest.raises(PermissionDenied):
            await ben.watch("/ann/secret")
