"""All scenarios by name."""

from __future__ import annotations

from chaos.scenarios.chunkservers import CHUNKSERVER_SCENARIOS
from chaos.scenarios.interface import Scenario
from chaos.scenarios.masters import MASTER_SCENARIOS
from chaos.scenarios.whole import WHOLE_SCENARIOS

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (*MASTER_SCENARIOS, *CHUNKSERVER_SCENARIOS, *WHOLE_SCENARIOS)
}
