"""What the dashboards ask Prometheus for. Whether that is valid, and whether programs show it, is tested."""

from __future__ import annotations

import json
from typing import Any

from tests.deploy.places import DEPLOY

DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))


def panels() -> list[dict[str, Any]]:
    """All that draw something. Any: Grafana's own shape."""
    found = [panel for file in DASHBOARDS for panel in json.loads(file.read_text())["panels"]]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> list[str]:
    """Of all panels, with an interval where Grafana would put the one that fits the time shown."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [expression.replace("$__rate_interval", "5m") for expression in asked]
