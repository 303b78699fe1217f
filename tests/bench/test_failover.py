"""The witness of a fail-over sees what is lost or stale; a relay that is cut says nothing; sums are right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from gfs.bench.failover import KINDS, FailoverReport, Loss, _sum_up, chart, measure
from gfs.bench.machine import describe
from gfs.bench.relay import RaftLinks
from gfs.bench.witness import Witness
from gfs.errors import NotFound, NotLeader, Unavailable
from gfs.messages.namespace import Stat
from gfs.vocabulary import Address
from tests.waiting import until


class ForgetfulClient:
    """Acknowledges everything, keeps all but what it is told to lose, and fails once."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.lose = ""
        self.loses_all = False
        self.failures = 1

    async def mkdir(self, path: str, *, parents: bool = False) -> None:
        await asyncio.sleep(0)
        if self.failures and not parents:
            self.failures -= 1
            raise Unavailable("no master answers")
        if path != self.lose and not self.loses_all:
            self.kept.add(path)

    async def list(self, path: str) -> AsyncIterator[Any]:  # Any: an entry, of which the path is looked at
        for kept in sorted(self.kept):
            yield SimpleNamespace(path=kept)


class TwoMasters:
    """One follows and refuses, the other answers what the client has kept."""

    def __init__(self, client: ForgetfulClient) -> None:
        self._client = client
        self.asked = 0

    async def call(self, address: Address, request: Stat, *_: object, **__: object) -> None:
        if address == "follower":
            raise NotLeader("another one leads")
        self.asked += 1
        if request.path not in self._client.kept:
            raise NotFound(request.path)


async def test_witness_sees_lost_writes_stale_reads_and_failed_calls() -> None:
    client = ForgetfulClient()
    masters = TwoMasters(client)
    witness = Witness(
        client,  # type: ignore[arg-type]
        "/w",
        masters=[Address("follower"), Address("leader")],
        caller=masters,  # type: ignore[arg-type]
        writers=1,
    )
    client.lose = "/w/0-3"
    await witness.start()

    async def has_seen() -> bool:
        return len(witness.acknowledged) > 5 and masters.asked > 3

    await until(has_seen, "some reads and writes")
    client.loses_all = True

    async def has_found() -> bool:
        return bool(witness.stale)

    await until(has_found, "a read denies what was acknowledged")
    await witness.finish()
    assert "/w/0-3" in await witness.lost()
    assert len(witness.failed) == 1 and "no master answers" in witness.failed[0]
    assert witness.reads >= len(witness.stale)


def test_gap_is_the_longest_between_two_answers_after_the_moment_asked_for() -> None:
    witness = Witness(None, "/w", masters=[], caller=None, writers=0)  # type: ignore[arg-type]
    witness.answered_at = [1.0, 5.0, 5.5, 6.5, 6.6]
    assert witness.longest_gap(since=4.0) == 1.0
    assert witness.longest_gap(since=6.55) == 0.0


async def test_relay_that_is_cut_keeps_bytes_back_until_it_is_healed() -> None:
    heard: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            heard.append(piece)
            writer.write(piece)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    nodes = {name: SimpleNamespace(raft=f"127.0.0.1:{port}") for name in ("m1", "m2", "m3")}
    links = RaftLinks()
    layout: Any = SimpleNamespace(settings=SimpleNamespace(masters=nodes))  # Any: the part of one it looks at
    text = await links.lay_out(layout)
    line = text.split("[masters.m1.dial]\n", 1)[1].splitlines()[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(line.rpartition(":")[2].strip('"')))
    writer.write(b"before")
    assert await reader.read(100) == b"before"
    links.cut("m2")
    writer.write(b"while cut")
    answer = asyncio.ensure_future(reader.read(100))
    done, _ = await asyncio.wait({answer}, timeout=0.05)
    assert not done and heard == [b"before"]
    links.heal()
    assert await answer == b"while cut"
    writer.close()
    await links.close()
    server.close()


async def test_report_sums_up_all_runs_and_draws_them() -> None:
    losses = [Loss(n / 100, 10, 5, [], [], []) for n in range(1, 100)]
    losses.append(Loss(3.0, 10, 5, ["/lost"], ["stale"], []))
    found = _sum_up("kill", losses)
    assert (found.runs, found.p50_ms, found.p99_ms, found.max_ms) == (100, 500.0, 990.0, 3000.0)
    assert (found.writes, found.lost_acknowledgements, found.stale_reads) == (1000, ["/lost"], ["stale"])
    assert chart(FailoverReport(describe(), 4, [found])).startswith("<svg")


async def test_leader_that_is_cut_off_is_replaced_with_nothing_lost_and_nothing_stale() -> None:
    assert "partition" in KINDS
    [loss] = await measure("partition", 1, say=lambda _: None)
    assert (loss.lost, loss.stale, loss.failed) == ([], [], [])
    assert loss.writes > 0 and loss.reads > 0 and 0.1 < loss.gap < 10.0
