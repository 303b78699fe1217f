"""This master's state is not to be trusted: what follows, and how it is trusted again. Over restarts.

Found out by a comparison that stands in the log (CheckDigest; how it comes about is digest_rounds'):

    diverged   most masters have another state at that index. Nothing is answered, led, applied or shipped
               any more; its checkpoints are dropped, and one of the leader's takes the place of the state.
    healed     that has happened, and the log is applied to it. Nothing is answered or led until a comparison
               at a later index finds it equal.
    in doubt   no state has a majority. Nothing is answered by anybody; the log goes on, so that a master that
               comes back can decide. Else an operator does.

Whoever gets a checkpoint because the log no longer reaches it serves at once; but until it was compared, too,
it has no vote, because it could only repeat what the leader says.

The file QUARANTINE says so from before the first consequence until after the last: a state that was convicted
is never served because the process ended in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gfs import failpoints
from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import CorruptState
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.replication.distrust import Distrust
from gfs.master.standing import Standing
from gfs.master.state_machine import ReplicatedState
from gfs.messages.operations import AnyOutcome, CheckDigest, LogRecord, Refused
from gfs.telemetry import logger
from gfs.vocabulary import LogIndex, MasterId

QUARANTINE_FILE = "QUARANTINE"
_FORMAT = 1

_log = logger("master.quarantine")


class Conviction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of QUARANTINE, as JSON. `phase`: diverged, healed, in doubt, or empty when there is nothing
    against this master but that it `copied` its state.

    Only a comparison at a later `index` says anything of the state as it is.
    """

    format: int
    phase: str
    index: int
    reason: str
    copied: bool = False


class Member(Protocol):
    """What is asked of the Raft node."""

    def distrust(self) -> None: ...

    def trust(self) -> None: ...


class Quarantine:
    """`phase` is empty while this master's state is trusted."""

    def __init__(
        self,
        me: MasterId,
        directory: str,
        disk: Disk,
        *,
        standing: Standing,
        checkpoints: CheckpointDirectory,
    ) -> None:
        """Take up what an earlier process has left. Raises: CorruptState."""
        self._me, self._disk, self._standing, self._checkpoints = me, disk, standing, checkpoints
        self._path = f"{directory}/{QUARANTINE_FILE}"
        self._conviction = _read(disk, self._path)
        self._state: ReplicatedState
        self._node: Member
        self._soon: Callable[[Callable[[], None]], object]
        if self.phase == "diverged":
            checkpoints.drop_all(self.reason)
        self._tell()

    def watch(
        self, state: ReplicatedState, node: Member, *, soon: Callable[[Callable[[], None]], object]
    ) -> None:
        """Begin to listen to what is applied. `soon`: call later in the loop; the node is applying now."""
        self._state, self._node, self._soon = state, node, soon
        state.keeps_evidence = self.phase == "diverged"
        state.on_applied(self._note)
        state.on_replaced(self._note_replaced)

    @property
    def phase(self) -> str:
        return self._conviction.phase if self._conviction is not None else ""

    @property
    def reason(self) -> str:
        return self._conviction.reason if self._conviction is not None else ""

    @property
    def is_copy(self) -> bool:
        """The state came from the leader, and was never compared since."""
        return self._conviction is not None and self._conviction.copied

    def distrust(self) -> Distrust:
        """What the Raft node has to know at its start."""
        return Distrust(state_wanted=self.phase == "diverged", stands_back=self.phase == "healed")

    # --- what happens ---------------------------------------------------------------------------

    def _note(self, _index: LogIndex, record: LogRecord, outcome: AnyOutcome) -> None:
        check = record.operation
        if not isinstance(check, CheckDigest) or self.phase == "diverged":
            return
        if self._conviction is not None and check.index <= self._conviction.index:
            return  # of the state that was thrown away: the log behind the new one says so once more
        if check.split:
            self._doubt(check)
        elif not check.agreed:
            if isinstance(outcome, Refused):
                _log.error("the leader's digest differs; the majority will decide", reason=outcome.message)
        elif isinstance(outcome, Refused):
            self._convict(check.index, outcome.message)
        elif self._me in check.unsound:
            self._convict(check.index, f"at index {check.index} its rows are not those of its digest")
        elif self._conviction is not None and self._state.state.agreed_index == check.index:
            self._acquit()

    def _convict(self, index: int, reason: str) -> None:
        self._begin("diverged", index, f"its state differs from the other masters': {reason}")
        self._checkpoints.drop_all(reason)
        self._state.keeps_evidence = True
        self._soon(self._node.distrust)

    def _doubt(self, check: CheckDigest) -> None:
        if check.unsound:
            why = f"the rows of {', '.join(check.unsound)} are not those of the digest that most masters have"
        else:
            why = "the masters' states differ, and none has a majority"
        self._begin("in doubt", check.index, f"at index {check.index} {why}")

    def _note_replaced(self) -> None:
        phase = "healed" if self.phase == "diverged" else self.phase
        self._begin(phase, self._state.applied()[0], self.reason, copied=True)

    def _acquit(self) -> None:
        try:
            failpoints.hit("quarantine.before_end")
            self._disk.unlink(self._path)
        except OSError as error:
            _log.error("quarantine file cannot be removed", path=self._path, reason=str(error))
            return  # the next comparison tries again
        self._conviction = None
        self._tell()
        self._soon(self._node.trust)

    def _begin(self, phase: str, index: int, reason: str, *, copied: bool = False) -> None:
        copied = copied or self.is_copy
        self._conviction = Conviction(format=_FORMAT, phase=phase, index=index, reason=reason, copied=copied)
        try:
            failpoints.hit("quarantine.before_verdict")
            write_file_durably(self._disk, self._path, msgspec.json.encode(self._conviction))
        except OSError as error:  # after a restart the next comparison convicts it again
            _log.error("quarantine cannot be written down", path=self._path, reason=str(error))
        self._tell()

    def _tell(self) -> None:
        if not self.phase:
            self._standing.report_trusted()
            return
        self._standing.report_untrusted(self.reason, step=_step(self.phase, self._me))


def _step(phase: str, me: MasterId) -> str:
    match phase:
        case "diverged":
            return (
                "It throws its state away and takes a checkpoint of the leader's, by itself; "
                "what it had stays in diverged.lmdb, for 'gfs checkpoint diff'"
            )
        case "healed":
            return (
                "It has a new state and serves again after the next comparison, within seconds of catching up"
            )
    return (
        "Start the masters that are away: with a majority it ends by itself. Else compare the masters' "
        "checkpoints ('gfs checkpoint verify', 'gfs checkpoint diff') and say which one is right: "
        f"'gfs admin compare --trust {me}', or another"
    )


def _read(disk: Disk, path: str) -> Conviction | None:
    try:
        content = read_whole_file(disk, path)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=Conviction)
    except msgspec.DecodeError as error:
        raise CorruptState(
            f"{path} does not decode: {error}",
            hint="It says why this master's state was not to be trusted. Move the directory aside and "
            "readmit this master: 'gfs admin members readmit'.",
        ) from error
