"""Trash: files are deleted, had back, purged, or left until they expire, with a short retention (GFS §4.4).

Writes down, without a partition (time decides, too): each file has a path of its own, and one client, which
does one thing after the other to it:
  `publish` {path, length, crc}; `read_file` {path} → {length, crc};
  `delete` {path, recursive, retention_seconds}; `undelete` {path} → {path}; `purge` {path} → {entries};
  `list_trash` {under} → {entries}: [[path, inode, deleted_ms, expires_ms], …], clocks of the masters.
Afterwards
  audit `file` of each path that must be there by all that was acknowledged; see the checker `durability`;
  audit `presence` {path, expected, exists}: of each path; `expected`: "there", "gone", or "unknown" after an
    outcome that nobody knows;
  audit `trash` {under, retention_seconds, entries}: what the trash still has, looked at EXPIRED_SECONDS after
    the retention of the last delete has ended.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from gfs.checksums import crc32c
from gfs.client.client import AsyncClient
from gfs.errors import NotFound
from gfs.messages.policies import PolicyFields
from gfs.verification.history import Json
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.replicas import audit_file
from gfs.verification.workloads.stream import publish
from gfs.verification.workloads.traffic import Actor, Traffic

RETENTION_SECONDS = 4.0
EXPIRED_SECONDS = 2.0
FILE_BYTES_MAX = 20_000
LIST_SHARE = 0.1
# What becomes of a file: left alone, had back soon, purged, asked for when it must have expired.
FATES = {"kept": 3, "had back": 5, "purged": 2, "expired": 2}


@dataclass(slots=True)
class _File:
    path: str
    fate: str
    due_ns: int = 0  # when it is to be asked for again
    expected: str = "unknown"


class TrashWorkload(Traffic):
    name = "trash"
    checkers: tuple[str, ...] = ("garbage", "durability", "fsck", "replay")
    floor_per_second = 2.0
    clients = 3

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self._files: list[_File] = []
        self._waiting: dict[int, list[_File]] = {}
        self._last_delete_ns = 0

    async def prepare(self, client: AsyncClient) -> None:
        await client.set_policy(self.directory, PolicyFields(trash_ms=int(RETENTION_SECONDS * 1000)))

    async def step(self, actor: Actor) -> bool:
        waiting = self._waiting.setdefault(actor.number, [])
        due = next((file for file in waiting if file.due_ns <= actor.subject.now_ns()), None)
        if due is not None:
            waiting.remove(due)
            return await self._have_back(actor, due)
        if actor.chance.random() < LIST_SHARE:
            return await self._list_trash(actor)
        return await self._live_through(actor)

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        left_ns = self._last_delete_ns + int((RETENTION_SECONDS + EXPIRED_SECONDS) * 1e9) - subject.now_ns()
        if left_ns > 0:
            await subject.sleep(left_ns / 1e9)
        for file in self._files:
            if file.expected == "there":
                await audit_file(client, recorder, self.name, file.path)
            exists = await client.exists(file.path)
            recorder.audit(self.name, "presence", path=file.path, expected=file.expected, exists=exists)
        recorder.audit(
            self.name,
            "trash",
            under=self.directory,
            retention_seconds=RETENTION_SECONDS,
            entries=await _trash_below(client, self.directory),
        )

    async def _live_through(self, actor: Actor) -> bool:
        """A new file's life until it is deleted."""
        chance = actor.chance
        (fate,) = chance.choices(list(FATES), list(FATES.values()))
        file = _File(f"{self.directory}/file-{len(self._files)}", fate)
        self._files.append(file)
        if not await publish(actor, file.path, [chance.randbytes(chance.randint(1, FILE_BYTES_MAX))]):
            return False
        file.expected = "there"
        if fate == "kept":
            return True
        file.expected = "unknown"
        deleted = await actor.attempt(
            "delete",
            {"path": file.path, "recursive": False, "retention_seconds": RETENTION_SECONDS},
            actor.client.delete(file.path),
        )
        self._last_delete_ns = actor.subject.now_ns()
        if not deleted.ok:
            file.expected = "unknown" if deleted.lost else "there"
            return False
        file.expected = "gone"
        if fate == "purged":
            purged = await actor.attempt(
                "purge",
                {"path": file.path},
                actor.client.purge(file.path),
                result=lambda entries: {"entries": entries},
            )
            return purged.ok
        seconds = chance.uniform(0.0, 0.5) if fate == "had back" else RETENTION_SECONDS + EXPIRED_SECONDS
        file.due_ns = actor.subject.now_ns() + int(seconds * 1e9)
        self._waiting[actor.number].append(file)
        return True

    async def _have_back(self, actor: Actor, file: _File) -> bool:
        path = file.path
        back = await actor.attempt(
            "undelete", {"path": path}, actor.client.undelete(path), result=lambda where: {"path": where}
        )
        if back.lost:
            file.expected = "unknown"
        if not back.ok:
            return back.error == NotFound.code
        file.expected = "there"
        fetched = await actor.attempt(
            "read_file",
            {"path": path},
            actor.client.read_bytes(path),
            result=lambda data: {"length": len(data), "crc": crc32c(data)},
        )
        return fetched.ok

    async def _list_trash(self, actor: Actor) -> bool:
        listed = await actor.attempt(
            "list_trash",
            {"under": self.directory},
            _trash_below(actor.client, self.directory),
            result=lambda entries: {"entries": entries},
        )
        return listed.ok


async def _trash_below(client: AsyncClient, path: str) -> list[Json]:
    return [[e.path, e.entry.inode, e.deleted_ms, e.expires_ms] async for e in client.trash(path)]
