"""Tokens on a real cluster: who has none, another one, an expired one, or one of another role or path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.credentials import new_token, program_proof, read_token, token_digest, token_id, write_token
from gfs.errors import ConfigInvalid, GfsError, PermissionDenied, Unauthenticated
from gfs.messages.chunks import AcquireLease, ChunkLease
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.messages.heartbeat import Heartbeat, HeartbeatReply
from gfs.messages.namespace import EntryReply, Stat
from gfs.settings import ClientSettings
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address, ChunkIndex, ClusterId, InodeId, ServerId
from tests.client.real_cluster import RealCluster
from tests.waiting import until


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with RealCluster(tmp_path, chunkservers=1, tokens=True) as running:
        yield running


async def with_token(cluster: RealCluster, path: Path, **good_for: object) -> AsyncClient:
    """A client with a new token in `path`."""
    write_token(str(path), token := new_token())
    async with await cluster.client() as admin:
        await admin.operator.create_token(token_digest(token).hex(), **good_for)  # type: ignore[arg-type]
    return await cluster.client(ClientSettings(token_file=str(path), retry_seconds=5.0))


async def called(cluster: RealCluster, credential: str, request: object = None) -> None:
    caller = WebSocketCaller("client", "test", credential=credential)
    try:
        if request is None:
            request = Stat(path="/")
        kind = {Stat: EntryReply, Heartbeat: HeartbeatReply, ClusterStatus: ClusterStatusReply}[type(request)]
        await caller.call(Address(cluster.addresses[0]), request, kind, deadline_seconds=5.0)  # type: ignore[arg-type]
    finally:
        await caller.close()


async def test_without_a_token_and_with_a_wrong_one_nothing_is_answered(cluster: RealCluster) -> None:
    for credential in ("", "gfst_wrong", new_token(), "x" * 1000, "gfst_\u00e9", "gfsp_master_" + "0" * 64):
        with pytest.raises(Unauthenticated) as refused:
            await called(cluster, credential)
        assert not credential or credential not in str(refused.value) + refused.value.hint
    with pytest.raises(Unauthenticated):
        await called(cluster, program_proof(b"another secret", cluster="test-cluster", role="master"))
    with pytest.raises(Unauthenticated):
        await called(cluster, program_proof(b"a long line nobody guesses", cluster="other", role="master"))
    await called(cluster, program_proof(b"a long line nobody guesses", cluster="test-cluster", role="master"))


async def test_each_role_may_do_what_the_ones_before_it_may(cluster: RealCluster, tmp_path: Path) -> None:
    async with await cluster.client() as admin:
        await admin.mkdir("/d")
        await admin.operator.tokens()
    async with await with_token(cluster, tmp_path / "reader", role="reader") as reader:
        assert (await reader.stat("/d")).path == "/d"
        with pytest.raises(PermissionDenied, match="needs the role writer"):
            await reader.mkdir("/d/e")
        with pytest.raises(PermissionDenied, match="needs the role admin"):
            await reader.operator.tokens()
        [row] = (await reader.operator.inspect_token()).tokens
        assert (row.role, row.id) == ("reader", token_id(token_digest(read_token(str(tmp_path / "reader")))))
    async with await with_token(cluster, tmp_path / "writer", role="writer") as writer:
        await writer.mkdir("/d/e")
        with pytest.raises(PermissionDenied, match="needs the role admin"):
            await writer.operator.rotate_keys()
    async with await with_token(cluster, tmp_path / "admin", role="admin") as admin:
        assert {row.role for row in (await admin.operator.tokens()).tokens} == {"reader", "writer", "admin"}


async def test_a_token_of_a_prefix_opens_nothing_beside_it(cluster: RealCluster, tmp_path: Path) -> None:
    async with await cluster.client() as admin:
        await admin.mkdir("/crawl")
        await admin.mkdir("/crawler")
        await admin.write_bytes("/crawler/theirs", b"theirs")
        theirs = (await admin.stat("/crawler/theirs")).inode
    async with await with_token(cluster, tmp_path / "t", role="writer", prefix="/crawl") as client:
        await client.write_bytes("/crawl/mine", b"mine")
        assert await client.read_bytes("/crawl/mine") == b"mine"
        assert [entry.path async for entry in client.glob("/crawl/*")] == ["/crawl/mine"]
        tricks = ("/crawler/theirs", "//crawler/theirs", "/crawlér", "/.trash/5")
        for path in tricks:
            with pytest.raises(PermissionDenied, match="is for /crawl"):
                await client.stat(path)
        with pytest.raises(GfsError):
            await client.stat("/crawl/../crawler/theirs")
        for path in ("/", "/crawler"):
            with pytest.raises(PermissionDenied, match="is for /crawl"):
                await client.watch(path)
        watch = await client.watch("/crawl/mine")
        await client.rename("/crawl/mine", "/crawl/moved")
        assert (await anext(watch)).source == "/crawl/mine"
        await client.rename("/crawl/moved", "/crawl/mine")
        for pattern in ("/crawl*/*", "/**", "/crawler/*"):
            with pytest.raises(PermissionDenied, match="is for /crawl"):
                [entry async for entry in client.glob(pattern)]
        with pytest.raises(PermissionDenied, match="is for /crawl"):
            await client.rename("/crawl/mine", "/crawler/mine")
        with pytest.raises(PermissionDenied, match="is for /crawl"):
            await client.snapshot("/crawler", "/crawl/copy")
        with pytest.raises(PermissionDenied, match="is for /crawl"):
            await leased(cluster, read_token(str(tmp_path / "t")), theirs)


async def leased(cluster: RealCluster, token: str, inode: int) -> None:
    caller = WebSocketCaller("client", "test", credential=token)
    try:
        request = AcquireLease(inode=InodeId(inode), index=ChunkIndex(0))
        await caller.call(Address(cluster.addresses[0]), request, ChunkLease, deadline_seconds=5.0)
    finally:
        await caller.close()


async def test_an_expired_and_a_revoked_token_open_nothing_any_more(
    cluster: RealCluster, tmp_path: Path
) -> None:
    async with await with_token(cluster, tmp_path / "short", role="reader", seconds=0.001) as late:
        with pytest.raises(Unauthenticated, match="expired"):
            await late.stat("/")
    async with await with_token(cluster, tmp_path / "t", role="reader") as client:
        await client.stat("/")
        async with await cluster.client() as admin:
            name = token_id(token_digest(read_token(str(tmp_path / "t"))))
            await admin.operator.revoke_token(name)
        with pytest.raises(Unauthenticated, match="no longer"):
            await client.stat("/")  # over the connection that has been there all the time


async def test_a_token_speaks_for_the_user_it_was_made_for(cluster: RealCluster, tmp_path: Path) -> None:
    async with await cluster.client() as admin:
        await admin.mkdir("/closed")
        await admin.chmod("/closed", 0o700)
        await admin.mkdir("/open")
        await admin.chmod("/open", 0o777)
    async with await with_token(cluster, tmp_path / "t", role="writer", user="ann") as client:
        await client.mkdir("/open/mine")
        assert (await client.stat("/open/mine")).owner == "ann"
        with pytest.raises(PermissionDenied, match="ann may not"):
            await client.mkdir("/closed/mine")


async def test_only_programs_of_the_cluster_send_heartbeats_and_they_ask_nothing_else(
    cluster: RealCluster,
) -> None:
    beat = Heartbeat(
        server=ServerId("intruder"),
        cluster=ClusterId("test-cluster"),
        incarnation="x",
        control=Address("127.0.0.1:1"),
        data=Address("127.0.0.1:2"),
    )
    with pytest.raises(PermissionDenied, match="heartbeats"):
        await called(cluster, read_token(cluster.token_file), beat)
    proof = program_proof(b"a long line nobody guesses", cluster="test-cluster", role="chunkserver")
    await called(cluster, proof, ClusterStatus())
    with pytest.raises(PermissionDenied, match="chunk server may not"):
        await called(cluster, proof)


async def test_a_token_that_others_can_read_is_not_used(cluster: RealCluster, tmp_path: Path) -> None:
    path = tmp_path / "loose"
    write_token(str(path), token := new_token())
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigInvalid) as refused:
        await cluster.client(ClientSettings(token_file=str(path)))
    assert token not in str(refused.value) and "read by others" in str(refused.value)


async def test_all_masters_know_a_token_that_one_has_made(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, masters=3, chunkservers=1, tokens=True) as cluster:
        async with await with_token(cluster, tmp_path / "t", role="reader") as client:
            token = read_token(str(tmp_path / "t"))
            for address in cluster.addresses:
                caller = WebSocketCaller("client", "test", credential=token)

                async def answers(address: str = address, caller: WebSocketCaller = caller) -> bool:
                    try:
                        request = Stat(path="/", consistency="stale")
                        await caller.call(Address(address), request, EntryReply, deadline_seconds=5.0)
                    except GfsError as error:
                        assert error.code == "not_leader", error
                        return False
                    return True

                await until(answers, f"{address} knows the token")
                await caller.close()
            await client.stat("/")
