"""Random operations on MasterState give what a model of plain dicts gives, and never break an invariant."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gfs.master.core.glob import glob_page
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_of, list_page, read_counters, stat, state_digest
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.master.core.trash import below as below_path
from gfs.master.core.trash import reclaim_due, trash_page
from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, ClientId, InodeId, ServerId
from tests.core.master_model import Model

NAMES = st.sampled_from(["a", "b", "ä", "c.d"])
SERVERS = [ServerId(f"server-{number}") for number in range(5)]
SETS = st.lists(st.sampled_from(SERVERS), max_size=4, unique=True).map(tuple)
EXPIRIES = st.sampled_from([5000, 6000, 7000])
LENGTHS = st.sampled_from([0, 1, 1000, 2000, 64 * 2**20, 64 * 2**20 + 1, 2**40, -1])


class MasterStateAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self.model = Model()
        self.log: list[op.LogRecord] = []
        self.answered: list[tuple[op.LogRecord, op.AnyOutcome]] = []
        self.sequence = 0
        for path in ("/a", "/b", "/a/c.d"):
            self.run(op.MakeDirectory(path=path))
        for path in ("/f", "/a/b"):
            self.run(op.CreateFile(path=path, replication_goal=3))
            replicas = tuple(SERVERS[:3])
            inode = InodeId(self.model.next_inode - 1)
            self.run(op.AddChunk(inode=inode, index=ChunkIndex(0), replicas=replicas, primary=SERVERS[0]))

    def run(self, operation: op.AnyOperation) -> None:
        self.sequence += 1
        request = op.RequestId(ClientId(7), self.sequence, 1)
        record = op.LogRecord(at_ms=1000 + len(self.log), operation=operation, request=request)
        outcome = self.apply(record)
        self.answered.append((record, outcome))
        expected = self.model.apply(operation)
        match outcome:
            case op.Refused():
                assert outcome.code == expected, outcome
            case op.Done():
                assert outcome.inode == expected
            case op.ChunkGranted():
                assert outcome.handle == expected

    def apply(self, record: op.LogRecord) -> op.AnyOutcome:
        self.log.append(record)
        return self.state.apply(record)

    def some_path(self, data: st.DataObject) -> str:
        """Mostly of something that exists, or just below it: blind choices would nearly all be refused."""
        names = data.draw(st.sampled_from(sorted(self.model.tree)))
        below = data.draw(st.sampled_from([0, 0, 1, 1, 1, 2]))
        names += tuple(data.draw(NAMES) for _ in range(below))
        return "/" + "/".join(names)

    @rule(data=st.data(), parents=st.booleans())
    def make_directory(self, data: st.DataObject, parents: bool) -> None:
        self.run(op.MakeDirectory(path=self.some_path(data), parents=parents))

    @rule(data=st.data(), replace=st.booleans(), goal=st.sampled_from([3, 1, 0, 17]))
    def create(self, data: st.DataObject, replace: bool, goal: int) -> None:
        path = self.some_path(data)
        if path != "/":
            self.run(
                op.CreateFile(
                    path=path, replication_goal=goal, replace=replace, expires_at_ms=data.draw(EXPIRIES)
                )
            )

    @rule(data=st.data(), recursive=st.booleans())
    def delete(self, data: st.DataObject, recursive: bool) -> None:
        expires = data.draw(EXPIRIES)
        self.run(op.DeletePath(path=self.some_path(data), recursive=recursive, expires_at_ms=expires))

    @precondition(lambda self: self.model.trash)
    @rule(data=st.data(), elsewhere=st.booleans())
    def undelete(self, data: st.DataObject, elsewhere: bool) -> None:
        inode = data.draw(st.sampled_from([*self.model.trash, 999]))
        known = self.model.trash.get(inode)
        path = self.some_path(data) if elsewhere or known is None else known.path
        self.run(op.Undelete(entry=self.trash_name(inode), path=path))

    @precondition(lambda self: self.model.trash)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        inodes = data.draw(st.lists(st.sampled_from([*self.model.trash, 999]), max_size=3))
        self.run(op.PurgeTrash(entries=tuple(self.trash_name(inode) for inode in inodes)))

    @rule(rows_max=st.sampled_from([1, 3, 500]))
    def take_a_step_of_reclaiming(self, rows_max: int) -> None:
        """Of what is condemned already: nothing that anybody can still have changes."""
        assert self.apply(self.log_record(op.Reclaim(now_ms=0, rows_max=rows_max))) == op.Done()

    @rule(now_ms=EXPIRIES, rows_max=st.sampled_from([1, 3, 500]))
    def reclaim_all_that_has_expired(self, now_ms: int, rows_max: int) -> None:
        while reclaim_due(self.tables, now_ms=now_ms):
            assert self.apply(self.log_record(op.Reclaim(now_ms=now_ms, rows_max=rows_max))) == op.Done()
        trash = self.model.trash.items()
        self.model.forget([inode for inode, found in trash if 0 < found.expires_ms <= now_ms])
        self.state.save()
        counters = read_counters(self.tables)
        counted = counters.files, counters.directories, counters.chunks
        assert counted == (len(self.model.files), len(self.model.directories), len(self.chunks()))

    @rule(data=st.data(), replace=st.booleans())
    def rename(self, data: st.DataObject, replace: bool) -> None:
        source, destination = self.some_path(data), self.some_path(data)
        expires = data.draw(EXPIRIES)
        self.run(
            op.RenamePath(source=source, destination=destination, replace=replace, expires_at_ms=expires)
        )

    @rule(data=st.data(), replicas=SETS)
    def add_chunk(self, data: st.DataObject, replicas: tuple[ServerId, ...]) -> None:
        inode = self.some_inode(data)
        have = len(self.model.files[inode].chunks) if inode in self.model.files else 0
        index = data.draw(st.sampled_from([have, have, max(0, have - 1), have + 1, -1]))
        primary = replicas[0] if replicas else SERVERS[0]
        self.run(
            op.AddChunk(inode=InodeId(inode), index=ChunkIndex(index), replicas=replicas, primary=primary)
        )

    @precondition(lambda self: any(file.chunks for file in self.model.files.values()))
    @rule(data=st.data(), replicas=SETS, fresh=st.booleans(), step=st.sampled_from([0, 0, 0, 1]))
    def grant(self, data: st.DataObject, replicas: tuple[ServerId, ...], fresh: bool, step: int) -> None:
        inode, index = data.draw(st.sampled_from(self.chunks()))
        chunk = self.model.files[inode].chunks[index]
        if data.draw(st.booleans()):
            replicas = tuple(ServerId(server) for server in chunk.replicas[:2])
        self.run(
            op.GrantLease(
                inode=InodeId(inode),
                index=ChunkIndex(index),
                handle=ChunkHandle(chunk.handle),
                from_version=ChunkVersion(chunk.version + step),
                replicas=replicas,
                primary=replicas[-1] if replicas else SERVERS[0],
                fresh=fresh,
                held_version=ChunkVersion(chunk.version),
            )
        )

    @precondition(lambda self: any(file.chunks for file in self.model.files.values()))
    @rule(data=st.data(), others=SETS, is_held=st.booleans(), step=st.sampled_from([0, 0, 0, 1]))
    def change_replicas(
        self, data: st.DataObject, others: tuple[ServerId, ...], is_held: bool, step: int
    ) -> None:
        inode, index = data.draw(st.sampled_from(self.chunks()))
        chunk = self.model.files[inode].chunks[index]
        stay = tuple(ServerId(server) for server in chunk.replicas[data.draw(st.integers(0, 2)) :])
        joined = tuple(server for server in others if server not in chunk.replicas)
        replicas = (*stay, *joined)
        self.run(
            op.ChangeReplicas(
                handle=ChunkHandle(chunk.handle),
                from_version=ChunkVersion(chunk.version + step),
                replicas=replicas,
                primary=replicas[-1] if replicas else SERVERS[0],
                joined=joined,
                held_version=ChunkVersion(chunk.version if is_held else 0),
            )
        )

    @precondition(lambda self: any(file.chunks for file in self.model.files.values()))
    @rule(data=st.data(), length=LENGTHS, step=st.sampled_from([0, 0, 1]))
    def seal(self, data: st.DataObject, length: int, step: int) -> None:
        inode, index = data.draw(st.sampled_from(self.chunks()))
        chunk = self.model.files[inode].chunks[index]
        version = ChunkVersion(chunk.version + step)
        self.run(op.SealChunk(handle=ChunkHandle(chunk.handle), version=version, length_bytes=length))

    @rule(data=st.data(), length=LENGTHS, closed=st.booleans(), appending=st.booleans())
    def length_hint(self, data: st.DataObject, length: int, closed: bool, appending: bool) -> None:
        inode = InodeId(self.some_inode(data))
        self.run(op.SetLengthHint(inode=inode, length_bytes=length, closed=closed, appending=appending))

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        record, first = data.draw(st.sampled_from(self.answered))
        late = msgspec.structs.replace(record, at_ms=9_000_000)
        assert self.apply(late) == first

    @rule()
    def check_digest(self) -> None:
        index, digest = self.state.digest_mark()
        record = op.LogRecord(at_ms=1, operation=op.CheckDigest(index=index, digest=digest))
        assert self.apply(record) == op.Done()

    def log_record(self, operation: op.AnyOperation) -> op.LogRecord:
        return op.LogRecord(at_ms=1000 + len(self.log), operation=operation)

    def trash_name(self, inode: int) -> op.TrashName:
        known = self.model.trash.get(inode)
        expires_ms = known.expires_ms if known is not None else 5000
        return op.TrashName(expires_ms, InodeId(inode))

    def some_inode(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from([*self.model.files, 1, 999]))

    def chunks(self) -> list[tuple[int, int]]:
        return [(inode, i) for inode, file in self.model.files.items() for i in range(len(file.chunks))]

    @invariant()
    def tables_are_sound(self) -> None:
        self.state.save()
        check_invariants(self.tables)

    @invariant()
    def tables_say_what_the_model_says(self) -> None:
        for names, inode in self.model.tree.items():
            entry = stat(self.tables, "/" + "/".join(names))
            assert entry.inode == inode
            assert (entry.kind == "directory") == (inode in self.model.directories)
            if inode in self.model.files:
                file = self.model.files[inode]
                found = (entry.length_bytes, entry.length_exact, entry.chunk_count, entry.replication_goal)
                assert found == (file.length, file.exact, len(file.chunks), file.goal)
                assert entry.appended == file.appended
            else:
                below = {path[-1] for path in self.model.tree if path and path[:-1] == names}
                listed = [entry.path.rpartition("/")[2] for entry in list_page(self.tables, entry.path)[0]]
                assert listed == sorted(below, key=lambda name: name.encode())
        found_paths = [entry.path for entry in glob_page(self.tables, "/**")[0]]
        assert sorted(found_paths) == sorted("/" + "/".join(names) for names in self.model.tree)
        for inode, index in self.chunks():
            chunk, known = self.model.files[inode].chunks[index], chunk_of(self.tables, inode, index)
            assert known is not None
            assert (known.handle, known.version, known.replicas) == (
                chunk.handle,
                chunk.version,
                chunk.replicas,
            )
            assert known.quiet == chunk.quiet
            assert known.length_bytes == (-1 if chunk.sealed_at is None else chunk.sealed_at)
        counters = read_counters(self.tables)
        assert counters.trash == len(self.model.trash)
        in_trash = {found.entry.inode: found for found in trash_page(self.tables, below_path("/"))[0]}
        assert in_trash.keys() == self.model.trash.keys()
        for inode, known in self.model.trash.items():
            assert in_trash[inode].path == known.path
            for names, below in known.below.items():
                assert stat(self.tables, "/".join((f"/.trash/{inode}", *names))).inode == below

    def teardown(self) -> None:
        """Another master that applies the same log, in other batches, has the same tables (I7)."""
        other = MemoryTables()
        twin = MasterState(other)
        for position, record in enumerate(self.log):
            twin.apply(record)
            if position % 7 == 0:
                twin.save()
        twin.save()
        self.state.save()
        for table in Table:
            assert list(other.scan(table)) == list(self.tables.scan(table)), table
        assert state_digest(other) == state_digest(self.tables) == twin.digest()


TestMasterStateAgainstModel = MasterStateAgainstModel.TestCase
TestMasterStateAgainstModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
