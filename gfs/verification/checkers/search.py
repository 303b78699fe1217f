"""The search for one order of calls that explains all answers. Knows nothing of what the calls do.

Wing and Gong's search in Lowe's form: try each call that may come next, remember every pair of (calls done,
state) that led nowhere, go back where nothing may come next. Answers of Jepsen, Knossos and Porcupine are
found in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Interval:
    """`returned_ns` None: it may take effect at any time after the call, or never."""

    called_ns: int
    returned_ns: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """`legal` None: given up after `steps`. `stuck`: the call before whose return no order went on."""

    legal: bool | None
    steps: int
    stuck: int = -1


def search(
    calls: Sequence[Interval],
    initial: State,
    step: Callable[[int, State], Iterable[State]],
    *,
    steps_max: int,
) -> Explanation:
    """Is there an order of all calls that returned, and of some of the others, that keeps their times?

    Args:
        step: of a call, by its index, and the state before it: the states it may leave, none when its answer
            could not be given in that state.
    """
    return _Search(calls, initial, step, steps_max).run()


class _Search(Generic[State]):
    """`_next` and `_previous` chain the calls and returns, by time, that no chosen call has taken out.

    A call stands at its own index, its return at `_count` + index, the head at 2 * `_count`.
    """

    def __init__(
        self,
        calls: Sequence[Interval],
        initial: State,
        step: Callable[[int, State], Iterable[State]],
        steps_max: int,
    ) -> None:
        self._count = count = len(calls)
        self._calls, self._state, self._step, self._steps_max = calls, initial, step, steps_max
        # At one instant calls come first: what touches may be told in either order.
        events = [(call.called_ns, 0, i) for i, call in enumerate(calls) if call.returned_ns is not None]
        events += [(c.returned_ns, 1, i) for i, c in enumerate(calls) if c.returned_ns is not None]
        events.sort()
        self._head = 2 * count
        self._next = [-1] * (2 * count + 1)
        self._previous = [-1] * (2 * count + 1)
        at = self._head
        for _, is_return, index in events:
            event = index + count * is_return
            self._next[at], self._previous[event] = event, at
            at = event
        # Those that may never have happened are tried last: mostly they need not have.
        self._unknown = sorted(
            (i for i, call in enumerate(calls) if call.returned_ns is None), key=lambda i: calls[i].called_ns
        )
        self._left = count - len(self._unknown)
        self._done = 0

    def run(self) -> Explanation:
        seen: set[tuple[int, State]] = {(0, self._state)}
        stack: list[tuple[int, State, Iterator[tuple[int, State]]]] = []
        moves = self._moves()
        steps, deepest, stuck = 0, self._left + 1, -1
        while self._left:
            if self._left < deepest:
                deepest, stuck = self._left, self._first_return()
            for call, state in moves:
                steps += 1
                done = self._done | 1 << call
                if (done, state) not in seen:
                    seen.add((done, state))
                    stack.append((call, self._state, moves))
                    self._state = state
                    self._take(call)
                    moves = self._moves()
                    break
            else:
                if not stack:
                    return Explanation(False, steps, stuck)
                call, self._state, moves = stack.pop()
                self._put_back(call)
            if steps > self._steps_max:
                return Explanation(None, steps, stuck)
        return Explanation(True, steps)

    def _moves(self) -> Iterator[tuple[int, State]]:
        """Each call that may come next, with each state it may leave."""
        state, count, step = self._state, self._count, self._step
        at = self._next[self._head]
        while 0 <= at < count:
            for after in step(at, state):
                yield at, after
            at = self._next[at]
        if at < 0:
            return
        before_ns = self._calls[at - count].returned_ns
        assert before_ns is not None
        for call in self._unknown:
            if self._calls[call].called_ns > before_ns:
                return
            if not self._done >> call & 1:
                for after in step(call, state):
                    yield call, after

    def _first_return(self) -> int:
        at = self._next[self._head]
        while at < self._count:
            at = self._next[at]
        return at - self._count

    def _take(self, call: int) -> None:
        self._done |= 1 << call
        if self._calls[call].returned_ns is None:
            return
        self._left -= 1
        for event in (call, call + self._count):
            before, after = self._previous[event], self._next[event]
            self._next[before] = after
            if after >= 0:
                self._previous[after] = before

    def _put_back(self, call: int) -> None:
        self._done &= ~(1 << call)
        if self._calls[call].returned_ns is None:
            return
        self._left += 1
        for event in (call + self._count, call):  # the other way round than they were taken
            before, after = self._previous[event], self._next[event]
            self._next[before] = event
            if after >= 0:
                self._previous[after] = event
