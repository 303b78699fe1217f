"""What every message of the control plane is made of: requests, replies, errors, protocol versions.

A request class names its reply in `reply`. Unknown fields are skipped, so that neighbouring versions
understand each other; missing ones take their defaults. The tag is the method name of `POST /v1/<method>`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from gfs.vocabulary import ServerId

PROTO_VERSION = 1

PROTO_VERSION_MIN = 1


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Who asks, as they say themselves; empty when they do not."""

    user: str = ""
    groups: tuple[str, ...] = ()


NOBODY = Identity()


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all replies."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all requests."""

    reply: ClassVar[type[Reply]] = Reply


def method_name(request_type: type[Request]) -> str:
    tag = request_type.__struct_config__.tag
    assert isinstance(tag, str), request_type
    return tag


class ErrorReply(Reply, tag="error", frozen=True, kw_only=True):
    """What any request may be answered with instead of its reply; see gfs.errors."""

    code: str
    message: str
    hint: str = ""
    details: dict[str, str] = {}


class ViewReply(Reply, frozen=True, kw_only=True):
    """Base of replies to reads: which state the answer is of.

    `applied_index` is the session token: a later session read is never older. The rest is told of session and
    stale reads: which master answered, and how far it may be behind the leader; `lag_seconds` below zero: it
    has not heard a leader since it started.
    """

    applied_index: int = 0
    answered_by: str = ""
    lag_entries: int = 0
    lag_seconds: float = 0.0


class Ack(Reply, tag="ack", frozen=True, kw_only=True):
    """Done; nothing more to say."""


class Ping(Request, tag="ping", frozen=True, kw_only=True):
    """`server`: as in ChunkStatus."""

    reply: ClassVar[type[Reply]] = Ack
    server: ServerId = ServerId("")


Consistency = Literal["linearizable", "session", "stale"]
