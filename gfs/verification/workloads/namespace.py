"""Namespace: names are made, moved, deleted and had back by several clients at once, in small partitions.

Writes down operations, each with its partition, a folder that nothing is ever moved into or out of:
  `create` {path}, `mkdir` {path}, `stat` {path} → {kind, inode}, `list` {path} → [[name, kind, inode], …],
  `rename` {source, destination, replace}, `delete` {path, recursive}, `undelete` {path} → {path}.
The first operation of a partition is the acknowledged `mkdir` of it, before which nothing is there. What is
deleted goes to the trash; `undelete` has back what was deleted last from a path, for the retention is long.
Afterwards, audit `tree` {partition, entries}: [[path, kind, inode], …] of all at and below it.

A partition has few names, so that clients meet; at most ACTIVE_MAX clients at a time, and a new one takes its
place after OPERATIONS_MAX operations or LOST_MAX unknown outcomes: the search for an order stays small.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from gfs.client.client import AsyncClient
from gfs.errors import NotFound
from gfs.messages.namespace import Entry
from gfs.verification.history import Json
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.traffic import Actor, Attempt, Traffic
from gfs.vocabulary import split_path

PARTITIONS_OPEN = 2
OPERATIONS_MAX = 80
LOST_MAX = 4
ACTIVE_MAX = 3

FILES = ("a", "b", "c")
FOLDERS = ("t", "u")
PATHS = (*FILES, *FOLDERS, *(f"{folder}/{name}" for folder in FOLDERS for name in ("a", "b")))
WEIGHTS = {"create": 30, "mkdir": 15, "stat": 16, "list": 10, "rename": 15, "delete": 9, "undelete": 5}


@dataclass(slots=True)
class Partition:
    path: str
    operations: int = 0
    lost: int = 0
    active: int = 0

    @property
    def is_over(self) -> bool:
        return self.operations >= OPERATIONS_MAX or self.lost >= LOST_MAX


class NamespaceWorkload(Traffic):
    name = "namespace"
    checkers: tuple[str, ...] = ("linearizability", "durability", "replay", "fsck")
    floor_per_second = 3.0
    clients = 5

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self._open: list[Partition] = []
        self._all: list[Partition] = []
        self._made = 0

    async def step(self, actor: Actor) -> bool:
        self._open = [partition for partition in self._open if not partition.is_over]
        free = [partition for partition in self._open if partition.active < ACTIVE_MAX]
        if len(self._open) < PARTITIONS_OPEN or not free:
            return await self._begin_partition(actor)
        partition = actor.chance.choice(free)
        partition.operations += 1
        partition.active += 1
        try:
            attempt = await self._operate(actor, partition.path)
        finally:
            partition.active -= 1
        partition.lost += attempt.lost
        return attempt.ok or attempt.error in SAYS_SOMETHING

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        for partition in self._all:
            entries = [[e.path, e.kind, e.inode] for e in await entries_at(client, partition.path)]
            recorder.audit(self.name, "tree", partition=partition.path, entries=entries)

    async def _begin_partition(self, actor: Actor) -> bool:
        self._made += 1
        partition = Partition(f"{self.directory}/p{self._made}")
        made = await actor.attempt(
            "mkdir", {"path": partition.path}, actor.client.mkdir(partition.path), partition=partition.path
        )
        if made.ok:
            self._open.append(partition)
            self._all.append(partition)
        return made.ok

    async def _operate(self, actor: Actor, partition: str) -> Attempt[None] | Attempt[Entry] | Attempt[str]:
        client, chance = actor.client, actor.chance
        (kind,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        path = f"{partition}/{chance.choice(FILES + FOLDERS if kind == 'list' else PATHS)}"
        arguments: dict[str, Json] = {"path": path}
        match kind:
            case "create":
                path = f"{partition}/{chance.choice([p for p in PATHS if p not in FOLDERS])}"
                return await actor.attempt("create", {"path": path}, client.create(path), partition=partition)
            case "mkdir":
                path = f"{partition}/{chance.choice(FOLDERS)}"
                return await actor.attempt("mkdir", {"path": path}, client.mkdir(path), partition=partition)
            case "stat":
                return await actor.attempt(
                    "stat",
                    arguments,
                    client.stat(path),
                    partition=partition,
                    result=lambda entry: {"kind": entry.kind, "inode": entry.inode},
                )
            case "list":
                path = chance.choice((partition, f"{partition}/{chance.choice(FOLDERS)}"))
                listed = await actor.attempt(
                    "list", {"path": path}, _listed(client, path), partition=partition, result=list
                )
                return Attempt(ok=listed.ok, lost=listed.lost, error=listed.error)
            case "rename":
                source, destination = _two_paths(chance, partition)
                replace = chance.random() < 0.3
                return await actor.attempt(
                    "rename",
                    {"source": source, "destination": destination, "replace": replace},
                    client.rename(source, destination, replace=replace),
                    partition=partition,
                )
            case "delete":
                recursive = chance.random() < 0.5
                return await actor.attempt(
                    "delete",
                    {"path": path, "recursive": recursive},
                    client.delete(path, recursive=recursive),
                    partition=partition,
                )
        return await actor.attempt(
            "undelete",
            arguments,
            client.undelete(path),
            partition=partition,
            result=lambda where: {"path": where},
        )


async def _listed(client: AsyncClient, path: str) -> list[Json]:
    return [[split_path(e.path)[-1], e.kind, e.inode] async for e in client.list(path)]


# Refusals that are as good an observation as an acknowledgement: there is no need to wait after them.
SAYS_SOMETHING = frozenset(
    ("not_found", "already_exists", "is_a_directory", "not_a_directory", "directory_not_empty")
)


def _two_paths(chance: random.Random, partition: str) -> tuple[str, str]:
    """Neither of them, nor what is below it, the other."""
    while True:
        source, destination = chance.choice(PATHS), chance.choice(PATHS)
        if source != destination and not destination.startswith(source + "/"):
            return f"{partition}/{source}", f"{partition}/{destination}"


async def entries_at(client: AsyncClient, path: str) -> list[Entry]:
    """That at `path` and all below it, the upper ones first; none when it is not there. Raises: GfsError."""
    try:
        found = [await client.stat(path)]
    except NotFound:
        return []
    pending = [path]
    while pending:
        entries = [entry async for entry in client.list(pending.pop(0))]
        found += entries
        pending += [entry.path for entry in entries if entry.kind == "directory"]
    return found
