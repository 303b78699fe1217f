"""Writes down what simulated programs do, as Sightings: calls they have answered, roles they have taken,
states they have, and what they tell nobody (`orders`). Does nothing to them.

    role      {role, term, applied_index}: of each master twice a second: whenever role or term has changed
    state     {index, digest}: of each master every two seconds
    raised    {chunk, version, primary, term, lease_seconds}: of a BumpVersion that a chunk server followed
    answered  {chunk, version, primary, serial, kind, offset, length}: of an ApplyMutation
    started   {}: of a program that begins anew
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from chaos.simulation.control import SimulatedCaller
from chaos.simulation.nodes import Surroundings
from chaos.simulation.orders import Orders
from chaos.simulation.world import Life
from gfs.errors import GfsError
from gfs.messages.base import Reply, Request
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply, StateDigest, StateDigestReply
from gfs.messages.replicas import ApplyMutation, BumpVersion
from gfs.settings import Settings
from gfs.verification.history import Json, Sighting
from gfs.verification.recorder import Recorder
from gfs.vocabulary import Address

LOOK_SECONDS = 0.5
DIGEST_SECONDS = 2.0
ASK_SECONDS = 2.0
NS = 1_000_000_000
# Role in Raft, term, whether it is of use (a leader: confirmed by a quorum). None: the master is down.
Stance = tuple[str, int, bool] | None


class Seen:
    """Of one simulated cluster, from begin() to end()."""

    def __init__(
        self,
        around: Surroundings,
        caller: SimulatedCaller,
        settings: Settings,
        recorder: Recorder,
        *,
        began: float,
        within: Callable[[str], Stance],
    ) -> None:
        """
        Args:
            began: when the harness's clock was 0, in the world's seconds.
            within: what a master is, without asking it.
        """
        self._around, self._caller, self._settings = around, caller, settings
        self._recorder, self._began, self._within = recorder, began, within
        self.names: dict[str, str] = {}  # of chunk servers, by the ids they have given themselves
        self.primaries: dict[int, str] = {}  # by chunk, as chunk servers were last told
        self._roles: dict[str, tuple[str, int]] = {}
        self._stances: dict[str, Stance] = {}
        self._watching: list[asyncio.Task[None]] = []
        self._to_end = ExitStack()

    def begin(self) -> None:
        """Before the first program is started."""
        self._around.exchange.on_answered = self._answered
        self._around.on_started = lambda node: self._recorder.saw(node, "started")
        orders = Orders(self._tell, name_of=self.name_of, ns_at=self._ns_at)
        self._to_end.enter_context(orders.seen())

    def watch(self) -> None:
        """All programs run: ask them, too."""
        self._watching = [
            asyncio.create_task(self._watch_roles()),
            asyncio.create_task(self._watch_digests()),
        ]

    async def end(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._watching = []
        self._to_end.close()

    def name_of(self, server: str) -> str:
        return self.names.get(server, server)

    async def look_at(self, name: str) -> tuple[str, int, int]:
        """Role, term and applied index as the master itself says."""
        address = Address(self._settings.masters[name].control)
        try:
            said = await self._caller.call(
                address, ClusterStatus(alone=True), ClusterStatusReply, deadline_seconds=ASK_SECONDS
            )
        except GfsError:
            return "down", 0, 0
        for one in said.masters:
            if one.id == name:
                return str(one.role), int(one.term), int(one.applied_index)
        return "down", 0, 0

    # --- private -----------------------------------------------------------------------------------

    def _tell(self, node: str, what: str, values: dict[str, Json]) -> None:
        self._recorder.history.add(Sighting(self._recorder.now_ns(), node, what, values))

    def _ns_at(self, process: Life, here: float) -> int:
        return int((process.clock.in_world(here) - self._began) * NS)

    async def _note_role(self, name: str) -> None:
        stance = self._within(name)
        if stance is not None and stance == self._stances.get(name):
            return  # a question would cost more than all else that an idle master does
        self._stances[name] = stance
        role, term, applied = await self.look_at(name)
        if self._roles.get(name) != (role, term):
            self._roles[name] = (role, term)
            self._recorder.saw(name, "role", role=role, term=term, applied_index=applied)

    async def _watch_roles(self) -> None:
        while True:
            await asyncio.gather(*map(self._note_role, self._settings.masters))
            await asyncio.sleep(LOOK_SECONDS)

    async def _watch_digests(self) -> None:
        while True:
            for name, node in self._settings.masters.items():
                try:
                    said = await self._caller.call(
                        Address(node.control), StateDigest(), StateDigestReply, deadline_seconds=ASK_SECONDS
                    )
                except GfsError:
                    continue
                self._recorder.saw(name, "state", index=said.applied_index, digest=said.digest)
            await asyncio.sleep(DIGEST_SECONDS)

    def _answered(self, node: str, request: Request, reply: Reply) -> None:
        if not isinstance(request, BumpVersion | ApplyMutation) or not isinstance(reply, request.reply):
            return
        primary = self.name_of(request.primary)
        values = {"chunk": int(request.handle), "version": int(request.version), "primary": primary}
        if isinstance(request, BumpVersion):
            self.primaries[int(request.handle)] = primary
            values["term"], values["lease_seconds"] = int(request.master_term), request.lease_seconds
            self._tell(node, "raised", values)
        else:
            values["serial"], values["kind"] = request.serial, request.kind
            values["offset"], values["length"] = request.offset_bytes, request.length_bytes
            self._tell(node, "answered", values)
