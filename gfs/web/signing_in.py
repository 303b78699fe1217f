"""Who may act through the console: whoever shows a token, or, in a cluster that wants none, its secret.

Where tokens are wanted, reading takes one as well, and the session is the token itself. Else a session is a
signed expiry, so that every master of the cluster accepts it and none keeps anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Protocol

from gfs.clock import Clock
from gfs.errors import GfsError, PermissionDenied, Unauthenticated
from gfs.messages.base import Identity
from gfs.web.asking import Caller
from gfs.web.limits import SESSION_SECONDS, SIGN_IN_PAUSE_SECONDS

COOKIE = "gfs_console"
_PURPOSE = b"gfs console session"
_TOKEN_CHARS_MAX = 256


class Door(Protocol):
    @property
    def can_sign_in(self) -> bool: ...

    @property
    def wants_token(self) -> bool: ...

    async def sign_in(self, shown: str) -> str:
        """Returns: what the session's cookie holds. Raises: as check()."""
        ...

    async def check(self, shown: str) -> None:
        """Raises: PermissionDenied or Unauthenticated, slowly, for a wrong one."""
        ...

    def caller(self, session: str, superuser: Identity) -> Caller:
        """On whose behalf somebody with this in the cookie asks; nobody's if it is none of ours."""
        ...

    def caller_of_program(self, shown: str, superuser: Identity) -> Caller:
        """Of one whom check() has let pass."""
        ...


class TokenDoor:
    """Where tokens are wanted. The gate judges every call; here the token is kept out of scripts' reach."""

    can_sign_in = True
    wants_token = True

    def __init__(self, known: Callable[[str], object]) -> None:
        """`known` raises Unauthenticated for what is no token of the cluster."""
        self._known = known
        self._one_at_a_time = asyncio.Lock()

    async def sign_in(self, shown: str) -> str:
        await self.check(shown)
        return shown.strip()

    async def check(self, shown: str) -> None:
        async with self._one_at_a_time:
            try:
                self._known(shown.strip())
            except GfsError:
                await asyncio.sleep(SIGN_IN_PAUSE_SECONDS)
                raise

    def caller(self, session: str, superuser: Identity) -> Caller:
        return Caller(credential=session, signed_in=bool(session))

    def caller_of_program(self, shown: str, superuser: Identity) -> Caller:
        return self.caller(shown, superuser)


class Doorkeeper:
    wants_token = False

    def __init__(self, secret: bytes, clock: Clock) -> None:
        """`secret`: empty when the cluster has none: then nobody may act."""
        self._secret = secret
        self._key = hmac.digest(secret, _PURPOSE, "sha256") if secret else b""
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    @property
    def can_sign_in(self) -> bool:
        return bool(self._secret)

    async def sign_in(self, shown: str) -> str:
        """Returns: a session's token. Raises: as check()."""
        await self.check(shown)
        expires_ms = self._clock.wall_ms() + SESSION_SECONDS * 1000
        head = f"{expires_ms}.{secrets.token_hex(8)}"
        return f"{head}.{self._sign(head)}"

    async def check(self, shown: str) -> None:
        """Raises: PermissionDenied, slowly, for a wrong secret; Unauthenticated when there is none."""
        if not self._secret:
            raise Unauthenticated(
                "this cluster has no secret, so nobody can show it",
                hint="Set cluster.secret_file, or act with 'gfs admin'.",
            )
        async with self._one_at_a_time:
            if not hmac.compare_digest(_digest(shown.strip().encode()), _digest(self._secret)):
                await asyncio.sleep(SIGN_IN_PAUSE_SECONDS)
                raise PermissionDenied("that is not the cluster's secret")

    def caller(self, session: str, superuser: Identity) -> Caller:
        return self.caller_of_program(session, superuser) if self.is_signed_in(session) else Caller()

    def caller_of_program(self, shown: str, superuser: Identity) -> Caller:
        return Caller(identity=superuser, signed_in=True)

    def is_signed_in(self, token: str) -> bool:
        if not self._key or len(token) > _TOKEN_CHARS_MAX or not token.isascii():
            return False
        head, _, mac = token.rpartition(".")
        expires = head.partition(".")[0]
        good = hmac.compare_digest(mac, self._sign(head))
        return good and expires.isdigit() and int(expires) > self._clock.wall_ms()

    def _sign(self, head: str) -> str:
        return hmac.new(self._key, head.encode(), "sha256").hexdigest()


def _digest(text: bytes) -> bytes:
    """Of one length, whatever was shown."""
    return hashlib.sha256(text).digest()
