"""Checker of the namespace: all answers are those of some order in which calls took effect one by one.

Reads operations that name a `partition`: a folder out of and into which nothing of these ever moves. Paths in
their arguments are whole, below that folder or the folder itself.
  changes: `create` {path, replace}, `mkdir` {path, parents}, `delete` {path, recursive}, `rename` {source,
    destination, replace}, `snapshot` {source, target}, `undelete` {path, destination}, `purge` {path}; flags
    and destination may be left out. Their results are not looked at.
  looks: `stat` {path}, result {kind, inode} (kind "file" or "directory"; the inode may be left out); `exists`
    {path}, result true or false; `list` {path}, result [[name, kind, inode], …] in order, one page.
  Outcome `fail` with a code that tells of the tree (not_found, already_exists, is_a_directory,
  not_a_directory, directory_not_empty, invalid_argument) is an observation like any other; with another code
  (no_quorum, path_busy …) it says that nothing was done, and is left out; so are looks without an answer.
  A change with outcome `info` takes effect at any time after its call, or never.
  Audit `tree` (see `durability`): a look at everything, after all.
  What is deleted must not expire within the run. A partition whose own folder no operation makes was there,
  empty.

Holds when for each partition there is an order, true to time, in which one tree gives just these answers. An
inode that was seen stays that entry's, wherever it is moved. Undecided when the search was given up: after
STEPS_MAX steps in one partition.
"""

from __future__ import annotations

from collections import defaultdict

from gfs.verification.checkers.findings import Findings
from gfs.verification.checkers.interface import Verdict
from gfs.verification.checkers.search import Explanation, Interval, search
from gfs.verification.checkers.tree_model import OK, Call, Names, Tree, TreeModel
from gfs.verification.history import Audit, History, Operation
from gfs.vocabulary import split_path

STEPS_MAX = 400_000  # some seconds
LOOKS = frozenset({"stat", "exists", "list"})
CHANGES = frozenset({"create", "mkdir", "delete", "rename", "snapshot", "undelete", "purge"})
TELLING = frozenset(
    {
        "not_found",
        "already_exists",
        "is_a_directory",
        "not_a_directory",
        "directory_not_empty",
        "invalid_argument",
    }
)


class LinearizabilityChecker:
    name = "linearizability"
    promises = "Namespace operations take effect one by one, each between its call and its answer."

    def check(self, history: History) -> Verdict:
        findings = Findings(self.name)
        partitions: dict[str, list[Operation]] = defaultdict(list)
        for operation in history.operations:
            if operation.partition and operation.function in LOOKS | CHANGES:
                partitions[operation.partition].append(operation)
        trees = {a.values["partition"]: a for a in history.audits if a.what == "tree"}
        for partition, operations in partitions.items():
            calls = calls_of(partition, operations, trees.get(partition))
            findings.judged += len(calls)
            found = explain(partition, calls, was_there=not is_made(partition, operations))
            if found.legal is None:
                findings.undecided = f"{partition}: the search was given up after {found.steps} steps"
            elif not found.legal:
                stuck = calls[found.stuck]
                findings.violation(
                    f"{partition}: no order of the calls explains all answers; none goes past {_told(stuck)}",
                    at_ns=stuck.returned_ns or 0,
                    operations=(stuck.number,),
                )
        return findings.verdict(idle="no operation named a partition")


def explain(partition: str, calls: list[Call], *, was_there: bool, steps_max: int = STEPS_MAX) -> Explanation:
    """Judge one partition. `was_there`: its folder, empty, before the first call."""
    model = TreeModel(calls)
    own: Names = split_path(partition)[-1:]
    root = model.node(0, {own[0]: model.node(0, {})} if was_there else {})
    return search(
        [Interval(call.called_ns, call.returned_ns) for call in calls],
        Tree(root, ()),
        lambda index, state: model.step(calls[index], state),
        steps_max=steps_max,
    )


def is_made(partition: str, operations: list[Operation]) -> bool:
    """Some operation would make the folder itself, whatever became of it."""
    return any(o.function in ("create", "mkdir") and o.arguments["path"] == partition for o in operations)


def calls_of(partition: str, operations: list[Operation], tree: Audit | None = None) -> list[Call]:
    """What tells something, ready for the model, by time of call. Raises: ValueError for a path outside."""
    depth = len(split_path(partition)) - 1
    calls = []
    for operation in sorted(operations, key=lambda o: (o.called_ns, o.number)):
        answer = _answer(operation)
        if answer is None:
            continue
        arguments = operation.arguments
        names, to = (
            _below(partition, depth, arguments.get(keys[0]) or arguments.get(keys[1]))
            for keys in (("path", "source"), ("destination", "target"))
        )
        calls.append(
            Call(
                number=operation.number,
                function=operation.function,
                names=names,
                to=to,
                replace=arguments.get("replace", False),
                parents=arguments.get("parents", False),
                recursive=arguments.get("recursive", False),
                answer=answer,
                result=operation.result,
                called_ns=operation.called_ns,
                returned_ns=operation.returned_ns if answer else None,
            )
        )
    if tree is not None:
        calls += _looks_at(partition, depth, tree)
    return calls


def _answer(operation: Operation) -> str | None:
    """As a Call has it; None: the operation says nothing."""
    if operation.outcome == "ok":
        return OK
    if operation.outcome == "fail":
        return operation.error if operation.error in TELLING else None
    return None if operation.function in LOOKS else ""


def _below(partition: str, depth: int, path: str | None) -> Names:
    if not path:
        return ()
    if path != partition and not path.startswith(partition + "/"):
        raise ValueError(f"{path} is not in the partition {partition}")
    return split_path(path)[depth:]


def _looks_at(partition: str, depth: int, tree: Audit) -> list[Call]:
    """The tree at the end, as one look at each directory."""
    own = split_path(partition)[depth:]
    listed: dict[Names, list[list[object]]] = {}
    entries = sorted(
        (_below(partition, depth, path), kind, inode) for path, kind, inode in tree.values["entries"]
    )
    for names, kind, inode in entries:
        if kind == "directory":
            listed.setdefault(names, [])
        if names != own:
            listed.setdefault(names[:-1], []).append([names[-1], kind, inode])
    at = tree.at_ns
    if not entries:
        return [Call(-1, "stat", own, answer="not_found", called_ns=at, returned_ns=at)]
    return [
        Call(-1, "list", names, answer=OK, result=result, called_ns=at, returned_ns=at)
        for names, result in listed.items()
    ]


def _told(call: Call) -> str:
    what = f"{call.function} /{'/'.join(call.names)}"
    if call.to:
        what += f" to /{'/'.join(call.to)}"
    result = "" if call.result is None else f" {call.result}"
    return (
        f"operation {call.number} ({what}: {call.answer}{result}), at {(call.returned_ns or 0) / 1e9:.6f} s"
    )
