"""Tokens and the salts of capability keys are part of the state: added, revoked, rotated."""

from __future__ import annotations

import pytest

from gfs.master.core.invariants import check_invariants
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.master.core.user_tokens import KEYS_LIVE, all_tokens, key_salts, token_with
from gfs.messages import operations as op
from tests.core.master_records import record

DIGEST = bytes(range(32))


def made(**fields: object) -> op.AddToken:
    return op.AddToken(**{"digest": DIGEST, "role": "writer", "prefix": "/crawl", "user": "ann", **fields})  # type: ignore[arg-type]


def world() -> tuple[MasterState, MemoryTables]:
    tables = MemoryTables()
    return MasterState(tables), tables


def test_a_token_is_kept_until_it_is_revoked() -> None:
    state, tables = world()
    assert isinstance(state.apply(record(made())), op.Done)
    found = token_with(tables, DIGEST)
    assert found is not None and (found.role, found.prefix, found.user) == ("writer", "/crawl", "ann")
    assert token_with(tables, bytes(32)) is None
    state.save()
    check_invariants(tables)
    assert isinstance(state.apply(record(op.RevokeToken(digest=DIGEST))), op.Done)
    assert all_tokens(tables) == []
    again = state.apply(record(op.RevokeToken(digest=DIGEST)))
    assert isinstance(again, op.Refused) and again.code == "not_found"
    state.save()
    check_invariants(tables)


def test_a_repeat_is_answered_as_the_first_and_another_meaning_is_refused() -> None:
    state, tables = world()
    state.apply(record(made()))
    assert isinstance(state.apply(record(made())), op.Done)
    assert len(all_tokens(tables)) == 1
    other = state.apply(record(made(role="admin", prefix="/")))
    assert isinstance(other, op.Refused) and other.code == "already_exists"
    found = token_with(tables, DIGEST)
    assert found is not None and found.role == "writer"


@pytest.mark.parametrize(
    "fields",
    [
        {"digest": b"short"},
        {"role": "king"},
        {"role": "admin"},  # of a prefix
        {"prefix": "crawl"},
        {"prefix": "/a/../b"},
        {"user": "ann:crawl"},
        {"note": "two\nlines"},
        {"note": "n" * 201},
        {"expires_at_ms": -1},
    ],
)
def test_nonsense_is_refused_and_changes_nothing(fields: dict[str, object]) -> None:
    state, tables = world()
    outcome = state.apply(record(made(**fields)))
    assert isinstance(outcome, op.Refused) and outcome.code in ("invalid_argument", "invalid_path")
    assert all_tokens(tables) == []


def test_two_keys_are_live_and_an_operator_can_drop_the_former() -> None:
    state, tables = world()
    assert key_salts(tables) is None
    for number in range(3):
        state.apply(record(op.RotateKeys(salt=bytes([number]) * 16)))
    found = key_salts(tables)
    assert found is not None and found.salts == (b"\2" * 16, b"\1" * 16) and KEYS_LIVE == 2
    state.apply(record(op.RotateKeys(salt=b"\2" * 16)))  # the first answer was lost
    assert key_salts(tables) == found
    state.apply(record(op.RotateKeys(salt=b"\3" * 16, drop_former=True)))
    left = key_salts(tables)
    assert left is not None and left.salts == (b"\3" * 16,)
    short = state.apply(record(op.RotateKeys(salt=b"short")))
    assert isinstance(short, op.Refused) and short.code == "invalid_argument"
    state.save()
    check_invariants(tables)


@pytest.mark.parametrize("key", [b"t" + DIGEST, b"t", b"k", b"kk"])
def test_a_row_that_is_no_token_is_found(key: bytes) -> None:
    state, tables = world()
    state.save()
    check_invariants(tables)
    tables.put(Table.OWNERS, key, b"rubbish")
    with pytest.raises(Exception, match=r"token|salts"):
        check_invariants(tables)
