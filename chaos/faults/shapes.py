"""Partitions with a shape: groups of masters that see each other in part. One node alone: see `links`."""

from __future__ import annotations

from itertools import combinations

from chaos.faults.interface import Ending, Fault, NotNow, Scene
from chaos.faults.links import Arguments, heal_pairs, peers_of

Pairs = list[tuple[str, str]]


async def _cut_all(scene: Scene, pairs: Pairs) -> Ending:
    if not pairs:
        raise NotNow("there are too few nodes for such a partition")
    for node, peer in pairs:
        await scene.testbed.cut(node, peer)
        await scene.testbed.cut(peer, node)

    async def end() -> None:
        await heal_pairs(scene.testbed, pairs)

    return end


def _shuffled(scene: Scene, nodes: list[str]) -> list[str]:
    order = list(nodes)
    scene.chance.shuffle(order)
    return order


async def _halves(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    order = _shuffled(scene, nodes)
    few = order[: (len(order) - 1) // 2]
    return await _cut_all(scene, [(a, b) for a in few for b in order if b not in few])


async def _ring(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    order = _shuffled(scene, nodes)
    count = len(order)
    kept = {frozenset((order[i], order[(i + 1) % count])) for i in range(count)}
    return await _cut_all(scene, [(a, b) for a, b in combinations(order, 2) if frozenset((a, b)) not in kept])


async def _bridge(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    order = _shuffled(scene, nodes)
    rest = order[1:]  # the first sees both sides
    one_side = rest[: len(rest) // 2]
    return await _cut_all(scene, [(a, b) for a in one_side for b in rest if b not in one_side])


async def _swizzle(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    """One after the other all links of each are held; afterwards let go one by one, in another order."""
    testbed = scene.testbed
    step_seconds = float(given.get("step_seconds", 0.5))
    held: list[Pairs] = []
    for node in _shuffled(scene, nodes):
        pairs = peers_of(scene, [node], given.get("peers", "all"))
        for source, target in pairs:
            await testbed.hold(source, target)
            await testbed.hold(target, source)
        held.append(pairs)
        await testbed.sleep(step_seconds)

    async def end() -> None:
        scene.chance.shuffle(held)
        for pairs in held:
            await heal_pairs(testbed, pairs)
            await testbed.sleep(step_seconds)

    return end


SHAPE_FAULTS: tuple[Fault, ...] = (
    Fault(
        "halves",
        "the masters fall into a majority and a minority",
        frozenset({"cut"}),
        "masters",
        _halves,
    ),
    Fault(
        "ring",
        "each master sees only two neighbours (from four masters on)",
        frozenset({"cut"}),
        "masters",
        _ring,
    ),
    Fault(
        "bridge",
        "two groups of masters see each other only through one master",
        frozenset({"cut"}),
        "masters",
        _bridge,
    ),
    Fault(
        "swizzle",
        "links are held node by node, every `step_seconds`, and let go in another order",
        frozenset({"hold"}),
        "minority",
        _swizzle,
        takes_out=True,
        arguments=("peers", "step_seconds"),
    ),
)
