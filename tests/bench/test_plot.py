"""Charts are sound XML, and their curves stand where their values say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from gfs.bench.plot import (
    HEIGHT,
    LEFT,
    POINTS_MAX,
    RIGHT,
    TOP,
    WIDTH,
    Mark,
    bar_chart,
    cdf_chart,
    curve_chart,
    percentile,
)

SVG = "{http://www.w3.org/2000/svg}"


def curves(text: str) -> list[list[tuple[float, float]]]:
    found = []
    for line in ElementTree.fromstring(text).iter(f"{SVG}polyline"):
        pairs = [pair.split(",") for pair in line.attrib["points"].split()]
        found.append([(float(x), float(y)) for x, y in pairs])
    return found


def words(text: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(text).iter(f"{SVG}text")]


def test_higher_values_stand_higher_and_later_ones_further_right() -> None:
    (line,) = curves(
        curve_chart("rate", {"creates": [(1, 10), (2, 20), (3, 15)]}, x_label="s", y_label="creates/s")
    )
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert line[1][1] < line[2][1] < line[0][1], "SVG counts downwards"
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT for x, y in line)


def test_each_decade_is_as_wide_as_the_next_on_a_logarithmic_axis() -> None:
    (line,) = curves(
        curve_chart("t", {"a": [(1, 1), (10, 2), (100, 3), (0, 4)]}, x_label="x", y_label="y", log_x=True)
    )
    assert len(line) == 3, "zero has no place there"
    assert line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0], abs=0.2)


def test_distribution_rises_from_nothing_to_everything() -> None:
    text = cdf_chart("gap", {"kill": [3.0, 1.0, 2.0]}, x_label="ms", marks=[Mark("target", x=2.5)])
    (line,) = curves(text)
    assert line[0][1] == max(y for _, y in line) and line[-1][1] == min(y for _, y in line)
    assert line[-1][1] == pytest.approx(TOP), "100 % is the top"
    assert "target" in words(text)


def test_names_are_escaped_and_long_series_thinned() -> None:
    text = curve_chart(
        "a < b & c", {"<one>": [(n, n) for n in range(10 * POINTS_MAX)]}, x_label="x", y_label="y"
    )
    assert "a < b & c" in words(text) and "<one>" in words(text)
    (line,) = curves(text)
    assert len(line) == POINTS_MAX


def test_nothing_to_draw_is_an_empty_chart_and_one_sample_a_point() -> None:
    assert curves(curve_chart("t", {}, x_label="x", y_label="y")) == []
    assert "<circle" in curve_chart("t", {"a": [(5, 5)]}, x_label="x", y_label="y", log_x=True, log_y=True)


def test_percentile_is_a_sample() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert [percentile(samples, p) for p in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 50) == 7.0


def test_bars_stand_above_the_level_when_more_and_below_when_less() -> None:
    text = bar_chart(
        "t", {"a": [("write", 4.0), ("read", 0.25)], "b": [("read", 1.0)]}, y_label="×", level=1.0
    )
    boxes = [
        {key: float(box.attrib[key]) for key in ("x", "y", "width", "height")}
        for box in ElementTree.fromstring(text).iter(f"{SVG}rect")
        if "x" in box.attrib
    ]
    more, less, equal = boxes
    assert more["y"] + more["height"] == pytest.approx(less["y"], abs=0.2), "both begin at the level"
    assert more["height"] == pytest.approx(less["height"], abs=0.2), "logarithmic"
    assert equal["height"] == 1.0 and less["x"] < equal["x"]
    assert {"write", "read", "a", "b"} <= set(words(text))
