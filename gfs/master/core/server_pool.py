"""The chunk servers as placement sees them: what they say of themselves, what operators and this master know.

Volatile but for tenures. What is chosen is placement's.
"""

from __future__ import annotations

from collections.abc import Collection

from gfs.master.core.locations import Locations
from gfs.master.core.placement import Candidate, RecentCreations
from gfs.master.core.tables import ReadTables
from gfs.master.core.tenure import tenures
from gfs.vocabulary import ServerId


class ServerPool:
    """New chunks and clones are placed from one pool, so that they see each other's recent choices (§4.2)."""

    def __init__(self, locations: Locations) -> None:
        self._locations = locations
        self._recent = RecentCreations()

    def candidates(self, tables: ReadTables, *, now: float) -> list[Candidate]:
        """All known servers in the order of their ids."""
        leaving = tenures(tables)
        return [
            Candidate(
                id=server.id,
                rack=server.rack,
                disk_total_bytes=server.disk_total_bytes,
                disk_free_bytes=server.disk_free_bytes,
                alive=self._locations.is_alive(server.id, now=now) and not server.doubted,
                recent=self._recent.count(server.id, now=now),
                leaving=server.id in leaving,
            )
            for server in self._locations.servers()
        ]

    def note_placed(self, servers: Collection[ServerId], *, now: float) -> None:
        """These servers were just chosen for a replica each."""
        self._recent.add(servers, now=now)
