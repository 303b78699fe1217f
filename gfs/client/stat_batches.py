"""Linearizable stats wanted at the same time go to the leader together. Retries are master_session's.

Most of what a stat costs, on both sides, is the call around it. A stat goes alone, and at once, as long as no
other one is on its way; what comes meanwhile is gathered for one turn of the loop.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gfs.client.master_session import MasterSession
from gfs.errors import GfsError, InvalidArgument, from_code
from gfs.messages.base import ErrorReply
from gfs.messages.namespace import EntryReplies, EntryReply, Stat, StatMany
from gfs.settings import STATS_TOGETHER_MAX
from gfs.telemetry import trace_id


class _Wanted(NamedTuple):
    path: str
    reply: asyncio.Future[EntryReply]


class StatBatches:
    def __init__(self, masters: MasterSession) -> None:
        self._masters = masters
        self._under_way = 0
        self._wanted: list[_Wanted] = []
        self._batches: set[asyncio.Task[None]] = set()

    async def stat(self, path: str) -> EntryReply:
        """Raises: NotFound …, as the leader answers; as MasterSession.ask_leader."""
        # What belongs to a traced request stays a call of its own, under that request's id.
        alone = self._under_way == 0 or bool(trace_id.get())
        self._under_way += 1
        try:
            return await (self._stat_alone(path) if alone else self._stat_with_others(path))
        finally:
            self._under_way -= 1

    async def _stat_alone(self, path: str) -> EntryReply:
        return await self._masters.ask_leader(Stat(path=path), EntryReply, f"stat {path}")

    def _stat_with_others(self, path: str) -> asyncio.Future[EntryReply]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[EntryReply] = loop.create_future()
        if not self._wanted:
            loop.call_soon(self._send)
        self._wanted.append(_Wanted(path, reply))
        return reply

    def _send(self) -> None:
        wanted, self._wanted = self._wanted, []
        for first in range(0, len(wanted), STATS_TOGETHER_MAX):
            batch = asyncio.ensure_future(self._stat_together(wanted[first : first + STATS_TOGETHER_MAX]))
            self._batches.add(batch)  # the loop alone would not keep it
            batch.add_done_callback(self._batches.discard)

    async def _stat_together(self, wanted: list[_Wanted]) -> None:
        """Every one that waits is answered."""
        if len(wanted) == 1:
            await self._stat_into(wanted[0])
            return
        request = StatMany(paths=[path for path, _ in wanted])
        what = f"stat {wanted[0].path} and {len(wanted) - 1} more"
        try:
            replies = (await self._masters.ask_leader(request, EntryReplies, what)).replies
        except InvalidArgument:
            # The master is older than this request; what is wrong with one path is told of that path.
            await asyncio.gather(*map(self._stat_into, wanted))
        except GfsError as error:
            for _, waiting in wanted:
                _fail(waiting, error)
        except BaseException:
            for _, waiting in wanted:
                waiting.cancel()
            raise
        else:
            for (_, waiting), reply in zip(wanted, replies, strict=True):
                if isinstance(reply, ErrorReply):
                    _fail(
                        waiting, from_code(reply.code, reply.message, hint=reply.hint, details=reply.details)
                    )
                elif not waiting.done():
                    waiting.set_result(reply)

    async def _stat_into(self, wanted: _Wanted) -> None:
        try:
            reply = await self._stat_alone(wanted.path)
        except GfsError as error:
            _fail(wanted.reply, error)
        except BaseException:
            wanted.reply.cancel()
            raise
        else:
            if not wanted.reply.done():
                wanted.reply.set_result(reply)


def _fail(waiting: asyncio.Future[EntryReply], error: GfsError) -> None:
    """Each of those who wait gets an error of its own, for its own traceback."""
    if not waiting.done():
        own = from_code(error.code, error.message, hint=error.hint, details=error.details)
        own.__cause__ = error.__cause__
        waiting.set_exception(own)
