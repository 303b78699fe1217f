"""What a fault is, and the scene it is played in: who is out, whose bytes may be lost. Acts on nothing.

What the scene guards, so that a run asks no more than is promised (DESIGN §0):
  - of the masters at most a minority is out at once, of the chunk servers at most goal - 1, unless the step
    says `beyond_quorum` (nothing acknowledged may be lost even then, as long as disks keep what was synced);
  - under durability "flush" bytes younger than a second are in page caches only. A fault that loses bytes of
    a chunk server therefore begins only while, together with all servers whose replicas may be behind (out or
    hindered now, or back for less than HEALING_SECONDS) or damaged, fewer than goal servers are concerned: a
    server whose disk or links are slow may miss a grant, and then others have the only bytes;
  - damage that stays (flipped bits) is done to one and the same server in a run.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from chaos.plan import Configuration, Json, Step
from chaos.testbed import Power, Testbed
from gfs.verification.history import History

HEALING_SECONDS = (
    30.0  # a replica that was away is up to date again, or replaced, and unsynced bytes are synced
)
NANOSECONDS = 1_000_000_000

Ending = Callable[[], Awaitable[None]]


class NotNow(Exception):
    """The fault is not begun, because it would ask more than is promised or has nobody to meet."""


@dataclass(slots=True)
class Scene:
    """Shared by all faults of one run."""

    testbed: Testbed
    configuration: Configuration
    chance: random.Random
    history: History
    out: dict[str, int] = field(default_factory=dict)  # node -> how many faults keep it from serving
    hindered: dict[str, int] = field(default_factory=dict)  # node -> … let it serve, and late
    came_back_ns: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    last_met: list[str] = field(default_factory=list)  # the nodes of the fault begun last

    def is_master(self, node: str) -> bool:
        return node in self.testbed.masters

    def behind(self) -> set[str]:
        """Chunk servers whose replicas may be older than acknowledged."""
        now = self.testbed.now_ns()
        young = {node for node, at in self.came_back_ns.items() if now - at < HEALING_SECONDS * NANOSECONDS}
        late = young | set(self.out) | set(self.hindered)
        return {node for node in late if not self.is_master(node)}

    def leave(self, fault: Fault, nodes: Sequence[str]) -> None:
        """`fault` begins to keep these nodes from their work, or from doing it in time."""
        kept = self._kept_by(fault)
        for node in nodes:
            kept[node] = kept.get(node, 0) + 1

    def come_back(self, fault: Fault, nodes: Sequence[str]) -> None:
        kept = self._kept_by(fault)
        for node in nodes:
            count = kept.get(node, 0) - 1
            if count > 0:
                kept[node] = count
            else:
                kept.pop(node, None)
                self.came_back_ns[node] = self.testbed.now_ns()

    def _kept_by(self, fault: Fault) -> dict[str, int]:
        return self.out if fault.takes_out else self.hindered


@dataclass(frozen=True, slots=True)
class Fault:
    """One word of the vocabulary.

    `begin` returns once the fault holds, with what ends it (None: a single blow).
    `takes_out`: those it meets cannot serve meanwhile. `loses`: they lose bytes that were not synced.
    `damages`: bytes that were synced are spoilt.
    """

    name: str
    says: str
    powers: frozenset[Power]
    default_target: str
    begin: Callable[[Scene, list[str], dict[str, Json]], Awaitable[Ending | None]]
    takes_out: bool = False
    loses: bool = False
    damages: bool = False
    arguments: tuple[str, ...] = ()  # those it understands


def refuse_beyond_promise(scene: Scene, fault: Fault, step: Step, nodes: Sequence[str]) -> None:
    """Raises: NotNow, with the reason."""
    masters = [node for node in nodes if scene.is_master(node)]
    servers = [node for node in nodes if node in scene.testbed.chunkservers]
    if fault.takes_out and not step.beyond_quorum:
        _refuse_too_many_out(scene, masters, servers)
    goal = scene.configuration.replication_goal
    lossy = fault.damages or (fault.loses and scene.configuration.durability == "flush")
    if servers and (lossy or (fault.takes_out and scene.damaged)):
        concerned = scene.behind() | scene.damaged | set(servers)
        if len(concerned) >= goal:
            raise NotNow(
                f"bytes on {_list(servers)} might be the last ones: replicas on "
                f"{_list(concerned - set(servers))} may be behind or damaged"
            )
    if fault.damages and scene.damaged - set(servers):
        raise NotNow(f"{_list(scene.damaged)} was damaged before: damage that stays is done to one server")


def _refuse_too_many_out(scene: Scene, masters: list[str], servers: list[str]) -> None:
    voters = len(scene.testbed.masters)
    absent = {node for node in scene.out if scene.is_master(node)} | set(masters)
    if masters and len(absent) > (voters - 1) // 2:
        raise NotNow(f"{_list(absent)} of {voters} masters would be out: no majority")
    gone = {node for node in scene.out if not scene.is_master(node)} | set(servers)
    if servers and len(gone) >= scene.configuration.replication_goal:
        raise NotNow(f"{_list(gone)} would be out: as many as there are replicas")


def _list(nodes: set[str] | list[str]) -> str:
    return ", ".join(sorted(nodes)) or "none"
