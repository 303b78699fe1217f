"""Faults of links: what nodes send does not arrive as it should. Each meets all links of its targets.

Argument `peers` of each: whose links with the targets it spoils: "all" (default), "masters", "chunkservers",
"clients". Ending one heals its links of whatever else was done to them meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from chaos.faults.interface import Ending, Fault, NotNow, Scene
from chaos.plan import Json
from chaos.testbed import Power, Testbed

Arguments = dict[str, Json]
Spoil = Callable[[Testbed, str, str, Arguments], Awaitable[None]]  # of what the first sends to the second

_OUT, _IN, _BOTH = (True, False), (False, True), (True, True)


def peers_of(scene: Scene, nodes: Sequence[str], peers: str) -> list[tuple[str, str]]:
    """Pairs (node, peer), each pair of nodes once."""
    testbed = scene.testbed
    groups = {
        "masters": list(testbed.masters),
        "chunkservers": list(testbed.chunkservers),
        "clients": list(testbed.clients),
    }
    wanted = [name for group in groups.values() for name in group] if peers == "all" else groups[peers]
    clients = set(testbed.clients)
    pairs: list[tuple[str, str]] = []
    for node in nodes:
        for peer in wanted:
            if peer == node or (peer, node) in pairs or (peer in clients and node in clients):
                continue
            pairs.append((node, peer))
    return pairs


async def heal_pairs(testbed: Testbed, pairs: Sequence[tuple[str, str]]) -> None:
    await _with_each(testbed, pairs, testbed.heal)


async def _with_each(
    testbed: Testbed, pairs: Sequence[tuple[str, str]], work: Callable[[str, str], Awaitable[None]]
) -> None:
    """All at once where each costs real time: a busy harness is slow to come back to each of hundreds."""
    if testbed.layer != "sim":
        await asyncio.gather(*(work(node, peer) for node, peer in pairs))
        return
    for node, peer in pairs:
        await work(node, peer)


def _fault(
    name: str,
    says: str,
    power: Power,
    spoil: Spoil,
    *,
    ways: tuple[bool, bool] = _BOTH,
    arguments: tuple[str, ...] = (),
    takes_out: bool = False,
    default_target: str = "leader",
) -> Fault:
    async def begin(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
        pairs = peers_of(scene, nodes, given.get("peers", "all"))
        if not pairs:
            raise NotNow("there is nobody at the other end of these links")
        sends, hears = ways

        async def spoil_pair(node: str, peer: str) -> None:
            if sends:
                await spoil(scene.testbed, node, peer, given)
            if hears:
                await spoil(scene.testbed, peer, node, given)

        await _with_each(scene.testbed, pairs, spoil_pair)

        async def end() -> None:
            await heal_pairs(scene.testbed, pairs)

        return end

    return Fault(
        name=name,
        says=says,
        powers=frozenset({power}),
        default_target=default_target,
        begin=begin,
        takes_out=takes_out,
        arguments=("peers", *arguments),
    )


async def _slow(testbed: Testbed, source: str, target: str, given: Arguments) -> None:
    await testbed.slow(
        source, target, seconds=given.get("delay_seconds", 0.2), jitter=given.get("jitter_seconds", 0.1)
    )


async def _throttle(testbed: Testbed, source: str, target: str, given: Arguments) -> None:
    await testbed.throttle(source, target, bytes_per_second=int(given.get("bytes_per_second", 100_000)))


async def _slice(testbed: Testbed, source: str, target: str, given: Arguments) -> None:
    await testbed.slice(source, target, piece_bytes=int(given.get("piece_bytes", 64)))


async def _limit(testbed: Testbed, source: str, target: str, given: Arguments) -> None:
    await testbed.limit(source, target, limit_bytes=int(given.get("limit_bytes", 10_000)))


async def _slow_close(testbed: Testbed, source: str, target: str, given: Arguments) -> None:
    await testbed.slow_close(source, target, seconds=given.get("delay_seconds", 1.0))


async def _packets(testbed: Testbed, source: str, target: str, given: Arguments) -> None:
    await testbed.packets(
        source,
        target,
        loss=given.get("loss", 0.0),
        reorder=given.get("reorder", 0.0),
        duplicate=given.get("duplicate", 0.0),
        corrupt=given.get("corrupt", 0.0),
    )


def _plain(power: Power) -> Spoil:
    async def spoil(testbed: Testbed, source: str, target: str, given: Arguments) -> None:
        match power:
            case "cut":
                await testbed.cut(source, target)
            case "drop":
                await testbed.drop(source, target)
            case "hold":
                await testbed.hold(source, target)
            case "reset":
                await testbed.reset(source, target)
            case _:
                raise AssertionError(power)

    return spoil


LINK_FAULTS: tuple[Fault, ...] = (
    _fault("isolate", "links end, and new ones find nobody, both ways", "cut", _plain("cut"), takes_out=True),
    _fault("blackhole", "bytes vanish silently, both ways", "drop", _plain("drop"), takes_out=True),
    _fault(
        "mute",
        "what it sends vanishes silently; it hears all",
        "drop",
        _plain("drop"),
        ways=_OUT,
        takes_out=True,
    ),
    _fault(
        "deaf",
        "what is sent to it vanishes silently; all hear it",
        "drop",
        _plain("drop"),
        ways=_IN,
        takes_out=True,
    ),
    _fault("hold", "bytes stop on their way, and all arrive late", "hold", _plain("hold"), takes_out=True),
    _fault(
        "slow",
        "bytes arrive late, by `delay_seconds` and up to `jitter_seconds` more or less",
        "slow",
        _slow,
        arguments=("delay_seconds", "jitter_seconds"),
    ),
    _fault(
        "throttle",
        "at most `bytes_per_second` pass",
        "throttle",
        _throttle,
        arguments=("bytes_per_second",),
        default_target="secondary",
    ),
    _fault("slice", "bytes arrive in pieces of `piece_bytes`", "slice", _slice, arguments=("piece_bytes",)),
    _fault("reset", "all connections are reset, once", "reset", _plain("reset")),
    _fault(
        "limit",
        "connections end after `limit_bytes`, in the middle of whatever passes",
        "limit",
        _limit,
        arguments=("limit_bytes",),
        default_target="primary",
    ),
    _fault(
        "slow-close",
        "the end of a connection is heard of `delay_seconds` late",
        "slow_close",
        _slow_close,
        arguments=("delay_seconds",),
    ),
    _fault(
        "packets",
        "packets are lost, reordered, doubled and spoilt, in the shares given",
        "packets",
        _packets,
        arguments=("loss", "reorder", "duplicate", "corrupt"),
        default_target="chunkservers",
    ),
)
