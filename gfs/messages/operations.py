"""Operation log records: what the masters agree on, and the outcome `MasterState.apply` gives each.

Unknown fields are refused: a record from a newer version must stop an older master, never be guessed.
Times and ids are stamped by the leader before a record is proposed; `apply` has neither clock nor chance.
"""

from __future__ import annotations

import msgspec

from gfs.messages.base import Identity
from gfs.vocabulary import ChunkHandle, ChunkIndex, ChunkVersion, ClientId, InodeId, MasterId, ServerId


class RequestId(msgspec.Struct, frozen=True, array_like=True):
    """Names one client mutation for ever, so that a retry is answered with the first outcome.

    `first_open` is the lowest sequence this client may still retry: outcomes below it are dropped.
    """

    client: ClientId
    sequence: int
    first_open: int


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all log records."""


class MakeDirectory(Operation, tag="mkdir", frozen=True, kw_only=True):
    """`parents`: make missing ancestors, and accept an existing directory (mkdir -p).

    What is made belongs to `owner` and `group` (empty: the superuser's) and has `mode` (-1: the default).
    """

    path: str
    parents: bool = False
    owner: str = ""
    group: str = ""
    mode: int = -1


class CreateFile(Operation, tag="create", frozen=True, kw_only=True):
    """`path` comes into being, empty. `replace`: an existing file moves to the trash first (§6.3.4).

    `expires_at_ms`: until when the trash keeps a replaced file; 0 is three days. Owner, group and mode as for
    MakeDirectory. `inherits_goal`: a later policy on replicas holds for this file, too.
    """

    path: str
    replication_goal: int
    replace: bool = False
    expires_at_ms: int = 0
    owner: str = ""
    group: str = ""
    mode: int = -1
    inherits_goal: bool = False


class DeletePath(Operation, tag="delete", frozen=True, kw_only=True):
    """`path` moves to the trash under a hidden name, with everything below it (§4.4)."""

    path: str
    recursive: bool = False
    expires_at_ms: int


class RenamePath(Operation, tag="rename", frozen=True, kw_only=True):
    """`replace`: an existing *file* at the destination moves to the trash in the same step."""

    source: str
    destination: str
    replace: bool = False
    expires_at_ms: int


class AddChunk(Operation, tag="add_chunk", frozen=True, kw_only=True):
    """Chunk `index` of a file comes into being with its first grant: version 1 on `replicas`.

    The replicas learn of it only after this record is committed (I1). Idempotent: an existing chunk at
    `index` is answered with its present state and `ChunkGranted.existed`.
    """

    inode: InodeId
    index: ChunkIndex
    replicas: tuple[ServerId, ...]
    primary: ServerId


class GrantLease(Operation, tag="grant", frozen=True, kw_only=True):
    """Raise the version from `from_version` by one and name the replica set that may mutate it (§3.1).

    `replicas` is a non-empty subset of the present set (I2), unless `fresh`: the leader vouches that the
    chunk has no acknowledged byte and can get none under `from_version`, so it may go to any servers.
    `held_version`: the leader knows that every member of the present set holds this version or a later
    one (0: nothing new). The chunk keeps the highest it was told, and a `fresh` grant sets it back to 0;
    a replica below it has gone back in time and has lost mutations (I5).
    """

    inode: InodeId
    index: ChunkIndex
    handle: ChunkHandle
    from_version: ChunkVersion
    replicas: tuple[ServerId, ...]
    primary: ServerId
    fresh: bool = False
    held_version: ChunkVersion = ChunkVersion(0)


class ChangeReplicas(Operation, tag="change_replicas", frozen=True, kw_only=True):
    """Raise the version by one and name the replica set anew, for the chunk's own sake and not a writer's
    (§4.3): to fence it before a replica joins, to let `joined` in, or to let somebody go.

    Not a GrantLease, because of what the log then proves. The version this makes is *quiet*: no client is
    ever told of it, so nothing is ever acknowledged under it. A stranger (`joined`) may only follow upon a
    quiet version: a copy made while it is in force lacks nothing, ever. That the stranger has such a copy on
    its disk, and that every member of the present set holds the present version (`held_version`, which must
    be that version then), is the leader's word; the rest is checked. Only the chunk is touched, no file: its
    times, and whether its length is known, do not change, and sealed and deleted files' chunks can be moved.
    """

    handle: ChunkHandle
    from_version: ChunkVersion
    replicas: tuple[ServerId, ...]
    primary: ServerId
    joined: tuple[ServerId, ...] = ()
    held_version: ChunkVersion = ChunkVersion(0)


class SealChunk(Operation, tag="seal", frozen=True, kw_only=True):
    """No mutation of this chunk is accepted any more; it ends at `length_bytes`."""

    handle: ChunkHandle
    version: ChunkVersion
    length_bytes: int


class SetLengthHint(Operation, tag="length_hint", frozen=True, kw_only=True):
    """The writer's word on a file's length. `closed`: exact until the next grant on one of its chunks.

    `appending`: records are being appended to the file, whose length is exact no more, whoever closes it: the
    master does not hear of each record.
    """

    inode: InodeId
    length_bytes: int
    closed: bool
    appending: bool = False


class TrashName(msgspec.Struct, frozen=True, array_like=True):
    """The key of one entry of the trash; the inode alone is what people call its id."""

    expires_at_ms: int
    inode: InodeId


class Undelete(Operation, tag="undelete", frozen=True, kw_only=True):
    """An entry of the trash moves to `path`, with everything below it (§4.4).

    Missing parents are made; they belong to `owner` and `group`, as for MakeDirectory.
    """

    entry: TrashName
    path: str
    owner: str = ""
    group: str = ""


class PurgeTrash(Operation, tag="purge", frozen=True, kw_only=True):
    """These entries cannot be undeleted any more, and are reclaimed before all others (§4.4)."""

    entries: tuple[TrashName, ...]


class Reclaim(Operation, tag="reclaim", frozen=True, kw_only=True):
    """Take apart what was purged or has expired by `now_ms`, about `rows_max` rows of the tables at most.

    What is left goes on with the next one: the trash itself says how far it has come.
    """

    now_ms: int
    rows_max: int


POLICY_FIELDS = ("replicas", "racks", "trash_ms", "durability", "files_max", "bytes_max")


class SetPolicy(Operation, tag="set_policy", frozen=True, kw_only=True):
    """Set and unset fields of the policy of the directory `path`; -1 and "" leave a field as it is.

    Units and meaning: `PolicyRecord` of the state. `unset` names the fields that the directory shall inherit
    again, or of which it shall have none.
    """

    path: str
    replicas: int = -1
    racks: int = -1
    trash_ms: int = -1
    durability: str = ""
    files_max: int = -1
    bytes_max: int = -1
    unset: tuple[str, ...] = ()


class ChangeMode(Operation, tag="chmod", frozen=True, kw_only=True):
    """`mode`: nine bits rwxrwxrwx of owner, group and others."""

    path: str
    mode: int


class ChangeOwner(Operation, tag="chown", frozen=True, kw_only=True):
    """An empty owner is the superuser. `keep_owner`, `keep_group`: leave that one as it is."""

    path: str
    owner: str = ""
    group: str = ""
    keep_owner: bool = False
    keep_group: bool = False


class ForgetSessions(Operation, tag="forget_sessions", frozen=True, kw_only=True):
    """Drop the outcomes kept for clients not heard of since `idle_since_ms`, at most `limit` of them."""

    idle_since_ms: int
    limit: int


class CheckDigest(Operation, tag="check_digest", frozen=True, kw_only=True):
    """Every master compares the digest it noted at `index` with the leader's (I7), and notes a new one.

    The digest is noted just before the log entry of each CheckDigest, together with that entry's index; the
    next CheckDigest carries it (`MasterState.digest_mark`). So each master compares equal points of the log,
    whatever else is under way. Refused as corrupt_state when they differ; 0 compares nothing.

    `agreed`: so many masters had this digest, more than half of those that vote; 0: it is the leader's word
    alone, and convicts nobody. `unsound`: masters whose rows are not those of their own digest. `split`: the
    masters differ at `index` and no digest has a majority, so that nobody can say who is right.
    """

    index: int
    digest: str
    agreed: int = 0
    unsound: tuple[MasterId, ...] = ()
    split: bool = False


class SetTenure(Operation, tag="tenure", frozen=True, kw_only=True):
    """An operator's word on a chunk server: serving, draining or removed (see master/core/tenure)."""

    server: ServerId
    tenure: str


class BeginSnapshot(Operation, tag="begin_snapshot", frozen=True, kw_only=True):
    """A copy of `source` begins to come into being, hidden until it is whole, then it is at `target` (§3.4).

    From here on until then nothing below `source` changes in the namespace, and neither path moves (I10).
    The outcome names the inode of the copy, and with it the snapshot.
    """

    source: str
    target: str


class CopySnapshot(Operation, tag="copy_snapshot", frozen=True, kw_only=True):
    """Copy the next `rows` entries and chunks of a snapshot; the step that finds none left publishes it.

    The leader has revoked the leases of all chunks below the source before it proposes the first one. The
    outcome names the copy once it is published.
    """

    copy: InodeId
    rows: int


class AbandonSnapshot(Operation, tag="abandon_snapshot", frozen=True, kw_only=True):
    """A snapshot of which no step has been made is given up, because the leases could not be revoked."""

    copy: InodeId


class ReserveChunkCopy(Operation, tag="reserve_copy", frozen=True, kw_only=True):
    """A handle for a copy of a chunk that several files share, which chunk servers are about to make (§3.4).

    The outcome names it. It belongs to no file until AdoptChunkCopy; a replica of it is no orphan meanwhile.
    """

    inode: InodeId
    index: ChunkIndex
    handle: ChunkHandle
    version: ChunkVersion


class AdoptChunkCopy(Operation, tag="adopt_copy", frozen=True, kw_only=True):
    """The copy takes the place of the shared chunk in one file; `replicas` have made it at `version`.

    The others go on with the shared chunk. Refused when the shared chunk has changed since the reservation.
    """

    inode: InodeId
    copy: ChunkHandle
    replicas: tuple[ServerId, ...]
    primary: ServerId


class ForgetChunkCopies(Operation, tag="forget_copies", frozen=True, kw_only=True):
    """These reserved handles will never be adopted: whoever holds a replica of one holds an orphan."""

    copies: tuple[ChunkHandle, ...]


class BeginIncarnation(Operation, tag="begin_incarnation", frozen=True, kw_only=True):
    """The first record of a life of the cluster that begins with an older state; see core/incarnation.

    `name` tells it from others, `number` (seconds since 1970) is above that of each life before. It is
    applied to the state before any master has it; no log holds it.
    """

    name: str
    number: int


class AdoptReplicas(Operation, tag="adopt_replicas", frozen=True, kw_only=True):
    """`replicas` hold a chunk at a `version` above the logged one, from a time this state does not know.

    Only for a chunk from before this life of the cluster that was not granted in it. Source: GFS §4.5.
    """

    handle: ChunkHandle
    from_version: ChunkVersion
    version: ChunkVersion
    replicas: tuple[ServerId, ...]
    primary: ServerId


class SettleIncarnation(Operation, tag="settle_incarnation", frozen=True, kw_only=True):
    """Chunk servers have said what they hold of the chunks from before: these may be read and granted."""


class HoldGarbage(Operation, tag="hold_garbage", frozen=True, kw_only=True):
    """`held`: from now on nothing is collected or reclaimed; else it goes on."""

    held: bool


class AddToken(Operation, tag="add_token", frozen=True, kw_only=True):
    """Whoever shows the token with this SHA-256 has a role below `prefix` (see master/core/user_tokens).

    The token itself is nowhere but with its owner. `user`: on whose behalf its requests are; "": as they say.
    `expires_at_ms` 0: never.
    """

    digest: bytes
    role: str
    prefix: str = "/"
    user: str = ""
    note: str = ""
    expires_at_ms: int = 0


class RevokeToken(Operation, tag="revoke_token", frozen=True, kw_only=True):
    """The token with this SHA-256 opens nothing any more."""

    digest: bytes


class RotateKeys(Operation, tag="rotate_keys", frozen=True, kw_only=True):
    """Chunk capabilities are signed by a new key from now on; the one before still holds, older ones do not.

    The log has only the `salt`, from which those who know the cluster's secret make the key. `drop_former`:
    the key before does not hold any more either.
    """

    salt: bytes
    drop_former: bool = False


AnyOperation = (
    MakeDirectory
    | CreateFile
    | DeletePath
    | RenamePath
    | AddChunk
    | GrantLease
    | ChangeReplicas
    | SealChunk
    | SetLengthHint
    | Undelete
    | PurgeTrash
    | Reclaim
    | SetPolicy
    | ChangeMode
    | ChangeOwner
    | ForgetSessions
    | CheckDigest
    | SetTenure
    | BeginSnapshot
    | CopySnapshot
    | AbandonSnapshot
    | ReserveChunkCopy
    | AdoptChunkCopy
    | ForgetChunkCopies
    | BeginIncarnation
    | AdoptReplicas
    | SettleIncarnation
    | HoldGarbage
    | AddToken
    | RevokeToken
    | RotateKeys
)


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One operation with what the leader stamped on it. A Raft entry carries a list of these.

    `caller`: on whose behalf, when it is to be checked what they may do.
    """

    at_ms: int
    operation: AnyOperation
    request: RequestId | None = None
    caller: Identity | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all outcomes."""


class Done(Outcome, tag="done", frozen=True, kw_only=True):
    """`inode` is the entry made, moved or deleted; 0 where there is none to name."""

    inode: InodeId = InodeId(0)


class ChunkGranted(Outcome, tag="granted", frozen=True, kw_only=True):
    handle: ChunkHandle
    version: ChunkVersion
    replicas: tuple[ServerId, ...]
    primary: ServerId
    existed: bool = False


class Refused(Outcome, tag="refused", frozen=True, kw_only=True):
    """The operation had no effect; `code` is a definite error's code from gfs.errors.

    path_busy is no answer for ever: the same request may be tried again, and is carried out then.

    But for outcome_unknown: the request is older than the outcomes kept for its client, so that nobody can
    say whether its first try had one.
    """

    code: str
    message: str


AnyOutcome = Done | ChunkGranted | Refused
