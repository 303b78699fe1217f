"""Users' tokens and the salts of capability keys, as the log has them. Who shows a token is gate's business.

A token is known by its SHA-256 alone. A role includes the ones before it: reader, writer, admin. Invariants:
at most TOKENS_MAX tokens; at most KEYS_LIVE salts, the newest first.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from gfs.errors import AlreadyExists, CorruptState, InvalidArgument, NoSpace, NotFound
from gfs.master.core.digest import DigestedTables
from gfs.master.core.lookup import names_of
from gfs.master.core.owners import OWNER_BYTES_MAX, check_owner_names
from gfs.master.core.tables import ReadTables, Table
from gfs.messages.operations import AddToken, RevokeToken, RotateKeys

Role = Literal["reader", "writer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
TOKENS_MAX = 4096
NOTE_BYTES_MAX = 200
TOKEN_DIGEST_BYTES = 32
SALT_BYTES = 16
KEYS_LIVE = 2  # the one that signs, and the one before it

_TOKEN, _BEHIND_TOKENS, _SALTS = b"t", b"u", b"k"  # keep these rows apart from numbers (#) and names (=)
ROW_MARKS = (_TOKEN, _SALTS)


class TokenRecord(msgspec.Struct, frozen=True, array_like=True):
    """What a token is good for. `prefix` is a path; `expires_at_ms` 0: for ever."""

    role: Role
    prefix: str
    user: str
    note: str
    created_at_ms: int
    expires_at_ms: int


class KeySalts(msgspec.Struct, frozen=True, array_like=True):
    """`salts`: of the keys that hold, the newest first; it is the `number`th, made at `rotated_at_ms`."""

    salts: tuple[bytes, ...]
    rotated_at_ms: int
    number: int


_encode = msgspec.msgpack.Encoder().encode
_read_token = msgspec.msgpack.Decoder(TokenRecord).decode
_read_salts = msgspec.msgpack.Decoder(KeySalts).decode


def token_with(tables: ReadTables, digest: bytes) -> TokenRecord | None:
    row = tables.get(Table.OWNERS, _TOKEN + digest)
    return None if row is None else _decode_token(row)


def all_tokens(tables: ReadTables) -> list[tuple[bytes, TokenRecord]]:
    """With their digests."""
    rows = tables.scan(Table.OWNERS, _TOKEN, _BEHIND_TOKENS)
    return [(key[1:], _decode_token(row)) for key, row in rows]


def key_salts(tables: ReadTables) -> KeySalts | None:
    """None until the first leader that needs a key has made one."""
    row = tables.get(Table.OWNERS, _SALTS)
    return None if row is None else _decode_salts(row)


def add_token(tables: DigestedTables, operation: AddToken, *, at_ms: int) -> None:
    """Raises: InvalidArgument, InvalidPath, AlreadyExists, NoSpace."""
    if len(operation.digest) != TOKEN_DIGEST_BYTES:
        raise InvalidArgument(f"a token's digest has {TOKEN_DIGEST_BYTES} bytes")
    if operation.role not in ROLES:
        raise InvalidArgument(f"a role is {', '.join(ROLES)}; not {operation.role[:20]!r}")
    if operation.role == "admin" and names_of(operation.prefix):
        raise InvalidArgument("an admin's token is for the whole cluster: give it no prefix")
    names_of(operation.prefix)
    check_owner_names(operation.user, "")
    if len(operation.note.encode("utf-8", "replace")) > NOTE_BYTES_MAX or not operation.note.isprintable():
        raise InvalidArgument(f"a note is one line of at most {NOTE_BYTES_MAX} bytes")
    if not 0 <= operation.expires_at_ms < 2**63:
        raise InvalidArgument("a token cannot expire then")
    key = _TOKEN + operation.digest
    known = token_with(tables, operation.digest)
    if known is not None:
        if known != msgspec.structs.replace(_record(operation, at_ms), created_at_ms=known.created_at_ms):
            raise AlreadyExists("this token is there already, and good for something else")
        return  # the first answer was lost
    if sum(1 for _ in tables.scan(Table.OWNERS, _TOKEN, _BEHIND_TOKENS)) >= TOKENS_MAX:
        raise NoSpace(f"there are {TOKENS_MAX} tokens already; revoke some")
    tables.insert(Table.OWNERS, key, _encode(_record(operation, at_ms)))


def _record(operation: AddToken, at_ms: int) -> TokenRecord:
    role: Role = next(role for role in ROLES if role == operation.role)
    return TokenRecord(
        role=role,
        prefix=operation.prefix,
        user=operation.user,
        note=operation.note,
        created_at_ms=at_ms,
        expires_at_ms=operation.expires_at_ms,
    )


def revoke_token(tables: DigestedTables, operation: RevokeToken) -> None:
    """Raises: NotFound."""
    key = _TOKEN + operation.digest
    row = tables.get(Table.OWNERS, key) if len(operation.digest) == TOKEN_DIGEST_BYTES else None
    if row is None:
        raise NotFound("there is no such token")
    tables.remove(Table.OWNERS, key, old=row)


def rotate_keys(tables: DigestedTables, operation: RotateKeys, *, at_ms: int) -> None:
    """Raises: InvalidArgument."""
    if len(operation.salt) != SALT_BYTES:
        raise InvalidArgument(f"a key's salt has {SALT_BYTES} bytes")
    old = tables.get(Table.OWNERS, _SALTS)
    before = KeySalts((), 0, 0) if old is None else _decode_salts(old)
    if operation.salt in before.salts:
        return  # the first answer was lost
    former = () if operation.drop_former else before.salts
    salts = (operation.salt, *former)[:KEYS_LIVE]
    new = _encode(KeySalts(salts=salts, rotated_at_ms=at_ms, number=before.number + 1))
    if old is None:
        tables.insert(Table.OWNERS, _SALTS, new)
    else:
        tables.replace(Table.OWNERS, _SALTS, old=old, new=new)


def row_fault(key: bytes, row: bytes) -> str:
    """What is wrong with a row of ROW_MARKS; empty: nothing."""
    try:
        if key == _SALTS:
            salts = _decode_salts(row).salts
            sound = 0 < len(salts) <= KEYS_LIVE and all(len(salt) == SALT_BYTES for salt in salts)
            return "" if sound else "the salts of capability keys are not as they can be"
        record = _decode_token(row)
    except CorruptState as error:
        return error.message
    if len(key) != 1 + TOKEN_DIGEST_BYTES or len(record.user.encode()) > OWNER_BYTES_MAX:
        return "a token's row is not as it can be"
    return ""


def _decode_token(row: bytes) -> TokenRecord:
    try:
        return _read_token(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"a token's row cannot be read: {error}") from error


def _decode_salts(row: bytes) -> KeySalts:
    try:
        return _read_salts(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the salts of capability keys cannot be read: {error}") from error
