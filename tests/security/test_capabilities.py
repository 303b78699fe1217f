"""Chunk servers do nothing for whoever shows no capability of a master for it, on either of their ports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gfs.capabilities import READ, WRITE, Capability, KeyRing, derived_key
from gfs.credentials import program_proof, read_token
from gfs.errors import CapabilityExpired, PermissionDenied, Unauthenticated
from gfs.messages.base import Ack, Ping
from gfs.messages.chunks import ChunkPlace
from gfs.messages.cluster import DiskStatus, DiskStatusReply
from gfs.messages.replicas import (
    AppendRecord,
    AppendReply,
    ApplyMutation,
    BumpReply,
    BumpVersion,
    ChunkStatus,
    ChunkStatusReply,
    WriteChunk,
    WriteReply,
)
from gfs.transport.data_client import DataClient
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import ChunkVersion, ClusterId, PushId, SerialNumber, ServerId, Term
from tests.client.real_cluster import RealCluster
from tests.waiting import until

BYTES = b"some bytes of a chunk" * 1000


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with RealCluster(tmp_path, chunkservers=2, tokens=True) as running:
        yield running


async def stored(cluster: RealCluster) -> ChunkPlace:
    async with await cluster.client() as client:
        await client.write_bytes("/f", BYTES)
        assert await client.read_bytes("/f") == BYTES
        [place] = await client.chunks("/f")
    return place


def read(place: ChunkPlace, capability: bytes, *, version: int = 0) -> bytes:
    bulk = DataClient(congestion_control="")
    buffer = bytearray(len(BYTES))
    try:
        bulk.read_into(
            place.replicas[0].data,
            place.handle,
            ChunkVersion(version or place.version),
            0,
            memoryview(buffer),
            deadline_seconds=5.0,
            capability=capability,
        )
    finally:
        bulk.close()
    return bytes(buffer)


def forged(place: ChunkPlace, may: int = READ) -> bytes:
    key = derived_key(b"not the secret", bytes(16))
    return KeyRing((key,), key).sign(Capability(place.handle, place.version, may, 2**31))


async def test_bytes_are_read_with_the_masters_capability_and_with_no_other(cluster: RealCluster) -> None:
    place = await stored(cluster)
    async with await cluster.client() as client:
        await client.write_bytes("/other", b"x")
        [other] = await client.chunks("/other")
    assert read(place, place.capability) == BYTES
    with pytest.raises(Unauthenticated):
        read(place, b"")
    with pytest.raises(PermissionDenied, match="another chunk"):
        read(place, other.capability)
    with pytest.raises(PermissionDenied, match="version"):
        read(place, place.capability, version=place.version + 1)
    with pytest.raises(CapabilityExpired):  # its key is none of theirs
        read(place, forged(place))
    with pytest.raises(PermissionDenied, match="forged"):
        read(place, place.capability[:-1] + bytes([place.capability[-1] ^ 1]))
    with pytest.raises(PermissionDenied, match="no capability"):
        read(place, b"?" * 20)


async def test_nothing_is_pushed_or_written_with_a_readers_capability(cluster: RealCluster) -> None:
    place = await stored(cluster)
    bulk = DataClient(congestion_control="")
    for capability in (b"", place.capability, forged(place, WRITE)):
        with pytest.raises((Unauthenticated, PermissionDenied, CapabilityExpired)):
            bulk.push(
                place.replicas[0].data,
                PushId("p-1"),
                memoryview(b"bytes"),
                offset=0,
                chain=(),
                checksums=None,
                deadline_seconds=5.0,
                capability=capability,
            )
        write = WriteChunk(
            handle=place.handle,
            version=place.version,
            offset_bytes=0,
            length_bytes=1,
            push=PushId("p-2"),
            data=b"x",
            checksums=[0],
            capability=capability,
        )
        append = AppendRecord(
            handle=place.handle, version=place.version, length_bytes=1, data=b"x", capability=capability
        )
        for request, reply in ((write, WriteReply), (append, AppendReply)):
            with pytest.raises((Unauthenticated, PermissionDenied, CapabilityExpired)):
                await asked(place, request, reply)  # type: ignore[arg-type]
    bulk.close()
    async with await cluster.client() as client:
        assert await client.read_bytes("/f") == BYTES


async def asked(place: ChunkPlace, request: object, reply: type, credential: str = "") -> object:
    caller = WebSocketCaller("client", "test", credential=credential)
    try:
        found: object = await caller.call(place.replicas[0].control, request, reply, deadline_seconds=5.0)  # type: ignore[arg-type]
        return found
    finally:
        await caller.close()


async def test_what_masters_and_primaries_order_is_taken_from_nobody_else(cluster: RealCluster) -> None:
    place = await stored(cluster)
    bump = BumpVersion(
        cluster=ClusterId("test-cluster"),
        master_term=Term(1000),
        handle=place.handle,
        version=ChunkVersion(place.version + 1),
        oldest_version=place.version,
        create=False,
        primary=place.replicas[0].server,
        replicas=place.replicas,
        lease_seconds=60.0,
    )
    apply = ApplyMutation(
        handle=place.handle,
        version=place.version,
        serial=SerialNumber(1),
        primary=ServerId("x"),
        offset_bytes=0,
        length_bytes=1,
        push=PushId("p"),
        data=b"x",
        checksums=[0],
    )
    of_server = program_proof(b"a long line nobody guesses", cluster="test-cluster", role="chunkserver")
    wrong = program_proof(b"another secret", cluster="test-cluster", role="master")
    admin = read_token(cluster.token_file)
    for credential in ("", wrong, of_server, "gfst_none"):
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await asked(place, bump, BumpReply, credential)
    for credential in ("", wrong, "gfst_none"):
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await asked(place, apply, Ack, credential)
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await asked(place, DiskStatus(), DiskStatusReply, credential)
    with pytest.raises(Unauthenticated):
        await asked(place, ChunkStatus(handle=place.handle, version=place.version), ChunkStatusReply)
    await asked(place, Ping(), Ack)
    await asked(place, DiskStatus(), DiskStatusReply, admin)
    async with await cluster.client() as client:
        assert await client.read_bytes("/f") == BYTES


async def test_clients_work_on_through_rotations_and_what_was_signed_before_two_of_them_is_refused(
    cluster: RealCluster,
) -> None:
    place = await stored(cluster)
    async with await cluster.client() as client, await cluster.client() as admin:
        for number in range(2):
            await admin.operator.rotate_keys(drop_former=True)
            await client.write_bytes(f"/after-{number}", BYTES)
            assert await client.read_bytes("/f") == BYTES
            assert await client.read_bytes(f"/after-{number}") == BYTES

    await until_refused(place)


async def until_refused(place: ChunkPlace) -> None:
    async def is_refused() -> bool:
        try:
            read(place, place.capability)
        except CapabilityExpired:
            return True
        return False

    await until(is_refused, "the chunk server has heard that the old keys hold no more")


async def test_an_open_writer_and_appender_go_on_when_their_capability_has_expired(
    cluster: RealCluster,
) -> None:
    place = await stored(cluster)
    async with await cluster.client() as client, await cluster.client() as admin:
        await client.create("/records")
        async with await client.open("/long", "wb") as file:
            await file.write(BYTES)
            await file.flush()
            await client.record_append("/records", b"first")
            await admin.operator.rotate_keys(drop_former=True)
            await until_refused(place)
            await file.write(BYTES)
            await client.record_append("/records", b"second")
        assert await client.read_bytes("/long") == 2 * BYTES
        assert await client.read_bytes("/records") == b"firstsecond"


async def test_replicas_are_verified_by_who_may_only_check_and_not_read(cluster: RealCluster) -> None:
    await stored(cluster)
    async with await cluster.client() as client:
        pages = [page async for page in client.check("/f", with_places=True)]
        [place] = [place for page in pages for file in page.places for place in file.chunks]
        assert not (await client.verify_chunk(place)).unread
    with pytest.raises(PermissionDenied, match="verifying"):
        read(place, place.capability)
