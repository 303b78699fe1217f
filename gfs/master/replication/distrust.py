"""What a member leaves undone while its state is not to be trusted. Its log is, and it goes on voting.

The log of a master whose state has gone astray (I7) is as good as any: it keeps entries, acknowledges and
votes, so that the quorum is not weakened. But it does not lead, makes and gives away no checkpoint, and
applies nothing more to its state until a checkpoint of the leader has taken its place.
"""

from __future__ import annotations

ASK_SECONDS = 0.5  # between two requests for a checkpoint; the leader may be making one


class Distrust:
    """`state_wanted`: the state is to be thrown away. `stands_back`: the new one was not compared yet."""

    def __init__(self, *, state_wanted: bool, stands_back: bool) -> None:
        self.state_wanted = state_wanted
        self.stands_back = stands_back or state_wanted
        self._ask_at = float("-inf")

    def begin(self) -> None:
        self.state_wanted = self.stands_back = True
        self._ask_at = float("-inf")

    def replaced(self) -> None:
        """The state is the leader's now; it stands back until end()."""
        self.state_wanted = False

    def end(self) -> None:
        assert not self.state_wanted, "a state that was convicted is never trusted again"
        self.stands_back = False

    def must_ask(self, now: float) -> bool:
        """Whether it is time to ask the leader for a checkpoint."""
        if not self.state_wanted or now < self._ask_at:
            return False
        self._ask_at = now + ASK_SECONDS
        return True
