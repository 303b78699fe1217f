"""Random snapshots, writes, renames and deletions against a model that copies whole trees of bytes at once.

The model knows no chunks: a file is a list of byte strings. On the other side every chunk server is one dict
from handle to bytes, which is changed as a client may change it: only a chunk that no other file names.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gfs.master.core.glob import glob_page
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import chunk_of, find_chunks, stat
from gfs.master.core.records import ChunkRecord
from gfs.master.core.snapshots import jobs_under_way
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

SERVERS = (ServerId("cs-a"), ServerId("cs-b"))
NAMES = st.sampled_from(["a", "b", "c", "d"])
Path = tuple[str, ...]
Content = list[bytes] | None  # None: a directory


def spelled(path: Path) -> str:
    return "/" + "/".join(path)


class Snapshots(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tables = MemoryTables()
        self.state = MasterState(self.tables)
        self.log: list[op.LogRecord] = []
        self.model: dict[Path, Content] = {(): None}
        self.bytes: dict[ChunkHandle, bytes] = {}  # on every chunk server
        self.jobs: dict[InodeId, tuple[Path, Path, dict[Path, Content]]] = {}
        self.written = 0
        for path in (("a",), ("a", "b")):
            self.apply(op.MakeDirectory(path=spelled(path)))
            self.model[path] = None
        assert self.done(op.CreateFile(path="/a/b/c", replication_goal=2))
        self.model["a", "b", "c"] = []
        self.grow_file(("a", "b", "c"), 3)

    # --- carrying out ---------------------------------------------------------------------------

    def apply(self, operation: op.AnyOperation) -> op.AnyOutcome:
        record = op.LogRecord(at_ms=1000 + len(self.log), operation=operation)
        self.log.append(record)
        outcome = self.state.apply(record)
        self.state.save()
        return outcome

    def done(self, operation: op.AnyOperation, *touched: Path, moves: bool = False) -> bool:
        """Whether it was carried out, which it must be unless it touches what a snapshot holds still."""
        outcome = self.apply(operation)
        busy = any(self.is_held(path, moves=moves) for path in touched)
        if isinstance(outcome, op.Refused):
            assert outcome.code == "path_busy" and busy, (outcome, touched)
            return False
        assert not busy, (operation, touched)
        return True

    def is_held(self, path: Path, *, moves: bool) -> bool:
        return any(
            path[: len(held)] == held or (moves and held[: len(path)] == path)
            for source, target, _ in self.jobs.values()
            for held in (source, target)
        )

    def below(self, top: Path) -> dict[Path, Content]:
        return {path: content for path, content in self.model.items() if path[: len(top)] == top}

    def some(self, data: st.DataObject, *, files: bool = True, directories: bool = True) -> Path | None:
        found = sorted(
            path
            for path, content in self.model.items()
            if path and ((content is None and directories) or (content is not None and files))
        )
        return data.draw(st.sampled_from(found)) if found else None

    def new_path(self, data: st.DataObject) -> Path | None:
        parent = data.draw(st.sampled_from(sorted(p for p, content in self.model.items() if content is None)))
        path = (*parent, data.draw(NAMES))
        return None if path in self.model or len(path) > 4 else path

    # --- rules ----------------------------------------------------------------------------------

    @rule(data=st.data(), directory=st.booleans())
    def make(self, data: st.DataObject, directory: bool) -> None:
        path = self.new_path(data)
        if path is None:
            return
        if directory:
            made = self.done(op.MakeDirectory(path=spelled(path)), path)
        else:
            made = self.done(op.CreateFile(path=spelled(path), replication_goal=2), path)
        if made:
            self.model[path] = None if directory else []

    @rule(data=st.data(), count=st.integers(1, 6))
    def fill(self, data: st.DataObject, count: int) -> None:
        """A file with chunks: what a snapshot is about."""
        path = self.new_path(data)
        if path is not None and self.done(op.CreateFile(path=spelled(path), replication_goal=2), path):
            self.model[path] = []
            self.grow_file(path, count)

    @rule(data=st.data(), count=st.integers(1, 6))
    def grow(self, data: st.DataObject, count: int) -> None:
        path = self.some(data, directories=False)
        if path is not None:
            self.grow_file(path, count)

    def grow_file(self, path: Path, count: int) -> None:
        content = self.model[path]
        assert content is not None
        for _ in range(count):
            inode = stat(self.tables, spelled(path)).inode
            outcome = self.apply(
                op.AddChunk(inode=inode, index=ChunkIndex(len(content)), replicas=SERVERS, primary=SERVERS[0])
            )
            if isinstance(outcome, op.Refused):
                assert outcome.code == "path_busy" and self.is_source(path)
                return
            assert isinstance(outcome, op.ChunkGranted) and not self.is_source(path)
            self.bytes[outcome.handle] = b""
            content.append(b"")

    @rule(data=st.data(), cut_short=st.booleans())
    def write(self, data: st.DataObject, cut_short: bool) -> None:
        """As a leader lets a client write: a shared chunk is parted first, and `cut_short` only that."""
        # No lease is granted below the source of a snapshot. Shared chunks come first: they are few.
        open_to_writers = [(p, c) for p, c in sorted(self.model.items()) if c and not self.is_source(p)]
        chunks = [(path, index) for path, content in open_to_writers for index in range(len(content))]
        shared = [at for at in chunks if self.chunk(*at).references > 1]
        if not chunks:
            return
        path, index = data.draw(st.sampled_from(shared or chunks))
        content = self.model[path]
        assert content is not None
        chunk = self.chunk(path, index)
        if chunk.references > 1:
            inode = stat(self.tables, spelled(path)).inode
            reserved = self.apply(
                op.ReserveChunkCopy(
                    inode=inode, index=ChunkIndex(index), handle=chunk.handle, version=chunk.version
                )
            )
            assert isinstance(reserved, op.ChunkGranted), reserved
            if cut_short:
                self.apply(op.ForgetChunkCopies(copies=(reserved.handle,)))
                return
            self.bytes[reserved.handle] = self.bytes[chunk.handle]
            adopted = self.apply(
                op.AdoptChunkCopy(inode=inode, copy=reserved.handle, replicas=SERVERS[:1], primary=SERVERS[0])
            )
            assert isinstance(adopted, op.ChunkGranted) and adopted.version == chunk.version
            chunk = self.chunk(path, index)
        granted = self.apply(
            op.GrantLease(
                inode=stat(self.tables, spelled(path)).inode,
                index=ChunkIndex(index),
                handle=chunk.handle,
                from_version=chunk.version,
                replicas=chunk.replicas,
                primary=chunk.primary,
            )
        )
        assert isinstance(granted, op.ChunkGranted)
        assert self.chunk(path, index).references == 1
        self.written += 1
        self.bytes[chunk.handle] += b"%d;" % self.written
        content[index] += b"%d;" % self.written

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        source, target = self.some(data), self.new_path(data)
        if source is None or target is None or target[: len(source)] == source:
            return
        operation = op.RenamePath(source=spelled(source), destination=spelled(target), expires_at_ms=5000)
        if self.done(operation, source, target, moves=True):
            moved = {target + path[len(source) :]: content for path, content in self.below(source).items()}
            self.delete_from_model(source)
            self.model |= moved

    @rule(data=st.data(), reclaim=st.booleans(), seldom=st.sampled_from([False, False, True]))
    def delete(self, data: st.DataObject, reclaim: bool, seldom: bool) -> None:
        path = self.some(data)
        if path is None or not seldom:
            return
        if self.done(op.DeletePath(path=spelled(path), recursive=True, expires_at_ms=10), path, moves=True):
            self.delete_from_model(path)
        if reclaim:
            self.apply(op.Reclaim(now_ms=10**12, rows_max=20))

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.begin_one(data)

    def begin_one(self, data: st.DataObject) -> None:
        source, target = self.some(data), self.new_path(data)
        if source is None or target is None or target[: len(source)] == source:
            return
        outcome = self.apply(op.BeginSnapshot(source=spelled(source), target=spelled(target)))
        if isinstance(outcome, op.Refused):
            assert outcome.code == "path_busy"
            assert self.is_held(source, moves=True) or self.is_held(target, moves=True)
            return
        assert isinstance(outcome, op.Done)
        # Nothing below the source changes from here on: the point of the log is this one as well as any.
        copied = {path[len(source) :]: _copied(content) for path, content in self.below(source).items()}
        self.jobs[outcome.inode] = source, target, copied

    @rule(data=st.data(), rows=st.sampled_from([1, 3, 50]))
    def take(self, data: st.DataObject, rows: int) -> None:
        """A snapshot from begin to end, with whatever else is under way."""
        before = set(self.jobs)
        self.begin_one(data)
        for copy in set(self.jobs) - before:
            while copy in self.jobs:
                self.step_one(copy, rows)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), rows=st.sampled_from([1, 1, 2, 5, 50]))
    def step(self, data: st.DataObject, rows: int) -> None:
        self.step_one(data.draw(st.sampled_from(sorted(self.jobs))), rows)

    def step_one(self, copy: InodeId, rows: int) -> None:
        outcome = self.apply(op.CopySnapshot(copy=copy, rows=rows))
        assert isinstance(outcome, op.Done), outcome
        if outcome.inode:
            _, target, copied = self.jobs.pop(copy)
            self.model |= {target + path: content for path, content in copied.items()}

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), seldom=st.sampled_from([False, False, False, True]))
    def abandon(self, data: st.DataObject, seldom: bool) -> None:
        if not seldom:
            return
        copy = data.draw(st.sampled_from(sorted(self.jobs)))
        if isinstance(self.apply(op.AbandonSnapshot(copy=copy)), op.Done):
            del self.jobs[copy]

    @rule()
    def restart(self) -> None:
        self.state = MasterState(self.tables)

    def chunk(self, path: Path, index: int) -> ChunkRecord:
        found = chunk_of(self.tables, stat(self.tables, spelled(path)).inode, index)
        assert found is not None
        return found

    def is_source(self, path: Path) -> bool:
        return any(path[: len(source)] == source for source, _, _ in self.jobs.values())

    def delete_from_model(self, top: Path) -> None:
        for path in self.below(top):
            del self.model[path]

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def every_file_holds_what_the_model_says(self) -> None:
        check_invariants(self.tables)
        assert set(jobs_under_way(self.tables)) == set(self.jobs)
        found = [entry.path for entry in glob_page(self.tables, "/**", limit=4096)[0]]
        assert sorted(found) == sorted(spelled(path) for path in self.model)
        for path, content in self.model.items():
            if content is not None:
                _, chunks = find_chunks(self.tables, spelled(path), 0, 256)
                assert [self.bytes[chunk.handle] for chunk in chunks] == content, path

    def teardown(self) -> None:
        twin = MasterState(MemoryTables())
        for record in self.log:
            twin.apply(record)
        assert twin.digest() == self.state.digest()


def _copied(content: Content) -> Content:
    return None if content is None else list(content)


TestSnapshots = Snapshots.TestCase
TestSnapshots.settings = settings(max_examples=120, stateful_step_count=60, deadline=None, derandomize=True)
