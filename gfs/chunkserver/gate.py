"""What a chunk server wants to be shown before it does anything: capabilities by clients, proofs by programs.

It asks nobody: the keys of capabilities come with the answers to its heartbeats.
"""

from __future__ import annotations

from collections.abc import Callable

from gfs.capabilities import KEY_BYTES, READ, VERIFY, WRITE, Capability, KeyRing, no_keys
from gfs.clock import Clock
from gfs.credentials import CREDENTIAL_CHARS_MAX, PROOF_STEM, proved_role, token_digest
from gfs.errors import CapabilityExpired, PermissionDenied, ProtocolFault, Unauthenticated
from gfs.messages.base import Ping, Request, method_name
from gfs.messages.check import VerifyReplica
from gfs.messages.heartbeat import CapabilityKeys
from gfs.messages.replicas import AppendRecord, ApplyMutation, ChunkStatus, FindRecord, WriteChunk
from gfs.tls import NODE_ROLES, TlsIdentity
from gfs.transport.data_head import PushHead, ReadHead
from gfs.transport.interface import CallContext
from gfs.vocabulary import ChunkHandle, ChunkVersion

PROOFS_KEPT = 1024
OWN_SECONDS = 600  # how long what this server shows to another one holds

_OF_CLIENTS: dict[type[Request], int] = {
    WriteChunk: WRITE,
    AppendRecord: WRITE,
    ChunkStatus: VERIFY,
    FindRecord: VERIFY,
    VerifyReplica: VERIFY,
}
_OF_CHUNK_SERVERS = frozenset((ApplyMutation, ChunkStatus, Ping))


class ServerKeys:
    """What the masters have said of keys. Read by any thread, changed by the loop's."""

    def __init__(self) -> None:
        self.ring: KeyRing | None = None
        self.admins: frozenset[bytes] = frozenset()
        self._number = -1

    def hear(self, told: CapabilityKeys | None, *, from_leader: bool) -> None:
        """A follower may be behind: it is believed only when it knows more. Raises: ProtocolFault."""
        if told is None or (told.number <= self._number and not from_leader):
            return
        if not told.keys or any(len(key) != KEY_BYTES for key in told.keys):
            raise ProtocolFault("a master told no keys of capabilities, or some that are none")
        if self.ring is None or self.ring.keys != tuple(told.keys):
            # By the last one: whoever has not heard of the newest yet knows it.
            self.ring = KeyRing(tuple(told.keys), told.keys[-1])
        self._number, self.admins = told.number, frozenset(told.admins)

    def own(self, handle: ChunkHandle, version: ChunkVersion, *, now_s: float) -> bytes:
        """What this server shows to another one to read or push bytes of a chunk; empty without any key."""
        ring = self.ring
        if ring is None:
            return b""
        return ring.sign(Capability(handle, version, READ | WRITE | VERIFY, int(now_s) + OWN_SECONDS))


class ChunkServerGate:
    """The gates of one chunk server's two ports; see transport/interface and transport/data_handler."""

    def __init__(
        self,
        keys: ServerKeys,
        clock: Clock,
        *,
        secret: bytes,
        cluster: str,
        hurry: Callable[[], None],
        tls: TlsIdentity | None = None,
    ) -> None:
        """`hurry` has the masters asked for keys soon, when a capability is signed by an unknown one."""
        self._keys, self._clock = keys, clock
        self._secret, self._cluster, self._hurry = secret, cluster, hurry
        self._tls = tls
        self._roles: dict[str, str] = {}

    def admit(self, request: Request, context: CallContext) -> CallContext:
        """The control port's. Raises: Unauthenticated, PermissionDenied, CapabilityExpired, Unavailable."""
        kind = type(request)
        if kind is Ping:
            return context
        role = self._role(context.credential)
        if self._tls is not None and role in NODE_ROLES:
            self._tls.require_named(context.node, cluster=self._cluster, role=role)
        if role == "master" or (role == "chunkserver" and kind in _OF_CHUNK_SERVERS):
            return context
        wanted = _OF_CLIENTS.get(kind)
        if wanted is not None:
            assert isinstance(request, WriteChunk | AppendRecord | ChunkStatus | FindRecord | VerifyReplica)
            version = 0 if isinstance(request, FindRecord) else request.version
            self._require(request.capability, wanted, request.handle, version)
            return context
        if role != "admin":
            raise PermissionDenied(
                f"{method_name(kind)} of a chunk server is for programs of the cluster and for admins"
            )
        return context

    def admit_data(self, head: PushHead | ReadHead) -> None:
        """The bulk port's. Raises: as admit()."""
        if isinstance(head, ReadHead):
            self._require(head.capability, READ, head.handle, head.version)
        else:  # for which chunk pushed bytes are is said by the write, which is looked at in its turn
            self._require(head.capability, WRITE, 0, 0)

    def _require(self, shown: bytes, wanted: int, handle: int, version: int) -> None:
        ring = self._keys.ring
        if ring is None:
            self._hurry()
            raise no_keys()
        try:
            now_s = self._clock.wall_ms() / 1000
            ring.require(shown, wanted, handle=handle, version=version, now_s=now_s)
        except CapabilityExpired:
            self._hurry()
            raise

    def _role(self, credential: str) -> str:
        """master, chunkserver, admin, or empty. Raises: Unauthenticated for a proof that proves nothing."""
        if not credential:
            return ""
        if len(credential) > CREDENTIAL_CHARS_MAX or not credential.isascii():
            raise Unauthenticated("what was shown is no token")
        if not credential.startswith(PROOF_STEM):
            return "admin" if token_digest(credential) in self._keys.admins else ""
        role = self._roles.get(credential)
        if role is None:
            role = proved_role(credential, self._secret, cluster=self._cluster)
            if not role:
                raise Unauthenticated(
                    "the caller says that it is a program of this cluster, but does not know its secret",
                    hint="All programs of a cluster need the same cluster.secret_file and cluster.id.",
                )
            if len(self._roles) >= PROOFS_KEPT:
                self._roles.clear()
            self._roles[credential] = role
        return role
