"""The master's replicated state: applies log records, one by one, on every master alike (GFS §2.6).

Volatile things (locations, running leases) are not here, nor anything that waits, tells time or throws dice.
"""

from __future__ import annotations

from gfs.errors import CorruptState, GfsError, InvalidArgument, PathBusy, UnsupportedVersion
from gfs.master.core.access import check_operation
from gfs.master.core.chunk_copies import ChunkCopies
from gfs.master.core.chunk_table import ChunkTable
from gfs.master.core.digest import DIGEST_BYTES, digest_text
from gfs.master.core.incarnation import Incarnations
from gfs.master.core.namespace import Namespace, root_record
from gfs.master.core.owners import Owners
from gfs.master.core.policy_table import PolicyTable
from gfs.master.core.quotas import Quotas
from gfs.master.core.reclamation import Reclamation
from gfs.master.core.records import (
    COUNTERS_KEY,
    DIGEST_KEY,
    DIGEST_MARK_KEY,
    FORMAT_KEY,
    STATE_FORMAT,
    TIME_MS_MAX,
    Counters,
    DigestMark,
    decode_counters,
    decode_mark,
    encode_counters,
    encode_inode,
    encode_mark,
    id_key,
)
from gfs.master.core.sessions import Sessions, request_fault
from gfs.master.core.snapshots import Snapshots
from gfs.master.core.tables import ReadTables, Table, Tables
from gfs.master.core.tenure import set_tenure
from gfs.master.core.usage import AccountedTables
from gfs.master.core.user_tokens import add_token, revoke_token, rotate_keys
from gfs.messages.operations import (
    AbandonSnapshot,
    AddChunk,
    AddToken,
    AdoptChunkCopy,
    AdoptReplicas,
    AnyOutcome,
    BeginIncarnation,
    BeginSnapshot,
    ChangeMode,
    ChangeOwner,
    ChangeReplicas,
    CheckDigest,
    CopySnapshot,
    CreateFile,
    DeletePath,
    Done,
    ForgetChunkCopies,
    ForgetSessions,
    GrantLease,
    HoldGarbage,
    LogRecord,
    MakeDirectory,
    PurgeTrash,
    Reclaim,
    Refused,
    RenamePath,
    ReserveChunkCopy,
    RevokeToken,
    RotateKeys,
    SealChunk,
    SetLengthHint,
    SetPolicy,
    SetTenure,
    SettleIncarnation,
    Undelete,
)
from gfs.vocabulary import ROOT_INODE, InodeId, LogIndex

_NO_INDEX = LogIndex(0)


class MasterState:
    """The state machine over `tables`, which it alone writes; empty tables become the state of a new cluster.

    Counters, session headers and the digest are held in memory between save()s: call it before the tables are
    committed, copied or compared. Two states that applied the same records have equal tables then (I7).
    """

    def __init__(self, tables: Tables) -> None:
        """Raises: CorruptState; UnsupportedVersion when a newer gfs wrote these tables."""
        self._plain = tables
        fresh = _check_format(tables)
        digest = tables.get(Table.META, DIGEST_KEY)
        counters = tables.get(Table.META, COUNTERS_KEY)
        mark = tables.get(Table.META, DIGEST_MARK_KEY)
        if not fresh and (digest is None or counters is None):
            raise CorruptState("the state lacks its counters or its digest")
        self.counters = Counters() if counters is None else decode_counters(counters)
        self._mark = DigestMark(index=0, digest="") if mark is None else decode_mark(mark)
        self.agreed_index = (
            _NO_INDEX  # the last one, since this object is, at which a majority had our digest
        )
        self._tables = AccountedTables(tables, int.from_bytes(digest or bytes(DIGEST_BYTES), "big"))
        self._owners = Owners(self._tables, self.counters)
        self._quotas = Quotas(self._tables)
        self._policies = PolicyTable(self._tables, self._quotas)
        self._namespace = Namespace(self._tables, self.counters, self._owners, self._quotas)
        self._incarnations = Incarnations(tables, self.counters)
        self._chunks = ChunkTable(self._tables, self.counters, self._quotas, self._incarnations)
        self._copies = ChunkCopies(self._tables, self.counters, self._chunks)
        self._snapshots = Snapshots(self._tables, self.counters, self._quotas)
        self._reclamation = Reclamation(self._tables, self.counters)
        self._sessions = Sessions(self._tables, self.counters)
        if fresh:
            tables.put(Table.META, FORMAT_KEY, STATE_FORMAT.to_bytes(2, "big"))
            self._tables.insert(Table.INODES, id_key(ROOT_INODE), encode_inode(root_record()))
            self.save()

    def deletion_rank(self, inode: InodeId) -> int:
        """See DeletionOrder.rank()."""
        return self._namespace.deletions.rank(inode)

    def apply(self, record: LogRecord, *, index: LogIndex = _NO_INDEX) -> AnyOutcome:
        """Carry out one record of the log entry at `index`; deterministic and total.

        Whatever the record says, the answer is an outcome: Refused means nothing changed. An exception is a
        bug of ours (or damaged tables) and must stop this master. A repeated request is answered as at first.
        """
        at_ms = min(max(0, record.at_ms), TIME_MS_MAX)  # the leader's clock, as far as the tables can hold it
        request = record.request
        if request is None:
            return self._outcome(record, index, at_ms)
        fault = request_fault(request)
        if fault is not None:
            return Refused(code=InvalidArgument.code, message=fault)
        first = self._sessions.answered(request)
        if first is not None:
            return first
        outcome = self._outcome(record, index, at_ms)
        if isinstance(outcome, Refused) and outcome.code == PathBusy.code:
            return outcome  # it speaks of this moment: a later try of the same request may be carried out
        self._sessions.remember(request, outcome, at_ms=at_ms)
        return outcome

    def save(self) -> None:
        """Write into the tables what is held back in memory."""
        self._sessions.save()
        self._tables.save()
        self._plain.put(Table.META, COUNTERS_KEY, encode_counters(self.counters))
        self._plain.put(Table.META, DIGEST_KEY, self._tables.rows_digest().to_bytes(DIGEST_BYTES, "big"))

    def digest(self) -> str:
        """Digest of all tables as they are now; costs what was written since the last call."""
        self._sessions.save()
        self._tables.save()
        return digest_text(self._tables.rows_digest(), encode_counters(self.counters))

    def digest_mark(self) -> tuple[LogIndex, str]:
        """What the next CheckDigest must carry: index and digest noted last ((0, "") at first)."""
        return LogIndex(self._mark.index), self._mark.digest

    def _outcome(self, record: LogRecord, index: LogIndex, at_ms: int) -> AnyOutcome:
        try:
            return self._carry_out(record, index, at_ms)
        except GfsError as error:
            if not error.definite or isinstance(error, CorruptState):
                raise  # not the record's fault: these tables are damaged
            return Refused(code=error.code, message=error.message)

    def _carry_out(self, record: LogRecord, index: LogIndex, at_ms: int) -> AnyOutcome:
        if record.caller is not None:
            check_operation(self._tables, record.caller, record.operation)
        if self._snapshots.any_under_way:
            self._snapshots.require_free(record.operation)
        match record.operation:
            case CreateFile() as operation:
                return Done(inode=self._namespace.create_file(operation, at_ms=at_ms))
            case AddChunk() as operation:
                return self._chunks.add_chunk(operation, at_ms=at_ms)
            case GrantLease() as operation:
                return self._chunks.grant_lease(operation, at_ms=at_ms)
            case ChangeReplicas() as operation:
                return self._chunks.change_replicas(operation)
            case SetLengthHint() as operation:
                self._chunks.set_length_hint(operation, at_ms=at_ms)
                return Done(inode=operation.inode)
            case SealChunk() as operation:
                self._chunks.seal_chunk(operation)
                return Done()
            case MakeDirectory() as operation:
                return Done(inode=self._namespace.make_directory(operation, at_ms=at_ms))
            case DeletePath() as operation:
                return Done(inode=self._namespace.delete_path(operation, at_ms=at_ms))
            case RenamePath() as operation:
                return Done(inode=self._namespace.rename_path(operation, at_ms=at_ms))
            case Undelete() as operation:
                return Done(inode=self._namespace.undelete(operation, at_ms=at_ms))
            case PurgeTrash() as operation:
                self._reclamation.condemn(operation)
                return Done()
            case Reclaim() as operation:
                self._reclamation.reclaim(operation)
                return Done()
            case SetPolicy() as operation:
                return Done(inode=self._policies.set_policy(operation))
            case ChangeMode() as operation:
                return Done(inode=self._namespace.change_mode(operation))
            case ChangeOwner() as operation:
                return Done(inode=self._namespace.change_owner(operation))
            case ForgetSessions() as operation:
                self._sessions.forget(idle_since_ms=operation.idle_since_ms, limit=operation.limit)
                return Done()
            case SetTenure() as operation:
                set_tenure(self._tables, operation)
                return Done()
            case BeginSnapshot() as operation:
                return Done(inode=self._snapshots.begin(operation))
            case CopySnapshot() as operation:
                return Done(inode=self._snapshots.copy(operation))
            case AbandonSnapshot() as operation:
                self._snapshots.abandon(operation)
                return Done()
            case ReserveChunkCopy() as operation:
                return self._copies.reserve(operation)
            case AdoptChunkCopy() as operation:
                return self._copies.adopt(operation, at_ms=at_ms)
            case ForgetChunkCopies() as operation:
                self._copies.forget(operation)
                return Done()
            case CheckDigest() as operation:
                return self._check_digest(operation, index)
            case BeginIncarnation() as operation:
                self._incarnations.begin(operation, index=index, at_ms=at_ms)
                return Done()
            case AdoptReplicas() as operation:
                self._chunks.adopt_replicas(operation)
                return Done()
            case SettleIncarnation():
                self._incarnations.settle()
                return Done()
            case HoldGarbage() as operation:
                self._incarnations.hold_garbage(operation)
                return Done()
            case AddToken() as operation:
                add_token(self._tables, operation, at_ms=at_ms)
                return Done()
            case RevokeToken() as operation:
                revoke_token(self._tables, operation)
                return Done()
            case RotateKeys() as operation:
                rotate_keys(self._tables, operation, at_ms=at_ms)
                return Done()

    def _check_digest(self, operation: CheckDigest, index: LogIndex) -> AnyOutcome:
        before = self._mark
        self._mark = DigestMark(index=index, digest=self.digest())
        self._plain.put(Table.META, DIGEST_MARK_KEY, encode_mark(self._mark))
        if before.index != operation.index or before.index == 0 or operation.split:
            return Done()
        if before.digest == operation.digest:
            if operation.agreed:
                self.agreed_index = LogIndex(before.index)
            return Done()
        whose = f"of {operation.agreed} masters" if operation.agreed else "of the leader"
        return Refused(
            code=CorruptState.code,
            message=f"digest at index {before.index}: {operation.digest[:64]} {whose}, ours {before.digest}",
        )


def _check_format(tables: ReadTables) -> bool:
    """Whether the tables are still empty."""
    row = tables.get(Table.META, FORMAT_KEY)
    if row is None:
        if next(tables.scan(Table.INODES), None) is not None:
            raise CorruptState("the state has rows but does not say in which format")
        return True
    found = int.from_bytes(row, "big")
    if found != STATE_FORMAT:
        raise UnsupportedVersion(f"the state has format {found}; this gfs reads format {STATE_FORMAT}")
    return False
