"""Client to master: policies of directories, owners and modes (GFS §4.4, §7). Units: `PolicyFields`."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Consistency, Reply, Request, ViewReply
from gfs.messages.namespace import MutationReply
from gfs.messages.operations import RequestId


class PolicyFields(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a policy says; a field that is not set has its default here.

    `replicas`: of each chunk. `racks`: in how many different racks they lie at least; 1: any. `trash_ms`: how
    long the trash keeps what is deleted. `durability`: "flush", in memory of all replicas when acknowledged
    and on disk soon; "sync", on disk of all. `files_max`, `bytes_max`: quotas of all below the directory;
    directories count as files.
    """

    replicas: int = -1
    racks: int = -1
    trash_ms: int = -1
    durability: str = ""
    files_max: int = -1
    bytes_max: int = -1


class SetPolicy(Request, tag="set_policy", frozen=True, kw_only=True):
    """Set the fields given in `fields` and unset those named in `unset`; the others stay."""

    reply: ClassVar[type[Reply]] = MutationReply
    path: str
    fields: PolicyFields
    unset: list[str] = []
    request: RequestId | None = None


class QuotaUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What counts against quotas at one directory: all below it, but for what is in the trash."""

    path: str
    files: int
    directories: int
    content_bytes: int
    files_max: int = -1
    bytes_max: int = -1


class PolicyReply(ViewReply, tag="policy", frozen=True, kw_only=True):
    """The policy of a file or directory.

    `own` is set right there. `effective` holds: own or inherited, or the cluster's default. `set_at`: for
    each field that some directory sets, its path. `quotas`: this directory, and those above that have one.
    """

    path: str
    own: PolicyFields
    effective: PolicyFields
    set_at: dict[str, str]
    quotas: list[QuotaUse]


class ShowPolicy(Request, tag="show_policy", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = PolicyReply
    path: str
    consistency: Consistency = "linearizable"
    min_applied_index: int = 0


class ChangeMode(Request, tag="chmod", frozen=True, kw_only=True):
    """`mode`: nine bits rwxrwxrwx of owner, group and others."""

    reply: ClassVar[type[Reply]] = MutationReply
    path: str
    mode: int
    request: RequestId | None = None


class ChangeOwner(Request, tag="chown", frozen=True, kw_only=True):
    """None leaves owner or group as it is."""

    reply: ClassVar[type[Reply]] = MutationReply
    path: str
    owner: str | None = None
    group: str | None = None
    request: RequestId | None = None
