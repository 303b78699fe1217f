"""The masters as an operator sees and changes them: list, add, remove, transfer. How the set changes safely
is the replication room's affair.

A change outlives the call that asked for it: it goes on at the leader until it is done or has failed, and who
asks again hears how far it is. So a lost answer, a new leader or an impatient operator does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

from gfs.clock import Clock
from gfs.errors import (
    AlreadyExists,
    DeadlineExceeded,
    GfsError,
    InvalidArgument,
    NoQuorum,
    NotFound,
    NotLeader,
    Overloaded,
    PartlyDone,
    Superseded,
    Unavailable,
    WrongCluster,
)
from gfs.master.commit import Commits
from gfs.master.core.quorum import removal_hindrance, spare_voters, what_it_means
from gfs.master.replication.replicator import Member, Replicator
from gfs.messages.base import Reply, Request
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply, MasterStatus
from gfs.messages.members import (
    AddMember,
    FindMasters,
    ListMembers,
    MastersReply,
    MemberChangeReply,
    MemberRow,
    MembersReply,
    RemoveMember,
    TransferLeadership,
)
from gfs.settings import MASTERS_NAMED_MAX, node_fault
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handlers, RpcCaller
from gfs.vocabulary import ClusterId, MasterId, ServerId

ANSWER_SECONDS = 2.0  # a change that takes longer is answered with how far it is
LOOK_SECONDS = 3.0  # for the word of a master that is to be added
TOLD_SECONDS_MAX = (
    1.5  # for chunk servers to hear of a new master; a few heartbeats, less than ANSWER_SECONDS
)

_log = logger("master")


class MemberService:
    def __init__(
        self,
        *,
        cluster: ClusterId,
        replicator: Replicator,
        commits: Commits,
        rpc: RpcCaller,
        clock: Clock,
        masters: Callable[[], Awaitable[list[MasterStatus]]],
        not_heard_since: Callable[[float], Collection[ServerId]],
        has_secret: bool,
        allow_insecure_network: bool,
    ) -> None:
        """
        Args:
            masters: what every member, and this master, says of itself.
            not_heard_since: living chunk servers whose last heartbeat here is not after this monotonic time.
            has_secret: masters can prove to each other that they are of one cluster.
        """
        self._cluster = cluster
        self._replicator = replicator
        self._commits = commits
        self._roster = commits.roster
        self._rpc = rpc
        self._clock = clock
        self._masters = masters
        self._not_heard_since = not_heard_since
        self._has_secret = has_secret
        self._allow_insecure_network = allow_insecure_network
        self._stopping = False
        self._changes: dict[tuple[str, MasterId], asyncio.Task[str]] = {}

    def handlers(self) -> Handlers:
        """Those of MEMBER_REQUESTS."""
        return {
            FindMasters: self.find_masters,
            ListMembers: self.list_members,
            AddMember: self.add,
            RemoveMember: self.remove,
            TransferLeadership: self.transfer,
        }

    async def stop(self) -> None:
        self._stopping = True
        for change in self._changes.values():
            change.cancel()
        await asyncio.gather(*self._changes.values(), return_exceptions=True)

    # --- who they are ---------------------------------------------------------------------------

    async def find_masters(self, request: Request, _context: CallContext) -> Reply:
        """Where clients find the masters. Answered by every master at once, a removed one too."""
        assert isinstance(request, FindMasters)
        return MastersReply(
            cluster=self._cluster,
            term=self._replicator.term(),
            is_leader=self._commits.is_leading,
            masters=sorted(self._roster.controls().values()),
        )

    async def list_members(self, request: Request, _context: CallContext) -> Reply:
        """Answered by every master, from its own log and what the others say of themselves."""
        assert isinstance(request, ListMembers)
        known = self._replicator.status()
        rows = await self._rows()
        return MembersReply(
            cluster=self._cluster,
            answered_by=known.me,
            leader=known.leader or MasterId(""),
            term=known.term,
            members=rows,
            spare=spare_voters(rows),
            notes=[*filter(None, [self._roster.why_outside()]), *what_it_means(rows)],
        )

    async def _rows(self) -> list[MemberRow]:
        said = {status.id: status for status in await self._masters()}
        disks = dict(self._replicator.status().disks)
        rows = []
        for member in self._roster.members():
            status = said.get(member.id) or MasterStatus(
                id=member.id, control=member.control, role="unreachable"
            )
            role = "learner" if status.role == "follower" and not member.voter else status.role
            rows.append(
                MemberRow(
                    id=member.id,
                    role=role,
                    control=member.control,
                    raft=member.raft,
                    voter=member.voter,
                    applied_index=status.applied_index,
                    lag_entries=status.lag_entries,
                    lag_seconds=status.lag_seconds,
                    disk=disks.get(member.id, ""),
                    reason=status.reason,
                )
            )
        return rows

    # --- changes --------------------------------------------------------------------------------

    async def add(self, request: Request, _context: CallContext) -> Reply:
        """Make a master that runs and waits a voter; it is a learner until it has caught up.

        Raises: NotLeader; InvalidArgument (addresses, or no secret to join with); AlreadyExists: a member has
            this id or one of the addresses; NotFound, WrongCluster: no master of this cluster with that id
            answers there; NoQuorum; PartlyDone: it does not catch up, and stays a learner; what else the
            change itself failed with.
        """
        assert isinstance(request, AddMember)
        self._commits.leading()
        wanted = Member(request.member, raft=request.raft, control=request.control, voter=True)
        present = self._roster.find(wanted.id)
        if present == wanted:
            return MemberChangeReply(member=wanted.id, done=True, state=f"{wanted.id} is a voter")
        key = ("add", wanted.id)
        if key not in self._changes:
            self._check_addresses(wanted, present)
            if present is None:
                await self._look_at(wanted)
        return await self._under_way(key, lambda: self._add(wanted))

    async def remove(self, request: Request, _context: CallContext) -> Reply:
        """Let a member go, this leader too.

        Raises: NotLeader; InvalidArgument: it is the last voter, or the rest could write nothing; NoQuorum;
            what the change itself failed with.
        """
        assert isinstance(request, RemoveMember)
        self._commits.leading()
        member, key = request.member, ("remove", request.member)
        if self._roster.find(member) is None:
            return MemberChangeReply(member=member, done=True, state=f"{member} is no member")
        if key not in self._changes and (hindrance := removal_hindrance(await self._rows(), member)):
            raise InvalidArgument(f"{member} cannot be removed: {hindrance}", hint=_LS_HINT)
        await self._give_up_adding(member)
        return await self._under_way(key, lambda: self._remove(member))

    async def transfer(self, request: Request, _context: CallContext) -> Reply:
        """Hand leadership over, if `source` still leads.

        Raises: NotLeader; InvalidArgument: the target is no voter; what the change itself failed with.
        """
        assert isinstance(request, TransferLeadership)
        self._commits.leading()
        me = self._roster.me
        if request.source != me or request.target == me:
            return MemberChangeReply(member=me, done=True, state=f"{me} leads")
        if request.target and request.target not in self._roster.voters():
            raise InvalidArgument(f"{request.target} is no voter, so it cannot lead", hint=_LS_HINT)
        if len(self._roster.voters()) < 2:
            raise InvalidArgument("there is no other voter that could lead", hint=_LS_HINT)
        return await self._under_way(("transfer", me), lambda: self._transfer(request.target or None))

    async def _give_up_adding(self, member: MasterId) -> None:
        adding = self._changes.get(("add", member))
        if adding is not None:
            adding.cancel()
            await asyncio.wait({adding})

    async def _add(self, member: Member) -> str:
        try:
            await self._replicator.add_member(member)
        except DeadlineExceeded as error:
            # Not as it is: a client would take it for a lost answer, ask again, and never come to an end.
            raise PartlyDone(error.message, hint=error.hint, details=error.details) from error
        _log.info("a master was added", member=member.id, control=member.control, raft=member.raft)
        await self._chunk_servers_are_told()
        return f"{member.id} is a voter"

    async def _chunk_servers_are_told(self) -> None:
        """The answer to a heartbeat names all masters. Until then the old ones are all that a chunk server
        knows: an operator who stops these as soon as the new one is in would leave it with nobody to ask."""
        added_at = self._clock.monotonic()
        while (untold := self._not_heard_since(added_at)) and not self._stopping:
            if self._clock.monotonic() - added_at > TOLD_SECONDS_MAX:
                _log.warning("chunk servers have not heard of the new master", chunkservers=sorted(untold))
                return
            await self._clock.sleep(_TOLD_POLL_SECONDS)

    async def _remove(self, member: MasterId) -> str:
        await self._replicator.remove_member(member)
        _log.info("a master was removed", member=member)
        return f"{member} is no member any more"

    async def _transfer(self, target: MasterId | None) -> str:
        leader = await self._replicator.transfer_leadership(target)
        _log.info("leadership was handed over", leader=leader)
        return f"{leader} leads"

    async def _under_way(
        self, key: tuple[str, MasterId], begin: Callable[[], Coroutine[Any, Any, str]]
    ) -> MemberChangeReply:
        # Any: what a coroutine passes to the loop is its own
        change = self._changes.get(key)
        if change is None:
            if len(self._changes) >= MASTERS_NAMED_MAX:
                raise Overloaded("too many changes of the masters are under way")
            change = self._changes[key] = asyncio.get_running_loop().create_task(begin(), name=" ".join(key))
            change.add_done_callback(lambda done: self._ended(key, done))
        alarm = asyncio.ensure_future(self._clock.sleep(ANSWER_SECONDS))
        try:
            await asyncio.wait({change, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
        if not change.done():
            return MemberChangeReply(member=key[1], done=False, state=await self._progress(*key))
        if change.cancelled():
            if self._stopping:
                raise Unavailable("this master is stopping")
            raise Superseded(f"{key[1]} is to be removed: it is not added any more")
        try:
            return MemberChangeReply(member=key[1], done=True, state=change.result())
        except (NotLeader, NoQuorum) as error:
            raise self._commits.named(error) from error

    def _ended(self, key: tuple[str, MasterId], change: asyncio.Task[str]) -> None:
        del self._changes[key]
        if not change.cancelled() and (error := change.exception()) is not None:
            # Whoever waits has it; nobody may be waiting any more.
            words = error.message if isinstance(error, GfsError) else repr(error)
            _log.warning("a change of the masters failed", change=" ".join(key), error=words)

    async def _progress(self, what: str, member: MasterId) -> str:
        if what != "add":
            return f"{what} {member}: under way"
        present = self._roster.find(member)
        if present is None:
            return f"{member} is becoming a learner"
        row = next((row for row in await self._rows() if row.id == member), None)
        behind = f", {row.lag_entries} log entries behind" if row and row.role != "unreachable" else ""
        return f"{member} is a learner and catches up{behind}"

    # --- what must be so before -----------------------------------------------------------------

    def _check_addresses(self, wanted: Member, present: Member | None) -> None:
        fault = node_fault(
            wanted.id,
            wanted.control,
            wanted.raft,
            allow_insecure_network=self._allow_insecure_network,
        )
        if fault:
            raise InvalidArgument(fault)
        if present is not None and (present.raft, present.control) != (wanted.raft, wanted.control):
            raise AlreadyExists(
                f"{wanted.id} is a member already, at {present.control} (Raft {present.raft})",
                hint="Remove it first, or give the new master another id.",
            )
        taken = {
            address: one.id
            for one in self._roster.members()
            if one.id != wanted.id
            for address in (one.control, one.raft)
        }
        for address in (wanted.control, wanted.raft):
            if address in taken:
                raise AlreadyExists(f"{address} is the address of {taken[address]}")
        if not self._has_secret:
            raise InvalidArgument(
                "this cluster has no cluster.secret_file, by which masters prove to each other who they are",
                hint="Put a long random line in a file, name it in every gfs.toml, and restart the masters.",
            )

    async def _look_at(self, wanted: Member) -> None:
        """A learner that does not run would only be one more master away."""
        address = wanted.control
        hint = "Start it with 'gfs master' first; it says what it waits for."
        try:
            found = await self._rpc.call(
                address, ClusterStatus(alone=True), ClusterStatusReply, deadline_seconds=LOOK_SECONDS
            )
        except WrongCluster:
            raise
        except GfsError as error:
            raise NotFound(
                f"no master {wanted.id} answers at {address}: {error.message}", hint=hint
            ) from error
        if found.cluster != self._cluster:
            raise WrongCluster(f"the master at {address} belongs to cluster {found.cluster}")
        if found.answered_by != wanted.id:
            raise InvalidArgument(f"the master at {address} is {found.answered_by}, not {wanted.id}")
        role = next((one.role for one in found.masters if one.id == wanted.id), "")
        if role == "removed":
            raise InvalidArgument(
                f"{wanted.id} was removed from the cluster and still has its old log",
                hint="Stop it, empty its directory, start it, and add it then; or take a new id.",
            )
        if role not in ("waiting", "learner"):
            raise InvalidArgument(
                f"{wanted.id} does not wait to be added: it is a {role} of a cluster of its own",
                hint=f"Stop it, empty its directory, set 'joins = true' in [masters.{wanted.id}] of its "
                "gfs.toml, and start it.",
            )


_TOLD_POLL_SECONDS = 0.02
_LS_HINT = "See 'gfs admin members ls'."
