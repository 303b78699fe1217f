"""What the namespace and its chunks must look like, said with plain dicts. The slow twin of MasterState."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gfs.messages import operations as op

Path = tuple[str, ...]


@dataclass
class ModelChunk:
    handle: int
    version: int
    replicas: tuple[str, ...]
    sealed_at: int | None = None
    quiet: bool = False


@dataclass
class ModelFile:
    goal: int
    chunks: list[ModelChunk] = field(default_factory=list)
    length: int = 0
    exact: bool = False
    appended: bool = False


@dataclass
class ModelTrash:
    """`expires_ms` 0: not within these tests. `below` maps paths from its top on to inodes."""

    path: str
    expires_ms: int
    below: dict[Path, int]


class Model:
    """`tree` maps each reachable path to an inode; `files` every file that is there or can be undeleted."""

    def __init__(self) -> None:
        self.tree: dict[Path, int] = {(): 1}
        self.files: dict[int, ModelFile] = {}
        self.directories: set[int] = {1}
        self.trash: dict[int, ModelTrash] = {}
        self.next_inode = 2
        self.next_handle = 1

    def apply(self, operation: op.AnyOperation) -> str | int:
        """The error's code, or the inode (handle, for grants) that the outcome names."""
        match operation:
            case op.MakeDirectory():
                return self._make_directory(_names(operation.path), operation.parents)
            case op.CreateFile():
                return self._create(_names(operation.path), operation)
            case op.DeletePath():
                return self._delete(_names(operation.path), operation)
            case op.RenamePath():
                return self._rename(_names(operation.source), _names(operation.destination), operation)
            case op.Undelete():
                return self._undelete(_names(operation.path), operation.entry)
            case op.PurgeTrash():
                named = [entry.inode for entry in operation.entries if self._in_trash(entry)]
                self.forget(named)
                return 0 if named else "not_found"
            case op.AddChunk():
                return self._add_chunk(operation)
            case op.GrantLease():
                return self._grant(operation)
            case op.ChangeReplicas():
                return self._change_replicas(operation)
            case op.SealChunk():
                return self._seal(operation)
            case op.SetLengthHint():
                return self._length_hint(operation)
        raise AssertionError(operation)

    def _way(self, names: Path) -> str | None:
        """The code of what stands in the way of reaching `names`' directory."""
        for depth in range(len(names)):
            above = names[:depth]
            if above not in self.tree:
                return "not_found"
            if self.tree[above] in self.files:
                return "not_a_directory"
        return None

    def _make_directory(self, names: Path, parents: bool) -> str | int:
        fault = self._way(names)
        if fault == "not_a_directory" or (fault and not parents):
            return fault
        if names in self.tree:
            inode = self.tree[names]
            return inode if parents and inode in self.directories else "already_exists"
        for depth in range(1, len(names) + 1):
            if names[:depth] not in self.tree:
                self.tree[names[:depth]] = self._inode()
                self.directories.add(self.tree[names[:depth]])
        return self.tree[names]

    def _create(self, names: Path, operation: op.CreateFile) -> str | int:
        if not 1 <= operation.replication_goal <= 16:
            return "invalid_argument"
        if fault := self._way(names):
            return fault
        if names in self.tree:
            if self.tree[names] in self.directories:
                return "is_a_directory"
            if not operation.replace:
                return "already_exists"
            self._to_trash(names, operation.expires_at_ms)
        inode = self.tree[names] = self._inode()
        self.files[inode] = ModelFile(operation.replication_goal)
        return inode

    def _delete(self, names: Path, operation: op.DeletePath) -> str | int:
        if not names:
            return "invalid_argument"
        if fault := self._way(names):
            return fault
        if names not in self.tree:
            return "not_found"
        if len(self._below(names)) > 1 and not operation.recursive:
            return "directory_not_empty"
        return self._to_trash(names, operation.expires_at_ms)

    def _undelete(self, names: Path, entry: op.TrashName) -> str | int:
        if not self._in_trash(entry):
            return "not_found"
        if not names:
            return "invalid_argument"
        if self._way(names) == "not_a_directory":
            return "not_a_directory"
        if names in self.tree:
            return "already_exists"
        if len(names) > 1:
            self._make_directory(names[:-1], True)
        for path, inode in self.trash.pop(entry.inode).below.items():
            self.tree[names + path] = inode
        return entry.inode

    def _in_trash(self, entry: op.TrashName) -> bool:
        found = self.trash.get(entry.inode)
        return found is not None and found.expires_ms == entry.expires_at_ms

    def forget(self, tops: Iterable[int]) -> None:
        """These entries of the trash cannot be had back."""
        for top in set(tops):
            for inode in self.trash.pop(top).below.values():
                self.files.pop(inode, None)
                self.directories.discard(inode)

    def _rename(self, source: Path, destination: Path, operation: op.RenamePath) -> str | int:
        if not source or not destination:
            return "invalid_argument"
        if fault := self._way(source):
            return fault
        if source not in self.tree:
            return "not_found"
        inode = self.tree[source]
        if source == destination:
            return inode
        if destination[: len(source)] == source:
            return "not_a_directory" if inode in self.files else "invalid_argument"
        if fault := self._way(destination):
            return fault
        if destination in self.tree:
            if self.tree[destination] in self.directories or not operation.replace:
                return "already_exists"
            if inode in self.directories:
                return "not_a_directory"
            self._to_trash(destination, operation.expires_at_ms)
        moved = {destination + path[len(source) :]: self.tree.pop(path) for path in self._below(source)}
        self.tree.update(moved)
        return inode

    def _add_chunk(self, operation: op.AddChunk) -> str | int:
        if not _sound_set(operation.replicas, operation.primary):
            return "invalid_argument"
        file = self._live(operation.inode)
        if isinstance(file, str):
            return file
        if 0 <= operation.index < len(file.chunks):
            return file.chunks[operation.index].handle
        if operation.index != len(file.chunks):
            return "invalid_argument"
        file.chunks.append(ModelChunk(self.next_handle, 1, operation.replicas))
        file.exact = False
        self.next_handle += 1
        return self.next_handle - 1

    def _grant(self, operation: op.GrantLease) -> str | int:
        if not _sound_set(operation.replicas, operation.primary):
            return "invalid_argument"
        file = self._live(operation.inode)
        if isinstance(file, str):
            return file
        chunk = file.chunks[operation.index] if 0 <= operation.index < len(file.chunks) else None
        if chunk is None or chunk.handle != operation.handle:
            return "not_found"
        if chunk.sealed_at is not None:
            return "chunk_sealed"
        if chunk.version != operation.from_version:
            return "stale_version"
        if not operation.fresh and not set(operation.replicas) <= set(chunk.replicas):
            return "invalid_argument"
        chunk.version += 1
        chunk.replicas = operation.replicas
        chunk.quiet = False
        file.exact = False
        return chunk.handle

    def _change_replicas(self, operation: op.ChangeReplicas) -> str | int:
        if not _sound_set(operation.replicas, operation.primary):
            return "invalid_argument"
        every = [chunk for file in self.files.values() for chunk in file.chunks]
        chunk = next((chunk for chunk in every if chunk.handle == operation.handle), None)
        if chunk is None:
            return "not_found"
        if chunk.version != operation.from_version:
            return "stale_version"
        stayed = [server for server in operation.replicas if server in chunk.replicas]
        came = [server for server in operation.replicas if server not in chunk.replicas]
        if not stayed or sorted(came) != sorted(operation.joined):
            return "invalid_argument"
        if came and not (chunk.quiet and operation.held_version == chunk.version):
            return "invalid_argument"
        chunk.version += 1
        chunk.replicas = operation.replicas
        chunk.quiet = True
        return chunk.handle

    def _seal(self, operation: op.SealChunk) -> str | int:
        if not 0 <= operation.length_bytes <= 64 * 2**20:
            return "invalid_argument"
        every = [chunk for file in self.files.values() for chunk in file.chunks]
        chunk = next((chunk for chunk in every if chunk.handle == operation.handle), None)
        if chunk is None:
            return "not_found"
        if chunk.sealed_at is not None:
            return 0 if chunk.sealed_at == operation.length_bytes else "chunk_sealed"
        if chunk.version != operation.version:
            return "stale_version"
        chunk.sealed_at = operation.length_bytes
        return 0

    def _length_hint(self, operation: op.SetLengthHint) -> str | int:
        file = self._live(operation.inode)
        if isinstance(file, str):
            return file
        if not 0 <= operation.length_bytes <= len(file.chunks) * 64 * 2**20:
            return "invalid_argument"
        file.appended = file.appended or operation.appending
        exact = operation.closed or (file.exact and operation.length_bytes <= file.length)
        file.exact = exact and not file.appended
        file.length = max(file.length, operation.length_bytes)
        return operation.inode

    def _live(self, inode: int) -> ModelFile | str:
        if inode in self.directories:
            return "is_a_directory"
        return self.files[inode] if inode in self.tree.values() else "not_found"

    def _to_trash(self, names: Path, expires_ms: int) -> int:
        inode = self.tree[names]
        below = {path[len(names) :]: self.tree.pop(path) for path in self._below(names)}
        self.trash[inode] = ModelTrash("/" + "/".join(names), expires_ms, below)
        return inode

    def _below(self, names: Path) -> list[Path]:
        return [path for path in self.tree if path[: len(names)] == names]

    def _inode(self) -> int:
        self.next_inode += 1
        return self.next_inode - 1


def _names(path: str) -> Path:
    return tuple(name for name in path.split("/") if name)


def _sound_set(replicas: tuple[str, ...], primary: str) -> bool:
    return 0 < len(set(replicas)) == len(replicas) and primary in replicas
