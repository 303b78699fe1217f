"""MasterState.apply answers whatever can be decoded: it never raises, and never breaks an invariant."""

from __future__ import annotations

import typing

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs.errors import BY_CODE
from gfs.master.core.invariants import check_invariants
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.messages import operations as op
from gfs.vocabulary import ChunkHandle, MasterId, ServerId

WORDS = st.sampled_from(
    [
        "/",
        "/a",
        "/a/b",
        "/a/b/c",
        "/f",
        "/f/g",
        "/g",
        "//g/",
        "",
        "x",
        "/../a",
        "cs-a",
        "cs-b",
        "admin",
        "reader",
    ]
)
TEXT = st.one_of(WORDS, WORDS, st.text(max_size=12).map(lambda text: "/" + text), st.text(max_size=300))
# All msgpack can carry: what is decodable is what a log can hold.
INTEGERS = st.one_of(
    st.integers(-1, 6), st.integers(-(2**63), 2**64 - 1), st.sampled_from([2**31, 2**32, 2**47, 2**48, 2**63])
)
# The setting's /t lies in the trash under the first of these names.
TRASH_NAMES = st.just(op.TrashName(9, 5)) | st.builds(op.TrashName, INTEGERS, INTEGERS)  # type: ignore[arg-type]
SERVERS = st.lists(st.one_of(st.sampled_from(["cs-a", "cs-b", "cs-c"]), TEXT), max_size=5).map(tuple)

BYTES = st.sampled_from([bytes(32), b"\1" * 32, bytes(16), b"\1" * 16]) | st.binary(max_size=40)
MASTERS = st.lists(st.one_of(st.sampled_from(["m1", "m2", "m3"]), TEXT), max_size=5).map(tuple)


def values(annotation: object) -> st.SearchStrategy[object]:
    """Anything a field of this type can be decoded from."""
    while hasattr(annotation, "__supertype__"):  # a NewType
        annotation = annotation.__supertype__
    if annotation is str:
        return TEXT
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return INTEGERS
    if annotation is op.TrashName:
        return TRASH_NAMES
    if annotation is bytes:
        return BYTES
    assert typing.get_origin(annotation) is tuple, annotation
    of = typing.get_args(annotation)[0]
    if of is ChunkHandle:
        return st.lists(INTEGERS, max_size=3).map(tuple)
    if of is op.TrashName:
        return st.lists(TRASH_NAMES, max_size=4).map(tuple)
    if of is str:
        return st.lists(st.sampled_from(op.POLICY_FIELDS) | TEXT, max_size=3).map(tuple)
    if of is MasterId:
        return MASTERS
    assert of is ServerId, annotation
    return SERVERS


def operations(kind: type[op.Operation]) -> st.SearchStrategy[op.Operation]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: values(hints[field.name]) for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **fields)


KINDS = typing.get_args(op.AnyOperation)
REQUESTS = (
    st.none()
    | st.builds(op.RequestId, INTEGERS, INTEGERS, INTEGERS)
    | st.builds(op.RequestId, st.just(7), st.integers(0, 20), st.just(0))
)
RECORDS = st.builds(
    op.LogRecord, at_ms=INTEGERS, operation=st.one_of([operations(kind) for kind in KINDS]), request=REQUESTS
)
SETTING = [
    op.MakeDirectory(path="/a/b", parents=True),
    op.CreateFile(path="/f", replication_goal=3),
    op.AddChunk(inode=4, index=0, replicas=("cs-a", "cs-b"), primary="cs-a"),  # type: ignore[arg-type]
    op.CreateFile(path="/t", replication_goal=3),
    op.AddChunk(inode=5, index=0, replicas=("cs-a", "cs-b"), primary="cs-a"),  # type: ignore[arg-type]
    op.DeletePath(path="/t", expires_at_ms=9),
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(records=st.lists(RECORDS, max_size=8))
def test_every_decodable_record_has_an_outcome(records: list[op.LogRecord]) -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    for operation in SETTING:
        assert not isinstance(state.apply(op.LogRecord(at_ms=1, operation=operation)), op.Refused)
    for record in records:
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=op.LogRecord)
        assert decoded == record
        outcome = state.apply(record)
        encoded = msgspec.msgpack.encode(outcome)
        assert msgspec.msgpack.decode(encoded, type=op.AnyOutcome) == outcome
        if isinstance(outcome, op.Refused):
            assert outcome.code == "outcome_unknown" or BY_CODE[outcome.code].definite
            assert len(encoded) < 4096, "outcomes are kept: they must be small"
        state.save()
        check_invariants(tables)
