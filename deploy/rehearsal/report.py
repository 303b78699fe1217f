"""What a rehearsal has found out: how long things took, and why it failed if it did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Measured:
    """`seconds_max`: what is asked on a machine that does nothing else; told when missed, and no failure."""

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
            "| what | seconds | asked |",
            "|---|---|---|",
        ]
        for one in self.measured:
            limit = "" if one.seconds_max is None else f"{one.seconds_max:g}"
            limit += ", missed" if one.seconds_max is not None and one.seconds > one.seconds_max else ""
            lines.append(f"| {one.what} | {one.seconds:.2f} | {limit} |")
        (directory / "report.md").write_text("\n".join(lines) + "\n")
