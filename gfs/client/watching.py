"""Following what changes in the namespace, over masters that come and go. What a change is, messages say."""

from __future__ import annotations

from collections import deque
from typing import Self

from gfs.client.connections import Connections
from gfs.client.core.retry_plan import GiveUp, may_pass
from gfs.errors import ChangesForgotten, GfsError, Unavailable
from gfs.messages.changes import Change, ChangesReply, WatchChanges
from gfs.vocabulary import Address

POLL_SECONDS = 20.0  # one question to a master waits so long for something to change
ANSWER_SECONDS = 5.0  # more until its answer must be there
LAG_SECONDS_MAX = 5.0  # a master that has heard no leader for longer may miss what happens: another is asked
assert LAG_SECONDS_MAX < POLL_SECONDS


class AsyncWatch:
    """An endless iterator of Change, in the order of the log. Made by AsyncClient.watch(); for one task.

    Every change at or after `position` will come at least once, also when masters die: each remembers the
    latest ones for itself, and another goes on where one left off. None comes before it was committed. To go
    on later, in another process, give watch() the `index` of the last change that was dealt with as `since`
    (its entry is told once more), or the `position` when all that was given out has been.
    """

    def __init__(self, connections: Connections, path: str, position: int) -> None:
        self._connections = connections
        self._path = path
        self._next = position  # the entry to ask from
        self._waiting: deque[Change] = (
            deque()
        )  # one page at most: no more is asked for before it is given out
        self._master: Address | None = None  # that answered last

    @property
    def position(self) -> int:
        """Index of the log entry from which there may be changes that were not given out yet."""
        return self._waiting[0].index if self._waiting else self._next

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        """Waits as long as nothing changes.

        Raises: ChangesForgotten when no master remembers far enough back; Unavailable, NoQuorum … when none
            has answered for `retry_seconds`: the watch may be asked again, and goes on where it was.
        """
        while not self._waiting:
            page = await self._page()
            self._waiting.extend(page.changes)
            assert page.next_index >= self._next
            self._next = page.next_index
        return self._waiting.popleft()

    async def begin(self) -> None:
        """Find out where to begin, if that is not known: behind all that was acknowledged by now."""
        if self._next > 0:
            return
        found = await self._connections.masters.ask_leader(
            WatchChanges(path=self._path), ChangesReply, f"watch {self._path}"
        )
        self._next = found.next_index

    async def _page(self) -> ChangesReply:
        clock = self._connections.clock
        plan = self._connections.new_plan(f"watch {self._path}", has_effects=False)
        while True:
            forgotten: ChangesForgotten | None = None
            masters = self._connections.masters.known_masters
            wait, forgot = 0.0, 0
            for address in sorted(masters, key=lambda address: address != self._master):
                try:
                    return await self._ask(address)
                except ChangesForgotten as error:
                    forgotten, forgot = error, forgot + 1
                except GfsError as error:
                    if not may_pass(error):
                        raise
                    verdict = plan.after(error, target=address, now=clock.monotonic())
                    if isinstance(verdict, GiveUp):
                        raise (forgotten or verdict.error) from error
                    wait = verdict.wait_seconds
            if forgotten is not None and 2 * forgot > len(masters):
                # Those that are missing would have to be older than most, and be the only ones that live on.
                raise ChangesForgotten(forgotten.message, details=forgotten.details)
            await clock.sleep(wait)

    async def _ask(self, address: Address) -> ChangesReply:
        request = WatchChanges(path=self._path, from_index=self._next, wait_seconds=POLL_SECONDS)
        reply = await self._connections.caller.call(
            address, request, ChangesReply, deadline_seconds=POLL_SECONDS + ANSWER_SECONDS
        )
        if not reply.changes and not 0 <= reply.lag_seconds <= LAG_SECONDS_MAX:
            raise Unavailable(f"{address} has heard no leader, and cannot know what changes")
        self._master = address
        return reply
