"""A run as a picture: plain SVG, no drawing library. Lanes for nodes and clients, faults shaded.

What it draws of a program comes from sightings: `role` {role} of masters ("leader", "follower" …), `died` and
`started` of any. A sighting of another name is not drawn. Faults are shaded over the whole height, darker in
the lanes of the nodes they met; what proves a violation is a red line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from chaos.faults.registry import FAULTS
from gfs.verification.checkers.interface import Violation
from gfs.verification.history import Fault, History, Operation

WIDTH, LEFT, RIGHT, TOP, LANE, GAP = 1400, 150, 20, 70, 24, 8
BINS = 240  # of time, for the density of clients' outcomes
VIOLATIONS_MAX = 12  # red lines; the report lists all
LABELS_APART = 56.0  # pixels between two labels of faults in one row
LABEL_ROWS = 3
TICKS_WANTED = 12
NANOSECONDS = 1_000_000_000

ROLE_COLOURS = {"leader": "#0b6e99", "candidate": "#d9a441", "follower": "#b9d7e6", "down": "#555555"}
SERVER_COLOUR = "#cfe3cf"
OUTCOME_COLOURS = {"ok": "#3c8d40", "no": "#a5cfa5", "info": "#e08a1e", "fail": "#c4472b"}
OUTCOME_WORDS = {"ok": "acknowledged", "no": "no such name", "info": "unknown", "fail": "refused"}
# Refusals that are answers of a cluster that is well: they only say what names there are.
ANSWERS = frozenset(
    ("not_found", "already_exists", "directory_not_empty", "is_a_directory", "not_a_directory")
)


def timeline(history: History, violations: Sequence[Violation] = ()) -> str:
    """The SVG as text."""
    return _Picture(history, violations).drawn()


class _Picture:
    def __init__(self, history: History, violations: Sequence[Violation]) -> None:
        self._history, self._violations = history, violations
        ends = [o.returned_ns for o in history.operations] + [f.ended_ns for f in history.faults]
        ends += [p.at_ns for p in history.phases] + [s.at_ns for s in history.sightings]
        self._last_ns = max(ends, default=0) or NANOSECONDS
        self._masters, self._servers = _nodes(history)
        self._workloads = sorted({o.workload for o in history.operations})
        self._lanes = [*self._masters, *self._servers, *self._workloads]
        self._label_rows = [-LABELS_APART] * LABEL_ROWS
        self._height = TOP + LABEL_ROWS * 12 + len(self._lanes) * (LANE + GAP) + 58

    def drawn(self) -> str:
        parts = [*self._head(), *self._ticks()]
        parts += self._fault_bands()
        for number, name in enumerate(self._lanes):
            y = self._lane_y(number)
            parts.append(f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
            parts += self._clients(name, y) if name in self._workloads else self._node(name, y)
        parts += [*self._phases(), *self._red_lines(), *self._legend()]
        return "\n".join([*parts, "</svg>"]) + "\n"

    # --- places ----------------------------------------------------------------------------------

    def _x(self, at_ns: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(at_ns, self._last_ns) / self._last_ns

    def _lane_y(self, number: int) -> int:
        return TOP + LABEL_ROWS * 12 + number * (LANE + GAP)

    def _bottom(self) -> int:
        return self._lane_y(len(self._lanes))

    # --- parts -----------------------------------------------------------------------------------

    def _head(self) -> list[str]:
        header = self._history.header
        title = f"{header.scenario or 'a run'}, seed {header.seed}, layer {header.layer or 'unknown'}"
        return [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" width="{WIDTH}" '
            f'height="{self._height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{self._height}" fill="#ffffff"/>',
            f'<text x="{LEFT}" y="22" font-size="16">{escape(title)}</text>',
        ]

    def _ticks(self) -> list[str]:
        seconds = self._last_ns / NANOSECONDS
        step = next(
            s
            for s in (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 1e9)
            if seconds / s <= TICKS_WANTED or s == 1e9
        )
        parts, y = [], self._bottom()
        for number in range(int(seconds / step) + 1):
            x = self._x(int(number * step * NANOSECONDS))
            parts.append(f'<path d="M{x:.1f} {TOP + LABEL_ROWS * 12 - 4}V{y}" stroke="#eeeeee"/>')
            parts.append(f'<text x="{x:.1f}" y="{y + 14}" text-anchor="middle">{number * step:g} s</text>')
        return parts

    def _fault_bands(self) -> list[str]:
        """Over the whole height, lightly; the name above where there is room, always as a tooltip."""
        parts, top, bottom = [], TOP + LABEL_ROWS * 12 - 4, self._bottom()
        for fault in sorted(self._history.faults, key=lambda f: f.began_ns):
            x, end = self._x(fault.began_ns), self._x(fault.ended_ns)
            words = escape(f"{fault.name} {' '.join(fault.nodes)}")
            parts.append(
                f'<rect x="{x:.1f}" y="{top}" width="{max(end - x, 1.5):.1f}" height="{bottom - top}" '
                f'fill="#8250a8" fill-opacity="0.10"><title>{words}</title></rect>'
            )
            for row, free_from in enumerate(self._label_rows):
                if x >= free_from:
                    self._label_rows[row] = x + max(LABELS_APART, 5.5 * len(words) + 6)
                    parts.append(
                        f'<text x="{x:.1f}" y="{TOP + row * 12}" font-size="10" fill="#6a3d90">{words}</text>'
                    )
                    break
        return parts

    def _node(self, name: str, y: int) -> list[str]:
        parts = []
        for start, end, state in self._states(name):
            colour = ROLE_COLOURS.get(state, SERVER_COLOUR)
            x, width = self._x(start), self._x(end) - self._x(start)
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.2f}" height="{LANE}" fill="{colour}">'
                f"<title>{escape(name)}: {escape(state)}</title></rect>"
            )
        for fault in self._history.faults:
            if name in fault.nodes:
                parts.append(self._hatched(fault, y))
        return parts

    def _states(self, name: str) -> Iterable[tuple[int, int, str]]:
        state = "follower" if name in self._masters else "up"
        up, since = state, 0
        for sighting in self._history.sightings:
            if sighting.node != name or sighting.what not in ("role", "died", "started"):
                continue
            new = {"died": "down", "started": up}.get(sighting.what) or str(sighting.values.get("role", up))
            if new != state:
                yield since, sighting.at_ns, state
                state, since = new, sighting.at_ns
        yield since, self._last_ns, state

    def _hatched(self, fault: Fault, y: int) -> str:
        x, end = self._x(fault.began_ns), self._x(fault.ended_ns)
        out = fault.name in FAULTS and FAULTS[fault.name].takes_out
        colour = "#333333" if out else "#8250a8"
        return (
            f'<rect x="{x:.1f}" y="{y}" width="{max(end - x, 2):.1f}" height="{LANE}" fill="{colour}" '
            f'fill-opacity="0.45" stroke="{colour}"><title>{escape(fault.name)}</title></rect>'
        )

    def _clients(self, workload: str, y: int) -> list[str]:
        """How many operations ended how, stacked, in each bin of time."""
        bins = [dict.fromkeys(OUTCOME_COLOURS, 0) for _ in range(BINS)]
        for operation in self._history.operations:
            if operation.workload == workload:
                bins[self._bin(operation)][_outcome(operation)] += 1
        tallest = max((sum(counts.values()) for counts in bins), default=0) or 1
        width, parts = (WIDTH - LEFT - RIGHT) / BINS, []
        for number, counts in enumerate(bins):
            foot = float(y + LANE)
            for outcome in OUTCOME_COLOURS:
                # A single refusal beside a thousand acknowledgements must be seen.
                height = max(1.5, LANE * counts[outcome] / tallest) if counts[outcome] else 0.0
                if height:
                    foot -= height
                    parts.append(
                        f'<rect x="{LEFT + number * width:.1f}" y="{foot:.1f}" width="{width:.1f}" '
                        f'height="{height:.1f}" fill="{OUTCOME_COLOURS[outcome]}"/>'
                    )
        parts.append(f'<path d="M{LEFT} {y + LANE}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        return parts

    def _bin(self, operation: Operation) -> int:
        return min(BINS - 1, operation.returned_ns * BINS // max(1, self._last_ns))

    def _phases(self) -> list[str]:
        parts = []
        for number, phase in enumerate(self._history.phases):
            x, y = self._x(phase.at_ns), 42 if number % 2 else 54
            anchor, beside = ("end", x - 3) if x > WIDTH - RIGHT - 50 else ("start", x + 3)
            name = escape(phase.name)
            parts.append(
                f'<path d="M{x:.1f} 30V{self._bottom()}" stroke="#777777" stroke-dasharray="4 3"/>'
                f'<text x="{beside:.1f}" y="{y}" fill="#555555" text-anchor="{anchor}">{name}</text>'
            )
        return parts

    def _red_lines(self) -> list[str]:
        parts = []
        for violation in [v for v in self._violations if v.at_ns][:VIOLATIONS_MAX]:
            x = self._x(violation.at_ns)
            parts.append(
                f'<path d="M{x:.1f} 36V{self._bottom()}" stroke="#d00000" stroke-width="2.5">'
                f"<title>{escape(violation.says)}</title></path>"
            )
            anchor, beside = ("end", x - 4) if x > WIDTH * 0.6 else ("start", x + 4)
            parts.append(
                f'<text x="{beside:.1f}" y="34" fill="#d00000" font-weight="bold" '
                f'text-anchor="{anchor}">{escape(violation.says[:110])}</text>'
            )
        return parts

    def _legend(self) -> list[str]:
        entries = [(f"master: {role}", colour) for role, colour in ROLE_COLOURS.items()]
        entries += [(f"clients: {OUTCOME_WORDS[o]}", colour) for o, colour in OUTCOME_COLOURS.items()]
        entries += [("fault on this node", "#8d8d8d"), ("a fault holds", "#e8dff0"), ("violation", "#d00000")]
        parts, x, y = [], LEFT, self._bottom() + 36
        for words, colour in entries:
            parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
            parts.append(f'<text x="{x + 16}" y="{y}">{escape(words)}</text>')
            x += 24 + 6 * len(words)
        return parts


def _outcome(operation: Operation) -> str:
    return "no" if operation.error in ANSWERS else operation.outcome


def _nodes(history: History) -> tuple[list[str], list[str]]:
    """Masters and chunk servers that anything tells of; masters are those with roles, or called m1, m2 …"""
    seen = {s.node for s in history.sightings} | {n for f in history.faults for n in f.nodes}
    masters = {s.node for s in history.sightings if s.what == "role"}
    masters |= {name for name in seen if name[:1] == "m" and name[1:].isdigit()}
    servers = {name for name in seen - masters if name[:1] == "c" and name[1:].isdigit()}
    return sorted(masters, key=_natural), sorted(servers, key=_natural)


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)
