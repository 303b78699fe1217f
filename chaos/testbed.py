"""A cluster that can be hurt: what faults, scenarios and the runner know of it, whatever the layer.

Layers implement it: simulation (virtual time, one process), toxiproxy (real processes, proxied links),
kernel (real processes in network namespaces). What a layer cannot do it does not list in `powers`; a scenario
that needs it is skipped there by name, never weakened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject

Layer = Literal["sim", "toxi", "kernel"]

# What may be done to a cluster. Each is a method of Testbed, or a way of calling one.
Power = Literal[
    "cut",  # links broken: connections end, new ones find nobody
    "drop",  # one direction swallowed silently, closed when healed
    "hold",  # one direction held back, and delivered late when healed
    "slow",  # latency and jitter
    "throttle",  # bytes a second
    "slice",  # writes cut in small pieces
    "reset",  # connections reset, now
    "limit",  # connections closed after so many bytes
    "slow_close",
    "packets",  # loss, reordering, duplication, corruption of packets
    "kill",
    "power_cut",  # as kill, and what was not synced is lost
    "pause",
    "failpoint",
    "clock_drift",
    "clock_jump",
    "disk_full",
    "disk_errors",
    "bit_rot",
    "slow_disk",
    "membership",
]


class CannotHere(Exception):
    """This machine or layer has no such power; the text says why."""


class Testbed(Subject, Protocol):
    """Nodes are named as in gfs.toml (m1, c1 …) and clients by the names they were made with.

    Faults of links are one-way where `source` and `target` are given (what `source` sends does not arrive as
    it should); callers ask for both directions where they want both. Each returns once it holds; `heal` ends
    all that has been done between two nodes, `heal_all` everything of links, processes, clocks and disks.
    """

    layer: Layer
    powers: frozenset[Power]

    @property
    def masters(self) -> tuple[str, ...]:
        """Those that are in the cluster now."""
        ...

    @property
    def chunkservers(self) -> tuple[str, ...]: ...

    @property
    def clients(self) -> Sequence[str]:
        """The names of those made so far, in that order."""
        ...

    async def start(self, recorder: Recorder) -> None:
        """Bring the cluster up, healthy. From now on what programs do is written down as Sighting records."""
        ...

    async def stop(self) -> None: ...

    async def look_within(self, recorder: Recorder) -> None:
        """When all is healed and audited: write down what programs have in memory and on their disks, as far
        as this layer sees it."""
        ...

    async def leader(self) -> str:
        """The node that leads now, or "" while nobody is known to."""
        ...

    async def primary(self, path: str) -> str:
        """The chunk server that has the lease of the last chunk of this file, or ""."""
        ...

    async def replicas(self, path: str) -> Sequence[str]:
        """The chunk servers that hold the last chunk of this file."""
        ...

    # --- links ---------------------------------------------------------------------------------

    async def cut(self, source: str, target: str) -> None: ...
    async def drop(self, source: str, target: str) -> None: ...
    async def hold(self, source: str, target: str) -> None: ...
    async def slow(self, source: str, target: str, *, seconds: float, jitter: float = 0.0) -> None: ...
    async def throttle(self, source: str, target: str, *, bytes_per_second: int) -> None: ...
    async def slice(self, source: str, target: str, *, piece_bytes: int) -> None: ...
    async def reset(self, source: str, target: str) -> None: ...
    async def limit(self, source: str, target: str, *, limit_bytes: int) -> None: ...
    async def slow_close(self, source: str, target: str, *, seconds: float) -> None: ...
    async def packets(
        self,
        source: str,
        target: str,
        *,
        loss: float = 0,
        reorder: float = 0,
        duplicate: float = 0,
        corrupt: float = 0,
    ) -> None:
        """Shares of packets, 0 … 1."""
        ...

    async def heal(self, source: str, target: str) -> None: ...
    async def heal_all(self) -> None: ...

    # --- programs and their machines ---------------------------------------------------------------

    async def kill(self, node: str) -> None:
        """At once; one that is dead already stays so."""
        ...

    async def restart(self, node: str) -> None:
        """Start a node that was killed or has died; one that runs is left alone."""
        ...

    async def arm(self, node: str, failpoint: str) -> None:
        """Restart the node so that it dies or fails there: `chunk.synced=kill@3` (see gfs.failpoints)."""
        ...

    async def power_cut(self, nodes: Sequence[str]) -> None:
        """All at once, with what they had not synced; `restart` brings them back."""
        ...

    async def pause(self, node: str) -> None: ...
    async def resume(self, node: str) -> None: ...
    async def clock_drift(self, node: str, rate: float) -> None: ...
    async def clock_jump(self, node: str, seconds: float) -> None:
        """Of the wall clock only."""
        ...

    async def disk_full(self, node: str, full: bool) -> None: ...
    async def disk_errors(self, node: str, *, share: float) -> None:
        """This share of writes and syncs fails with EIO; 0 ends it."""
        ...

    async def slow_disk(self, node: str, *, seconds: float) -> None: ...
    async def bit_rot(self, node: str, *, bits: int) -> int:
        """Flip bits in files of committed chunks. Returns how many were flipped."""
        ...

    async def add_master(self) -> str:
        """One more voter, in the cluster's own way. Returns its name."""
        ...

    async def remove_master(self, node: str) -> None: ...
