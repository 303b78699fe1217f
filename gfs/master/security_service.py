"""Tokens and capability keys as operators ask for them. What they open is gate's, what is stored core's."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from gfs.clock import Clock
from gfs.credentials import token_id
from gfs.errors import InvalidArgument, NotFound
from gfs.master.commit import Commits
from gfs.master.core.user_tokens import (
    SALT_BYTES,
    TOKEN_DIGEST_BYTES,
    TokenRecord,
    all_tokens,
)
from gfs.master.gate import Bearer
from gfs.master.reads import Reads
from gfs.messages import operations
from gfs.messages.base import Ack, Reply, Request
from gfs.messages.security import (
    CreateToken,
    InspectToken,
    ListTokens,
    RevokeToken,
    RotateKeys,
    TokenRow,
    TokensReply,
)
from gfs.transport.interface import CallContext, Handler

TOKEN_SECONDS_MAX = 100 * 366 * 86400.0


class SecurityService:
    """Handlers of one master, all of admins but InspectToken (see gate)."""

    def __init__(
        self,
        commits: Commits,
        reads: Reads,
        clock: Clock,
        *,
        chance: Random,
        bearer: Callable[[str], Bearer],
    ) -> None:
        self._commits, self._reads, self._clock = commits, reads, clock
        self._chance, self._bearer = chance, bearer

    def handlers(self) -> dict[type[Request], Handler]:
        return {
            ListTokens: self.list_tokens,
            InspectToken: self.inspect_token,
            CreateToken: self.create_token,
            RevokeToken: self.revoke_token,
            RotateKeys: self.rotate_keys,
        }

    async def list_tokens(self, _request: Request, _context: CallContext) -> Reply:
        tables = await self._reads.linearizable()
        rows = [_row(token_id(digest), record) for digest, record in all_tokens(tables)]
        return TokensReply(tokens=sorted(rows, key=lambda row: (row.created_ms, row.id)))

    async def inspect_token(self, _request: Request, context: CallContext) -> Reply:
        """Raises: Unauthenticated."""
        self._commits.leading()
        bearer = self._bearer(context.credential)
        if bearer.record is not None:
            return TokensReply(tokens=[_row(bearer.id, bearer.record)])
        note = f"a {bearer.program}" if bearer.program else "the first token, of the masters' configuration"
        return TokensReply(tokens=[TokenRow(id=bearer.id, role=bearer.role, prefix="/", note=note)])

    async def create_token(self, request: Request, _context: CallContext) -> Reply:
        """Raises: InvalidArgument, InvalidPath, AlreadyExists, NoSpace."""
        assert isinstance(request, CreateToken)
        try:
            digest = bytes.fromhex(request.sha256)
        except ValueError:
            digest = b""
        if len(digest) != TOKEN_DIGEST_BYTES:
            raise InvalidArgument("a token's SHA-256 is 64 hexadecimal digits")
        if not 0 <= request.seconds <= TOKEN_SECONDS_MAX:
            raise InvalidArgument(f"a token cannot expire in {request.seconds:g} s")
        expires_at_ms = self._clock.wall_ms() + round(request.seconds * 1000) if request.seconds else 0
        await self._commits.commit(
            operations.AddToken(
                digest=digest,
                role=request.role,
                prefix=request.prefix,
                user=request.user,
                note=request.note,
                expires_at_ms=expires_at_ms,
            )
        )
        return Ack()

    async def revoke_token(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotFound."""
        assert isinstance(request, RevokeToken)
        tables = await self._reads.linearizable()
        found = [(digest, record) for digest, record in all_tokens(tables) if token_id(digest) == request.id]
        if not found:
            raise NotFound(f"there is no token {request.id[:40]!r}", hint="'gfs token ls' names them.")
        for digest, _ in found:
            await self._commits.commit(operations.RevokeToken(digest=digest))
        return TokensReply(tokens=[_row(token_id(digest), record) for digest, record in found])

    async def rotate_keys(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, RotateKeys)
        salt = self._chance.randbytes(SALT_BYTES)
        await self._commits.commit(operations.RotateKeys(salt=salt, drop_former=request.drop_former))
        return Ack()


def _row(name: str, record: TokenRecord) -> TokenRow:
    return TokenRow(
        id=name,
        role=record.role,
        prefix=record.prefix,
        user=record.user,
        note=record.note,
        created_ms=record.created_at_ms,
        expires_ms=record.expires_at_ms,
    )
