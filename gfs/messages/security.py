"""Operator to master: users' tokens, and the keys that sign chunk capabilities.

Tokens themselves never travel here: whoever makes one tells its SHA-256.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Ack, Reply, Request


class TokenRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`id`: the first half dozen bytes of the SHA-256, in hexadecimal. Times in ms since 1970; 0: never."""

    id: str
    role: str
    prefix: str
    user: str = ""
    note: str = ""
    created_ms: int = 0
    expires_ms: int = 0


class TokensReply(Reply, tag="tokens", frozen=True, kw_only=True):
    tokens: list[TokenRow]


class ListTokens(Request, tag="list_tokens", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = TokensReply


class InspectToken(Request, tag="inspect_token", frozen=True, kw_only=True):
    """What the token that the caller shows is good for; any token may ask."""

    reply: ClassVar[type[Reply]] = TokensReply


class CreateToken(Request, tag="create_token", frozen=True, kw_only=True):
    """`sha256` in hexadecimal. Asking twice is harmless. `seconds`: until it expires; 0: never."""

    reply: ClassVar[type[Reply]] = Ack
    sha256: str
    role: str
    prefix: str = "/"
    user: str = ""
    note: str = ""
    seconds: float = 0.0


class RevokeToken(Request, tag="revoke_token", frozen=True, kw_only=True):
    """The token of this id opens nothing any more."""

    reply: ClassVar[type[Reply]] = TokensReply
    id: str


class RotateKeys(Request, tag="rotate_keys", frozen=True, kw_only=True):
    """Sign chunk capabilities by a new key. `drop_former`: what the one before has signed opens nothing any
    more at once; clients ask the masters again."""

    reply: ClassVar[type[Reply]] = Ack
    drop_former: bool = False
