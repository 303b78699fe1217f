"""The namespace as one client alone would see it: what each call answers in a state, and what it leaves.

The order of checks, and so which code a refusal has, is that of `gfs/master/core/namespace` and `snapshots`.
Nodes are immutable and made once each, so that equal trees are one object. A node's identity is the number of
the operation that made it, negative, until a look at it has told its inode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gfs.verification.history import Json

Names = tuple[str, ...]  # below the root of the model
OK = "ok"


class Node:
    """A file (`entries` is None) or a directory. Compared as an object: see Nodes."""

    __slots__ = ("entries", "identity")

    def __init__(self, identity: int, entries: Mapping[str, Node] | None) -> None:
        self.identity, self.entries = identity, entries


class Deleted(NamedTuple):
    names: Names
    node: Node
    by: int  # the operation


class Tree(NamedTuple):
    """A state. `trash`: what was deleted from names that some operation gives back, the newest last."""

    root: Node
    trash: tuple[Deleted, ...]


@dataclass(slots=True)
class Call:
    """One operation, ready to be tried. `answer`: ok, the code of a refusal, or "" where nobody knows."""

    number: int
    function: str
    names: Names
    to: Names = ()
    replace: bool = False
    parents: bool = False
    recursive: bool = False
    answer: str = ""
    result: Json = None
    called_ns: int = 0
    returned_ns: int | None = None


class Refused(Exception):
    def __init__(self, code: str) -> None:
        self.code = code


class TreeModel:
    """Of one partition. Keeps what no state holds: the calls, and since when an inode is known."""

    def __init__(self, calls: list[Call]) -> None:
        self._by_number = {call.number: call for call in calls}
        self._given_back = {call.names for call in calls if call.function in ("undelete", "purge")}
        self._known_since: dict[int, int] = {}
        for call in calls:
            for inode in _inodes(call):
                assert call.returned_ns is not None
                self._known_since[inode] = min(self._known_since.get(inode, 1 << 62), call.returned_ns)
        self._nodes: dict[tuple[int, frozenset[tuple[str, Node]] | None], Node] = {}

    def node(self, identity: int, entries: Mapping[str, Node] | None) -> Node:
        key = identity, None if entries is None else frozenset(entries.items())
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = Node(identity, entries)
        return found

    def step(self, call: Call, state: Tree) -> list[Tree]:
        """The states that this call, with its answer, may leave; none when that answer is impossible."""
        try:
            left = self._apply(call, state)
        except Refused as refusal:
            return [state] if call.answer == refusal.code else []
        return left if call.answer in (OK, "") else []

    def _apply(self, call: Call, state: Tree) -> list[Tree]:
        match call.function:
            case "stat":
                node = _find(state.root, call.names)
                return self._look(state, call.names, node, call.result)
            case "exists":
                return [state] if call.result == _is_there(state.root, call.names) else []
            case "list":
                return self._list(call, state)
            case "create":
                return [self._create(call, state)]
            case "mkdir":
                return [self._make_directory(call, state)]
            case "delete":
                return [self._delete(call, state)]
            case "rename":
                return [self._rename(call, state)]
            case "snapshot":
                return [self._snapshot(call, state)]
            case "undelete":
                return self._undelete(call, state)
            case "purge":
                return [self._purge(call, state)]
        raise AssertionError(call.function)

    # --- looks ----------------------------------------------------------------------------------

    def _look(self, state: Tree, names: Names, node: Node, seen: Json) -> list[Tree]:
        """`seen`: {kind, inode}, the inode may be left out; or None."""
        if seen is None:
            return [state]  # it was refused, and this is no refusal
        if seen["kind"] != ("file" if node.entries is None else "directory"):
            return []
        inode = seen.get("inode", 0)
        if not inode or node.identity == inode:
            return [state]
        if not self._may_be(node, inode):
            return []
        return [state._replace(root=self._put(state.root, names, self.node(inode, node.entries)))]

    def _may_be(self, node: Node, inode: int) -> bool:
        """It is not known as another inode, and that inode was not seen before it was made."""
        if node.identity > 0:
            return False
        made_by = self._by_number.get(-node.identity)
        return made_by is None or made_by.called_ns <= self._known_since[inode]

    def _list(self, call: Call, state: Tree) -> list[Tree]:
        directory = _directory(state.root, call.names)
        assert directory.entries is not None
        if call.result is None:
            return [state]
        if [entry[0] for entry in call.result] != sorted(directory.entries, key=str.encode):
            return []
        for name, kind, *inode in call.result:
            names = (*call.names, name)
            seen = {"kind": kind, "inode": inode[0] if inode else 0}
            looked = self._look(state, names, _find(state.root, names), seen)
            if not looked:
                return []
            (state,) = looked
        return [state]

    # --- changes --------------------------------------------------------------------------------

    def _create(self, call: Call, state: Tree) -> Tree:
        parent = _directory(state.root, call.names[:-1])
        assert parent.entries is not None
        present = parent.entries.get(call.names[-1])
        trash = state.trash
        if present is not None:
            if present.entries is not None:
                raise Refused("is_a_directory")
            if not call.replace:
                raise Refused("already_exists")
            trash = self._with_deleted(trash, call.names, present, call.number)
        return Tree(self._put(state.root, call.names, self.node(-call.number, None)), trash)

    def _make_directory(self, call: Call, state: Tree) -> Tree:
        at = state.root
        for depth, name in enumerate(call.names):
            assert at.entries is not None
            following = at.entries.get(name)
            if following is None:
                if len(call.names) - depth > 1 and not call.parents:
                    raise Refused("not_found")
                made = self.node(-call.number, {})
                for below in reversed(call.names[depth + 1 :]):
                    made = self.node(-call.number, {below: made})
                return state._replace(root=self._put(state.root, call.names[: depth + 1], made))
            if following.entries is None:
                raise Refused("already_exists" if depth + 1 == len(call.names) else "not_a_directory")
            at = following
        if not call.parents:
            raise Refused("already_exists")
        return state

    def _delete(self, call: Call, state: Tree) -> Tree:
        node = _entry(state.root, call.names)
        if node.entries and not call.recursive:
            raise Refused("directory_not_empty")
        trash = self._with_deleted(state.trash, call.names, node, call.number)
        return Tree(self._put(state.root, call.names, None), trash)

    def _rename(self, call: Call, state: Tree) -> Tree:
        source, to = call.names, call.to
        node = _entry(state.root, source)
        if source == to:
            return state
        if to[: len(source)] == source:
            raise Refused("not_a_directory" if node.entries is None else "invalid_argument")
        parent = _directory(state.root, to[:-1])
        assert parent.entries is not None
        present, trash = parent.entries.get(to[-1]), state.trash
        if present is not None:
            if present.entries is not None or not call.replace:
                raise Refused("already_exists")
            if node.entries is not None:
                raise Refused("not_a_directory")
            trash = self._with_deleted(trash, to, present, call.number)
        return Tree(self._put(self._put(state.root, source, None), to, node), trash)

    def _snapshot(self, call: Call, state: Tree) -> Tree:
        source, to = call.names, call.to
        node = _find(state.root, source)
        if source == to:
            raise Refused("already_exists")
        if to[: len(source)] == source and node.entries is not None:
            raise Refused("invalid_argument")
        parent = _directory(state.root, to[:-1])
        assert parent.entries is not None
        if to[-1] in parent.entries:
            raise Refused("already_exists")
        return state._replace(root=self._put(state.root, to, self._copy(node, -call.number)))

    def _copy(self, node: Node, identity: int) -> Node:
        entries = node.entries
        below = (
            None if entries is None else {name: self._copy(one, identity) for name, one in entries.items()}
        )
        return self.node(identity, below)

    def _undelete(self, call: Call, state: Tree) -> list[Tree]:
        candidates = self._may_be_newest(call, state.trash)
        if not candidates:
            raise Refused("not_found")
        names = call.to or call.names
        at = state.root
        for depth, name in enumerate(names):
            assert at.entries is not None
            following = at.entries.get(name)
            if following is None:
                break
            if depth + 1 == len(names):
                raise Refused("already_exists")
            if following.entries is None:
                raise Refused("not_a_directory")
            at = following
        left = []
        for deleted in candidates:
            made = deleted.node
            for below in reversed(names[depth + 1 :]):
                made = self.node(-call.number, {below: made})
            trash = tuple(one for one in state.trash if one is not deleted)
            left.append(Tree(self._put(state.root, names[: depth + 1], made), trash))
        return left

    def _may_be_newest(self, call: Call, trash: tuple[Deleted, ...]) -> list[Deleted]:
        """What was deleted last from there. The master looks for it before it gives it back, and what others
        delete in between is newer: but nothing is passed over that was deleted later and before the call."""
        there = [deleted for deleted in trash if deleted.names == call.names]
        return [
            deleted
            for deleted in reversed(there)
            if not any(
                self._follows(other, deleted) and self._is_before(other, call)
                for other in there
                if other is not deleted
            )
        ]

    def _follows(self, later: Deleted, earlier: Deleted) -> bool:
        returned_ns = self._by_number[earlier.by].returned_ns
        return returned_ns is not None and returned_ns < self._by_number[later.by].called_ns

    def _is_before(self, deleted: Deleted, call: Call) -> bool:
        returned_ns = self._by_number[deleted.by].returned_ns
        return returned_ns is not None and returned_ns < call.called_ns

    def _purge(self, call: Call, state: Tree) -> Tree:
        left = tuple(deleted for deleted in state.trash if deleted.names != call.names)
        if len(left) == len(state.trash):
            raise Refused("not_found")
        return state._replace(trash=left)

    def _with_deleted(
        self, trash: tuple[Deleted, ...], names: Names, node: Node, by: int
    ) -> tuple[Deleted, ...]:
        return (*trash, Deleted(names, node, by)) if names in self._given_back else trash

    def _put(self, at: Node, names: Names, node: Node | None) -> Node:
        """The tree with `node` at these names, whose parents are there; None: with nothing there."""
        assert at.entries is not None
        entries = dict(at.entries)
        if len(names) > 1:
            entries[names[0]] = self._put(entries[names[0]], names[1:], node)
        elif node is None:
            del entries[names[0]]
        else:
            entries[names[0]] = node
        return self.node(at.identity, entries)


def _find(root: Node, names: Names) -> Node:
    at = root
    for name in names:
        if at.entries is None:
            raise Refused("not_a_directory")
        following = at.entries.get(name)
        if following is None:
            raise Refused("not_found")
        at = following
    return at


def _directory(root: Node, names: Names) -> Node:
    found = _find(root, names)
    if found.entries is None:
        raise Refused("not_a_directory")
    return found


def _entry(root: Node, names: Names) -> Node:
    parent = _directory(root, names[:-1])
    assert parent.entries is not None
    found = parent.entries.get(names[-1])
    if found is None:
        raise Refused("not_found")
    return found


def _is_there(root: Node, names: Names) -> bool:
    try:
        _find(root, names)
    except Refused:
        return False
    return True


def _inodes(call: Call) -> list[int]:
    """What a look has told."""
    if call.answer != OK:
        return []
    if call.function == "stat":
        return [call.result["inode"]] if call.result.get("inode") else []
    if call.function == "list":
        return [inode for _, _, *rest in call.result for inode in rest if inode]
    return []
