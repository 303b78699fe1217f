"""Gathers what a checker finds into its verdict. Knows no property."""

from __future__ import annotations

from gfs.verification.checkers.interface import Verdict, Violation

VIOLATIONS_MAX = 50  # kept of one checker: a run that has gone wrong repeats itself


class Findings:
    """`judged` counts facts; a verdict without any is idle."""

    def __init__(self, checker: str) -> None:
        self._checker = checker
        self._violations: list[Violation] = []
        self._more = 0
        self.judged = 0
        self.undecided = ""  # why no answer was found

    def violation(self, says: str, *, at_ns: int = 0, operations: tuple[int, ...] = ()) -> None:
        if len(self._violations) == VIOLATIONS_MAX:
            self._more += 1
        else:
            self._violations.append(Violation(says, at_ns, operations))

    def verdict(self, *, idle: str, remark: str = "") -> Verdict:
        """`idle`: what the history lacks, when nothing was judged."""
        if self._violations:
            remark = f"and {self._more} more" if self._more else remark
            return Verdict(self._checker, "violated", self.judged, tuple(self._violations), remark)
        if self.undecided:
            return Verdict(self._checker, "undecided", self.judged, remark=self.undecided)
        if not self.judged:
            return Verdict(self._checker, "idle", remark=idle)
        return Verdict(self._checker, "held", self.judged, remark=remark)
