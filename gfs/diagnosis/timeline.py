"""Joins what several programs recorded of one request into one tree by time: who called whom. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gfs.messages.diagnosis import RpcRecord

CLOCK_SKEW_US = 5_000  # between machines that keep their time; a call may seem to begin before its cause


@dataclass(slots=True, eq=False)
class Step:
    """One call at one program. `depth` 0: nobody recorded who made it, as with a client."""

    node: str
    record: RpcRecord
    depth: int = 0
    children: list[Step] = field(default_factory=list)

    @property
    def ends_us(self) -> float:
        return self.record.at_us + self.record.seconds * 1e6


def timeline(logs: Mapping[str, Iterable[RpcRecord]]) -> list[Step]:
    """The calls of one request, by node, in the order of a reader: each under the call that it was made for,
    earlier ones first."""
    steps = [Step(node, record) for node, records in logs.items() for record in records]
    steps.sort(key=lambda step: (step.record.at_us, -step.record.seconds))
    roots: list[Step] = []
    for step in steps:
        caller = _caller_of(step, steps)
        (roots if caller is None else caller.children).append(step)
    ordered: list[Step] = []
    waiting = roots[::-1]
    while waiting:
        step = waiting.pop()
        ordered.append(step)
        for child in reversed(step.children):
            child.depth = step.depth + 1
            waiting.append(child)
    assert len(ordered) == len(steps), "a call cannot be its own cause"
    return ordered


def _caller_of(step: Step, steps: Sequence[Step]) -> Step | None:
    """The innermost call at the caller's program that was under way when this one came."""
    if "push" in _request(step) and step.record.method == "bulk_push":
        return _hop_before(step, steps)
    at = step.record.at_us
    under_way = [
        other
        for other in steps
        if other.node == step.record.peer
        and other is not step
        and other.record.at_us <= at + CLOCK_SKEW_US
        and at <= other.ends_us + CLOCK_SKEW_US
        and not _is_below(other, step)
    ]
    return max(under_way, key=lambda other: other.record.at_us, default=None)


def _hop_before(step: Step, steps: Sequence[Step]) -> Step | None:
    """A push names the hops still to reach: the one before it had one more of them ahead."""
    mine = _request(step)
    for other in steps:
        theirs = _request(other)
        if (
            other.record.method == "bulk_push"
            and theirs.get("push") == mine["push"]
            and len(theirs.get("chain", ())) == len(mine.get("chain", ())) + 1
            and not _is_below(other, step)
        ):
            return other
    return None


def _is_below(step: Step, top: Step) -> bool:
    return step is top or any(_is_below(step, child) for child in top.children)


def _request(step: Step) -> Mapping[str, Any]:  # Any: the fields of any request
    return step.record.request if isinstance(step.record.request, dict) else {}
