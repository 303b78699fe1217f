"""Every planted bug, by name. Nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from chaos.planted import chunkservers, leases, masters
from chaos.planted.bug import PlantedBug

BUGS: Mapping[str, PlantedBug] = {bug.name: bug for bug in (*masters.BUGS, *leases.BUGS, *chunkservers.BUGS)}
assert len(BUGS) == len(masters.BUGS) + len(leases.BUGS) + len(chunkservers.BUGS), "a name stands twice"
