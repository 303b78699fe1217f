"""What is known of one chunk's replicas, member by member, and how many are missing. Decides nothing.

A member is good, away (silent for a short time, or its report is on the way: it may well come back), late
(away for too long to be waited for if only one good replica is left), lost (silent for long, or removed),
absent (its server lives and does not hold it: lost, or just being made), stale (§4.5) or corrupt. A good one
may be leaving: its server is drained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gfs.errors import CorruptState
from gfs.master.core.locations import Locations
from gfs.master.core.policies import InheritedPolicies
from gfs.master.core.records import TRASH_INODE, ChunkRecord, InodeRecord, id_key, inode_share
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.tenure import Tenure, tenures
from gfs.vocabulary import ROOT_INODE, ChunkHandle, ServerId

MemberState = Literal["good", "away", "late", "lost", "absent", "stale", "corrupt"]

RACKS_WANTED = 2  # where no policy says otherwise: the loss of one leaves a replica (§4.2)
LAST_COPY_PATIENCE = 1 / 6  # of the usual patience, when the last good replica is at stake


@dataclass(frozen=True, slots=True)
class Survey:
    """One chunk at one moment. `members` as in its logged set; `leaving` are members, in any state. `racks`:
    in how many its replicas shall lie, if there are so many."""

    handle: ChunkHandle
    goal: int
    racks: int
    members: Mapping[ServerId, MemberState]
    leaving: frozenset[ServerId]

    def those(self, *states: MemberState) -> tuple[ServerId, ...]:
        return tuple(server for server, state in self.members.items() if state in states)

    @property
    def good(self) -> tuple[ServerId, ...]:
        return self.those("good")

    @property
    def missing(self) -> int:
        """Replicas to be made, now: one that may come back is waited for, less long when only one is left."""
        good = len(self.good)
        expected = len(self.those("away") if good == 1 else self.those("away", "late"))
        return max(0, self.goal - good - expected)

    @property
    def distance(self) -> int:
        """How far from its goal the chunk is, counting what can be read at this moment."""
        return max(0, self.goal - len(self.good))

    @property
    def to_move(self) -> tuple[ServerId, ...]:
        """Good members whose server is to become empty."""
        return tuple(server for server in self.good if server in self.leaving)


class Surveyor:
    """Looks at chunks at one moment `now`, for a bounded number of them; make a new one for the next."""

    def __init__(
        self, tables: ReadTables, locations: Locations, *, now: float, patience_seconds: float
    ) -> None:
        """`patience_seconds`: how long a silent server may be away before its replicas count as lost."""
        assert patience_seconds >= 0
        self._tables = tables
        self._deleted = {int(TRASH_INODE): True, int(ROOT_INODE): False}
        self._policies = InheritedPolicies(tables)
        self._locations = locations
        self._now = now
        self._patience_seconds = patience_seconds
        self._tenures: Mapping[ServerId, Tenure] = tenures(tables)
        self._servers: dict[ServerId, MemberState] = {}

    def look(self, chunk: ChunkRecord, file: InodeRecord) -> Survey:
        goal = self._policies.goal_of(file)
        return Survey(
            handle=chunk.handle,
            goal=goal,
            racks=min(goal, self._policies.of_directory(file.parent).racks or RACKS_WANTED),
            members={server: self._member(server, chunk) for server in chunk.replicas},
            leaving=frozenset(server for server in chunk.replicas if server in self._tenures),
        )

    def is_deleted(self, file: InodeRecord) -> bool:
        """Whether the file, or a directory above it, is in the trash."""
        known, at = self._deleted, int(file.parent)
        way: list[int] = []
        while at not in known:
            way.append(at)
            row = self._tables.get(Table.INODES, id_key(at))
            if row is None:
                raise CorruptState(f"inode {at} is the parent of another one but missing")
            at = inode_share(row)[1]
        known.update(dict.fromkeys(way, known[at]))
        return known[at]

    def server_state(self, server_id: ServerId) -> MemberState:
        """good (alive), away, late or lost; of the server, whatever it holds."""
        state = self._servers.get(server_id)
        if state is None:
            state = self._servers[server_id] = self._judge(server_id)
        return state

    def _member(self, server_id: ServerId, chunk: ChunkRecord) -> MemberState:
        state = self.server_state(server_id)
        if state != "good":
            return state
        known = self._locations.get(server_id)
        assert known is not None
        if chunk.handle in known.corrupt:
            return "corrupt"
        held = known.held.get(chunk.handle)
        if held == 0:
            return "absent" if known.reported else "away"
        # Every member of the set holds all that was acknowledged, also while it is behind (core/grants); only
        # below `held_version` has it gone back in time.
        return "good" if max(chunk.held_version, 1) <= held <= chunk.version else "stale"

    def _judge(self, server_id: ServerId) -> MemberState:
        if self._tenures.get(server_id) == "removed":
            return "lost"
        if self._locations.is_alive(server_id, now=self._now):
            return "good"
        silent_seconds = self._now - self._locations.silent_since(server_id)
        if silent_seconds >= self._patience_seconds:
            return "lost"
        return "late" if silent_seconds >= LAST_COPY_PATIENCE * self._patience_seconds else "away"
