"""A local cluster grows and shrinks in masters while it runs: gfs.toml, processes and membership in step.

A new master is first written down, then started, then added; one that goes is first removed, then written
out, then stopped. Whatever interrupts this, a repeat goes on from there: a master that is written down and no
member is one that waits to be added, or was removed already.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from gfs.client.operating import Operator
from gfs.errors import InvalidArgument, NotFound
from gfs.local import layout as local_layout
from gfs.local.layout import MASTERS_ALLOWED, Layout
from gfs.local.layout_changes import add_master, drop_master, one_at_a_time
from gfs.messages.members import MemberRow

START_SECONDS_MAX = 30.0  # for the process of a new master to answer
LOOK_SECONDS = 0.1
_TAKES_PART = ("leader", "follower", "candidate")


def check_masters(count: int) -> None:
    """Raises: InvalidArgument."""
    if count not in MASTERS_ALLOWED:
        raise InvalidArgument(
            f"{count} masters make no sensible quorum", hint="Use 1 (no high availability), 3 or 5."
        )


class LocalMasters:
    """The masters of the cluster in one data directory, whose supervisor runs."""

    def __init__(
        self,
        directory: str,
        operator: Operator,
        *,
        reload: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """`reload`: have the supervisor start and stop programs as gfs.toml says by now."""
        self._directory = directory
        self._operator = operator
        self._reload = reload
        self._say = say

    async def resize(self, count: int) -> None:
        """Grow or shrink to `count` masters, one after the other; data and service go on.

        Raises: InvalidArgument, Unavailable; whatever kept a change from being made, those before it stand.
        """
        check_masters(count)
        with one_at_a_time(self._layout()):
            await self._finish_what_was_begun()
            while len(members := await self._members()) < count:
                await self._add("")
            while len(members) > count:
                await self._remove(_dispensable(members))
                members = await self._members()

    async def add(self, name: str = "") -> str:
        """One more master; a name is found for it. Returns: the name."""
        with one_at_a_time(self._layout()):
            return await self._add(name)

    async def remove(self, name: str) -> None:
        """Raises: NotFound, InvalidArgument as Operator.remove_member."""
        with one_at_a_time(self._layout()):
            await self._remove(name)

    # --- one change -----------------------------------------------------------------------------

    def _layout(self) -> Layout:
        return local_layout.open_layout(self._directory)

    async def _members(self) -> list[MemberRow]:
        return (await self._operator.members()).members

    async def _finish_what_was_begun(self) -> None:
        members = {row.id for row in await self._members()}
        for name in self._layout().settings.masters:
            if name in members:
                continue
            try:
                self._say(f"{name} is in gfs.toml and no member: adding it")
                await self._add(name)
            except InvalidArgument as error:
                # It was removed, and what should have followed did not.
                self._say(f"{name} is taken out of gfs.toml: {error.message}")
                drop_master(self._layout(), name)
                self._reload()

    async def _add(self, name: str) -> str:
        layout = self._layout()
        if not name or name not in layout.settings.masters:
            layout, name = add_master(layout, name)
        self._reload()
        node = layout.settings.masters[name]
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                await self._operator.add_member(
                    name, control=node.control, raft=node.raft, progress=self._say
                )
                break
            except NotFound as error:  # its process is starting
                if time.monotonic() > deadline:
                    raise NotFound(error.message, hint=f"See {layout.log_path(name)}.") from error
                await asyncio.sleep(LOOK_SECONDS)
        self._say(f"{name} is a master now, at {node.control}")
        return name

    async def _remove(self, name: str) -> None:
        try:
            await self._operator.remove_member(name, progress=self._say)
        except NotFound:
            if name not in self._layout().settings.masters:
                raise  # else it was written down and never added, or removed and not written out
        layout = self._layout()
        if name in layout.settings.masters:
            if len(layout.settings.masters) == 1:
                raise InvalidArgument(f"{name} is the only master of this cluster")
            kept = layout.node_directory(name)
            drop_master(layout, name)
            self._reload()
            self._say(f"{name} is no master any more and stops; its directory {kept} may be deleted")


def _dispensable(members: list[MemberRow]) -> str:
    """Whom to let go: who takes no part, then who does not lead, of these the youngest."""

    def worth(row: MemberRow) -> tuple[bool, bool, bool, int]:
        number = re.sub(r"\D", "", row.id)
        return row.voter, row.role in _TAKES_PART, row.role == "leader", -int(number or 0)

    return min(members, key=worth).id
