"""Faults of programs and their machines: death, sleep, clocks that lie, masters that come and go."""

from __future__ import annotations

from chaos.faults.interface import Ending, Fault, NotNow, Scene
from chaos.faults.links import Arguments
from gfs.errors import GfsError

# Where a chunk server or a master may die, when a step does not say where: see gfs.failpoints.
MASTER_FAILPOINTS = (
    "oplog.before_write",
    "oplog.written",
    "oplog.synced",
    "raft.before_vote",
    "raft.before_ack",
    "master.before_propose",
    "master.applied",
    "checkpoint.before_write",
    "checkpoint.written",
    "checkpoint.before_rename",
    "checkpoint.renamed",
    "lease.before_grant",
    "lease.granted",
    "lease.bumped_one",
    "lease.bumped_all",
)
CHUNKSERVER_FAILPOINTS = (
    "chunk.before_bump",
    "chunk.bumped",
    "chunk.before_write",
    "chunk.data_written",
    "chunk.index_committed",
    "chunk.before_ack",
    "chunk.redo_logged",
    "chunk.overwritten",
    "chunk.before_sync",
    "chunk.synced",
    "chunk.journal_rotated",
    "push.received",
    "push.forwarded",
    "write.before_reply",
)
PASSES_MAX = 20  # a failpoint kills at one of its first passes


async def _restart(scene: Scene, nodes: list[str], given: Arguments) -> None:
    order = list(nodes)
    if given.get("order") == "random":
        scene.chance.shuffle(order)
    for node in order:
        await scene.testbed.restart(node)
        if pause := given.get("restart_gap_seconds", 0.0):
            await scene.testbed.sleep(pause)


async def _kill(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    for node in nodes:
        await scene.testbed.kill(node)

    async def end() -> None:
        await _restart(scene, nodes, given)

    return end


async def _power_cut(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    await scene.testbed.power_cut(nodes)

    async def end() -> None:
        await _restart(scene, nodes, given)

    return end


async def _kill_at(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    for node in nodes:
        choices = MASTER_FAILPOINTS if scene.is_master(node) else CHUNKSERVER_FAILPOINTS
        place = given.setdefault("failpoint", scene.chance.choice(choices))
        number = given.setdefault("passes", scene.chance.randint(1, PASSES_MAX))
        await scene.testbed.arm(node, f"{place}=kill@{number}")

    async def end() -> None:
        for node in nodes:
            # Where it has not come there, it is still armed, and would die in the midst of something else.
            await scene.testbed.kill(node)
        await _restart(scene, nodes, given)

    return end


async def _pause(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    for node in nodes:
        await scene.testbed.pause(node)

    async def end() -> None:
        for node in nodes:
            await scene.testbed.resume(node)

    return end


async def _drift(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    rates: dict[str, float] = given.setdefault("rates", {})
    spread = float(given.get("spread", 0.1))
    for node in nodes:
        rate = rates.setdefault(node, round(scene.chance.uniform(1 - spread, 1 + spread), 3))
        await scene.testbed.clock_drift(node, rate)

    async def end() -> None:
        for node in nodes:
            await scene.testbed.clock_drift(node, 1.0)

    return end


async def _jump(scene: Scene, nodes: list[str], given: Arguments) -> Ending | None:
    seconds = float(given.setdefault("jump_seconds", 600.0))
    for node in nodes:
        await scene.testbed.clock_jump(node, seconds)

    async def end() -> None:
        for node in nodes:
            await scene.testbed.clock_jump(node, -seconds)

    return end


async def _churn(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    """A master comes, and at the end one goes: the one that came, or the one that was met first."""
    testbed = scene.testbed
    try:
        newcomer = await testbed.add_master()
    except GfsError as error:
        raise NotNow(f"no master could be added: {error.message}") from error
    given["added"] = newcomer
    leaves = nodes[0] if given.get("leaves") == "old" and nodes else newcomer

    async def end() -> None:
        try:
            await testbed.remove_master(leaves)
        except GfsError as error:  # it stays: a cluster of one master more is a whole one
            given["not_removed"] = f"{error.code}: {error.message}"
        else:
            given["removed"] = leaves

    return end


PROGRAM_FAULTS: tuple[Fault, ...] = (
    Fault(
        "kill",
        "killed at once, started again at the end",
        frozenset({"kill"}),
        "leader",
        _kill,
        takes_out=True,
        arguments=("order", "restart_gap_seconds"),
    ),
    Fault(
        "kill-at",
        "killed where `failpoint` says, at the pass `passes` (drawn where not given)",
        frozenset({"failpoint"}),
        "master",
        _kill_at,
        takes_out=True,
        arguments=("failpoint", "passes", "restart_gap_seconds"),
    ),
    Fault(
        "power-cut",
        "killed, and what was not synced is lost; started again at the end",
        frozenset({"power_cut"}),
        "master",
        _power_cut,
        takes_out=True,
        loses=True,
        arguments=("order", "restart_gap_seconds"),
    ),
    Fault(
        "pause",
        "stands still, and goes on as if nothing had been",
        frozenset({"pause"}),
        "leader",
        _pause,
        takes_out=True,
    ),
    Fault(
        "drift",
        "clocks run faster or slower by up to `spread`",
        frozenset({"clock_drift"}),
        "masters chunkservers",
        _drift,
        arguments=("spread", "rates"),
    ),
    Fault(
        "jump",
        "the wall clock jumps by `jump_seconds`, and back at the end",
        frozenset({"clock_jump"}),
        "master",
        _jump,
        arguments=("jump_seconds",),
    ),
    Fault(
        "churn",
        "a master is added; at the end it, or with `leaves` = old the one met, is removed",
        frozenset({"membership"}),
        "leader",
        _churn,
        arguments=("leaves", "added"),
    ),
)
