"""What an operator can do from a page: each action, what is asked before it, and the request it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gfs.messages.base import Reply, Request
from gfs.messages.check import RepairFiles
from gfs.messages.cluster import TakeCheckpoint
from gfs.messages.members import TransferLeadership
from gfs.messages.placement import Rebalance, SetServerTenure
from gfs.messages.trash import PurgeTrash, Undelete
from gfs.vocabulary import MasterId, ServerId

Form = Mapping[str, str]


class Action(NamedTuple):
    """`fields`: those of the form it needs. `question`: with them in it. `back`: the page to go on at."""

    title: str
    question: str
    button: str
    fields: tuple[str, ...]
    request: Callable[[Form], Request]
    back: str


ACTIONS: Mapping[str, Action] = {
    "drain": Action(
        "Drain a chunk server",
        "Move all replicas of {server} to other chunk servers? It gets no new ones, and its replicas are "
        "used until they have moved. This can be taken back.",
        "Drain it",
        ("server",),
        lambda form: SetServerTenure(server=ServerId(form["server"]), tenure="draining"),
        "chunkservers",
    ),
    "undrain": Action(
        "Keep a chunk server",
        "Let {server} have new replicas again?",
        "Keep it",
        ("server",),
        lambda form: SetServerTenure(server=ServerId(form["server"]), tenure="serving"),
        "chunkservers",
    ),
    "rebalance": Action(
        "Level out chunk servers",
        "Move replicas until disks and load are level? It goes on gradually, behind repairs.",
        "Begin",
        (),
        lambda form: Rebalance(),
        "replication",
    ),
    "repair": Action(
        "Repair a file first",
        "Repair what is at risk of {path} before anything else?",
        "Repair it first",
        ("path",),
        lambda form: RepairFiles(paths=[form["path"]]),
        "replication",
    ),
    "undelete": Action(
        "Give back what was deleted",
        "Give back {path} to where it was?",
        "Undelete it",
        ("path", "hidden"),
        lambda form: Undelete(path=form["hidden"]),
        "trash",
    ),
    "purge": Action(
        "Free what was deleted",
        "Free the space of {path} now? It cannot be given back afterwards.",
        "Free it for good",
        ("path", "hidden"),
        lambda form: PurgeTrash(path=form["hidden"]),
        "trash",
    ),
    "checkpoint": Action(
        "Write a checkpoint",
        "Have this master write a checkpoint of its state now?",
        "Write it",
        (),
        lambda form: TakeCheckpoint(),
        "masters",
    ),
    "transfer": Action(
        "Hand over leadership",
        "Have {source} hand leadership to {target}? Clients wait for a moment.",
        "Hand it over",
        ("source", "target"),
        lambda form: TransferLeadership(source=MasterId(form["source"]), target=MasterId(form["target"])),
        "masters",
    ),
}


def outcome(reply: Reply) -> list[str]:
    """What a person is told of it."""
    notes: object = getattr(reply, "notes", None) or getattr(reply, "state", None)
    if isinstance(notes, list):
        return [str(note) for note in notes]
    if isinstance(notes, str):
        return [notes]
    path = getattr(reply, "path", "")
    return [f"It is at {path} again."] if path else []
