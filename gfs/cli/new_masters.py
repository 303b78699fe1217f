"""Which directories a restore or recovery fills with new masters, and what is told then. No commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from gfs.cli.cluster_address import data_directory, load_settings
from gfs.cli.render import counted, note
from gfs.errors import InvalidArgument, Unavailable
from gfs.vocabulary import ClusterId, MasterId

if TYPE_CHECKING:
    from gfs.cli.app import GlobalOptions
    from gfs.master.new_life import NewLife

NEXT_STEPS = (
    "see that gfs.toml names exactly these masters, wherever they, chunk servers and clients read it",
    "start the masters and chunk servers; 'gfs status' tells when files can be read and written again",
    "see that all that is wanted is there, then let garbage be collected again: 'gfs admin gc resume'",
)


class NewMasters(msgspec.Struct, frozen=True, kw_only=True):
    """What was made. `life` names this life of the cluster; `moved_aside`: where older directories are."""

    life: str
    cluster: ClusterId
    index: int
    term: int
    files: int
    chunks: int
    directories: dict[MasterId, str]
    moved_aside: list[str]


def directories_for(
    options: GlobalOptions,
    to: str | None,
    masters: str | None,
    *,
    known: Sequence[MasterId],
    cluster: ClusterId,
) -> dict[MasterId, str]:
    """Where each new master lives.

    Args:
        to: a directory that gets one below it for each master, or that of a cluster of 'gfs up'; without it
            the configuration tells.
        masters: their names, separated by commas, for a plain directory; by default those `known`.
    Raises: InvalidArgument; NotFound, ConfigInvalid (no configuration); Unavailable while 'gfs up' runs them.
    """
    from gfs import settings as settings_module
    from gfs.local.layout import SupervisorLock, exists

    if to is not None and not exists(to):
        names = [MasterId(name) for name in masters.split(",") if name] if masters else list(known)
        if not names or len(set(names)) != len(names):
            raise InvalidArgument(
                "no masters are named, or one twice", hint="For example --masters m1,m2,m3."
            )
        return {name: os.path.join(os.path.abspath(to), name) for name in names}
    if masters:
        raise InvalidArgument("--masters is for a plain directory: here the configuration names the masters")
    if to is not None:
        settings = settings_module.load(os.path.join(to, "gfs.toml"))
    elif options.master:
        raise InvalidArgument("name a directory with --to, or the cluster with --config or --data")
    else:
        settings = load_settings(options)
    if to is not None or not options.config:
        where = to or data_directory(options)
        if holder := SupervisorLock(os.path.abspath(where)).holder():
            raise Unavailable(
                f"the cluster in {where} is running, under process {holder}",
                hint="Stop it first: 'gfs down'.",
            )
    if settings.cluster.id != cluster:
        raise InvalidArgument(
            f"this is a state of cluster {cluster}, the configuration is of {settings.cluster.id or 'none'}",
            hint="Its chunk servers hold other files. Put the right cluster.id in gfs.toml, or use --to.",
        )
    found = {MasterId(name): node.directory for name, node in settings.masters.items()}
    if not found or not all(found.values()):
        raise InvalidArgument("the configuration does not tell where each master's directory is")
    return found


def told(life: NewLife, cluster: ClusterId) -> NewMasters:
    """The result, with what a person does next on standard error."""
    for place in life.moved_aside:
        note(f"what was there before is in {place}")
    for number, step in enumerate(NEXT_STEPS, start=1):
        note(f"next {number}. {step}")
    return NewMasters(
        life=life.name,
        cluster=cluster,
        index=life.at.index,
        term=life.at.term,
        files=life.files,
        chunks=life.chunks,
        directories=life.directories,
        moved_aside=life.moved_aside,
    )


def as_text(made: NewMasters) -> str:
    lines = [f"{counted(made.files, 'file')} and {counted(made.chunks, 'chunk')}, in life {made.life}:"]
    return "\n".join(lines + [f"  {master}  {place}" for master, place in made.directories.items()])
