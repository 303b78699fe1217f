"""Measurements as pictures: curves and distributions in plain SVG, no drawing library. Measures nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 44, 52  # around the axes; the legend stands at the right
WORDS_SIDE_BY_SIDE = 8  # of a bar chart; more are written aslant
TICKS_WANTED = 6
POINTS_MAX = 2000  # of one curve; more are thinned out, their first and last kept
COLOURS = ("#0b6e99", "#c4472b", "#3c8d40", "#8250a8", "#b8860b", "#444444", "#d6589f", "#1d4ed8")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A dashed line with a word beside it: a target, or a limit. Upright at `x`, or level at `y`."""

    text: str
    x: float | None = None
    y: float | None = None


def curve_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[Mark] = (),
) -> str:
    """One curve for each of `series`, points in the order given; the SVG as text.

    On a logarithmic axis points at or below zero are left out. A level axis that holds only positive values
    begins at zero.
    """
    kept = {
        name: [(x, y) for x, y in _thinned(points) if (x > 0 or not log_x) and (y > 0 or not log_y)]
        for name, points in series.items()
    }
    xs = [x for points in kept.values() for x, _ in points] + [m.x for m in marks if m.x is not None]
    ys = [y for points in kept.values() for _, y in points] + [m.y for m in marks if m.y is not None]
    across = _Axis(xs, LEFT, WIDTH - RIGHT, logarithmic=log_x)
    up = _Axis(ys, HEIGHT - BOTTOM, TOP, logarithmic=log_y)
    parts = [_head(title), *_grid(across, up), *_labels(x_label, y_label), *_marks(marks, across, up)]
    for number, (name, points) in enumerate(kept.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across.place(x):.1f},{up.place(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(points) == 1:
            x, y = points[0]
            parts.append(f'<circle cx="{across.place(x):.1f}" cy="{up.place(y):.1f}" r="3" fill="{colour}"/>')
        parts += _legend(number, name, colour)
    return "\n".join([*parts, "</svg>"]) + "\n"


def cdf_chart(
    title: str,
    samples: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    log_x: bool = True,
    marks: Sequence[Mark] = (),
) -> str:
    """How large a share of each series' samples is at most so much: one stair for each; the SVG as text."""
    return curve_chart(
        title,
        {name: _stairs(sorted(values)) for name, values in samples.items()},
        x_label=x_label,
        y_label="share of samples, %",
        log_x=log_x,
        marks=marks,
    )


def bar_chart(
    title: str,
    groups: Mapping[str, Sequence[tuple[str, float]]],
    *,
    y_label: str,
    level: float,
    level_says: str = "as fast",
    ground: float | None = None,
) -> str:
    """For each word, in the order of the first group, one bar of each group that has it, on a logarithmic
    axis from `ground` up or down; the SVG as text. Values at or below zero are left out.

    `level`: is marked, with what it says; bars begin there if there is no `ground`.
    """
    words = list(dict.fromkeys(word for bars in groups.values() for word, _ in bars))
    values = [value for bars in groups.values() for _, value in bars if value > 0]
    ground = level if ground is None else ground
    up = _Axis([*values, level, ground], HEIGHT - BOTTOM, TOP, logarithmic=True)
    across = _Axis([], LEFT, WIDTH - RIGHT, logarithmic=False)
    parts = [_head(title), *_level_grid(up), *_labels("", y_label)]
    width = (WIDTH - RIGHT - LEFT) / max(1, len(words))
    bar = width * 0.8 / max(1, len(groups))
    base = up.place(ground)
    for number, (name, bars) in enumerate(groups.items()):
        colour = COLOURS[number % len(COLOURS)]
        for word, value in bars:
            if value > 0:
                x, y = LEFT + (words.index(word) + 0.1) * width + number * bar, up.place(value)
                parts.append(
                    f'<rect x="{x:.1f}" y="{min(y, base):.1f}" width="{bar * 0.92:.1f}" '
                    f'height="{max(1.0, abs(y - base)):.1f}" fill="{colour}"/>'
                )
        parts += _legend(number, name, colour)
    y = HEIGHT - BOTTOM + 18
    for number, word in enumerate(words):
        x = LEFT + (number + 0.5) * width
        turned = f'text-anchor="end" transform="rotate(-25 {x:.1f} {y})"'
        how = 'text-anchor="middle"' if len(words) <= WORDS_SIDE_BY_SIDE else turned
        parts.append(f'<text x="{x:.1f}" y="{y}" {how}>{escape(word)}</text>')
    parts += _marks([Mark(level_says, y=level)], across, up)
    return "\n".join([*parts, "</svg>"]) + "\n"


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that is not less than `percent` of all of them (nearest rank)."""
    assert samples and 0 < percent <= 100
    return sorted(samples)[max(0, math.ceil(len(samples) * percent / 100) - 1)]


# --- shapes ---------------------------------------------------------------------------------------


def _stairs(ordered: Sequence[float]) -> list[Point]:
    points: list[Point] = []
    for number, value in enumerate(ordered):
        points += [(value, 100 * number / len(ordered)), (value, 100 * (number + 1) / len(ordered))]
    return points


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    if len(points) <= POINTS_MAX:
        return points
    step = (len(points) - 1) / (POINTS_MAX - 1)
    return [points[round(number * step)] for number in range(POINTS_MAX)]


class _Axis:
    """Places values between two pixels."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, logarithmic: bool) -> None:
        self._start, self._end, self._logarithmic = start, end, logarithmic
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        if logarithmic:
            self._low, self._high = (
                math.pow(10, math.floor(math.log10(low))),
                math.pow(10, math.ceil(math.log10(high))),
            )
            if self._low == self._high:
                self._high *= 10
            self.ticks = self._powers()
            return
        low = min(0.0, low)
        high = high if high > low else low + 1.0
        step = _round_step((high - low) / TICKS_WANTED)
        self._low, self._high = math.floor(low / step) * step, math.ceil(high / step) * step
        count = round((self._high - self._low) / step)
        self.ticks = [self._low + number * step for number in range(count + 1)]

    def _powers(self) -> list[float]:
        first, last = round(math.log10(self._low)), round(math.log10(self._high))
        found = [10.0**power for power in range(first, last + 1)]
        if len(found) <= 2:  # one decade: its halves help the eye
            found = sorted([*found, *(factor * self._low for factor in (2, 5))])
        return found

    def place(self, value: float) -> float:
        low, high = self._low, self._high
        if self._logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self._start + (value - low) / (high - low) * (self._end - self._start)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 … that is not less."""
    power = math.pow(10, math.floor(math.log10(step)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


# --- drawing --------------------------------------------------------------------------------------


def _head(title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n'
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>'
    )


def _grid(across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for value in across.ticks:
        x = across.place(value)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_short(value)}</text>'
        )
    return [*parts, *_level_grid(up)]


def _level_grid(up: _Axis) -> list[str]:
    parts = []
    for value in up.ticks:
        y = up.place(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#333333"/>')
    return parts


def _labels(x_label: str, y_label: str) -> list[str]:
    middle, centre = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    return [
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(18 {centre}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]


def _marks(marks: Sequence[Mark], across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for mark in marks:
        if mark.x is not None:
            x, y = across.place(mark.x), float(TOP)
            path, anchor = f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}", f'x="{x + 3:.1f}" y="{y + 10:.1f}"'
        else:
            assert mark.y is not None, "a mark stands somewhere"
            y = up.place(mark.y)
            path, anchor = f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", f'x="{LEFT + 4}" y="{y - 3:.1f}"'
        parts.append(f'<path d="{path}" stroke="#999999" stroke-dasharray="5 4"/>')
        parts.append(f'<text {anchor} fill="#777777" font-size="10">{escape(mark.text)}</text>')
    return parts


def _legend(number: int, name: str, colour: str) -> list[str]:
    x, y = WIDTH - RIGHT + 14, TOP + 12 + 20 * number
    return [
        f'<path d="M{x} {y - 4}h18" stroke="{colour}" stroke-width="3"/>',
        f'<text x="{x + 24}" y="{y}">{escape(name)}</text>',
    ]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
