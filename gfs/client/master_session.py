"""Finds the leader among the masters, follows it, and carries each request to a definite end.

Namespace mutations get a request id here, so that a repeat after a lost answer has the first one's outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, overload

from gfs.client.core.master_list import MasterList
from gfs.client.core.request_window import RequestWindow
from gfs.client.core.retry_plan import GiveUp, RetryPlan, may_pass, speaks_of_the_master, wait_seconds
from gfs.clock import Clock
from gfs.errors import ConnectionLost, GfsError, NoQuorum, NoSpace, NotLeader, Unauthenticated, Unavailable
from gfs.messages.base import Reply, Request, ViewReply
from gfs.messages.members import FindMasters, MastersReply
from gfs.messages.namespace import EntryReply, MutationReply, Stat
from gfs.messages.operations import RequestId
from gfs.settings import CLIENT_CALLS_IN_FLIGHT_MAX, RETRY_SECONDS_MAX, SESSION_WINDOW, ClientSettings
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import Address, ClientId

PROBE_SECONDS = 0.25  # a master that does not answer "are you the leader" by then is asked again
# A leader that is stopped or cut off keeps connections open and says nothing. After this long without a
# word from it, the others are asked whether they have elected a new one.
SILENCE_SECONDS = 0.25
WATCH_SECONDS = 0.1
LIST_SECONDS = 10.0  # a leader in use is asked so often which masters there are; a new one at once
ANY_PATIENCE_SECONDS = 1.0  # for one master's answer to a read that another may answer as well

R = TypeVar("R", bound=Reply)


class Freshness(NamedTuple):
    """Of what age an answer is. `lag_seconds`: it was the newest state that long ago at most; below zero: the
    master has not heard a leader since it started, and cannot tell."""

    answered_by: str
    lag_entries: int
    lag_seconds: float


@dataclass(slots=True, eq=False)
class _OpenCall:
    task: asyncio.Task[Any]  # Any: whatever the caller's task returns
    address: Address
    started: float
    abandoned: bool = False


class MasterSession:
    """One client's conversation with the masters.

    Invariants: a mutation's request id is the same at every try; at most SESSION_WINDOW are open;
    an operation ends with its answer, a definite error, or its budget.
    """

    def __init__(
        self,
        masters: Sequence[Address],
        caller: RpcCaller,
        *,
        client: ClientId,
        clock: Clock,
        chance: random.Random,
        settings: ClientSettings,
        on_cluster: Callable[[str], None] = lambda cluster: None,
    ) -> None:
        """`on_cluster` hears to which cluster the leader belongs, before masters that it names are asked."""
        self._known = MasterList(masters)
        self._on_cluster = on_cluster
        self._listed_by: Address | None = None  # the leader that has named the masters last, and when
        self._listed_at = 0.0
        self._listing: asyncio.Task[None] | None = None
        self._caller = caller
        self._clock = clock
        self._chance = chance
        self._settings = settings
        self._budget_seconds = min(settings.retry_seconds, RETRY_SECONDS_MAX)
        self._window = RequestWindow(client, window=SESSION_WINDOW)
        self._window_moved = asyncio.Event()
        self._slots = asyncio.Semaphore(CLIENT_CALLS_IN_FLIGHT_MAX)
        self._leader: Address | None = None
        self._search: asyncio.Task[Address] | None = None
        self._said: dict[Address, GfsError] = {}  # what each master answered to the last search
        self._open_calls: dict[_OpenCall, None] = {}  # in the order they were begun
        self._heard_at: dict[Address, float] = {}
        self._watch: asyncio.Task[None] | None = None
        self._in_use = asyncio.Event()  # of a client that does nothing, nothing is watched
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.applied_index = 0  # the newest state this client has seen: session reads are never older
        self.freshness: Freshness | None = None  # of the last answer that need not be the newest state
        self._reader: Address | None = None  # the master that last answered such a read

    @property
    def known_masters(self) -> list[Address]:
        return list(self._known.addresses)

    def start(self) -> None:
        """Begin to look for the leader, all masters at once, without waiting for it."""
        self._start_search()
        self._watch = asyncio.get_running_loop().create_task(self._watch_silence())

    async def close(self) -> None:
        self._closed = True
        running = [task for task in (self._search, self._watch, self._listing) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def ask_leader(self, request: Request, expected: type[R], what: str, *, effects: bool = False) -> R:
        """Send a request that may safely be repeated, to whichever master leads, until it is answered.

        Args:
            what: the operation in words, for the error when all tries fail.
            effects: it changes something, so giving up after a lost answer is OutcomeUnknown.
        Raises: the leader's final answer; Unavailable, NoQuorum … when the budget ends.
        """
        await self._slots.acquire()
        try:
            return await self._until_answered(lambda: request, expected, what, effects=effects)
        finally:
            self._slots.release()

    @overload
    async def mutate(self, build: Callable[[RequestId], Request], what: str) -> MutationReply: ...

    @overload
    async def mutate(self, build: Callable[[RequestId], Request], what: str, expected: type[R]) -> R: ...

    async def mutate(
        self, build: Callable[[RequestId], Request], what: str, expected: type[Reply] = MutationReply
    ) -> Reply:
        """Carry out one namespace mutation exactly once, over lost answers and changes of leader.

        Raises: as ask_leader; OutcomeUnknown when the budget ends after an answer was lost.
        """
        await self._slots.acquire()
        try:
            while (sequence := self._window.open()) is None:
                self._window_moved.clear()
                await self._window_moved.wait()
            try:
                return await self._until_answered(
                    lambda: build(self._window.request_id(sequence)), expected, what, effects=True
                )
            finally:
                self._window.close(sequence)
                self._window_moved.set()
        finally:
            self._slots.release()

    async def ask_any(self, request: Request, expected: type[R], what: str) -> R:
        """Send a read that a follower may answer: each master in turn until one does."""
        plan = self._new_plan(what, effects=False)
        first = self._chance.randrange(len(self._known.addresses))
        patience = min(ANY_PATIENCE_SECONDS, self._settings.call_seconds)
        while True:
            wait = 0.0
            known = self._known.addresses
            order = [*known[first:], *known[:first]]
            order.sort(key=lambda address: address != self._reader)
            for number, address in enumerate(order):
                # A share of what is left: silent masters must not use up the time of the one that lives.
                share = plan.seconds_left(self._clock.monotonic()) / (len(order) - number)
                try:
                    reply = await self._ask(address, request, expected, max(0.001, min(patience, share)))
                    self._reader = address
                    return reply
                except GfsError as error:
                    if not may_pass(error):
                        raise
                    verdict = plan.after(error, target=address, now=self._clock.monotonic())
                    if isinstance(verdict, GiveUp):
                        raise verdict.error from error
                    wait = verdict.wait_seconds
            patience = self._settings.call_seconds  # all were slow: the request may need its time
            await self._clock.sleep(wait)

    async def ask_everyone(
        self, request: Request, expected: type[R], *, seconds: float
    ) -> dict[Address, R | GfsError]:
        """Ask all masters at once and wait for all answers, at most `seconds`. No retries."""

        async def ask(address: Address) -> R | GfsError:
            try:
                return await self._caller.call(address, request, expected, deadline_seconds=seconds)
            except GfsError as error:
                return error

        known = self.known_masters
        answers = await asyncio.gather(*(ask(address) for address in known))
        return dict(zip(known, answers, strict=True))

    # --- one request, several tries -------------------------------------------------------------

    def _new_plan(self, what: str, *, effects: bool, started: float | None = None) -> RetryPlan:
        return RetryPlan(
            what,
            started=self._clock.monotonic() if started is None else started,
            budget_seconds=self._budget_seconds,
            chance=self._chance.random,
            has_effects=effects,
            quorum_seconds=self._settings.quorum_seconds,
        )

    async def _until_answered(
        self, build: Callable[[], Request], expected: type[R], what: str, *, effects: bool
    ) -> R:
        if self._closed:
            raise Unavailable(f"{what}: this client is closed")
        started = self._clock.monotonic()  # the budget is of all tries, the first included
        plan: RetryPlan | None = None
        followed_hint = False
        refused_by, pause = Address(""), 0.0
        while True:
            leader = self._leader
            if leader is None:
                plan = plan or self._new_plan(what, effects=effects, started=started)
                leader = await self._find_leader(plan)
            if leader == refused_by and pause > 0:
                await self._clock.sleep(pause)  # it leads, and still could not do this
            left = self._budget_seconds
            if plan is not None:
                left = plan.seconds_left(self._clock.monotonic())
            seconds = max(0.001, min(self._settings.call_seconds, left))
            try:
                return await self._ask(leader, build(), expected, seconds)
            except GfsError as error:
                plan = plan or self._new_plan(what, effects=effects, started=started)
                verdict = plan.after(error, target=leader, now=self._clock.monotonic())
                if isinstance(verdict, GiveUp):
                    raise verdict.error from error
                if speaks_of_the_master(error):
                    # A hint is followed once: two masters may each believe in the other.
                    followed_hint = self._leave(leader, error, may_follow=not followed_hint)
                    refused_by, pause = leader, verdict.wait_seconds
                elif verdict.wait_seconds > 0:
                    await self._clock.sleep(verdict.wait_seconds)

    async def _ask(self, address: Address, request: Request, expected: type[R], seconds: float) -> R:
        """One try at one master; abandoned when another one turns out to lead."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        call = _OpenCall(task, address, self._clock.monotonic())
        self._open_calls[call] = None
        self._in_use.set()
        try:
            reply = await self._caller.call(address, request, expected, deadline_seconds=seconds)
        except asyncio.CancelledError as cancelled:
            if not call.abandoned or task.uncancel() > 0:
                raise
            raise ConnectionLost(f"{address} fell silent and another master leads now") from cancelled
        except ConnectionLost:
            raise
        except GfsError:
            self._heard_at[address] = self._clock.monotonic()
            raise
        finally:
            self._open_calls.pop(call, None)
        self._heard_at[address] = self._clock.monotonic()
        # The token of session reads; replies without state have none.
        seen: int = getattr(reply, "applied_index", 0)
        if seen > self.applied_index:
            self.applied_index = seen
        if isinstance(reply, ViewReply) and reply.answered_by:
            self.freshness = Freshness(reply.answered_by, reply.lag_entries, reply.lag_seconds)
        return reply

    def _leave(self, leader: Address, error: GfsError, *, may_follow: bool) -> bool:
        """`leader` does not lead, or not any more. True when its hint whom to ask instead is followed."""
        if self._leader != leader:
            return False  # somebody else has found out already
        hint = self._learn(error)
        if may_follow and hint and hint != leader:
            self._leader = hint
            return True
        self._leader = None
        self._start_search()
        return False

    # --- looking for the leader -----------------------------------------------------------------

    def _learn(self, error: GfsError) -> Address:
        """Take up which masters a refusal names; the leader's address if that is among them."""
        if not isinstance(error, NotLeader):
            return Address("")
        leader = Address(error.details.get("leader", ""))
        self._known.add([leader, *(Address(part) for part in error.details.get("masters", "").split(","))])
        return leader

    async def _find_leader(self, plan: RetryPlan) -> Address:
        search = self._start_search()
        # A master that can be reached and lacks the others knows that waiting does not help for now.
        for left in (plan.quorum_seconds_left, plan.seconds_left):
            alarm = asyncio.ensure_future(self._clock.sleep(left(self._clock.monotonic())))
            try:
                await asyncio.wait({search, alarm}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                alarm.cancel()
            if search.done() and not search.cancelled():
                return search.result()
            if any(isinstance(said, NoQuorum) for said in self._said.values()):
                break
        nobody = Unavailable(
            "no master answers as the leader",
            hint="See that the masters run, and that these are their addresses: 'gfs status' asks all.",
        )
        if self._closed:
            raise Unavailable("this client was closed")
        for address in self._known.addresses:
            plan.note(address, self._said.get(address, Unavailable("has not answered")))
        # One that can be reached and lacks the others knows better than silence what is wrong.
        telling = [said for said in self._said.values() if isinstance(said, NoQuorum | NoSpace)]
        telling.sort(key=lambda said: isinstance(said, NoQuorum))
        raise plan.exhausted(telling[0] if telling else nobody, now=self._clock.monotonic())

    def _start_search(self) -> asyncio.Task[Address]:
        """The one search under way, begun if there is none."""
        if self._search is None or self._search.done():
            self._search = asyncio.get_running_loop().create_task(self._search_everywhere())
        return self._search

    async def _search_everywhere(self) -> Address:
        """Ask all masters side by side, again and again, until one proves that it leads."""
        self._said.clear()
        asking: dict[Address, asyncio.Task[Address]] = {}
        loop = asyncio.get_running_loop()
        try:
            while True:
                for address in self._known.addresses:
                    if address not in asking:  # hints may have added masters
                        asking[address] = loop.create_task(self._ask_until_leader(address, asking))
                done, _ = await asyncio.wait(asking.values(), return_when=asyncio.FIRST_COMPLETED)
                led = [task.result() for task in done if task.result()]
                if led:
                    self._leader = led[0]
                    self._in_use.set()  # a new leader is asked at once which masters there are
                    return led[0]
                for address in [address for address, task in asking.items() if task in done]:
                    del asking[address]
        finally:
            for task in asking.values():
                task.cancel()

    async def _ask_until_leader(
        self, address: Address, asking: dict[Address, asyncio.Task[Address]]
    ) -> Address:
        """Return `address` once it leads; an empty one to make the search take up masters just learnt of."""
        started = self._clock.monotonic()
        while True:
            if await self._leads(address):
                return address
            if any(known not in asking for known in self._known.addresses):
                return Address("")
            failing_for = self._clock.monotonic() - started
            await self._clock.sleep(wait_seconds(failing_for, self._chance.random()))

    async def _leads(self, address: Address) -> bool:
        """True when `address` can answer a linearizable read: it leads and has a quorum behind it."""
        try:
            await self._caller.call(address, Stat(path="/"), EntryReply, deadline_seconds=PROBE_SECONDS)
        except Unauthenticated:
            return True  # it will not say whether it leads: whoever asks it anything is told why
        except GfsError as error:
            self._said[address] = error
            self._learn(error)
            return False
        self._heard_at[address] = self._clock.monotonic()
        return True

    # --- which masters there are ----------------------------------------------------------------

    def _is_list_due(self, leader: Address) -> bool:
        if self._listing is not None and not self._listing.done():
            return False
        if leader != self._listed_by:
            return True
        in_use = self._heard_at.get(leader, 0.0) > self._listed_at
        return in_use and self._clock.monotonic() - self._listed_at >= LIST_SECONDS

    async def _list_masters(self, leader: Address) -> None:
        """Have the leader name all masters, so that any one of them leads back to the cluster."""
        try:
            reply = await self._caller.call(
                leader, FindMasters(), MastersReply, deadline_seconds=self._settings.call_seconds
            )
        except GfsError:
            return  # those known so far have to do until the next time
        if reply.is_leader:
            self._on_cluster(reply.cluster)
            self._known.replace(reply.masters)

    # --- a leader that keeps silent -------------------------------------------------------------

    async def _watch_silence(self) -> None:
        while True:
            if not self._open_calls:
                self._in_use.clear()
                await self._in_use.wait()
            await self._clock.sleep(WATCH_SECONDS)
            leader = self._leader
            if leader is not None and self._is_silent(leader):
                await self._replace_silent(leader)
            elif leader is not None and self._is_list_due(leader):
                self._listed_by, self._listed_at = leader, self._clock.monotonic()
                self._listing = asyncio.get_running_loop().create_task(self._list_masters(leader))

    def _is_silent(self, leader: Address) -> bool:
        waiting_since = min(
            (call.started for call in self._open_calls if call.address == leader),
            default=self._clock.monotonic(),
        )
        last_sign = max(waiting_since, self._heard_at.get(leader, 0.0))
        return self._clock.monotonic() - last_sign >= SILENCE_SECONDS

    async def _replace_silent(self, silent: Address) -> None:
        """If another master leads by now, go there with all that waits for the silent one."""
        others = [address for address in self._known.addresses if address != silent]
        found = await _first_true(others, self._leads)
        if found is None or self._leader != silent:
            return
        self._leader = found
        for call in self._open_calls:
            if call.address == silent and not call.abandoned:
                call.abandoned = True
                call.task.cancel()


async def _first_true(
    addresses: Sequence[Address], ask: Callable[[Address], Awaitable[bool]]
) -> Address | None:
    """The first of `addresses` for which `ask` says yes; all are asked at once."""

    async def named(address: Address) -> Address | None:
        return address if await ask(address) else None

    tasks = [asyncio.ensure_future(named(address)) for address in addresses]
    try:
        for answer in asyncio.as_completed(tasks):
            if (found := await answer) is not None:
                return found
        return None
    finally:
        for task in tasks:
            task.cancel()
