"""What simulated programs do and tell nobody, seen from within: grants as they are logged, mutations as they
are ordered, applied and acknowledged, replicas as they are deleted. What it means is the checkers' to say.

    granted       {chunk, version, primary, replicas}: at the first master that applies it from the log
    ordered       {chunk, version, serial, until_ns}: by a primary; until when it holds its lease to last, by
                  its own clock, on the harness's
    applied       {chunk, version, serial}: on one replica
    acknowledged  {chunk, version, serial, replicas}: by a primary; the set it goes by
    deleted       {chunk, version}: by a chunk server, at the newest version that the leader meant

Functions of gfs are replaced meanwhile by ones that do the same and tell: no program knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from chaos.patches import Patches
from chaos.simulation.world import Life, life
from gfs.chunkserver.core.mutations import Acknowledged, Mutation
from gfs.chunkserver.core.primary_order import PrimaryOrder
from gfs.chunkserver.core.secondary_order import SecondaryOrder
from gfs.chunkserver.version_changes import VersionChanges
from gfs.master.core.state import MasterState
from gfs.messages.heartbeat import GarbageReplica
from gfs.messages.operations import (
    AddChunk,
    AdoptChunkCopy,
    AnyOutcome,
    ChangeReplicas,
    ChunkGranted,
    GrantLease,
    LogRecord,
)
from gfs.verification.history import Json
from gfs.vocabulary import SerialNumber, ServerId

# A reserved copy is answered with a set, too: that of the chunk it is to be made from.
_GRANTS = (AddChunk, GrantLease, ChangeReplicas, AdoptChunkCopy)

Tell = Callable[[str, str, dict[str, Json]], None]  # node, what, values


class Orders:
    """Tells of every program of one simulation, while seen()."""

    def __init__(
        self, tell: Tell, *, name_of: Callable[[str], str], ns_at: Callable[[Life, float], int]
    ) -> None:
        """
        Args:
            name_of: the node of a chunk server's id.
            ns_at: a monotonic time of a process's own clock, on the harness's.
        """
        self._tell, self._name_of, self._ns_at = tell, name_of, ns_at
        self._granted: dict[int, tuple[int, tuple[str, ...]]] = {}  # by chunk: the newest that was told of

    @contextmanager
    def seen(self) -> Iterator[None]:
        patches = Patches()
        try:
            self._watch_grants(patches)
            self._watch_primaries(patches)
            self._watch_replicas(patches)
            yield
        finally:
            patches.undo()

    # --- masters -----------------------------------------------------------------------------------

    def _watch_grants(self, patches: Patches) -> None:
        as_before = MasterState.apply

        def apply(state: MasterState, record: LogRecord, **position: Any) -> AnyOutcome:  # Any: handed on
            outcome = as_before(state, record, **position)
            if isinstance(outcome, ChunkGranted) and isinstance(record.operation, _GRANTS):
                self._note_grant(outcome)
            return outcome

        patches.replace(MasterState, "apply", apply)

    def _note_grant(self, grant: ChunkGranted) -> None:
        """Each master applies each, and again after a restart; a repeated request is answered as at first."""
        here, chunk, version = life.get(), int(grant.handle), int(grant.version)
        if here is None:
            return  # not by a master: the harness makes a state again from its log
        told = version, (str(grant.primary), *sorted(map(str, grant.replicas)))
        newest = self._granted.get(chunk, (0, ()))
        if version < newest[0] or told == newest:
            return
        self._granted[chunk] = told
        replicas = sorted(map(self._name_of, map(str, grant.replicas)))
        primary = self._name_of(str(grant.primary))
        values = {"chunk": chunk, "version": version, "primary": primary, "replicas": replicas}
        self._tell(here.node, "granted", values)

    # --- chunk servers -------------------------------------------------------------------------------

    def _watch_primaries(self, patches: Patches) -> None:
        order_before, applied_before = PrimaryOrder._order, PrimaryOrder.applied_on

        def order(lead: PrimaryOrder, *about: Any) -> Mutation:  # Any: handed on
            mutation = order_before(lead, *about)
            here = life.get()
            assert here is not None
            until_ns = self._ns_at(here, lead.lease_until)
            self._tell(here.node, "ordered", {**_about(lead, mutation.serial), "until_ns": until_ns})
            return mutation

        def applied_on(lead: PrimaryOrder, serial: SerialNumber, member: ServerId) -> Acknowledged | None:
            done = applied_before(lead, serial, member)
            here = life.get()
            if done is not None and here is not None:
                replicas = sorted(map(self._name_of, map(str, lead.members)))
                self._tell(here.node, "acknowledged", {**_about(lead, done.serial), "replicas": replicas})
            return done

        patches.replace(PrimaryOrder, "_order", order)
        patches.replace(PrimaryOrder, "applied_on", applied_on)

    def _watch_replicas(self, patches: Patches) -> None:
        finish_before, collect_before = SecondaryOrder.finish_run, VersionChanges.collect

        def finish_run(
            order: SecondaryOrder, applied_count: int, *, failure: str | None = None
        ) -> tuple[Mutation, ...]:
            before = order.applied_through
            never = finish_before(order, applied_count, failure=failure)
            here = life.get()
            assert here is not None
            for serial in range(before + 1, order.applied_through + 1):
                self._tell(here.node, "applied", _about(order, serial))
            return never

        async def collect(changes: VersionChanges, garbage: GarbageReplica, **about: Any) -> bool:
            gone = await collect_before(changes, garbage, **about)
            here = life.get()
            if gone and here is not None:
                values = {"chunk": int(garbage.handle), "version": int(garbage.version)}
                self._tell(here.node, "deleted", values)
            return gone

        patches.replace(SecondaryOrder, "finish_run", finish_run)
        patches.replace(VersionChanges, "collect", collect)


def _about(order: PrimaryOrder | SecondaryOrder, serial: int) -> dict[str, Json]:
    return {"chunk": int(order.handle), "version": int(order.version), "serial": int(serial)}
