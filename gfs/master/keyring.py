"""The keys of chunk capabilities at one master: made from logged salts, handed to chunk servers, signed by.

Also the leader's duty of having a key, and a newer one in time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from gfs.capabilities import READ, VERIFY, WRITE, Capability, KeyRing, derived_key, to_text
from gfs.clock import Clock
from gfs.errors import ChunkSealed, GfsError, Unavailable
from gfs.master.commit import Commits
from gfs.master.core.tables import ReadTables
from gfs.master.core.user_tokens import SALT_BYTES, KeySalts, all_tokens, key_salts
from gfs.messages import operations
from gfs.messages.base import Reply, Request
from gfs.messages.check import CheckFiles, CheckFilesReply
from gfs.messages.chunks import AcquireLease, ChunkLease, ChunkPlace, FileChunks, FindChunks
from gfs.messages.heartbeat import CapabilityKeys
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handler
from gfs.vocabulary import ChunkHandle, ChunkVersion

LOOK_SECONDS = 0.5  # how often a leader looks whether a key is due
# A new key signs only after chunk servers have had several heartbeats to hear of it.
HEARD_SECONDS = 5.0
FIRST_SECONDS = 1.0  # … and the first one of all, for which everybody waits, after one heartbeat or two
ADMINS_TOLD_MAX = 256

_log = logger("master.keys")


class MasterKeys:
    """One master's ring of capability keys, always as its committed state has them."""

    def __init__(
        self,
        *,
        tables: Callable[[], ReadTables],
        secret: bytes,
        clock: Clock,
        capability_seconds: float,
        subject: Callable[[str], str],
        first_token_sha256: str,
    ) -> None:
        """`subject`: the id of whose a credential is, in hexadecimal."""
        self._tables, self._secret, self._clock = tables, secret, clock
        self._seconds, self._subject = capability_seconds, subject
        self._first = bytes.fromhex(first_token_sha256)
        self._salts: KeySalts | None = None
        self._signs_newest = False
        self._ring: KeyRing | None = None

    def ring(self) -> KeyRing | None:
        """None until a leader has made the first key."""
        salts = key_salts(self._tables())
        if salts is None:
            return None
        since_ms = self._clock.wall_ms() - salts.rotated_at_ms
        signs_newest = len(salts.salts) == 1 or not 0 <= since_ms < HEARD_SECONDS * 1000
        if self._ring is None or salts != self._salts or signs_newest != self._signs_newest:
            keys = tuple(derived_key(self._secret, salt) for salt in salts.salts)
            self._ring = KeyRing(keys, keys[0] if signs_newest else keys[1])
            self._salts, self._signs_newest = salts, signs_newest
        return self._ring

    def told(self) -> CapabilityKeys | None:
        """What a chunk server hears of it with its heartbeat."""
        ring = self.ring()
        if ring is None or self._salts is None:
            return None
        now_ms = self._clock.wall_ms()
        admins = [
            digest
            for digest, record in all_tokens(self._tables())
            if record.role == "admin" and (not record.expires_at_ms or now_ms < record.expires_at_ms)
        ]
        if self._first:
            admins.insert(0, self._first)
        return CapabilityKeys(
            number=self._salts.number, keys=list(ring.keys), admins=admins[:ADMINS_TOLD_MAX]
        )

    def signed(self, handler: Handler) -> Handler:
        """The handler, with capabilities in its replies for the chunks they name."""

        async def answer(request: Request, context: CallContext) -> Reply:
            try:
                reply = await handler(request, context)
            except ChunkSealed as sealed:
                # Its replicas are asked what became of a record; they give none of their bytes for this.
                if "handle" in sealed.details:
                    sign = self._signer(context)
                    handle, version = int(sealed.details["handle"]), int(sealed.details["version"])
                    shown = sign(ChunkHandle(handle), ChunkVersion(version), VERIFY)
                    sealed.details["capability"] = to_text(shown)
                raise
            return _with_capabilities(reply, self._signer(context))

        return answer

    def _signer(self, context: CallContext) -> _Sign:
        """Raises: Unavailable in a cluster so young that it has no key yet."""
        ring = self.ring()
        if ring is None or self._is_unheard():
            raise Unavailable("the first key of chunk capabilities is being made; ask again in a moment")
        subject = bytes.fromhex(self._subject(context.credential))
        expires_s = int(self._clock.wall_ms() / 1000 + self._seconds)

        def sign(handle: ChunkHandle, version: ChunkVersion, may: int) -> bytes:
            return ring.sign(Capability(handle, version, may, expires_s, subject))

        return sign

    def _is_unheard(self) -> bool:
        """The cluster's first key was made just now, and chunk servers cannot know it yet."""
        salts = self._salts
        assert salts is not None
        return salts.number == 1 and 0 <= self._clock.wall_ms() - salts.rotated_at_ms < FIRST_SECONDS * 1000


SIGNED_REQUESTS: tuple[type[Request], ...] = (FindChunks, AcquireLease, CheckFiles)
_Sign = Callable[[ChunkHandle, ChunkVersion, int], bytes]


def _with_capabilities(reply: Reply, sign: _Sign) -> Reply:
    match reply:
        case ChunkLease():
            capability = sign(reply.handle, reply.version, READ | WRITE | VERIFY)
            return msgspec.structs.replace(reply, capability=capability)
        case FileChunks():
            return msgspec.structs.replace(
                reply, chunks=[_place(place, sign, READ) for place in reply.chunks]
            )
        case CheckFilesReply():
            # Whoever may ask how safe a file is need not be one who may read it.
            files = [
                msgspec.structs.replace(file, chunks=[_place(place, sign, VERIFY) for place in file.chunks])
                for file in reply.places
            ]
            return msgspec.structs.replace(reply, places=files)
        case _:
            return reply


def _place(place: ChunkPlace, sign: _Sign, may: int) -> ChunkPlace:
    return msgspec.structs.replace(place, capability=sign(place.handle, place.version, may | VERIFY))


async def keep_rotating(
    commits: Commits,
    *,
    tables: Callable[[], ReadTables],
    clock: Clock,
    chance: Random,
    rotation_seconds: float,
) -> None:
    """The leader's duty: that there is a key, and a new one every `rotation_seconds`. Until cancelled."""
    while True:
        if commits.is_leading and _is_due(key_salts(tables()), clock.wall_ms(), rotation_seconds):
            salt = chance.randbytes(SALT_BYTES)
            try:
                await commits.commit(operations.RotateKeys(salt=salt))
                _log.info("chunk capabilities are signed by a new key from now on")
            except GfsError as error:
                _log.info("no new key could be made yet", error=error.message)
        await clock.sleep(LOOK_SECONDS)


def _is_due(salts: KeySalts | None, now_ms: int, rotation_seconds: float) -> bool:
    return salts is None or now_ms - salts.rotated_at_ms >= rotation_seconds * 1000
