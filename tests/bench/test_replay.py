"""A recorded RPC log played back: what is played, in which order, and what is compared."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gfs.bench.replay import Player, load, report
from gfs.errors import InvalidArgument
from gfs.messages.base import Request
from gfs.messages.diagnosis import ReadRpcLog, RpcLogPage, RpcRecord
from gfs.messages.namespace import CreateFile, RenamePath, Stat, StatMany
from gfs.settings import ClientSettings
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import CHUNK_BYTES, Address
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps


def line(at_ms: int, method: str, code: str = "ok", reply: object = None, **request: object) -> str:
    record = RpcRecord(
        at_us=at_ms * 1000,
        method=method,
        trace="t",
        peer="c",
        code=code,
        seconds=0.001,
        request={"type": method, **request},
        reply=reply,
    )
    return msgspec.json.encode(record).decode()


def test_names_and_reads_are_played_and_what_was_no_answer_or_changes_bytes_is_not() -> None:
    text = "\n".join(
        [
            line(30, "stat", path="/a", consistency="stale", min_applied_index=7),
            line(10, "create", path="/a", request=[1, 2, 3]),
            line(20, "create", code="already_exists", path="/a"),
            line(25, "stat", code="not_leader", path="/a"),
            line(40, "rename", source="/a", destination="/b"),
            line(50, "write", handle=3, version=1),
            line(60, "heartbeat", server="c1"),
            line(70, "stat_many", paths=["/b", "/c"]),
        ]
    )
    calls = load(text, under="/replay/")
    requests: list[Request | None] = [
        CreateFile(path="/replay/a"),
        CreateFile(path="/replay/a"),
        Stat(path="/replay/a", consistency="stale"),
        RenamePath(source="/replay/a", destination="/replay/b"),
        StatMany(paths=["/replay/b", "/replay/c"]),
    ]
    assert [call.request for call in calls] == requests
    assert [call.begins for call in calls] == pytest.approx([0.0, 0.010, 0.020, 0.030, 0.060])
    assert [call.code for call in calls] == ["ok", "already_exists", "ok", "ok", "ok"]


def test_a_bulk_read_becomes_a_read_of_the_file_that_the_log_knows_its_chunk_of() -> None:
    found = {"entry": {"path": "/f"}, "chunks": [{"index": 2, "handle": 77}]}
    text = "\n".join(
        [
            line(10, "find_chunks", reply=found, path="/f"),
            line(20, "bulk_read", handle=77, version=1, first=10, last=19),
            line(30, "bulk_read", handle=78, version=1, first=10, last=19),
        ]
    )
    assert [call.span for call in load(text)][1:] == [("/f", 2 * CHUNK_BYTES + 10, 10)]


def test_a_line_that_is_no_record_is_named() -> None:
    with pytest.raises(InvalidArgument, match="line 2 is no record"):
        load(line(1, "stat", path="/") + "\nnonsense\n")


@keeps("diagnosis")
async def test_a_log_recorded_on_a_cluster_ends_alike_when_it_is_played_on_it_again(tmp_path: Path) -> None:
    """The logs of requests can be played back as load."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/d")
        for number in range(20):
            await client.create(f"/d/{number}")
        await client.rename("/d/0", "/d/zero")
        assert not await client.exists("/d/0")
        assert len(await client.listdir("/d")) == 20
        await client.delete("/d/19")
        caller = WebSocketCaller("client", "test", "")
        query = ReadRpcLog(newest=True, limit=2000)
        page = await caller.call(Address(cluster.addresses[0]), query, RpcLogPage, deadline_seconds=5.0)
        await caller.close()
        text = "\n".join(msgspec.json.encode(record).decode() for record in page.records)
        calls = load(text, under="/again")
        player = Player(cluster.addresses, settings=ClientSettings(), cluster="test-cluster", speed=0)
        await player.play(calls, under="/again")
        assert await client.listdir("/again/d") == await client.listdir("/d")
        for method in ("mkdir", "create", "rename", "list", "delete"):
            outcome = player.outcomes[method]
            assert outcome.same == len(outcome.seen) == len(outcome.recorded) == len(outcome.served), method
        assert len(player.outcomes["create"].seen) == 20
        assert any("create" in told and "100.0 %" in told for told in report(player.outcomes, 1.0, 1.0))
