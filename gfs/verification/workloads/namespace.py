"""Workload: names come, go and move within small folders, each a partition of its own.

Operations and audits are those that `checkers/linearizability` and `checkers/durability` document. Few
clients share a folder, and a folder is left for a new one when it has seen enough or holds too many unknown
outcomes: what nobody can say of is what makes a history expensive to judge.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gfs.client.client import AsyncClient
from gfs.errors import GfsError, NotFound
from gfs.messages.namespace import Entry
from gfs.verification.history import Json
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.crowd import PAUSE_SECONDS, Worker, close, work, workers

CLIENTS, CLIENTS_PER_FOLDER = 4, 2
NAMES = ("a", "b", "c", "d")
FOLDERS = ("", "x/", "y/")  # below a partition
OPERATIONS_MAX = 200  # in one partition
UNKNOWN_MAX = 4  # in one partition


class _Partition:
    def __init__(self, path: str) -> None:
        self.path, self.operations, self.unknown = path, 0, 0
        self.is_made = False

    @property
    def is_worn(self) -> bool:
        return self.operations >= OPERATIONS_MAX or self.unknown >= UNKNOWN_MAX


class NamespaceWorkload:
    """Creates, directories, lists, renames of files and trees, deletes and undeletes in small folders."""

    name = "namespace"
    checkers: tuple[str, ...] = ("linearizability", "durability")
    floor_per_second = 5.0
    pause_seconds = PAUSE_SECONDS

    def __init__(self, directory: str, chance: random.Random) -> None:
        self._directory, self._chance = directory, chance
        self._crowd: list[Worker] = []
        self._partitions: list[_Partition] = []
        self._current: dict[int, _Partition] = {}

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        self._crowd = await workers(subject, recorder, self.name, CLIENTS, self._chance)
        await self._crowd[0].client.mkdir(self._directory)

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        await work(subject, self._crowd, self._one, ended, pause_seconds=self.pause_seconds)
        await close(self._crowd)

    # --- operations ------------------------------------------------------------------------------

    async def _one(self, worker: Worker) -> None:
        partition = self._partition_of(worker)
        partition.operations += 1
        try:
            if not partition.is_made:
                await self._call(worker, partition, "mkdir", path=partition.path)
                partition.is_made = True
                return
            await self._draw(worker, partition)
        except GfsError as error:
            partition.unknown += not error.definite
            if error.code == "already_exists" and not partition.is_made:
                partition.is_made = True  # the other one was first
            raise

    def _partition_of(self, worker: Worker) -> _Partition:
        group = worker.number // CLIENTS_PER_FOLDER
        current = self._current.get(group)
        if current is None or current.is_worn:
            current = _Partition(f"{self._directory}/p{len(self._partitions)}")
            self._partitions.append(current)
            self._current[group] = current
        return current

    async def _draw(self, worker: Worker, partition: _Partition) -> None:
        chance = worker.chance
        path, other = self._path(partition, chance), self._path(partition, chance)
        folder = f"{partition.path}/{chance.choice('xy')}"
        match chance.choices(
            ("create", "stat", "list", "rename", "delete", "undelete", "mkdir", "move", "clear"),
            (22, 22, 12, 16, 12, 4, 6, 4, 2),
        )[0]:
            case "create":
                await self._call(worker, partition, "create", path=path)
            case "stat":
                await self._call(worker, partition, "stat", path=path)
            case "list":
                where = chance.choice((partition.path, folder))
                await self._call(worker, partition, "list", path=where)
            case "rename":
                replace = chance.random() < 0.4
                await self._call(worker, partition, "rename", source=path, destination=other, replace=replace)
            case "delete":
                await self._call(worker, partition, "delete", path=path, recursive=False)
            case "undelete":
                await self._call(worker, partition, "undelete", path=path)
            case "mkdir":
                await self._call(worker, partition, "mkdir", path=folder)
            case "move":
                to = f"{partition.path}/{chance.choice('xy')}"
                await self._call(worker, partition, "rename", source=folder, destination=to, replace=False)
            case "clear":
                await self._call(worker, partition, "delete", path=folder, recursive=True)

    def _path(self, partition: _Partition, chance: random.Random) -> str:
        return f"{partition.path}/{chance.choices(FOLDERS, (4, 2, 2))[0]}{chance.choice(NAMES)}"

    async def _call(self, worker: Worker, partition: _Partition, function: str, **arguments: Json) -> None:
        await worker.process.run(
            function,
            arguments,
            _verb(worker.client, function, arguments),
            partition=partition.path,
            result=lambda answer: answer,
        )

    # --- audit -----------------------------------------------------------------------------------

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        client = await subject.client(f"{self.name}-audit")
        try:
            for partition in self._partitions:
                entries = await _tree(client, partition.path)
                recorder.audit(
                    self.name,
                    "tree",
                    partition=partition.path,
                    entries=[[entry.path, entry.kind, entry.inode] for entry in entries],
                )
        finally:
            await client.close()


async def _verb(client: AsyncClient, function: str, arguments: dict[str, Json]) -> Json:
    match function:
        case "create":
            return await client.create(arguments["path"])
        case "mkdir":
            return await client.mkdir(arguments["path"])
        case "stat":
            entry = await client.stat(arguments["path"])
            return {"kind": entry.kind, "inode": entry.inode}
        case "list":
            return [[e.path.rsplit("/", 1)[1], e.kind, e.inode] async for e in client.list(arguments["path"])]
        case "rename":
            return await client.rename(
                arguments["source"], arguments["destination"], replace=arguments["replace"]
            )
        case "delete":
            return await client.delete(arguments["path"], recursive=arguments["recursive"])
        case "undelete":
            return {"path": await client.undelete(arguments["path"])}
    raise AssertionError(function)


async def _tree(client: AsyncClient, path: str) -> list[Entry]:
    """All entries at and below `path`; none where there is nothing."""
    try:
        entries = [await client.stat(path)]
    except NotFound:
        return []
    waiting = [path]
    while waiting:
        async for entry in client.list(waiting.pop()):
            entries.append(entry)
            if entry.kind == "directory":
                waiting.append(entry.path)
    return entries
