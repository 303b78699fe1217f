"""Who may call a master, and for what: programs by their proof, users by their token's role and path prefix.

Looked at before every handler. Owners and modes of files are checked besides, by core/access.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gfs.clock import Clock
from gfs.credentials import CREDENTIAL_CHARS_MAX, PROOF_STEM, proved_role, token_digest, token_id
from gfs.errors import GfsError, PermissionDenied, Unauthenticated
from gfs.master.core.lookup import NamePath, find, inode_record, names_of
from gfs.master.core.records import TRASH_INODE
from gfs.master.core.tables import ReadTables
from gfs.master.core.user_tokens import ROLES, TokenRecord, token_with
from gfs.messages.base import Identity, Ping, Request, method_name
from gfs.messages.changes import WatchChanges
from gfs.messages.check import CheckFiles
from gfs.messages.chunks import AcquireLease, FindChunks, SealChunk
from gfs.messages.cluster import ClusterStatus
from gfs.messages.console import ListCheckpoints, ListLeases, ShowChunkMatrix
from gfs.messages.heartbeat import Heartbeat
from gfs.messages.members import FindMasters, ListMembers
from gfs.messages.namespace import (
    CreateFile,
    DeletePath,
    Glob,
    ListDirectory,
    MakeDirectory,
    RenamePath,
    SetLengthHint,
    Stat,
    StatMany,
)
from gfs.messages.operations import AddToken, AnyOperation, RevokeToken
from gfs.messages.placement import Explain, ListChunkServers, ReplicationQueue
from gfs.messages.policies import ChangeMode, ChangeOwner, SetPolicy, ShowPolicy
from gfs.messages.security import InspectToken
from gfs.messages.snapshots import TakeSnapshot
from gfs.messages.trash import ListTrash, PurgeTrash, Undelete
from gfs.tls import TlsIdentity
from gfs.transport.interface import CallContext
from gfs.vocabulary import ROOT_INODE, InodeId, LogIndex

BEARERS_KEPT = 1024  # credentials whose meaning is remembered

_PLAIN: dict[type[Request], str] = {  # asks of no path: any token's prefix will do
    Ping: "reader",
    FindMasters: "reader",
    ListMembers: "reader",
    ClusterStatus: "reader",
    ListChunkServers: "reader",
    ReplicationQueue: "reader",
    InspectToken: "reader",
    ShowChunkMatrix: "reader",
    ListCheckpoints: "reader",
    ListLeases: "reader",
}
# What a request needs, and the paths that it names. Whatever is in neither list is an admin's.
_Paths = Callable[[Any], tuple[str, ...]]  # Any: each takes its own kind of request
_ON_PATHS: dict[type[Request], tuple[str, _Paths]] = {
    Stat: ("reader", lambda r: (r.path,)),
    StatMany: ("reader", lambda r: tuple(r.paths)),
    ListDirectory: ("reader", lambda r: (r.path,)),
    Glob: ("reader", lambda r: (_fixed_part(r.pattern),)),
    ListTrash: ("reader", lambda r: (r.under,)),
    WatchChanges: ("reader", lambda r: (r.path,)),
    ShowPolicy: ("reader", lambda r: (r.path,)),
    FindChunks: ("reader", lambda r: (r.path,)),
    CheckFiles: ("reader", lambda r: (r.path,)),
    Explain: ("reader", lambda r: (r.path or "/",)),
    MakeDirectory: ("writer", lambda r: (r.path,)),
    CreateFile: ("writer", lambda r: (r.path,)),
    DeletePath: ("writer", lambda r: (r.path,)),
    RenamePath: ("writer", lambda r: (r.source, r.destination)),
    TakeSnapshot: ("writer", lambda r: (r.source, r.target)),
    Undelete: ("writer", lambda r: (r.path, r.destination or r.path)),
    PurgeTrash: ("writer", lambda r: (r.path,)),
    SetPolicy: ("writer", lambda r: (r.path,)),
    ChangeMode: ("writer", lambda r: (r.path,)),
    ChangeOwner: ("writer", lambda r: (r.path,)),
}
_ON_INODES: Mapping[type[Request], str] = {
    AcquireLease: "writer",
    SealChunk: "writer",
    SetLengthHint: "writer",
}
_OF_CHUNK_SERVERS = frozenset((Heartbeat, Ping, FindMasters, ClusterStatus))


def needed_role(kind: type[Request]) -> str:
    """The least role of a user that may ask this."""
    if kind in _ON_PATHS:
        return _ON_PATHS[kind][0]
    return _PLAIN.get(kind) or _ON_INODES.get(kind) or "admin"


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a credential is good for. `program`: master or chunkserver, empty of a user."""

    program: str
    id: str
    role: str
    prefix: NamePath
    record: TokenRecord | None

    @property
    def subject(self) -> str:
        """Whose it is, as capabilities have it: in hexadecimal; empty of a program."""
        return "" if self.program else self.id


_RANK: Mapping[str, int] = {role: rank for rank, role in enumerate(ROLES)}
_NEEDED: dict[type[Request], int] = {}  # filled as kinds are asked for


class MasterGate:
    """The gate of one master; see transport/interface.Gate."""

    def __init__(
        self,
        *,
        tables: Callable[[], ReadTables],
        committed_index: Callable[[], LogIndex],
        clock: Clock,
        secret: bytes,
        cluster: str,
        superuser: str,
        first_token_sha256: str,
        unknown: Callable[[], GfsError | None],
        tls: TlsIdentity | None = None,
    ) -> None:
        """`unknown`: the error for a token unknown here that another master may know; None: none can."""
        self._tables, self._committed_index, self._clock = tables, committed_index, clock
        self._secret, self._cluster = secret, cluster
        self._first = bytes.fromhex(first_token_sha256)
        self._unknown, self._tls = unknown, tls
        self._superuser = Identity(superuser)
        self._bearers: dict[str, Bearer] = {}
        self._changed_at = LogIndex(0)

    def note(self, index: LogIndex, operation: AnyOperation) -> None:
        """To be called with what is applied: which tokens there are may have changed."""
        if isinstance(operation, AddToken | RevokeToken):
            self._changed_at = index

    def forget_all(self) -> None:
        """The state was replaced by another."""
        self._bearers.clear()

    def admit(self, request: Request, context: CallContext) -> CallContext:
        """Raises: Unauthenticated, PermissionDenied naming the role or prefix that is missing."""
        bearer = self.bearer(context.credential)
        kind = type(request)
        if bearer.program:
            if self._tls is not None:
                self._tls.require_named(context.node, cluster=self._cluster, role=bearer.program)
            if bearer.program == "chunkserver" and kind not in _OF_CHUNK_SERVERS:
                raise PermissionDenied(f"a chunk server may not ask a master for {method_name(kind)}")
            return context
        needed = _NEEDED.get(kind)
        if needed is None:
            needed = _NEEDED[kind] = _RANK[needed_role(kind)]
        if kind is Heartbeat:
            raise PermissionDenied("only a chunk server that knows the cluster's secret may send heartbeats")
        if _RANK[bearer.role] < needed:
            raise PermissionDenied(
                f"{method_name(kind)} needs the role {ROLES[needed]}; token {bearer.id} is a {bearer.role}'s",
                hint="An admin makes tokens: 'gfs token create'.",
            )
        if bearer.prefix:
            self._require_prefix(request, bearer)
        if needed == _RANK["admin"]:
            return context._replace(identity=self._superuser)
        user = bearer.record.user if bearer.record is not None else ""
        return context if not user else context._replace(identity=Identity(user))

    def bearer(self, credential: str) -> Bearer:
        """Raises: Unauthenticated."""
        if self._changed_at and self._committed_index() >= self._changed_at:
            self._bearers.clear()
            self._changed_at = LogIndex(0)
        bearer = self._bearers.get(credential)
        if bearer is None:
            bearer = self._recognise(credential)
            if len(self._bearers) >= BEARERS_KEPT:
                self._bearers.clear()
            self._bearers[credential] = bearer
        record = bearer.record
        if record is not None and record.expires_at_ms and self._clock.wall_ms() >= record.expires_at_ms:
            raise Unauthenticated(
                f"token {bearer.id} has expired", hint="Have an admin make another one: 'gfs token create'."
            )
        return bearer

    def _recognise(self, credential: str) -> Bearer:
        if not credential:
            raise Unauthenticated(
                "this cluster wants a token, and none was shown",
                hint="GFS_TOKEN_FILE or client.token_file in gfs.toml names the file that it is in.",
            )
        if len(credential) > CREDENTIAL_CHARS_MAX or not credential.isascii():
            raise Unauthenticated("what was shown is no token")
        if credential.startswith(PROOF_STEM):
            role = proved_role(credential, self._secret, cluster=self._cluster)
            if not role:
                raise Unauthenticated(
                    "the caller says that it is a program of this cluster, but does not know its secret",
                    hint="All programs of a cluster need the same cluster.secret_file and cluster.id.",
                )
            return Bearer(program=role, id=role, role="admin", prefix=(), record=None)
        digest = token_digest(credential)
        if self._first and hmac.compare_digest(digest, self._first):
            return Bearer(program="", id=token_id(digest), role="admin", prefix=(), record=None)
        record = token_with(self._tables(), digest)
        if record is None:
            raise self._unknown() or Unauthenticated(
                "the token that was shown is not, or no longer, one of this cluster",
                hint="An admin sees with 'gfs token ls' which there are.",
            )
        return Bearer("", token_id(digest), record.role, names_of(record.prefix), record)

    # --- prefixes --------------------------------------------------------------------------------

    def _require_prefix(self, request: Request, bearer: Bearer) -> None:
        prefix, kind = bearer.prefix, type(request)
        if kind in _PLAIN:
            return
        on_paths = _ON_PATHS.get(kind)
        if on_paths is not None:
            for path in on_paths[1](request):
                names = names_of(path)
                # What the directories above it are may be asked: clients look at "/" to find the leader.
                if names[: len(prefix)] != prefix and not (kind is Stat and prefix[: len(names)] == names):
                    raise _outside(bearer, path)
            return
        assert kind in _ON_INODES, kind  # what is in no list needs an admin, whose token has no prefix
        inode: InodeId = getattr(request, "inode")  # noqa: B009 - all of _ON_INODES have one
        if not self._is_below(inode, prefix):
            raise _outside(bearer, f"inode {inode}")

    def _is_below(self, inode: InodeId, prefix: NamePath) -> bool:
        tables = self._tables()
        try:
            top, _ = find(tables, prefix)
        except GfsError:
            return False
        at = inode
        while at != top:
            record = inode_record(tables, at)
            if record is None or at == ROOT_INODE or record.parent == TRASH_INODE:
                return False
            at = InodeId(record.parent)
        return True


def _outside(bearer: Bearer, what: str) -> PermissionDenied:
    prefix = b"/".join((b"", *bearer.prefix)).decode("utf-8")
    return PermissionDenied(
        f"token {bearer.id} is for {prefix} and what is below it, not for {what[:200]}",
        hint="An admin makes tokens for other paths: 'gfs token create --prefix'.",
    )


def _fixed_part(pattern: str) -> str:
    """The path up to the first name of a pattern that matches more than itself."""
    names = pattern.split("/")
    fixed = next((n for n, name in enumerate(names) if any(sign in name for sign in "*?[\\{")), len(names))
    return "/".join(names[:fixed]) or "/"
