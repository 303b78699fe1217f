"""Checker of leases: one primary at a time orders the mutations of a chunk, without gaps (GFS §3.1, I1–I4).

Reads sightings
  `role`     of a master: {role, term}; role "leader" where it says that it leads;
  `granted`  of a leader, when a lease may be told to clients: {chunk, version, primary, replicas}. `primary`
             is "" for a grant that only raises the version (a fence);
  `ordered`  of a primary: {chunk, version, serial, until_ns}: it has given a mutation this serial number.
             `until_ns` (may be left out): until when it holds its lease to last, on the harness's clock (its
             own clock's mistake included);
  `applied`  of every replica, the primary's too, at that moment: {chunk, version, serial}: its chunk has it;
  `acknowledged` of a primary: {chunk, version, serial, replicas}: it counts the mutation as done by its whole
             set, which these are, and tells the client;
  `answered` of a secondary, some time later, perhaps again: {chunk, version, serial, primary, kind, offset,
             length}: it has this mutation;
  `raised`   of a replica: {chunk, version, primary}: it obeys no lower version any more, and no other primary
             under this one ("", or left out: it was told of none);
  `started`  of any program: it begins anew.
  `chunk` is the handle; nodes are named as in the testbed. In the order in which they happened.

Holds when
  - no two masters lead in one term;
  - a version of a chunk is granted to one primary only, and versions that are granted rise;
  - one node orders under one (chunk, version), serial by serial from 1, each once;
  - nothing is ordered after the lease as its primary knows it;
  - what is acknowledged under a version was applied under it by every replica of the set that was granted;
  - a replica applies serials in order without gaps (a restart or a new version begins anew), and none under a
    version below one to which it was raised;
  - all replicas name one primary of a (chunk, version), and one mutation of each of its serials.

A primary that was cut off may go on ordering while its lease lasts, although a newer version is granted: gfs
fences it instead of waiting (master/core/grants). What it orders is harmless as long as it cannot be
acknowledged: members of the newer set apply nothing older any more, and all members have to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.history import History, Sighting

ChunkVersion = tuple[int, int]


class LeasesChecker:
    name = "leases"
    promises = "A chunk has one primary at a time, whose order all replicas follow without a gap."

    def check(self, history: History) -> Verdict:
        judge = _Judge()
        for sighting in sorted(history.sightings, key=lambda s: s.at_ns):
            handler = judge.handlers.get(sighting.what)
            if handler is not None:
                judge.findings.judged += 1
                handler(sighting)
        return judge.findings.verdict(idle="no lease was seen")


class _Judge:
    def __init__(self) -> None:
        self.findings = Findings(LeasesChecker.name)
        self.leader_of: dict[int, str] = {}
        self.granted_to: dict[ChunkVersion, str] = {}
        self.newest: dict[int, int] = {}
        self.orderer: dict[ChunkVersion, str] = {}
        self.last_ordered: dict[ChunkVersion, int] = {}
        self.last_applied: dict[tuple[str, ChunkVersion], int] = {}
        self.raised_to: dict[tuple[str, int], int] = defaultdict(int)
        self.obeyed: dict[ChunkVersion, tuple[str, str]] = {}  # the primary, and who named it first
        self.mutations: dict[tuple[ChunkVersion, int], tuple[tuple[str, int, int], str]] = {}
        self.sets: dict[ChunkVersion, list[str]] = {}  # as granted
        self.has_applied: set[tuple[str, ChunkVersion, int]] = set()  # node, ..., serial; also before it died
        self.handlers: dict[str, Callable[[Sighting], None]] = {
            "role": self.role,
            "granted": self.granted,
            "ordered": self.ordered,
            "applied": self.applied,
            "acknowledged": self.acknowledged,
            "answered": self.answered,
            "raised": self.raised,
            "started": self.started,
        }

    def wrong(self, says: str, sighting: Sighting) -> None:
        self.findings.violation(f"{sighting.node}: {says}", at_ns=sighting.at_ns)

    def role(self, s: Sighting) -> None:
        if s.values["role"] != "leader":
            return
        term = s.values["term"]
        other = self.leader_of.setdefault(term, s.node)
        if other != s.node:
            self.wrong(f"leads in term {term}, in which {other} leads", s)

    def granted(self, s: Sighting) -> None:
        chunk, version, primary = s.values["chunk"], s.values["version"], s.values["primary"]
        other = self.granted_to.setdefault((chunk, version), primary)
        if other != primary:
            self.wrong(
                f"grants version {version} of chunk {chunk:x} to {primary}, granted to {other} before", s
            )
        if version < self.newest.get(chunk, 0):
            self.wrong(f"grants version {version} of chunk {chunk:x} after {self.newest[chunk]}", s)
        self.newest[chunk] = max(version, self.newest.get(chunk, 0))
        self.sets[chunk, version] = s.values["replicas"]

    def ordered(self, s: Sighting) -> None:
        chunk, version, serial = s.values["chunk"], s.values["version"], s.values["serial"]
        key = chunk, version
        other = self.orderer.setdefault(key, s.node)
        if other != s.node:
            self.wrong(f"orders under version {version} of chunk {chunk:x}, as {other} does", s)
        wanted = self.last_ordered.get(key, 0) + 1
        if other == s.node and serial != wanted:
            self.wrong(
                f"orders serial {serial} of chunk {chunk:x}, version {version}, where {wanted} is next", s
            )
        self.last_ordered[key] = max(serial, wanted - 1)
        if s.values.get("until_ns", s.at_ns) < s.at_ns:
            self.wrong(f"orders under version {version} of chunk {chunk:x} after its own lease has ended", s)

    def applied(self, s: Sighting) -> None:
        chunk, version, serial = s.values["chunk"], s.values["version"], s.values["serial"]
        raised = self.raised_to[s.node, chunk]
        if version < raised:
            self.wrong(
                f"applies serial {serial} of version {version} of chunk {chunk:x}, raised to {raised}", s
            )
        key = s.node, (chunk, version)
        before = self.last_applied.get(key)
        if before is not None and serial > before + 1:
            self.wrong(f"applies serial {serial} of chunk {chunk:x}, version {version}, after {before}", s)
        elif before is not None and serial <= before:
            self.wrong(f"applies serial {serial} of chunk {chunk:x}, version {version}, again", s)
        elif before is None and serial != 1 and (s.node, chunk) in self.raised_to and raised == version:
            self.wrong(f"applies serial {serial} of chunk {chunk:x}, version {version}, as its first", s)
        self.last_applied[key] = max(serial, before or 0)
        self.has_applied.add((s.node, (chunk, version), serial))

    def acknowledged(self, s: Sighting) -> None:
        chunk, version, serial = s.values["chunk"], s.values["version"], s.values["serial"]
        key = chunk, version
        replicas: list[str] = s.values["replicas"]
        granted = self.sets.get(key, replicas)
        if sorted(granted) != sorted(replicas):
            self.wrong(
                f"acknowledges for {', '.join(replicas)} under version {version} of chunk {chunk:x}, granted "
                f"to {', '.join(granted)}",
                s,
            )
        lacking = [node for node in replicas if (node, key, serial) not in self.has_applied]
        if lacking:
            self.wrong(
                f"acknowledges serial {serial} of chunk {chunk:x}, version {version}, which "
                f"{', '.join(lacking)} has not applied",
                s,
            )

    def answered(self, s: Sighting) -> None:
        chunk, version, serial = s.values["chunk"], s.values["version"], s.values["serial"]
        self._obeys(s)
        mutation = s.values["kind"], s.values["offset"], s.values["length"]
        expected, other = self.mutations.setdefault(((chunk, version), serial), (mutation, s.node))
        if mutation != expected:
            self.wrong(
                f"has {mutation} as serial {serial} of chunk {chunk:x}, version {version}; "
                f"{other} has {expected}",
                s,
            )

    def _obeys(self, s: Sighting) -> None:
        chunk, version, primary = s.values["chunk"], s.values["version"], s.values.get("primary", "")
        if not primary:
            return
        expected, other = self.obeyed.setdefault((chunk, version), (primary, s.node))
        if primary != expected:
            self.wrong(f"obeys {primary} under version {version} of chunk {chunk:x}; {other} {expected}", s)

    def raised(self, s: Sighting) -> None:
        self._obeys(s)
        key = s.node, s.values["chunk"]
        self.raised_to[key] = max(self.raised_to[key], s.values["version"])

    def started(self, s: Sighting) -> None:
        """A program that comes back knows its versions, but not who has ordered what."""
        for key in [key for key in self.last_applied if key[0] == s.node]:
            del self.last_applied[key]
        for known in [known for known in self.raised_to if known[0] == s.node]:
            del self.raised_to[known]
