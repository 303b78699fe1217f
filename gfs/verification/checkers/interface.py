"""What a checker is: a pure function of a history. No I/O, no clock, no chance."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from gfs.verification.history import History

# "undecided": the search was given up. "idle": the history holds too little to say anything. Neither is held.
Finding = Literal["held", "violated", "undecided", "idle"]


class Violation(msgspec.Struct, frozen=True):
    """One proof that the property did not hold, in words a person can follow."""

    says: str
    at_ns: int = 0  # when it became visible; 0: it has no time
    operations: tuple[int, ...] = ()  # the numbers of those that prove it


class Verdict(msgspec.Struct, frozen=True):
    checker: str
    finding: Finding
    judged: int = 0  # how many facts were looked at
    violations: tuple[Violation, ...] = ()
    remark: str = ""  # why it is undecided or idle


class Checker(Protocol):
    """`name` is how a scenario asks for it; `promises` says in one sentence what must hold."""

    name: str
    promises: str

    def check(self, history: History) -> Verdict: ...
