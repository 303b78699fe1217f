"""What `gfs sync` has to do, decided from two listings. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Item(NamedTuple):
    """A file or directory below a root. Only of files are length and time looked at."""

    kind: Literal["file", "directory"]
    length_bytes: int = 0
    modified_ms: int = 0


class Plan(NamedTuple):
    """Relative paths; each list in an order in which it can be done."""

    directories: list[str]  # to be made
    new: list[str]  # files to be copied
    changed: list[str]  # files to be copied over another one
    unchanged: int  # files
    surplus: list[str]  # in the target only: to be deleted, each with all that is in it
    conflicts: list[str]  # a file here and a directory there: neither is touched


def make_plan(source: Mapping[str, Item], target: Mapping[str, Item]) -> Plan:
    """A file is unchanged when its twin is as long, and was not changed before it.

    Neither side keeps the other one's times, so equal times cannot be asked for.
    """
    plan = Plan([], [], [], 0, [], [])
    unchanged = 0
    stuck: set[str] = set()
    doomed: set[str] = set()
    for path in sorted(source):
        if _is_below(path, stuck):
            continue
        item, twin = source[path], target.get(path)
        if twin is not None and twin.kind != item.kind:
            plan.conflicts.append(path)
            stuck.add(path)
        elif item.kind == "directory":
            if twin is None:
                plan.directories.append(path)
        elif twin is None:
            plan.new.append(path)
        elif twin.length_bytes == item.length_bytes and twin.modified_ms >= item.modified_ms:
            unchanged += 1
        else:
            plan.changed.append(path)
    for path in sorted(target):
        if path not in source and not _is_below(path, stuck) and not _is_below(path, doomed):
            plan.surplus.append(path)
            doomed.add(path)
    return plan._replace(unchanged=unchanged)


def _is_below(path: str, tops: set[str]) -> bool:
    """Whether one of the directories that `path` is in is among `tops`."""
    at = path.find("/") if tops else -1
    while at >= 0:
        if path[:at] in tops:
            return True
        at = path.find("/", at + 1)
    return False
