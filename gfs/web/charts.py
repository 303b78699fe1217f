"""Charts and bars as SVG, without a script: the stylesheet colours them, dark or light."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from gfs.web.wording import in_bytes, in_count

WIDTH, HEIGHT = 300, 64


def line_chart(values: Sequence[float], *, unit: str, from_zero: bool = True) -> Markup:
    """An area under a line, the newest at the right; empty while there are fewer than two values."""
    if len(values) < 2:
        return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title></svg>').format(
            WIDTH, HEIGHT, "no values yet"
        )
    top, floor = max(values), 0.0 if from_zero else min(values)
    span = max(top - floor, 1.0 if from_zero else max(top, 1.0) * 0.01)
    step = WIDTH / (len(values) - 1)
    points = [
        f"{at * step:.1f},{HEIGHT - 2 - (HEIGHT - 6) * (value - floor) / span:.1f}"
        for at, value in enumerate(values)
    ]
    say = in_bytes if unit == "bytes" else in_count
    label = f"now {say(values[-1])} {'' if unit == 'bytes' else unit}, most {say(top)}"
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" preserveAspectRatio="none" role="img">'
        "<title>{label}</title>"
        '<polygon class="area" points="0,{h} {line} {w},{h}"/><polyline class="line" points="{line}"/></svg>'
    ).format(w=WIDTH, h=HEIGHT, label=escape(label), line=" ".join(points))


def bar(part: float, whole: float, *, label: str, warn_from: float = 0.85, bad_from: float = 0.95) -> Markup:
    """How much of `whole` is taken; the label says it in words."""
    share = min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
    tone = "bad" if share >= bad_from else "warn" if share >= warn_from else "fine"
    return Markup(
        '<svg class="bar {tone}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img">'
        '<title>{label}</title><rect class="whole" width="100" height="8"/>'
        '<rect class="part" width="{part:.1f}" height="8"/></svg>'
    ).format(tone=tone, label=label, part=100 * share)
