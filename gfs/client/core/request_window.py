"""Request ids of one client's namespace mutations: which are open, which the master may forget.

Invariants: sequences are given once, ascending from 1; no open sequence is below `first_open`; no two open
sequences are `window` or more apart, because a master keeps the outcomes of a window only.
"""

from __future__ import annotations

from gfs.messages.operations import RequestId
from gfs.vocabulary import ClientId


class RequestWindow:
    """Gives out sequences and knows the lowest that may still be retried."""

    def __init__(self, client: ClientId, *, window: int) -> None:
        assert client >= 0 and window > 0, (client, window)
        self._client = client
        self._window = window
        self._next = 1
        self._first_open = 1  # == _next when none is open
        self._open: set[int] = set()

    def open(self) -> int | None:
        """A new sequence, or None while the oldest open request holds the window shut."""
        if self._next - self._first_open >= self._window:
            return None
        sequence = self._next
        self._next += 1
        self._open.add(sequence)
        return sequence

    def request_id(self, sequence: int) -> RequestId:
        """The id to send now. Sequence and client never change between tries; `first_open` may rise."""
        assert sequence in self._open, sequence
        return RequestId(self._client, sequence, self._first_open)

    def close(self, sequence: int) -> None:
        """Its outcome is known, or nobody will ask for it again."""
        self._open.remove(sequence)
        while self._first_open < self._next and self._first_open not in self._open:
            self._first_open += 1

    def check_invariants(self) -> None:
        assert self._first_open == min(self._open, default=self._next)
        assert self._next - self._first_open <= self._window
        assert all(self._first_open <= sequence < self._next for sequence in self._open)
