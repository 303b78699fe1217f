"""The comparison of all masters' states, every so many records and on demand (I7). What follows: quarantine.

A round, by the leader: a CheckDigest has every master note its digest at one index of the log; all are asked
what they have noted; the majority's digest goes into the log with the next CheckDigest. So each master finds
itself right or wrong by the log, also one that was away meanwhile, and also the leader itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from gfs.clock import Clock
from gfs.errors import GfsError, InvalidArgument, Unavailable
from gfs.master.callers import Callers
from gfs.master.commit import Commits
from gfs.master.core.digest_vote import Ballot, Verdict, judge
from gfs.master.quarantine import Quarantine
from gfs.master.replication.replicator import Replicator
from gfs.master.row_check import RowCheck
from gfs.master.state_machine import ReplicatedState
from gfs.messages.base import Reply, Request
from gfs.messages.cluster import (
    ComparedMaster,
    CompareStates,
    CompareStatesReply,
    StateDigest,
    StateDigestReply,
)
from gfs.messages.operations import CheckDigest, LogRecord
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handlers, RpcCaller
from gfs.vocabulary import Address, LogIndex, MasterId

DIGEST_ENTRIES = 10_000  # log entries between two comparisons
TICK_SECONDS = 0.25
ANSWER_SECONDS = 2.0  # how long a round waits for masters to apply the log up to the mark
DISPUTE_SECONDS = 6.0  # … when those that have answered differ: a slow one may have the casting vote
ROWS_SECONDS = 3600.0  # … and to read all their rows
ASK_AGAIN_SECONDS = 0.05
ROWS_ASK_AGAIN_SECONDS = 0.5
DOUBT_SECONDS = 2.0  # between two rounds while nobody is to be trusted, or a master waits to be compared

_encode = msgspec.msgpack.Encoder().encode
_log = logger("master.digests")


class DigestRounds:
    """One round at a time. Run `run()` as a task."""

    def __init__(
        self,
        *,
        replicator: Replicator,
        state: ReplicatedState,
        quarantine: Quarantine,
        rows: RowCheck,
        rpc: RpcCaller,
        clock: Clock,
        commits: Commits,
        callers: Callers,
        voters: Callable[[], tuple[MasterId, ...]],
        addresses: Callable[[], Mapping[MasterId, Address]],
    ) -> None:
        """`voters`: the masters that count in a quorum; `addresses`: where all masters are asked."""
        self._replicator, self._state, self._quarantine = replicator, state, quarantine
        self._rows, self._rpc, self._clock, self._commits = rows, rpc, clock, commits
        self._callers, self._voters, self._addresses = callers, voters, addresses
        self._turn = asyncio.Lock()
        self._again_at = 0.0

    async def run(self) -> None:
        first_rows = asyncio.get_running_loop().create_task(self._read_rows_once())
        try:
            while True:
                await self._clock.sleep(TICK_SECONDS)
                try:
                    await self._tick()
                except GfsError as error:
                    _log.info("a comparison of states was put off", error=error.message)
        finally:
            first_rows.cancel()

    async def _tick(self) -> None:
        now, phase = self._clock.monotonic(), self._quarantine.phase
        if now < self._again_at:
            return
        if phase == "healed" and not self._leads:
            self._again_at = now + DOUBT_SECONDS
            await self._ask_leader_for_a_round()
        elif self._leads and (phase == "in doubt" or self._is_due()):
            self._again_at = now + DOUBT_SECONDS
            await self.compare()

    def _is_due(self) -> bool:
        return self._state.committed_index() - self._state.state.digest_mark()[0] >= DIGEST_ENTRIES

    @property
    def _leads(self) -> bool:
        """Of the log: a leader whose state is in doubt answers nobody, but has the masters compared."""
        known = self._replicator.status()
        return known.role == "leader" and known.ready

    async def _ask_leader_for_a_round(self) -> None:
        leader = self._replicator.status().leader
        address = self._addresses().get(leader) if leader is not None else None
        if address:
            await self._rpc.call(
                address, CompareStates(), CompareStatesReply, deadline_seconds=2 * ANSWER_SECONDS
            )

    async def _read_rows_once(self) -> None:
        """After a start: whatever happened to the file while nobody ran."""
        self._rows.start()
        if await self._rows.wait() != "unsound" or self._quarantine.phase == "diverged":
            return
        while self._quarantine.phase == "":
            try:
                if self._leads:
                    await self.compare()
                else:
                    await self._ask_leader_for_a_round()
            except GfsError as error:
                _log.error("unsound rows, and nobody to compare with yet", error=error.message)
            await self._clock.sleep(DOUBT_SECONDS)

    def handlers(self) -> Handlers:
        """Those of DIGEST_REQUESTS."""
        return {StateDigest: self.digest, CompareStates: self.compare_states}

    # --- answers --------------------------------------------------------------------------------

    async def digest(self, request: Request, _context: CallContext) -> Reply:
        """What this master has noted."""
        assert isinstance(request, StateDigest)
        if request.read_rows and self._rows.result != "running":
            self._rows.start()
        return self.mine()

    def mine(self) -> StateDigestReply:
        """Raises: CorruptState."""
        index, digest = self._state.state.digest_mark()
        return StateDigestReply(
            applied_index=self._state.committed_index(),
            digest=self._state.committed_digest(),
            mark_index=index,
            mark_digest=digest,
            quarantine=self._quarantine.phase,
            copied=self._quarantine.is_copy,
            rows=self._rows.result,
        )

    async def compare_states(self, request: Request, context: CallContext) -> Reply:
        """Raises: NotLeader, NoQuorum; InvalidArgument for an unknown master to be trusted; PermissionDenied
        for whoever but the superuser asks for more than a comparison, which masters do, too."""
        assert isinstance(request, CompareStates)
        if request.trust or request.read_rows:
            self._callers.require_superuser(context, "say which state is right, or have all rows read")
        if request.trust and request.trust not in self._addresses():
            raise InvalidArgument(
                f"there is no master {request.trust!r}", hint=f"There are {', '.join(self._addresses())}."
            )
        return await self.compare(trust=request.trust or None, read_rows=request.read_rows)

    # --- a round --------------------------------------------------------------------------------

    async def compare(self, *, trust: MasterId | None = None, read_rows: bool = False) -> CompareStatesReply:
        """Have all masters compare their states, and the log say who is right.

        Raises: NotLeader, NoQuorum, OutcomeUnknown; Unavailable when `trust` has not answered.
        """
        async with self._turn:
            if not self._leads:
                raise self._commits.not_leader()
            if read_rows:
                await self._read_all_rows()
            await self._propose(CheckDigest(index=0, digest=""))
            index, _ = self._state.state.digest_mark()
            answers = await self._collect(index)
            ballots = {
                master: Ballot(said.mark_digest, said.copied, said.rows != "unsound")
                for master, said in answers.items()
                if said.mark_index == index and said.quarantine != "diverged"
            }
            voters = self._voters()
            verdict = judge(ballots, voters, trust=trust)
            if trust is not None and not verdict.agreed:
                raise Unavailable(f"master {trust} has not answered, so its state cannot be the measure")
            if verdict.agreed or verdict.split:
                self._say(index, verdict, ballots)
                await self._propose(
                    CheckDigest(
                        index=index,
                        digest=verdict.digest,
                        agreed=verdict.agreed,
                        unsound=verdict.unsound,
                        split=verdict.split,
                    )
                )
            return self._report(index, verdict, answers, ballots, voters)

    async def _propose(self, operation: CheckDigest) -> None:
        """Not as a commit of the services': these wait for a state that is trusted."""
        try:
            await self._replicator.propose(
                _encode(LogRecord(at_ms=self._clock.wall_ms(), operation=operation))
            )
        except GfsError as error:
            if not self._leads:
                raise self._commits.not_leader() from error
            raise

    async def _read_all_rows(self) -> None:
        asked = StateDigest(read_rows=True)
        answers = await self._ask_all(asked)
        give_up_at = self._clock.monotonic() + ROWS_SECONDS
        while self._clock.monotonic() < give_up_at and any(
            said.rows == "running" for said in answers.values()
        ):
            await self._clock.sleep(ROWS_ASK_AGAIN_SECONDS)
            answers = await self._ask_all(StateDigest())

    async def _collect(self, index: LogIndex) -> dict[MasterId, StateDigestReply]:
        """What each master has noted at `index`; without those that do not come so far in time."""
        began = self._clock.monotonic()
        while True:
            answers = await self._ask_all(StateDigest())
            digests = {said.mark_digest for said in answers.values() if said.mark_index == index}
            give_up_at = began + (ANSWER_SECONDS if len(digests) == 1 else DISPUTE_SECONDS)
            here = {
                m for m, said in answers.items() if said.mark_index >= index or said.quarantine == "diverged"
            }
            if here >= set(self._addresses()) or self._clock.monotonic() >= give_up_at:
                return answers
            await self._clock.sleep(ASK_AGAIN_SECONDS)

    async def _ask_all(self, request: StateDigest) -> dict[MasterId, StateDigestReply]:
        me = self._replicator.status().me
        if request.read_rows and self._rows.result != "running":
            self._rows.start()
        addresses = {master: address for master, address in self._addresses().items() if master != me}

        async def ask(address: Address) -> StateDigestReply | None:
            try:
                return await self._rpc.call(
                    address, request, StateDigestReply, deadline_seconds=ANSWER_SECONDS / 4
                )
            except GfsError:
                return None  # it is away, and has no say

        said = await asyncio.gather(*(ask(address) for address in addresses.values()))
        found = {master: reply for master, reply in zip(addresses, said, strict=True) if reply is not None}
        return {me: self.mine(), **found}

    def _say(self, index: LogIndex, verdict: Verdict, ballots: Mapping[MasterId, Ballot]) -> None:
        digests = {master: ballot.digest for master, ballot in ballots.items()}
        if verdict.split:
            _log.critical(
                "ALERT: the masters' states differ and none has a majority", index=index, digests=digests
            )
        elif verdict.unsound or any(digest != verdict.digest for digest in digests.values()):
            _log.error(
                "masters differ from the majority", index=index, digests=digests, unsound=verdict.unsound
            )
        else:
            _log.info("states compared", index=index, equal=len(digests), agreed=verdict.agreed)

    def _report(
        self,
        index: LogIndex,
        verdict: Verdict,
        answers: Mapping[MasterId, StateDigestReply],
        ballots: Mapping[MasterId, Ballot],
        voters: tuple[MasterId, ...],
    ) -> CompareStatesReply:
        rows = []
        for master in sorted({*self._addresses(), *answers}):
            said, ballot = answers.get(master), ballots.get(master)
            if said is None:
                word = "away"
            elif said.quarantine == "diverged":
                word = "quarantined"
            elif ballot is None:
                word = "behind"
            elif not ballot.sound:
                word = "unsound"
            elif verdict.agreed:
                word = "equal" if ballot.digest == verdict.digest else "differs"
            else:
                word = "undecided"
            digest = ballot.digest if ballot is not None else ""
            rows.append(ComparedMaster(id=master, verdict=word, digest=digest, votes=master in voters))
        return CompareStatesReply(
            index=index,
            digest=verdict.digest,
            agreed=verdict.agreed,
            voters=len(voters),
            split=verdict.split,
            masters=rows,
        )
