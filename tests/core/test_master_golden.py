"""The bytes of log records and outcomes do not change: logs written by an older gfs stay readable.

The file holds a line for each: name, the value as JSON, the msgpack bytes in hexadecimal. A new operation
or field adds lines. A line that would have to change means a new format, and a migration.
"""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec

from gfs.messages import operations as op
from gfs.messages.base import Identity
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, ClientId, InodeId, MasterId, ServerId

GOLDEN = Path(__file__).parent.parent / "golden" / "operations_v1.txt"
A, B = ServerId("cs-a"), ServerId("cs-b")

OPERATIONS: dict[str, op.AnyOperation] = {
    "mkdir": op.MakeDirectory(path="/d"),
    "mkdir -p": op.MakeDirectory(path="/d/é", parents=True),
    "create": op.CreateFile(path="/f", replication_goal=3),
    "mkdir, owned": op.MakeDirectory(path="/d", owner="ann", group="crawl", mode=0o750),
    "create, owned": op.CreateFile(path="/f", replication_goal=3, owner="ann", group="crawl", mode=0o640),
    "create, replacing": op.CreateFile(path="/f", replication_goal=3, replace=True, expires_at_ms=2**41),
    "delete": op.DeletePath(path="/f", expires_at_ms=2**41),
    "delete -r": op.DeletePath(path="/d", recursive=True, expires_at_ms=2**41),
    "rename": op.RenamePath(source="/f", destination="/g", expires_at_ms=2**41),
    "rename, replacing": op.RenamePath(source="/f", destination="/g", replace=True, expires_at_ms=2**41),
    "add_chunk": op.AddChunk(inode=InodeId(5), index=ChunkIndex(0), replicas=(A, B), primary=A),
    "grant": op.GrantLease(
        inode=InodeId(5),
        index=ChunkIndex(0),
        handle=ChunkHandle(2**40),
        from_version=ChunkVersion(3),
        replicas=(B,),
        primary=B,
    ),
    "grant, fresh": op.GrantLease(
        inode=InodeId(5),
        index=ChunkIndex(0),
        handle=ChunkHandle(7),
        from_version=ChunkVersion(3),
        replicas=(A, B),
        primary=B,
        fresh=True,
        held_version=ChunkVersion(2),
    ),
    "change_replicas": op.ChangeReplicas(
        handle=ChunkHandle(7), from_version=ChunkVersion(3), replicas=(A, B), primary=A
    ),
    "change_replicas, joined": op.ChangeReplicas(
        handle=ChunkHandle(7),
        from_version=ChunkVersion(4),
        replicas=(A, B),
        primary=A,
        joined=(B,),
        held_version=ChunkVersion(4),
    ),
    "seal": op.SealChunk(handle=ChunkHandle(7), version=ChunkVersion(3), length_bytes=2**26),
    "length_hint": op.SetLengthHint(inode=InodeId(5), length_bytes=100, closed=True),
    "length_hint, appending": op.SetLengthHint(
        inode=InodeId(5), length_bytes=100, closed=False, appending=True
    ),
    "undelete": op.Undelete(entry=op.TrashName(2**41, InodeId(5)), path="/f"),
    "undelete, owned": op.Undelete(
        entry=op.TrashName(2**41, InodeId(5)), path="/d/f", owner="ann", group="crawl"
    ),
    "purge": op.PurgeTrash(entries=(op.TrashName(2**41, InodeId(5)), op.TrashName(2**41 + 1, InodeId(6)))),
    "reclaim": op.Reclaim(now_ms=2**41, rows_max=500),
    "create, inheriting": op.CreateFile(path="/f", replication_goal=3, inherits_goal=True),
    "set_policy": op.SetPolicy(
        path="/d", replicas=2, racks=2, trash_ms=0, durability="sync", files_max=10, bytes_max=2**40
    ),
    "set_policy, unset": op.SetPolicy(path="/d", unset=("replicas", "bytes_max")),
    "chmod": op.ChangeMode(path="/f", mode=0o600),
    "chown": op.ChangeOwner(path="/f", owner="ann", group="crawl"),
    "chown, group only": op.ChangeOwner(path="/f", group="crawl", keep_owner=True),
    "forget_sessions": op.ForgetSessions(idle_since_ms=2**40, limit=100),
    "begin_snapshot": op.BeginSnapshot(source="/d", target="/save"),
    "copy_snapshot": op.CopySnapshot(copy=InodeId(9), rows=256),
    "abandon_snapshot": op.AbandonSnapshot(copy=InodeId(9)),
    "reserve_copy": op.ReserveChunkCopy(
        inode=InodeId(5), index=ChunkIndex(0), handle=ChunkHandle(7), version=ChunkVersion(3)
    ),
    "adopt_copy": op.AdoptChunkCopy(inode=InodeId(5), copy=ChunkHandle(8), replicas=(A, B), primary=B),
    "forget_copies": op.ForgetChunkCopies(copies=(ChunkHandle(8),)),
    "check_digest": op.CheckDigest(index=12, digest="00ff"),
    "check_digest, agreed": op.CheckDigest(index=12, digest="00ff", agreed=2, unsound=(MasterId("m3"),)),
    "check_digest, split": op.CheckDigest(index=12, digest="", split=True),
    "tenure": op.SetTenure(server=A, tenure="draining"),
    "begin_incarnation": op.BeginIncarnation(name="1795000000-00ff", number=1_795_000_000),
    "adopt_replicas": op.AdoptReplicas(
        handle=ChunkHandle(7),
        from_version=ChunkVersion(3),
        version=ChunkVersion(5),
        replicas=(A, B),
        primary=B,
    ),
    "settle_incarnation": op.SettleIncarnation(),
    "hold_garbage": op.HoldGarbage(held=True),
    "add_token": op.AddToken(digest=bytes(range(32)), role="reader"),
    "add_token, bounded": op.AddToken(
        digest=bytes(range(32)), role="writer", prefix="/d", user="ann", note="crawl", expires_at_ms=2**41
    ),
    "revoke_token": op.RevokeToken(digest=bytes(range(32))),
    "rotate_keys": op.RotateKeys(salt=bytes(16)),
    "rotate_keys, at once": op.RotateKeys(salt=bytes(16), drop_former=True),
}
OUTCOMES: dict[str, op.AnyOutcome] = {
    "done": op.Done(),
    "done, inode": op.Done(inode=InodeId(5)),
    "granted": op.ChunkGranted(handle=ChunkHandle(7), version=ChunkVersion(3), replicas=(A, B), primary=B),
    "granted, existed": op.ChunkGranted(
        handle=ChunkHandle(7), version=ChunkVersion(3), replicas=(A, B), primary=B, existed=True
    ),
    "refused": op.Refused(code="not_found", message="/f does not exist"),
}


def entries() -> dict[str, tuple[msgspec.Struct, object]]:
    """By name: the value and the type it is decoded as."""
    found: dict[str, tuple[msgspec.Struct, object]] = {
        f"operation {name}": (op.LogRecord(at_ms=1_700_000_000_000, operation=operation), op.LogRecord)
        for name, operation in OPERATIONS.items()
    }
    request = op.RequestId(ClientId(2**62), 17, 12)
    retried = op.LogRecord(at_ms=1, operation=OPERATIONS["create"], request=request)
    found["record with a request"] = retried, op.LogRecord
    named = msgspec.structs.replace(retried, caller=Identity("ann", ("crawl", "staff")))
    found["record with a caller"] = named, op.LogRecord
    found |= {f"outcome {name}": (outcome, op.AnyOutcome) for name, outcome in OUTCOMES.items()}
    return found


def line(name: str, value: msgspec.Struct) -> str:
    return f"{name}\t{msgspec.json.encode(value).decode()}\t{msgspec.msgpack.encode(value).hex()}"


def test_every_operation_and_outcome_is_in_the_golden_file() -> None:
    assert {type(operation) for operation in OPERATIONS.values()} == set(typing.get_args(op.AnyOperation))
    assert {type(outcome) for outcome in OUTCOMES.values()} == set(typing.get_args(op.AnyOutcome))
    names = [golden.split("\t")[0] for golden in GOLDEN.read_text("utf-8").splitlines()]
    assert names == list(entries())


def test_golden_bytes_are_written_and_read_as_ever() -> None:
    golden = {
        parts[0]: (parts[1], parts[2])
        for parts in (text.split("\t") for text in GOLDEN.read_text("utf-8").splitlines())
    }
    for name, (value, kind) in entries().items():
        as_json, as_hex = golden[name]
        assert line(name, value) == f"{name}\t{as_json}\t{as_hex}"
        assert msgspec.msgpack.decode(bytes.fromhex(as_hex), type=kind) == value


def test_a_record_of_a_newer_version_is_refused_not_guessed() -> None:
    known = msgspec.msgpack.decode(msgspec.msgpack.encode(entries()["operation create"][0]))
    for newer in (
        {**known, "a_new_field": 1},
        {**known, "operation": {**known["operation"], "a_new_field": 1}},
        {**known, "operation": {"type": "a_new_operation"}},
    ):
        try:
            msgspec.msgpack.decode(msgspec.msgpack.encode(newer), type=op.LogRecord)
        except msgspec.ValidationError:
            continue
        raise AssertionError(newer)
