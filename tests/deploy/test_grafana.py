"""The dashboards: every expression valid, every panel explained and in a place of its own."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

from tests.deploy.dashboards import DASHBOARDS, expressions, panels
from tests.deploy.places import judge


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    assert expressions()
    rules = [{"record": f"asked:{number}", "expr": text} for number, text in enumerate(expressions())]
    file = tmp_path / "rules.json"  # JSON is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    judged = judge("promtool", "check", "rules", file)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_every_panel_says_what_it_shows() -> None:
    for panel in panels():
        assert panel["title"] and panel["description"] and panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_no_panel_covers_another() -> None:
    assert len(DASHBOARDS) == 1
    taken = []
    for panel in panels():
        at = panel["gridPos"]
        taken.append({(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])})
        assert at["x"] + at["w"] <= 24
    assert all(one.isdisjoint(other) for one, other in combinations(taken, 2))
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
