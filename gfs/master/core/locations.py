"""Where replicas are, as the chunk servers say themselves (GFS §2.6.2). Volatile: never logged.

Every master keeps this from the heartbeats it gets, so that a new leader already knows all locations. Which
replicas *may* be used is not decided here: the chunk's logged version and set say that (I5).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from gfs.errors import AlreadyExists
from gfs.messages.chunks import Replica
from gfs.messages.heartbeat import Heartbeat, HeldChunk
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ServerId

SEGMENT_ENTRIES_MAX = 4096  # a segment is split in two beyond this; bounds the cost of one insertion
VERSION_MAX = 2**32 - 1  # what four bytes hold: a grant a second for 136 years


class VersionMap:
    """Handle -> version in 12 bytes an entry, where a dict would take about 100.

    Sorted segments of parallel arrays: a lookup is two binary searches, a change moves at most one segment.

    Invariants: segments are non-empty; handles ascend strictly within and across them; `_firsts[i]` is
    the first handle of segment i.
    """

    __slots__ = ("_firsts", "_handles", "_length", "_versions")

    def __init__(self) -> None:
        self._firsts: array[int] = array("Q")
        self._handles: list[array[int]] = []
        self._versions: list[array[int]] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def get(self, handle: ChunkHandle) -> ChunkVersion:
        """The version held, 0 when none."""
        segment = bisect_right(self._firsts, handle) - 1
        if segment < 0:
            return ChunkVersion(0)
        handles = self._handles[segment]
        position = bisect_left(handles, handle)
        if position == len(handles) or handles[position] != handle:
            return ChunkVersion(0)
        return ChunkVersion(self._versions[segment][position])

    def raise_to(self, handle: ChunkHandle, version: ChunkVersion) -> None:
        """Note that `handle` is held at `version` at least: an older version is late news."""
        assert 0 < version <= VERSION_MAX, version
        if not self._handles:
            self._handles.append(array("Q", (handle,)))
            self._versions.append(array("I", (version,)))
            self._firsts.append(handle)
            self._length = 1
            return
        segment = max(bisect_right(self._firsts, handle) - 1, 0)
        handles, versions = self._handles[segment], self._versions[segment]
        position = bisect_left(handles, handle)
        if position < len(handles) and handles[position] == handle:
            versions[position] = max(versions[position], version)
            return
        handles.insert(position, handle)
        versions.insert(position, version)
        self._firsts[segment] = handles[0]
        self._length += 1
        if len(handles) > SEGMENT_ENTRIES_MAX:
            self._split(segment)

    def discard(self, handle: ChunkHandle) -> None:
        segment = bisect_right(self._firsts, handle) - 1
        if segment < 0:
            return
        handles = self._handles[segment]
        position = bisect_left(handles, handle)
        if position == len(handles) or handles[position] != handle:
            return
        del handles[position], self._versions[segment][position]
        self._length -= 1
        if handles:
            self._firsts[segment] = handles[0]
        else:
            del self._handles[segment], self._versions[segment], self._firsts[segment]

    def page(self, after: ChunkHandle, limit: int) -> list[tuple[ChunkHandle, ChunkVersion]]:
        """The next `limit` entries behind the handle `after`."""
        found: list[tuple[ChunkHandle, ChunkVersion]] = []
        segment = max(bisect_right(self._firsts, after) - 1, 0)
        while segment < len(self._handles) and len(found) < limit:
            handles, versions = self._handles[segment], self._versions[segment]
            first = bisect_right(handles, after)
            stop = min(len(handles), first + limit - len(found))
            found += [(ChunkHandle(handles[i]), ChunkVersion(versions[i])) for i in range(first, stop)]
            segment += 1
        return found

    def items(self) -> Iterator[tuple[ChunkHandle, ChunkVersion]]:
        for handles, versions in zip(self._handles, self._versions, strict=True):
            for handle, version in zip(handles, versions, strict=True):
                yield ChunkHandle(handle), ChunkVersion(version)

    def _split(self, segment: int) -> None:
        handles, versions = self._handles[segment], self._versions[segment]
        # A report comes in ascending order: splitting near the end leaves the segments behind it full.
        middle = len(handles) * 7 // 8 if segment == len(self._handles) - 1 else len(handles) // 2
        self._handles.insert(segment + 1, handles[middle:])
        self._versions.insert(segment + 1, versions[middle:])
        self._firsts.insert(segment + 1, handles[middle])
        del handles[middle:], versions[middle:]

    def check_invariants(self) -> None:
        assert len(self._firsts) == len(self._handles) == len(self._versions)
        everything = [handle for handle, _ in self.items()]
        assert len(everything) == self._length
        assert all(a < b for a, b in pairwise(everything))
        for first, handles, versions in zip(self._firsts, self._handles, self._versions, strict=True):
            assert 0 < len(handles) == len(versions) <= SEGMENT_ENTRIES_MAX
            assert first == handles[0]


@dataclass(slots=True)
class KnownServer:
    """One chunk server as its last heartbeat described it. Times are monotonic seconds of this master."""

    id: ServerId
    control: Address
    data: Address
    incarnation: str
    rack: str
    release: str
    disk_total_bytes: int
    disk_free_bytes: int
    chunk_count: int
    heard_at: float
    held: VersionMap = field(default_factory=VersionMap)
    corrupt: set[ChunkHandle] = field(default_factory=set)
    doubted: bool = False  # did not answer a call since its last heartbeat
    reported: bool = False  # `held` is a full report of this incarnation plus its changes
    incoming: VersionMap | None = None  # a full report under way
    incoming_corrupt: set[ChunkHandle] = field(default_factory=set)
    guests: dict[ChunkHandle, ChunkVersion] = field(default_factory=dict)  # copies that are no replicas yet
    next_page: int = 0
    unsettled: tuple[ChunkHandle, ...] = ()  # may lack acknowledged bytes since a power cut

    def replica(self) -> Replica:
        return Replica(self.id, self.control, self.data, self.rack)


class Locations:
    """All chunk servers this master has heard of since it started, and what each holds.

    Invariants: a server without a full report of its present incarnation is asked for one; a version
    noted for a replica never goes down while the replica is there.
    """

    def __init__(self, *, dead_seconds: float) -> None:
        assert dead_seconds > 0
        self._dead_seconds = dead_seconds
        self._settled_at = 0.0
        self._servers: dict[ServerId, KnownServer] = {}

    def hear(self, beat: Heartbeat, *, now: float) -> bool:
        """Take in one heartbeat; the caller has checked its cluster id.

        Returns: whether a full report is wanted, from its first page.
        Raises: AlreadyExists when this server id is alive at another address: two disks claim one identity,
            and believing both would let one of them stand in for bytes it does not have.
        Source: GFS §4.5; pages and increments are ours.
        """
        server = self._servers.get(beat.server)
        if server is not None and server.control != beat.control and self._is_alive(server, now):
            raise AlreadyExists(
                f"chunk server {beat.server} is already alive at {server.control}; "
                f"a second one with this id came from {beat.control}",
                hint="A chunk server's directory was copied: give the copy an empty directory.",
                details={"server": beat.server, "control": server.control},
            )
        if server is None:
            server = self._servers[beat.server] = _first_seen(beat, now)
        elif server.incarnation != beat.incarnation:
            # What it held before stands until its new report is complete: a bump is on the disk before it
            # is answered, so a restarted server is never behind what is noted here.
            # The same goes for what was damaged: its disk is still the same.
            server.incarnation, server.reported, server.incoming = beat.incarnation, False, None
        server.control, server.data, server.rack = beat.control, beat.data, beat.rack
        server.release, server.chunk_count = beat.version, beat.chunk_count
        server.disk_total_bytes, server.disk_free_bytes = beat.disk_total_bytes, beat.disk_free_bytes
        server.heard_at, server.doubted = now, False
        server.unsettled = tuple(beat.unsettled)
        server.guests = {guest.handle: guest.version for guest in beat.guests}
        self._take_changes(server, beat)
        if beat.report_page >= 0:
            self._take_page(server, beat)
        return not server.reported and server.incoming is None

    def note_bump(self, server_id: ServerId, handle: ChunkHandle, version: ChunkVersion) -> None:
        """A replica has answered a version bump: it holds `version`, also before its next heartbeat."""
        server = self._servers.get(server_id)
        if server is None:
            return
        server.held.raise_to(handle, version)
        if server.incoming is not None:
            server.incoming.raise_to(handle, version)

    def note_copied(self, server_id: ServerId, handle: ChunkHandle) -> None:
        """This server has just made a verified copy and joined the set: what was wrong before is no more."""
        server = self._servers.get(server_id)
        if server is not None:
            server.corrupt.discard(handle)
            server.incoming_corrupt.discard(handle)

    def doubt(self, server_id: ServerId) -> None:
        """This server did not answer: until its next heartbeat nothing new is placed on it."""
        server = self._servers.get(server_id)
        if server is not None:
            server.doubted = True

    def forget(self, server_id: ServerId) -> None:
        """This server has left the cluster: nothing it holds counts."""
        self._servers.pop(server_id, None)

    def unsettle(self, *, until: float) -> None:
        """This master was away (just started, or was paused): until then silence says nothing of a server."""
        self._settled_at = max(self._settled_at, until)

    def is_settled(self, *, now: float) -> bool:
        return now >= self._settled_at

    def get(self, server_id: ServerId) -> KnownServer | None:
        return self._servers.get(server_id)

    def is_alive(self, server_id: ServerId, *, now: float) -> bool:
        server = self._servers.get(server_id)
        return server is not None and self._is_alive(server, now)

    def silent_since(self, server_id: ServerId) -> float:
        """When a server that is not alive began to count as dead; one never heard of did when this master had
        listened long enough to say so."""
        server = self._servers.get(server_id)
        if server is None:
            return self._settled_at
        return max(server.heard_at + self._dead_seconds, self._settled_at)

    def version_at(self, server_id: ServerId, handle: ChunkHandle) -> ChunkVersion:
        """What this server says it holds of the chunk; 0 when nothing (known), or when the bytes are bad."""
        server = self._servers.get(server_id)
        if server is None or handle in server.corrupt:
            return ChunkVersion(0)
        return server.held.get(handle)

    def is_corrupt(self, server_id: ServerId, handle: ChunkHandle) -> bool:
        """Whether this server says that some of its bytes of the chunk are bad."""
        server = self._servers.get(server_id)
        return server is not None and handle in server.corrupt

    def damaged_count(self, *, now: float) -> int:
        """How many damaged replicas living servers hold."""
        return sum(len(server.corrupt) for server in self._servers.values() if self._is_alive(server, now))

    def damaged(
        self,
        handle: ChunkHandle,
        members: Iterable[ServerId],
        *,
        oldest: ChunkVersion,
        newest: ChunkVersion,
        now: float,
    ) -> tuple[ChunkVersion, list[KnownServer]]:
        """Living members that hold the chunk with bad bytes in it, all at the newest version that one of them
        has: for when nobody has it whole. What they answer with is verified all the same."""
        known = [self._servers[member] for member in members if member in self._servers]
        held = {
            server.id: server.held.get(handle)
            for server in known
            if handle in server.corrupt and self._is_alive(server, now)
        }
        version = max((v for v in held.values() if oldest <= v <= newest), default=ChunkVersion(0))
        return version, [server for server in known if version > 0 and held.get(server.id) == version]

    def having(self, handle: ChunkHandle, *, now: float) -> list[tuple[KnownServer, ChunkVersion]]:
        """Living servers that have bytes of the chunk, of whatever version, some of them bad perhaps."""
        found = ((server, server.held.get(handle)) for server in self.alive(now=now))
        return [(server, version) for server, version in found if version > 0]

    def holders(self, handle: ChunkHandle) -> dict[ServerId, ChunkVersion]:
        """Every server, alive or not, that says it holds the chunk, with the version."""
        found = ((server.id, self.version_at(server.id, handle)) for server in self.servers())
        return {server_id: version for server_id, version in found if version > 0}

    def current(
        self, handle: ChunkHandle, version: ChunkVersion, members: Iterable[ServerId], *, now: float
    ) -> tuple[list[KnownServer], list[ServerId]]:
        """Split a chunk's set in the replicas a client may be sent to, and those it may not.

        A replica qualifies when its server is alive and holds exactly `version`: one behind has missed
        mutations (I5), one ahead belongs to a grant this master's state has not seen.
        """
        present: list[KnownServer] = []
        missing: list[ServerId] = []
        for member in members:
            server = self._servers.get(member)
            if (
                server is not None
                and self._is_alive(server, now)
                and handle not in server.corrupt
                and server.held.get(handle) == version
            ):
                present.append(server)
            else:
                missing.append(member)
        return present, missing

    def stale(self, server_id: ServerId, handle: ChunkHandle, logged: ChunkVersion) -> bool:
        """Whether this replica is known to have missed a grant (§4.5): it is to be collected, never used."""
        held = self.version_at(server_id, handle)
        return 0 < held < logged

    def servers(self) -> list[KnownServer]:
        """All known servers in the order of their ids."""
        return [self._servers[server_id] for server_id in sorted(self._servers)]

    def alive(self, *, now: float) -> list[KnownServer]:
        return [server for server in self.servers() if self._is_alive(server, now)]

    def check_invariants(self) -> None:
        for server_id, server in self._servers.items():
            assert server.id == server_id
            server.held.check_invariants()
            if server.incoming is not None:
                server.incoming.check_invariants()
                assert not server.reported or server.next_page > 0

    def _is_alive(self, server: KnownServer, now: float) -> bool:
        return now - server.heard_at < self._dead_seconds

    def _take_changes(self, server: KnownServer, beat: Heartbeat) -> None:
        for held in (server.held,) if server.incoming is None else (server.held, server.incoming):
            _raise_all(held, beat.changed)
            for handle in beat.removed:
                held.discard(handle)
        # What has changed and is not named as damaged is whole: deleted and made anew between two heartbeats.
        for corrupt in (server.corrupt, server.incoming_corrupt):
            corrupt.difference_update(beat.removed, (chunk.handle for chunk in beat.changed))
            corrupt.update(beat.corrupt)

    def _take_page(self, server: KnownServer, beat: Heartbeat) -> None:
        if beat.report_page == 0:
            server.incoming, server.next_page = VersionMap(), 0
            server.incoming_corrupt = set(beat.corrupt)
            _raise_all(server.incoming, beat.changed)
        elif server.incoming is None and server.reported:
            return  # a page of the report already taken, sent again because our answer was lost
        if server.incoming is None or beat.report_page not in (server.next_page, server.next_page - 1):
            # A page was lost: what is here is no whole report. Ask again from the start.
            server.incoming, server.reported = None, False
            return
        _raise_all(server.incoming, beat.report)
        for handle in beat.removed:
            server.incoming.discard(handle)
        server.next_page = beat.report_page + 1
        if beat.report_last:
            server.held, server.incoming, server.reported = server.incoming, None, True
            server.corrupt, server.incoming_corrupt = server.incoming_corrupt, set()


def _first_seen(beat: Heartbeat, now: float) -> KnownServer:
    return KnownServer(
        id=beat.server,
        control=beat.control,
        data=beat.data,
        incarnation=beat.incarnation,
        rack=beat.rack,
        release=beat.version,
        disk_total_bytes=beat.disk_total_bytes,
        disk_free_bytes=beat.disk_free_bytes,
        chunk_count=beat.chunk_count,
        heard_at=now,
    )


def _raise_all(held: VersionMap, chunks: Iterable[HeldChunk]) -> None:
    for chunk in chunks:
        if 0 < chunk.version <= VERSION_MAX:
            held.raise_to(chunk.handle, chunk.version)
