"""What a rehearsal has found out: how long things took, and why it failed if it did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Measured:
    """`seconds_max`: more than that is a problem; None: whatever it takes."""

    what: str
    seconds: float
    seconds_max: float | None = None


@dataclass
class Report:
    """`problems`: why the rehearsal has failed; none when it passed."""

    layout: str
    version: str
    measured: list[Measured] = field(default_factory=list)
    calls: int = 0
    files: int = 0
    records: int = 0
    problems: list[str] = field(default_factory=list)

    def took(self, what: str, seconds: float, *, seconds_max: float | None = None) -> None:
        self.measured.append(Measured(what, round(seconds, 3), seconds_max))
        if seconds_max is not None and seconds > seconds_max:
            self.problems.append(f"{what} took {seconds:.2f} s, more than {seconds_max:.0f} s")

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        lines = [
            "# Rehearsal: " + ("failed" if self.problems else "passed"),
            "",
            f"{self.layout}; {self.version}.",
            "",
        ]
        lines += [f"- {problem}" for problem in self.problems] + ([""] if self.problems else [])
        lines += [
            f"{self.calls} client calls; {self.files} files, {self.records} records read back and compared.",
            "",
            "| what | seconds | at most |",
            "|---|---|---|",
        ]
        for one in self.measured:
            limit = "" if one.seconds_max is None else f"{one.seconds_max:g}"
            lines.append(f"| {one.what} | {one.seconds:.2f} | {limit} |")
        (directory / "report.md").write_text("\n".join(lines) + "\n")
