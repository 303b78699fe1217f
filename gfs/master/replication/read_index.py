"""Linearizable reads without the log (ReadIndex, Raft dissertation §6.4). Decisions only, no I/O.

The leader notes its commit index, asks followers whether it is still their leader, and may answer from its
state once a majority has said yes and the noted index is applied. At first it asks no more of them than make
a majority, those that were prompt before; if they are not prompt this time, all of them. All readers that
wait share one round; whoever comes while one is under way waits for the next, because that one may have begun
too early for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from gfs.errors import GfsError
from gfs.vocabulary import LogIndex, MasterId, Term


@dataclass(slots=True)
class _Round:
    number: int
    term: Term
    index: LogIndex
    asked_at: float
    readers: list[asyncio.Future[LogIndex]]
    confirmed: set[MasterId] = field(default_factory=set)


class ReadIndex:
    def __init__(self, me: MasterId) -> None:
        self._me = me
        self._number = 0
        self._waiting: list[asyncio.Future[LogIndex]] = []
        self._round: _Round | None = None
        self._prompt: list[MasterId] = []  # who has confirmed lately, the last one first
        self._unapplied: list[tuple[LogIndex, list[asyncio.Future[LogIndex]]]] = []

    def submit(self) -> asyncio.Future[LogIndex]:
        future: asyncio.Future[LogIndex] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def begin(self, *, term: Term, commit_index: LogIndex, now: float) -> int | None:
        """Start a round if readers wait and none is under way; its number is to be asked of every peer."""
        if self._round is not None or not self._waiting:
            return None
        self._number += 1
        self._round = _Round(self._number, term, commit_index, now, self._waiting, {self._me})
        self._waiting = []
        return self._number

    def overdue(self, *, now: float, seconds: float) -> tuple[int, frozenset[MasterId]] | None:
        """A round that lost messages: its number and who has answered already. It is to be asked again."""
        if self._round is None or now - self._round.asked_at < seconds:
            return None
        self._round.asked_at = now
        return self._round.number, frozenset(self._round.confirmed)

    def confirm(self, member: MasterId, *, term: int, number: int) -> None:
        if self._round is not None and (number, term) == (self._round.number, self._round.term):
            self._round.confirmed.add(member)
            if self._prompt[:1] != [member]:
                self._prompt = [member, *(other for other in self._prompt if other != member)]

    def by_promptness(self, members: Collection[MasterId]) -> list[MasterId]:
        """Those first who have confirmed last."""
        known = set(members)
        return [
            *(member for member in self._prompt if member in known),
            *(member for member in members if member not in self._prompt),
        ]

    def confirmations(self) -> frozenset[MasterId]:
        """Of the round under way, this master included; nobody when there is none."""
        return frozenset(self._round.confirmed) if self._round is not None else frozenset()

    def finish(self) -> None:
        """A majority has confirmed: its readers now only wait for the state to catch up."""
        assert self._round is not None
        self._unapplied.append((self._round.index, self._round.readers))
        self._round = None

    def applied(self, applied: LogIndex) -> None:
        while self._unapplied and self._unapplied[0][0] <= applied:
            index, readers = self._unapplied.pop(0)
            for reader in readers:
                if not reader.done():
                    reader.set_result(index)

    def fail(self, error: GfsError) -> None:
        readers = [*self._waiting, *(self._round.readers if self._round else [])]
        for _, more in self._unapplied:
            readers.extend(more)
        self._waiting, self._round, self._unapplied = [], None, []
        for reader in readers:
            if not reader.done():
                reader.set_exception(error)
