"""How long no namespace write is answered when the leader is lost, many times: killed, stopped, or cut off.

Beside the gaps: every acknowledged write is looked up afterwards, and readers that ask each master directly
see whether one that leads no more still answers.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from gfs.bench.fixture import local_cluster
from gfs.bench.machine import Machine, describe
from gfs.bench.plot import Mark, cdf_chart, percentile
from gfs.bench.relay import RaftLinks
from gfs.bench.witness import Witness
from gfs.client.client import AsyncClient
from gfs.errors import Unavailable
from gfs.local.supervisor import Supervisor, wait_until_ready
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address

KINDS = ("kill", "stop", "partition")
WORDS = {"kill": "kill -9", "stop": "SIGSTOP", "partition": "partition from the other masters"}
# (p50, p99) in seconds: what the design promises.
TARGETS = {"kill": (0.15, 0.5), "stop": (0.6, 1.5), "partition": (0.6, 1.5)}
WRITERS = 4
ANSWERS_BEFORE, ANSWERS_AFTER = 40, 40
SETTLED_SECONDS = 0.02  # answers that were on their way when the leader was lost still come in
WAIT_SECONDS_MAX = 60.0
POLL_SECONDS = 0.002


class Loss(msgspec.Struct, frozen=True):
    """One loss of the leader. Times in seconds."""

    gap: float
    writes: int
    reads: int
    lost: list[str]
    stale: list[str]
    failed: list[str]


class KindReport(msgspec.Struct, frozen=True):
    """All losses of one kind; gaps in milliseconds, in the order they were measured."""

    kind: str
    runs: int
    gaps_ms: list[float]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    target_p50_ms: float
    target_p99_ms: float
    writes: int
    linearizable_reads: int
    lost_acknowledgements: list[str]
    stale_reads: list[str]
    failed_calls: list[str]


class FailoverReport(msgspec.Struct, frozen=True):
    machine: Machine
    writers: int
    kinds: list[KindReport]


async def report(
    runs: int,
    kinds: Sequence[str] = KINDS,
    *,
    say: Callable[[str], None] = print,
) -> FailoverReport:
    """Each kind on a cluster of its own. Raises: Unavailable when a cluster does not come back."""
    machine = describe()
    found = []
    for kind in kinds:
        say(f"fail-over after {WORDS[kind]} of the leader, {runs} runs, {WRITERS} writers")
        losses = await measure(kind, runs, say=say)
        found.append(_sum_up(kind, losses))
        say(sentence(found[-1]))
    return FailoverReport(machine, WRITERS, found)


async def measure(kind: str, runs: int, *, say: Callable[[str], None] = print) -> list[Loss]:
    """One cluster, `runs` losses of its leader."""
    assert kind in KINDS
    losses = []
    async with _cluster(kind) as (supervisor, client, links):
        caller = WebSocketCaller(role="bench", node="witness")
        try:
            for run in range(runs):
                loss = await _one_loss(kind, run, supervisor, client, links, caller)
                losses.append(loss)
                wrong = len(loss.lost) + len(loss.stale) + len(loss.failed)
                say(
                    f"  {kind} {run + 1}/{runs}: {loss.gap * 1000:.0f} ms"
                    + (f", {wrong} WRONG" if wrong else "")
                )
        finally:
            await caller.close()
    return losses


def sentence(found: KindReport) -> str:
    return (
        f"{WORDS[found.kind]}: p50 {found.p50_ms:.0f} ms (target {found.target_p50_ms:.0f}), "
        f"p90 {found.p90_ms:.0f}, p99 {found.p99_ms:.0f} (target {found.target_p99_ms:.0f}), "
        f"max {found.max_ms:.0f}; of {found.writes} acknowledged writes "
        f"{len(found.lost_acknowledgements)} lost, "
        f"of {found.linearizable_reads} linearizable reads {len(found.stale_reads)} stale, "
        f"{len(found.failed_calls)} calls failed"
    )


def chart(found: FailoverReport) -> str:
    """The distribution of gaps, a stair for each kind, as SVG."""
    marks = [Mark(f"kill p50 ≤ {TARGETS['kill'][0] * 1000:.0f}", x=TARGETS["kill"][0] * 1000)]
    marks += [Mark(f"stop p50 ≤ {TARGETS['stop'][0] * 1000:.0f}", x=TARGETS["stop"][0] * 1000)]
    return cdf_chart(
        "No write answered after the loss of the leader",
        {WORDS[kind.kind].partition(" from")[0]: kind.gaps_ms for kind in found.kinds},
        x_label="gap, ms",
        marks=marks,
    )


# --- one loss -------------------------------------------------------------------------------------


@asynccontextmanager
async def _cluster(kind: str) -> AsyncIterator[tuple[Supervisor, AsyncClient, RaftLinks]]:
    links = RaftLinks()
    try:
        amend = links.lay_out if kind == "partition" else None
        async with local_cluster(chunkservers=1, amend=amend) as (supervisor, client):
            yield supervisor, client, links
    finally:
        await links.close()


async def _one_loss(
    kind: str,
    run: int,
    supervisor: Supervisor,
    client: AsyncClient,
    links: RaftLinks,
    caller: WebSocketCaller,
) -> Loss:
    leader = await _all_masters_up(client)
    masters = [Address(node.control) for node in supervisor.settings.masters.values()]
    witness = Witness(client, f"/{kind}{run}", masters=masters, caller=caller, writers=WRITERS)
    await witness.start()
    try:
        await _until(lambda: len(witness.answered_at) >= ANSWERS_BEFORE, "writes before the loss")
        lost_at = time.monotonic()
        _lose(kind, leader, supervisor, links)
        after = lost_at + SETTLED_SECONDS
        await _until(
            lambda: sum(at > after for at in witness.answered_at) >= ANSWERS_AFTER, "writes after the loss"
        )
        gap = witness.longest_gap(since=lost_at - 1.0)
        await _bring_back(kind, leader, supervisor, links)
        await _all_masters_up(client)  # the readers go on while the old leader finds out
    finally:
        await witness.finish()
    lost = await witness.lost()
    return Loss(gap, len(witness.acknowledged), witness.reads, lost, witness.stale, witness.failed)


def _lose(kind: str, leader: str, supervisor: Supervisor, links: RaftLinks) -> None:
    if kind == "partition":
        links.cut(leader)
    else:
        supervisor.signal(leader, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)


async def _bring_back(kind: str, leader: str, supervisor: Supervisor, links: RaftLinks) -> None:
    if kind == "partition":
        links.heal()
    elif kind == "stop":
        supervisor.signal(leader, signal.SIGCONT)
    else:
        await supervisor.ended(leader)
        await supervisor.start_node(leader)


async def _all_masters_up(client: AsyncClient) -> str:
    """Wait until the master lost in the last run follows again: with two of three there is no fail-over."""
    give_up_at = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        found = await wait_until_ready(client.cluster_status, chunkservers=1, seconds=WAIT_SECONDS_MAX)
        roles = sorted(master.role for master in found.masters)
        caught_up = all(master.lag_entries < ANSWERS_BEFORE for master in found.masters)
        if roles == ["follower", "follower", "leader"] and caught_up:
            return found.leader
        if time.monotonic() > give_up_at:
            told = ", ".join(f"{m.id} {m.role} {m.lag_entries} behind" for m in found.masters)
            raise Unavailable(f"the masters were not all up after {WAIT_SECONDS_MAX:.0f} s: {told}")
        await asyncio.sleep(0.05)


async def _until(true: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WAIT_SECONDS_MAX
    while not true():
        if time.monotonic() > give_up_at:
            raise Unavailable(f"no {what} in {WAIT_SECONDS_MAX:.0f} s")
        await asyncio.sleep(POLL_SECONDS)


def _sum_up(kind: str, losses: Sequence[Loss]) -> KindReport:
    gaps = [round(loss.gap * 1000, 1) for loss in losses]
    p50, p99 = TARGETS[kind]
    return KindReport(
        kind=kind,
        runs=len(losses),
        gaps_ms=gaps,
        p50_ms=percentile(gaps, 50),
        p90_ms=percentile(gaps, 90),
        p99_ms=percentile(gaps, 99),
        max_ms=max(gaps),
        target_p50_ms=p50 * 1000,
        target_p99_ms=p99 * 1000,
        writes=sum(loss.writes for loss in losses),
        linearizable_reads=sum(loss.reads for loss in losses),
        lost_acknowledgements=[path for loss in losses for path in loss.lost],
        stale_reads=[told for loss in losses for told in loss.stale],
        failed_calls=[told for loss in losses for told in loss.failed],
    )
