"""Exactly-once appends through the SDK and real servers; chunks that lost replicas are left (I9)."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import OutcomeUnknown, ReplicaFailed
from gfs.messages.chunks import ChunkPlace
from gfs.messages.replicas import AppendRecord
from gfs.settings import RECORD_BATCH_MAX
from gfs.vocabulary import CHUNK_BYTES
from tests.client.real_cluster import RealCluster
from tests.fakes.clock import settle
from tests.paper.boxes import keeps

APPENDERS = 300
ROUNDS_MAX = 5


async def payloads(client: AsyncClient, path: str) -> Counter[bytes]:
    return Counter([record.payload async for record in client.records(path)])


async def last_chunk(client: AsyncClient, path: str) -> ChunkPlace:
    return (await client.chunks(path))[-1]


@keeps("hundreds-of-appenders")
async def test_hundreds_append_at_once_and_each_record_is_there_once(tmp_path: Path) -> None:
    """Files serve as queues of many producers, hundreds of them appending at the same time (§2.1)."""
    async with RealCluster(tmp_path) as cluster:
        clients = [await cluster.client() for _ in range(10)]
        await clients[0].create("/queue")

        async def append(number: int) -> None:
            for n in range(5):
                await clients[number % 10].record_append("/queue", b"%d-%d" % (number, n), framed=True)

        await asyncio.gather(*(append(number) for number in range(APPENDERS)))
        expected = {b"%d-%d" % (number, n) for number in range(APPENDERS) for n in range(5)}
        assert await payloads(clients[0], "/queue") == Counter(expected)
        for client in clients:
            await client.close()


async def test_an_appender_seals_a_chunk_that_lost_a_replica_and_goes_on_in_one_that_has_all(
    tmp_path: Path,
) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        await client.create("/log")
        await client.record_append("/log", b"first", framed=True)
        lost = await last_chunk(client, "/log")
        await cluster.stop_replica(lost.replicas[0])
        offset = await client.record_append("/log", b"second", framed=True)
        first, second = await client.chunks("/log")
        assert offset == CHUNK_BYTES
        assert first.sealed and first.length_bytes < CHUNK_BYTES and not second.sealed
        while len((await last_chunk(client, "/log")).replicas) < 3:  # repair may have a hand in it too
            await settle()
        assert await payloads(client, "/log") == Counter([b"first", b"second"])


async def test_without_a_spare_server_an_appender_goes_on_in_the_same_chunk(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        await client.record_append("/log", b"first", framed=True)
        await cluster.stop_replica((await last_chunk(client, "/log")).replicas[0])
        await client.record_append("/log", b"second", framed=True)
        (chunk,) = await client.chunks("/log")
        assert not chunk.sealed and len(chunk.replicas) == 2
        assert await payloads(client, "/log") == Counter([b"first", b"second"])


async def test_a_record_whose_answer_was_lost_is_found_in_the_chunk_that_was_sealed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RealCluster(tmp_path, chunkservers=4) as cluster:
        async with await cluster.client() as client, await cluster.client() as other:
            await client.create("/log")
            await client.record_append("/log", b"first", framed=True)
            appenders = client._appenders
            (appender,) = appenders._known.values()
            ask_primary = appender._calls.ask_primary

            async def lose_the_answer(*arguments: object, **named: object) -> object:
                reply = await ask_primary(*arguments, **named)  # type: ignore[arg-type]
                # Before this client can ask again, another one has the chunk sealed.
                monkeypatch.undo()
                await cluster.stop_replica((await last_chunk(other, "/log")).replicas[0])
                await other.record_append("/log", b"other", framed=True)
                assert (await other.chunks("/log"))[0].sealed
                raise OutcomeUnknown(f"the answer {reply} was lost")

            monkeypatch.setattr(appender._calls, "ask_primary", lose_the_answer)
            offset = await client.record_append("/log", b"second", framed=True)
            assert offset < CHUNK_BYTES
            assert await payloads(client, "/log") == Counter([b"first", b"second", b"other"])


async def test_a_record_whose_answer_was_lost_is_found_in_the_copy_that_a_snapshot_led_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's chunk is another one by then: the one that the record was sent to is the snapshot's."""
    async with RealCluster(tmp_path, chunkservers=4) as cluster:
        async with await cluster.client() as client, await cluster.client() as other:
            await client.create("/log")
            await client.record_append("/log", b"first", framed=True)
            await other.record_append("/log", b"other", framed=True)
            (appender,) = client._appenders._known.values()
            ask_primary = appender._calls.ask_primary

            async def lose_the_answer(*arguments: object, **named: object) -> object:
                reply = await ask_primary(*arguments, **named)  # type: ignore[arg-type]
                monkeypatch.undo()
                await other.snapshot("/log", "/copy")
                await cluster.stop_replica((await last_chunk(other, "/log")).replicas[0])
                await other.record_append("/log", b"another", framed=True)
                sealed = (await other.chunks("/log"))[0]
                assert sealed.sealed and sealed.handle != (await last_chunk(other, "/copy")).handle
                raise OutcomeUnknown(f"the answer {reply} was lost")

            monkeypatch.setattr(appender._calls, "ask_primary", lose_the_answer)
            offset = await client.record_append("/log", b"second", framed=True)
            assert offset < CHUNK_BYTES
            before = [b"first", b"other", b"second"]
            assert await payloads(client, "/log") == Counter([*before, b"another"])
            assert await payloads(client, "/copy") == Counter(before)


async def test_a_record_that_was_never_sent_is_not_looked_for_and_a_lost_request_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        await client.record_append("/log", b"first", framed=True)
        (appender,) = client._appenders._known.values()
        ask_primary = appender._calls.ask_primary
        asked: list[AppendRecord] = []

        async def fail_twice(lease: object, request: AppendRecord, expected: object) -> object:
            asked.append(request)
            if len(asked) <= 2:
                raise ReplicaFailed("nothing was heard")
            return await ask_primary(lease, request, expected)  # type: ignore[arg-type]

        monkeypatch.setattr(appender._calls, "ask_primary", fail_twice)
        await client.record_append("/log", b"second", framed=True)
        assert [request.repeated for request in asked] == [False, True, True]
        assert len({request.sequence for request in asked}) == 1
        assert await payloads(client, "/log") == Counter([b"first", b"second"])


async def test_appending_asks_the_master_nothing_once_it_has_begun(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        for _ in range(2):
            await client.record_append("/log", b"x")
        masters = client._connections.masters
        asked: list[str] = []
        ask_leader, mutate = masters.ask_leader, masters.mutate

        async def counted_ask(*arguments: object, **named: object) -> object:
            asked.append(repr(arguments[0]))
            return await ask_leader(*arguments, **named)  # type: ignore[arg-type]

        async def counted_mutate(make: object, what: str) -> object:
            asked.append(what)
            return await mutate(make, what)  # type: ignore[arg-type, type-var]

        masters.ask_leader = counted_ask  # type: ignore[method-assign, assignment]
        masters.mutate = counted_mutate  # type: ignore[method-assign, assignment]
        for _ in range(ROUNDS_MAX):  # on a machine that stands still for a second a new lease is asked for
            asked.clear()
            await asyncio.gather(*(client.record_append("/log", b"y" * 10) for _ in range(RECORD_BATCH_MAX)))
            # At most the word on how far the file reaches, which nobody waits for.
            if all("reaches" in what for what in asked):
                return
        raise AssertionError(asked)


async def test_a_closed_client_has_told_how_far_the_file_reaches(tmp_path: Path) -> None:
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/log")
        async with await cluster.client() as other:
            for _ in range(10):
                await other.record_append("/log", b"0123456789")
        (entry,) = [entry async for entry in client.list("/")]
        assert entry.appended and not entry.length_exact
        assert entry.length_bytes == 100


async def test_a_record_whose_answer_was_lost_is_found_in_the_copy_that_a_snapshot_made_of_its_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RealCluster(tmp_path) as cluster:
        async with await cluster.client() as client, await cluster.client() as other:
            await client.create("/log")
            await client.record_append("/log", b"first", framed=True)
            (appender,) = client._appenders._known.values()
            ask_primary = appender._calls.ask_primary

            async def lose_the_answer(*arguments: object, **named: object) -> object:
                await ask_primary(*arguments, **named)  # type: ignore[arg-type]
                monkeypatch.undo()
                await other.snapshot("/log", "/save")
                await other.record_append("/log", b"other", framed=True)  # copies the chunk
                raise OutcomeUnknown("the answer was lost")

            monkeypatch.setattr(appender._calls, "ask_primary", lose_the_answer)
            await client.record_append("/log", b"second", framed=True)
            assert await payloads(client, "/log") == Counter([b"first", b"second", b"other"])
            assert await payloads(client, "/save") == Counter([b"first", b"second"])
