"""What operators ask about masters, chunk servers and replicas (GFS §4.3), as calls of a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from gfs.client.connections import Connections
from gfs.errors import GfsError, NotFound, NotLeader, Unavailable, WrongCluster
from gfs.messages.base import Ack
from gfs.messages.cluster import CompareStates, CompareStatesReply
from gfs.messages.members import (
    AddMember,
    ListMembers,
    MemberChangeReply,
    MembersReply,
    RemoveMember,
    TransferLeadership,
)
from gfs.messages.placement import (
    ChunkServersReply,
    Explain,
    ExplainedChunk,
    ExplainReply,
    ListChunkServers,
    Rebalance,
    RebalanceReply,
    ReplicationQueue,
    ReplicationQueueReply,
    SetServerTenure,
    TenureReply,
)
from gfs.messages.security import (
    CreateToken,
    InspectToken,
    ListTokens,
    RevokeToken,
    RotateKeys,
    TokensReply,
)
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, MasterId, ServerId

MEMBERS_SECONDS = 2.0  # for all masters' answers
COMPARE_SECONDS = 10.0  # as many, and two records of the log
READ_ROWS_SECONDS = 3600.0

Progress = Callable[[str], None]


def unheard(_: str) -> None: ...


class Operator:
    """Every method raises GfsError: NotFound, InvalidArgument … as the leader answered."""

    def __init__(self, connections: Connections) -> None:
        self._masters = connections.masters

    async def members(self) -> MembersReply:
        """The masters: the leader's word, or without a leader that of a master that can be reached.

        Raises: WrongCluster; Unavailable naming every master when none answers.
        """
        answers = await self._masters.ask_everyone(ListMembers(), MembersReply, seconds=MEMBERS_SECONDS)
        replies = [answer for answer in answers.values() if isinstance(answer, MembersReply)]
        if not replies:
            for answer in answers.values():
                if isinstance(answer, WrongCluster):
                    raise answer
            told = "; ".join(f"{address} ({answer})" for address, answer in answers.items())
            raise Unavailable(
                f"no master can be reached: {told}",
                hint="See that the masters run, and that these are their addresses.",
                details={"tries": "0"},
            )
        return max(replies, key=lambda reply: (reply.answered_by == reply.leader, reply.term))

    async def add_member(
        self, member: str, *, control: str, raft: str, progress: Progress = unheard
    ) -> MemberChangeReply:
        """Make a running master a voter; returns once it has caught up and is one. Asking twice is harmless.

        `progress` is told, every few seconds, how far it is. When the caller gives up, the change goes on.
        Raises: AlreadyExists, InvalidArgument; Unavailable when no such master answers at `control`.
        """
        request = AddMember(member=MasterId(member), control=Address(control), raft=Address(raft))
        return await self._until_done(request, f"add {member}", progress)

    async def remove_member(self, member: str, *, progress: Progress = unheard) -> MemberChangeReply:
        """Let a master go; the leader hands over first.

        Raises: NotFound; InvalidArgument for the last voter, or when the rest could write nothing.
        """
        known = [str(row.id) for row in (await self.members()).members]
        if member not in known:
            raise NotFound(f"no master {member!r} is a member; members are {', '.join(known)}")
        return await self._until_done(RemoveMember(member=MasterId(member)), f"remove {member}", progress)

    async def transfer_leadership(self, to: str = "", *, progress: Progress = unheard) -> MemberChangeReply:
        """Have `to` lead, or whoever is nearest to the present leader.

        Raises: InvalidArgument when `to` is no voter.
        """
        found = await self.members()
        request = TransferLeadership(source=found.leader, target=MasterId(to))
        return await self._until_done(request, "hand leadership over", progress)

    async def _until_done(
        self, request: AddMember | RemoveMember | TransferLeadership, what: str, progress: Progress
    ) -> MemberChangeReply:
        while True:
            reply = await self._masters.ask_leader(request, MemberChangeReply, what, effects=True)
            if reply.done:
                return reply
            progress(reply.state)

    async def compare_states(self, *, trust: str = "", read_rows: bool = False) -> CompareStatesReply:
        """Have all masters compare their states. `trust`: the one whose state is right, when none can say.

        Asked of all masters, because a leader whose state is in doubt answers nothing else.
        Raises: the answer that says most when none could do it.
        """
        request = CompareStates(trust=MasterId(trust), read_rows=read_rows)
        seconds = COMPARE_SECONDS if not read_rows else READ_ROWS_SECONDS
        answers = await self._masters.ask_everyone(request, CompareStatesReply, seconds=seconds)
        for answer in answers.values():
            if isinstance(answer, CompareStatesReply):
                return answer
        errors = [answer for answer in answers.values() if isinstance(answer, GfsError)]
        raise min(errors, key=lambda error: isinstance(error, NotLeader | Unavailable))

    async def chunkservers(self) -> ChunkServersReply:
        """All chunk servers: whether they live and stay, and what depends on them."""
        return await self._masters.ask_leader(ListChunkServers(), ChunkServersReply, "list chunk servers")

    async def set_tenure(self, server: str, tenure: str, *, force: bool = False) -> TenureReply:
        """Make a chunk server serving, draining or removed. Asking twice is harmless.

        Raises: InvalidArgument when it still has replicas and is to be removed without `force`.
        """
        request = SetServerTenure(server=ServerId(server), tenure=tenure, force=force)
        return await self._masters.ask_leader(request, TenureReply, f"make {server} {tenure}", effects=True)

    async def replication_queue(self, *, limit: int = 100) -> ReplicationQueueReply:
        """What is being cloned and what waits for it, the most urgent first."""
        request = ReplicationQueue(limit=limit)
        return await self._masters.ask_leader(request, ReplicationQueueReply, "look at the queue of clones")

    async def rebalance(self, *, dry_run: bool = False) -> RebalanceReply:
        """Have disks and load levelled as far as it goes, gradually; or only ask what that would move."""
        request = Rebalance(dry_run=dry_run)
        return await self._masters.ask_leader(request, RebalanceReply, "rebalance", effects=not dry_run)

    async def explain_chunk(self, handle: int) -> ExplainReply:
        """Why the replicas of one chunk are where they are, and what becomes of them."""
        request = Explain(handle=ChunkHandle(handle))
        return await self._masters.ask_leader(request, ExplainReply, f"explain chunk {handle:016x}")

    async def explain(self, path: str, *, index: int | None = None) -> AsyncIterator[ExplainedChunk]:
        """The same of each chunk of a file, or of the one at `index`."""
        at = 0 if index is None else index
        while at >= 0:
            request = Explain(path=path, first_index=ChunkIndex(at), count=16 if index is None else 1)
            page = await self._masters.ask_leader(request, ExplainReply, f"explain {path}")
            for chunk in page.chunks:
                yield chunk
            at = page.next_index if index is None else -1

    async def create_token(
        self,
        sha256: str,
        *,
        role: str,
        prefix: str = "/",
        user: str = "",
        note: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Make the token with this SHA-256 (hexadecimal; see gfs.credentials) good for `role` below `prefix`.

        `seconds`: until it expires; 0: never. Asking twice is harmless.
        Raises: InvalidArgument, InvalidPath, AlreadyExists (it is good for something else), NoSpace.
        """
        request = CreateToken(sha256=sha256, role=role, prefix=prefix, user=user, note=note, seconds=seconds)
        await self._masters.ask_leader(request, Ack, "make a token", effects=True)

    async def tokens(self) -> TokensReply:
        """All tokens but the first, which is in the masters' configuration."""
        return await self._masters.ask_leader(ListTokens(), TokensReply, "list tokens")

    async def inspect_token(self) -> TokensReply:
        """What this client's own token is good for."""
        return await self._masters.ask_leader(InspectToken(), TokensReply, "look at a token")

    async def revoke_token(self, token: str) -> TokensReply:
        """Make a token, by its id, open nothing any more. Raises: NotFound."""
        request = RevokeToken(id=token)
        return await self._masters.ask_leader(request, TokensReply, f"revoke token {token}", effects=True)

    async def rotate_keys(self, *, drop_former: bool = False) -> Ack:
        """Sign chunk capabilities by a new key; `drop_former`: the one before opens nothing any more."""
        request = RotateKeys(drop_former=drop_former)
        return await self._masters.ask_leader(request, Ack, "rotate the capability keys", effects=True)
