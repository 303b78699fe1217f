"""How far this master may be behind the leader, by what the leader has told it. Decides nothing."""

from __future__ import annotations

from typing import NamedTuple

LAG_UNKNOWN = -1.0  # seconds: no leader was heard since this master started


class _Word(NamedTuple):
    """The leader's commit index, and when we heard it."""

    commit_index: int
    at: float


class Freshness:
    """A state that has applied what the leader called committed at a moment is not older than that moment.

    A leader that was cut off may go on speaking until it steps down, RaftOptions.fallback_seconds later: by
    so much the answer may be too good.
    """

    def __init__(self) -> None:
        self._fresh_at: float | None = None
        self._reached_next: _Word | None = None  # the first word that the state has not come up to
        self._newest: _Word | None = None

    def leader_said(self, commit_index: int, *, applied: int, now: float) -> None:
        word = _Word(commit_index, now)
        self._newest = word
        if commit_index <= applied:
            self._fresh_at, self._reached_next = now, None
        elif self._reached_next is None or self._reached_next.commit_index <= applied:
            self._note_reached(applied)
            self._reached_next = word

    def leading(self, *, now: float) -> None:
        """This master leads: its state is the newest, and was until now should it lead no more."""
        self._fresh_at, self._reached_next = now, None

    def lag(self, *, applied: int, now: float) -> tuple[int, float]:
        """Entries, and seconds since this state was surely the newest; LAG_UNKNOWN when it never was."""
        self._note_reached(applied)
        entries = 0 if self._newest is None else max(0, self._newest.commit_index - applied)
        seconds = LAG_UNKNOWN if self._fresh_at is None else max(0.0, now - self._fresh_at)
        return entries, seconds

    def _note_reached(self, applied: int) -> None:
        for word in (self._reached_next, self._newest):
            if word is not None and word.commit_index <= applied:
                self._fresh_at = max(word.at, self._fresh_at or word.at)
        if self._reached_next is not None and self._reached_next.commit_index <= applied:
            self._reached_next = None
