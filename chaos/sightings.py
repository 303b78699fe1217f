"""Watches real gfs programs from beside, past every spoilt link, and writes down what they do as Sightings.

Shared by the layers of real programs. What a kind of sighting means is documented where the checkers are that
read it; here is where each comes from:

    role        asked of each master a few times a second: whenever its role or term has changed
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gfs.errors import GfsError
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.transport.interface import RpcCaller
from gfs.verification.recorder import Recorder
from gfs.vocabulary import Address

LOOK_SECONDS = 0.25
ANSWER_SECONDS = 1.0


class Sightings:
    """Of one cluster, from start() to stop()."""

    def __init__(
        self,
        caller: RpcCaller,
        masters: Callable[[], dict[str, Address]],
        recorder: Recorder,
    ) -> None:
        """`masters`: control addresses as the harness reaches them, of those that are in the cluster now."""
        self._caller, self._masters, self._recorder = caller, masters, recorder
        self._roles: dict[str, tuple[str, int]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        assert self._task is None
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            masters = self._masters()
            await asyncio.gather(*(self._look_at(node, address) for node, address in masters.items()))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at(self, node: str, address: Address) -> None:
        try:
            answer = await self._caller.call(
                address, ClusterStatus(alone=True), ClusterStatusReply, deadline_seconds=ANSWER_SECONDS
            )
        except GfsError:
            self._says(node, "down", 0, 0)
            return
        for one in answer.masters:
            if one.id == node:
                self._says(node, one.role, one.term, one.applied_index)

    def _says(self, node: str, role: str, term: int, applied_index: int) -> None:
        if self._roles.get(node) != (role, term):
            self._roles[node] = (role, term)
            self._recorder.saw(node, "role", role=role, term=term, applied_index=applied_index)
