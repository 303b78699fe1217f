"""All masters are restarted, one after the other, while the cluster serves. How to restart one, others know.

Before each the cluster must be able to spare it, and before the next it must have caught up: so a majority is
there at every moment, and whoever leads has everything. A leader that is stopped cleanly hands over first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

from gfs.errors import GfsError, Unavailable
from gfs.local.layout import Layout
from gfs.master.directory import process_of
from gfs.messages.cluster import ClusterStatusReply, MasterStatus

READY_SECONDS_MAX = 120.0  # for one master: its start, and what it has to catch up
LOOK_SECONDS = 0.1
LAG_ENTRIES_MAX = 200  # log entries behind that a master may be when the next one is stopped
_TAKES_PART = ("leader", "follower")


async def restart_masters(
    status: Callable[[], Awaitable[ClusterStatusReply]],
    restart: Callable[[str], Awaitable[None]],
    *,
    say: Callable[[str], None],
    seconds: float = READY_SECONDS_MAX,
) -> list[str]:
    """Followers first, the leader last: each change of leader costs clients a moment. Returns: who, in order.

    Args:
        restart: stop one master cleanly and start it; returns when the new process runs.
    Raises: Unavailable when a master does not come back, or is away from the start; nothing further is
        stopped then. Whatever `restart` raises.
    """
    found = await _all_take_part(status, seconds=seconds)
    voters = [master for master in found.masters if master.voter]
    if len(voters) < 3:
        raise Unavailable(
            f"a cluster of {len(voters)} masters cannot spare one, so it cannot be restarted without a pause",
            hint="Grow to three with 'gfs admin members add', or restart them knowing this.",
        )
    done: list[str] = []
    while left := [master for master in found.masters if master.id not in done]:
        following = [master for master in left if master.role != "leader"]
        chosen = (following or left)[0]
        say(f"restarting {chosen.id} ({chosen.role})")
        began = time.monotonic()
        await restart(chosen.id)
        done.append(chosen.id)
        found = await _all_take_part(status, seconds=seconds)
        say(f"{chosen.id} is back after {time.monotonic() - began:.1f} s; {found.leader} leads")
    return done


async def _all_take_part(
    status: Callable[[], Awaitable[ClusterStatusReply]], *, seconds: float
) -> ClusterStatusReply:
    give_up_at = time.monotonic() + seconds
    missing = "no master has answered"
    while True:
        try:
            found = await status()
            behind = [master for master in found.masters if not _may_be_counted_on(master)]
            if found.leader and not behind:
                return found
            missing = ", ".join(f"{m.id} is {m.role}, {m.lag_entries} entries behind" for m in behind)
            missing = missing or "no master leads"
        except GfsError as error:
            missing = error.message
        if time.monotonic() > give_up_at:
            raise Unavailable(
                f"not all masters take part: {missing}",
                hint="No further master is restarted. See 'gfs status' and the logs of these masters.",
            )
        await asyncio.sleep(LOOK_SECONDS)


def _may_be_counted_on(master: MasterStatus) -> bool:
    return master.role in _TAKES_PART and master.lag_entries <= LAG_ENTRIES_MAX


async def restart_here(layout: Layout, node: str, *, seconds: float = READY_SECONDS_MAX) -> None:
    """A master of a cluster that 'gfs up' runs: its supervisor starts it again.

    Raises: Unavailable when it does not run, or does not come back.
    """
    directory = layout.node_directory(node)
    old = process_of(directory)
    if not old:
        raise Unavailable(f"{node} does not run here", hint="Start the cluster with 'gfs up'.")
    os.kill(old, signal.SIGTERM)
    give_up_at = time.monotonic() + seconds
    while process_of(directory) in (0, old):
        if time.monotonic() > give_up_at:
            raise Unavailable(f"{node} did not come back", hint=f"See {layout.log_path(node)}.")
        await asyncio.sleep(LOOK_SECONDS)
