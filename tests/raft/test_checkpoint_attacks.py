"""Checkpoints under attack, with whole masters: made beside mutations, shipped over broken links.

What one checkpoint directory promises by itself is in tests/master/test_checkpoint.py.
"""

from __future__ import annotations

import asyncio
import errno
import gc
from collections.abc import Callable

import msgspec
import pytest

from gfs.master.replication.checkpoints import CheckpointManifest, CheckpointReceiver
from gfs.master.replication.handshake import Dialer
from gfs.master.replication.raft_messages import FetchPiece, Piece, frame
from tests.raft.checkpoint_world import (
    checkpoint,
    checkpoint_names,
    damage_checkpoint,
    fill,
    leader_of,
    leave_behind,
    run,
    until,
    watch_pieces,
)
from tests.raft.test_cluster import _RawPeer
from tests.raft.whole_masters import CLUSTER, WholeCluster, WholeMaster

__all__ = ["run"]


# --- making -------------------------------------------------------------------------------------------


def test_proposals_are_answered_while_a_slow_disk_takes_a_checkpoint(run: Callable[..., None]) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        loop = cluster.loop
        await fill(cluster, "before", 100)
        loop.stepped_seconds = (0.05, 0.1)  # each call of the checkpoint's thread; the log's disk is as fast
        writing = asyncio.ensure_future(checkpoint(leader_of(cluster)))
        waited: list[float] = []
        while not writing.done():
            asked = loop.now
            await fill(cluster, f"beside{len(waited)}", 1)
            waited.append(loop.now - asked)
        assert len(waited) > 50 and max(waited) < 0.03, (len(waited), max(waited))
        assert await writing < leader_of(cluster).state.applied()[0]  # type: ignore[union-attr]
        await cluster.settled()
        cluster.check()

    run(scenario)


def test_no_more_than_three_are_kept_however_many_a_follower_is_sent(
    run: Callable[..., None],
) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        for number in range(5):
            _, follower = await leave_behind(cluster, f"turn{number}-")
            before = follower.checkpoints_installed
            cluster.loop.network.heal()
            await cluster.settled()
            assert follower.checkpoints_installed == before + 1
            for master in cluster.masters:
                names = master.disk.listdir(f"{master.directory}/checkpoints")
                assert len([name for name in names if name.endswith(".manifest")]) <= 3, names
                assert len([name for name in names if name.endswith(".lmdb")]) <= 3, names
        cluster.check()

    run(scenario)


# --- shipping -----------------------------------------------------------------------------------------


def test_shipping_ends_though_the_connection_is_cut_after_each_piece(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        leader, follower = await leave_behind(cluster)
        asked = watch_pieces(leader, monkeypatch)
        cluster.loop.network.heal()
        cuts = 0
        while not follower.checkpoints_installed:
            before = len(asked)
            await until(cluster, lambda b=before: len(asked) > b or follower.checkpoints_installed)
            await asyncio.sleep(cluster.loop.chance.uniform(0.0, 0.004))
            cluster.loop.network.reset(leader.name, follower.name)
            cuts += 1
            assert cuts < 60, "it starts over each time"
        offsets = [request.offset for request in asked]
        assert cuts > 3 and offsets == sorted(offsets), "never a byte that is here already"
        await cluster.settled()
        cluster.check()

    run(scenario)


@pytest.mark.parametrize("how", ["bit in the file", "file cut short", "no file"])
@pytest.mark.parametrize("written", [1, 2])
def test_a_checkpoint_that_has_gone_bad_on_the_leader_is_replaced_and_the_follower_comes_up(
    run: Callable[..., None], how: str, written: int
) -> None:
    """Nothing is proposed meanwhile, so that no later checkpoint becomes due by itself."""

    async def scenario(cluster: WholeCluster) -> None:
        leader, follower = await leave_behind(cluster)
        names = checkpoint_names(leader)
        assert len(names) == 2
        for name in names[-written:]:
            damage_checkpoint(leader, name, how)
        cluster.loop.network.heal()
        await cluster.settled()
        assert follower.checkpoints_installed >= 1
        assert leader.node is not None and leader.node.parts.given.checkpoints.newest() is not None
        cluster.check()
        leader.cut_power(torn=False)
        leader.power_on()
        await leader.start()
        await cluster.settled()
        cluster.check()

    run(scenario)


@pytest.mark.parametrize("how", ["receiver killed", "receiver loses power", "sender killed"])
def test_shipping_goes_on_after_the_death_of_either_side_at_any_piece(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def scenario(cluster: WholeCluster, piece: int) -> None:
        leader, follower = await leave_behind(cluster)
        asked = watch_pieces(leader, monkeypatch)
        cluster.loop.network.heal()
        await until(cluster, lambda: len(asked) > piece or follower.checkpoints_installed)
        await asyncio.sleep(cluster.loop.chance.uniform(0.0, 0.004))
        victim = leader if how == "sender killed" else follower
        if how == "receiver loses power":
            victim.cut_power(torn=True)
            victim.power_on()
        else:
            victim.kill()
        await victim.start()
        await cluster.settled()
        await fill(cluster, "after", 10)
        await cluster.settled()
        cluster.check()

    for piece in range(6):
        run(lambda cluster, piece=piece: scenario(cluster, piece), seed=piece)


def test_a_newer_checkpoint_takes_the_place_of_the_one_that_is_being_sent(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one under way is replaced on the leader, and removed there, before it has arrived."""

    async def scenario(cluster: WholeCluster) -> None:
        leader, follower = await leave_behind(cluster)
        asked = watch_pieces(leader, monkeypatch)
        cluster.loop.network.heal()
        await until(cluster, lambda: len(asked) == 3)
        cluster.loop.network.isolate(follower.name, list(cluster.names))
        for number in range(3):  # three newer ones, so that the first is no longer kept
            await fill(cluster, f"newer{number}", 60)
            await checkpoint(leader)
        cluster.loop.network.heal()
        await cluster.settled()
        assert len({request.index for request in asked}) >= 2, "another one was asked for"
        assert follower.checkpoints_installed == 1
        assert not [n for n in follower.disk.listdir(f"{follower.directory}/checkpoints") if "part" in n]
        cluster.check()

    run(scenario)


def test_a_disk_that_refuses_a_fetch_is_asked_again_less_and_less_often(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        unheard: list[dict[str, object]] = []
        cluster.loop.set_exception_handler(lambda loop, context: unheard.append(context))
        _, follower = await leave_behind(cluster)
        assert follower.node is not None
        store, tries = follower.node.parts.given.checkpoints, [0]
        receive = store.receive

        def failing(manifest: CheckpointManifest) -> CheckpointReceiver:
            tries[0] += 1
            if tries[0] <= 5:
                raise OSError(errno.EIO, "the disk does not answer")
            return receive(manifest)

        monkeypatch.setattr(store, "receive", failing)
        cluster.loop.network.heal()
        began = cluster.loop.now
        await until(cluster, lambda: tries[0] == 6)
        assert cluster.loop.now - began > 3, "0.1 + 0.2 + 0.4 + 0.8 + 1.6"
        await cluster.settled()
        gc.collect()
        assert follower.checkpoints_installed == 1 and not unheard
        cluster.check()

    run(scenario)


async def shake_hands_to_fetch(cluster: WholeCluster, leader: WholeMaster, me: WholeMaster) -> _RawPeer:
    assert me.node is not None
    _, raw = await cluster.loop.create_connection(_RawPeer, f"slow>{leader.name}", 1)
    assert isinstance(raw, _RawPeer)
    dialer = Dialer(me=me.name, cluster=CLUSTER, secret=b"one secret")
    raw.say(frame(dialer.hello(leader.name, "checkpoint")))
    await asyncio.sleep(0.01)
    body = raw.received[4 : 4 + int.from_bytes(raw.received[:4], "little")]
    raw.say(frame(dialer.respond(body, me.node.parts.events.introduce())))
    await asyncio.sleep(0.01)
    raw.received = b""
    return raw


def test_who_asks_for_pieces_faster_than_it_takes_them_is_cut_off_and_costs_one_piece(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        leader, follower = await leave_behind(cluster)
        cluster.loop.network.heal()
        await cluster.settled()
        assert leader.state is not None and leader.node is not None
        manifest = leader.node.parts.given.checkpoints.newest()
        assert manifest is not None
        raw = await shake_hands_to_fetch(cluster, leader, follower)
        one = frame(FetchPiece(manifest.index, manifest.term, 0))
        raw.say(one)
        await until(cluster, lambda: len(raw.received) > 1000)
        asked = watch_pieces(leader, monkeypatch)
        raw.say(one * 50)
        await until(cluster, lambda: raw.closed, seconds=2)
        assert len(asked) <= 1

        # One that has asked in good order, but does not read: its answer waits, and no other is made.
        slow = await shake_hands_to_fetch(cluster, leader, follower)
        cluster.loop.network.block(leader.name, "slow")
        slow.say(one)
        await until(cluster, lambda: len(asked) >= 1)
        await asyncio.sleep(0.5)
        before = len(asked)
        slow.say(one)
        await asyncio.sleep(0.5)
        assert len(asked) == before
        cluster.loop.network.heal()
        await cluster.settled()

        # A second connection of the same member is what it dials when the first has broken.
        first = await shake_hands_to_fetch(cluster, leader, follower)
        second = await shake_hands_to_fetch(cluster, leader, follower)
        assert first.closed and not second.closed
        second.say(one)
        await until(cluster, lambda: len(second.received) > 1000)
        piece = msgspec.msgpack.decode(second.received[4:], type=Piece)
        assert piece.offset == 0 and piece.content

    run(scenario)
