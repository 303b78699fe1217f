"""Histories of clients at one correct namespace, the product's own core: overlapping calls, unknown outcomes.

`corrupt` spoils one answer so that no correct namespace could have given it, or says that nothing fitted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgspec

from gfs.errors import GfsError
from gfs.master.core.lookup import list_page, stat
from gfs.master.core.records import read_trash_key, read_trash_value
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from gfs.verification.history import History, Json, Operation
from tests.core.master_records import NOW_MS, create, mkdir, record

KEPT_MS = 3 * 86400 * 1000
NAMES = ("a", "b", "c")
MS = 1_000_000


@dataclass(slots=True)
class Drawn:
    operation: Operation
    effect_ns: int  # when it takes effect; -1: never


class Namespace:
    """The core, asked as the services ask it."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self._state = MasterState(self.tables)

    def do(self, operation: op.AnyOperation, at_ns: int) -> op.Done:
        outcome = self._state.apply(record(operation, at_ms=NOW_MS + at_ns // MS))
        self._state.save()
        if isinstance(outcome, op.Refused):
            raise Refusal(outcome.code)
        assert isinstance(outcome, op.Done)
        return outcome

    def call(self, function: str, a: dict[str, Json], at_ns: int) -> Json:
        """Raises: Refusal."""
        until = NOW_MS + at_ns // MS + KEPT_MS
        match function:
            case "create":
                self.do(create(a["path"], replace=a.get("replace", False)), at_ns)
            case "mkdir":
                self.do(mkdir(a["path"], parents=a.get("parents", False)), at_ns)
            case "delete":
                self.do(
                    op.DeletePath(path=a["path"], recursive=a.get("recursive", False), expires_at_ms=until),
                    at_ns,
                )
            case "rename":
                self.do(
                    op.RenamePath(
                        source=a["source"],
                        destination=a["destination"],
                        replace=a["replace"],
                        expires_at_ms=until,
                    ),
                    at_ns,
                )
            case "snapshot":
                begun = self.do(op.BeginSnapshot(source=a["source"], target=a["target"]), at_ns)
                while not self.do(op.CopySnapshot(copy=begun.inode, rows=100), at_ns).inode:
                    pass
            case "undelete":
                self.do(op.Undelete(entry=self._newest(a["path"]), path=a["path"]), at_ns)
            case _:
                return self._look(function, a["path"])
        return None

    def _newest(self, path: str) -> op.TrashName:
        there = []
        for key, value in self.tables.scan(Table.TRASH):
            was, deleted_ms = read_trash_value(value)
            if was.decode() == path:
                expires_ms, inode = read_trash_key(key)
                there.append((deleted_ms, inode, expires_ms))
        if not there:
            raise Refusal("not_found")
        _, inode, expires_ms = max(there)
        return op.TrashName(expires_ms, inode)

    def _look(self, function: str, path: str) -> Json:
        try:
            if function == "list":
                entries, _ = list_page(self.tables, path)
                return [[e.path.rsplit("/", 1)[1], e.kind, e.inode] for e in entries]
            entry = stat(self.tables, path)
        except GfsError as error:
            if function == "exists" and error.code in ("not_found", "not_a_directory"):
                return False
            raise Refusal(error.code) from error
        return True if function == "exists" else {"kind": entry.kind, "inode": entry.inode}


class Refusal(Exception):
    def __init__(self, code: str) -> None:
        self.code = code


def draw(
    seed: int, operations: int, *, partitions: int = 1, clients: int = 4, unknown: float = 0.03
) -> History:
    """A history of a correct cluster."""
    chance = random.Random(seed)
    namespace = Namespace()
    namespace.do(mkdir("/top"), 0)
    drawn: list[Drawn] = []
    per_partition = operations // partitions
    for partition in range(partitions):
        path = f"/top/p{partition}"
        first = Operation(0, 1, "namespace", "mkdir", 0, MS, "ok", path, {"path": path})
        drawn.append(Drawn(first, MS // 2))
        _draw_partition(chance, path, per_partition, clients, unknown, drawn)
    history = History()
    for one in sorted(drawn, key=lambda d: d.effect_ns):
        _settle(chance, namespace, one)
    for number, one in enumerate(sorted(drawn, key=lambda d: d.operation.returned_ns), 1):
        history.add(msgspec.structs.replace(one.operation, number=number))
    return history


def _draw_partition(
    chance: random.Random, path: str, count: int, clients: int, unknown: float, drawn: list[Drawn]
) -> None:
    process = clients
    doing = {client: [client, 2 * MS + chance.randrange(5 * MS)] for client in range(clients)}
    for _ in range(count - 1):
        state = doing[chance.randrange(clients)]
        called = state[1]
        returned = called + chance.randrange(1 * MS, 20 * MS)
        function, arguments = _draw_call(chance, path)
        operation = Operation(0, state[0], "namespace", function, called, returned, "ok", path, arguments)
        effect = chance.randrange(called, returned)
        if chance.random() < unknown:
            operation.outcome, operation.error = "info", "deadline_exceeded"
            process += 1
            state[0] = process
            effect = chance.choice((-1, effect, chance.randrange(called, called + 200 * MS)))
        drawn.append(Drawn(operation, effect))
        state[1] = returned + chance.randrange(1, 3 * MS)


def _draw_call(chance: random.Random, top: str) -> tuple[str, dict[str, Json]]:
    def any_path() -> str:
        return top + chance.choice(("/", "/d/", "/e/", "/d/e/")) + chance.choice(NAMES)

    folder = top + chance.choice(("", "/d", "/e", "/d/e"))
    below = top + chance.choice(("/d", "/e", "/d/e"))
    match chance.randrange(20):
        case 0 | 1 | 2 | 3:
            return "create", {"path": any_path(), "replace": chance.random() < 0.2}
        case 4 | 5:
            return "mkdir", {"path": chance.choice((below, any_path())), "parents": chance.random() < 0.2}
        case 6 | 7:
            return "delete", {"path": any_path(), "recursive": False}
        case 8:
            return "delete", {"path": below, "recursive": chance.random() < 0.5}
        case 9 | 10:
            arguments = {"source": any_path(), "destination": any_path(), "replace": chance.random() < 0.5}
            return "rename", arguments
        case 11:
            return "rename", {
                "source": below,
                "destination": chance.choice((below, any_path())),
                "replace": False,
            }
        case 12:
            return "snapshot", {"source": chance.choice((below, any_path())), "target": any_path()}
        case 13:
            return "undelete", {"path": chance.choice((below, any_path()))}
        case 14 | 15:
            return "list", {"path": folder}
        case 16:
            return "exists", {"path": any_path()}
    return "stat", {"path": chance.choice((below, any_path()))}


def _settle(chance: random.Random, namespace: Namespace, one: Drawn) -> None:
    operation = one.operation
    if one.effect_ns < 0:
        return
    if operation.outcome == "ok" and chance.random() < 0.02:
        operation.outcome, operation.error = "fail", "no_quorum"  # nothing was done, and nothing is told
        return
    try:
        result = namespace.call(operation.function, operation.arguments, one.effect_ns)
    except Refusal as refusal:
        if operation.outcome == "ok":
            operation.outcome, operation.error = "fail", refusal.code
    else:
        if operation.outcome == "ok":
            operation.result = result


CORRUPTIONS = (
    "stale_list",
    "lost_create",
    "lost_delete",
    "refused_took_effect",
    "other_inode",
    "wrong_refusal",
    "ok_for_refused",
    "vanished_stat",
    "exists_turned",
)


def corrupt(history: History, kind: str, chance: random.Random) -> History | None:
    """The history with one answer spoilt. None when it has no place for that."""
    operations = [msgspec.structs.replace(o) for o in history.operations]
    spoilt = _SPOIL[kind](operations, chance)
    return History(operations) if spoilt else None


def _pick(chance: random.Random, candidates: list[Operation]) -> Operation | None:
    return chance.choice(candidates) if candidates else None


def _stale_list(operations: list[Operation], chance: random.Random) -> bool:
    """One entry is not listed."""
    one = _pick(chance, [o for o in operations if o.function == "list" and o.outcome == "ok" and o.result])
    if one is not None:
        left_out = chance.randrange(len(one.result))
        one.result = [entry for i, entry in enumerate(one.result) if i != left_out]
    return one is not None


def _lost(function: str, operations: list[Operation], chance: random.Random) -> bool:
    """An acknowledged change did nothing: all other answers are of a cluster in which it had been refused."""
    one = _pick(chance, [o for o in operations if o.function == function and o.outcome == "ok"])
    if one is not None:
        operations.remove(one)
    return one is not None


def _refused_took_effect(operations: list[Operation], chance: random.Random) -> bool:
    changes = [o for o in operations if o.function in ("create", "delete", "rename") and o.outcome == "ok"]
    one = _pick(chance, changes)
    if one is not None:
        one.outcome, one.error = "fail", "no_quorum"
    return one is not None


def _other_inode(operations: list[Operation], chance: random.Random) -> bool:
    looks = [o for o in operations if o.function == "stat" and o.outcome == "ok"]
    inodes = sorted({o.result["inode"] for o in looks})
    one = _pick(chance, looks)
    if one is None or len(inodes) < 2:
        return False
    other = chance.choice([inode for inode in inodes if inode != one.result["inode"]])
    one.result = {**one.result, "inode": other}
    return True


def _wrong_refusal(operations: list[Operation], chance: random.Random) -> bool:
    one = _pick(chance, [o for o in operations if o.outcome == "fail" and o.error == "not_found"])
    if one is not None:
        one.error = "directory_not_empty"
    return one is not None


def _ok_for_refused(operations: list[Operation], chance: random.Random) -> bool:
    one = _pick(chance, [o for o in operations if o.outcome == "fail" and o.error == "already_exists"])
    if one is not None:
        one.outcome, one.error = "ok", ""
    return one is not None


def _vanished_stat(operations: list[Operation], chance: random.Random) -> bool:
    one = _pick(chance, [o for o in operations if o.function == "stat" and o.outcome == "ok"])
    if one is not None:
        one.outcome, one.error, one.result = "fail", "not_found", None
    return one is not None


def _exists_turned(operations: list[Operation], chance: random.Random) -> bool:
    one = _pick(chance, [o for o in operations if o.function == "exists" and o.outcome == "ok"])
    if one is not None:
        one.result = not one.result
    return one is not None


_SPOIL = {
    "stale_list": _stale_list,
    "lost_create": lambda operations, chance: _lost("create", operations, chance),
    "lost_delete": lambda operations, chance: _lost("delete", operations, chance),
    "refused_took_effect": _refused_took_effect,
    "other_inode": _other_inode,
    "wrong_refusal": _wrong_refusal,
    "ok_for_refused": _ok_for_refused,
    "vanished_stat": _vanished_stat,
    "exists_turned": _exists_turned,
}
