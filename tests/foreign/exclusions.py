"""Lists of foreign tests that do not hold here: NAME, two spaces at least, REASON. Kept to the letter."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self


class Exclusions(NamedTuple):
    reasons: Mapping[str, str]  # by name, or by a pattern with *

    @classmethod
    def read(cls, path: Path) -> Self:
        """Lines that begin with # are comments. A name without a reason is refused."""
        reasons: dict[str, str] = {}
        for line in path.read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            name, *reason = re.split(r"\s{2,}", line.strip(), maxsplit=1)
            assert reason, f"{path.name}: {name} stands there without a reason"
            reasons[name] = reason[0]
        return cls(reasons)

    def pattern(self, name: str) -> str | None:
        """What excludes the test of this name."""
        return next((one for one in self.reasons if fnmatch.fnmatchcase(name, one)), None)

    def check(self, ended: Mapping[str, str], *, told: str) -> None:
        """Every test passed, or is listed; and every line of the list is still wanted.

        Args:
            ended: the outcome of each test: PASSED or anything else.
            told: what a failure should show besides.
        """
        failed = {name: self.pattern(name) for name, outcome in ended.items() if outcome != "PASSED"}
        unlisted = sorted(name for name, pattern in failed.items() if pattern is None)
        assert not unlisted, f"{len(unlisted)} of {len(ended)} fail and are not listed: {unlisted}\n{told}"
        needless = sorted(set(self.reasons) - {pattern for pattern in failed.values() if pattern})
        assert not needless, f"listed, and nothing of that name fails any more: {needless}"
