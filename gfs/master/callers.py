"""Who a call comes from, and whether it has to be checked what they may do. The checks are core/access's."""

from __future__ import annotations

from gfs.errors import PermissionDenied
from gfs.identity import GROUPS_MAX
from gfs.master.core.access import Access
from gfs.master.core.lookup import names_of
from gfs.master.core.owners import OWNER_BYTES_MAX
from gfs.master.core.tables import ReadTables
from gfs.messages.backup import HoldCollection, OpenBackup, ReadBackup
from gfs.messages.base import Identity, Reply, Request, method_name
from gfs.messages.check import RepairFiles
from gfs.messages.cluster import ReadmitMaster, TakeCheckpoint
from gfs.messages.members import AddMember, RemoveMember, TransferLeadership
from gfs.messages.placement import Rebalance, SetServerTenure
from gfs.messages.security import CreateToken, ListTokens, RevokeToken, RotateKeys
from gfs.transport.interface import CallContext, Handler, Handlers
from gfs.vocabulary import InodeId

SUPERUSER_REQUESTS = frozenset(
    (
        ReadmitMaster,
        TakeCheckpoint,
        SetServerTenure,
        Rebalance,
        RepairFiles,
        AddMember,
        RemoveMember,
        TransferLeadership,
        OpenBackup,
        ReadBackup,
        HoldCollection,
        CreateToken,
        ListTokens,
        RevokeToken,
        RotateKeys,
    )
)


class Callers:
    """Tells the superuser from the others. With `check` off, everybody may do everything."""

    def __init__(self, *, superuser: str, check: bool) -> None:
        self._superuser = superuser
        self._check = check

    def to_check(self, context: CallContext) -> Identity | None:
        """The caller, when there is anything to check of what it asks. Raises: PermissionDenied."""
        identity = context.identity
        if not self._check or identity.user == self._superuser:
            return None
        if len(identity.groups) > GROUPS_MAX or any(
            len(name) > OWNER_BYTES_MAX for name in (identity.user, *identity.groups)
        ):
            # It would go into the log with every operation.
            raise PermissionDenied(
                f"names of users and groups have at most {OWNER_BYTES_MAX} bytes, and a user at most "
                f"{GROUPS_MAX} groups"
            )
        return identity

    def owner(self, context: CallContext) -> tuple[str, str]:
        """Owner and group of what this caller makes, as the log has them."""
        identity = context.identity
        if identity.user in ("", self._superuser):
            return "", ""
        return identity.user, identity.groups[0] if identity.groups else ""

    def stored(self, user: str) -> str:
        """A user's name as the log has it: the superuser is the empty one."""
        return "" if user == self._superuser else user

    def access(self, tables: ReadTables, context: CallContext) -> Access | None:
        identity = self.to_check(context)
        return None if identity is None else Access(tables, identity)

    def require_path(self, tables: ReadTables, context: CallContext, path: str, wanted: int = 0) -> None:
        """Raises: PermissionDenied, InvalidPath."""
        if (access := self.access(tables, context)) is not None:
            access.require_path(names_of(path), wanted)

    def require_inode(self, tables: ReadTables, context: CallContext, inode: InodeId, wanted: int) -> None:
        """Raises: PermissionDenied."""
        if (access := self.access(tables, context)) is not None:
            access.require_inode(inode, wanted)

    def require_superuser(self, context: CallContext, what: str) -> None:
        """Raises: PermissionDenied."""
        identity = self.to_check(context)
        if identity is not None:
            raise PermissionDenied(
                f"{identity.user[:64] or 'a caller without a name'} may not {what}: only the superuser may"
            )

    def guarded(self, handlers: Handlers) -> dict[type[Request], Handler]:
        """The handlers, of which those of SUPERUSER_REQUESTS answer the superuser alone."""
        return {
            kind: self._guard(kind, handler) if kind in SUPERUSER_REQUESTS else handler
            for kind, handler in handlers.items()
        }

    def _guard(self, kind: type[Request], handler: Handler) -> Handler:
        async def answer(request: Request, context: CallContext) -> Reply:
            self.require_superuser(context, f"ask for {method_name(kind)}")
            return await handler(request, context)

        return answer


def everybody() -> Callers:
    """Nothing is checked: for tests of everything else."""
    return Callers(superuser="", check=False)
