"""Notices that a leader's log is no longer committed, although its followers answer: their disks are full, or
do not answer. Then clients are told, instead of left to wait until nobody knows any more what happened."""

from __future__ import annotations

from gfs.master.replication.engine import Engine
from gfs.master.replication.log import OperationLog
from gfs.vocabulary import LogIndex, MasterId


class CommitStall:
    """`watch()` in every turn; `reason` is empty while all is well."""

    def __init__(self, me: MasterId, engine: Engine, log: OperationLog, *, patience_seconds: float) -> None:
        self._me, self._engine, self._log = me, engine, log
        self._patience_seconds = patience_seconds
        self._committed = LogIndex(0)
        self._waiting_since: float | None = None
        self.reason = ""

    def watch(self, now: float) -> bool:
        """True when it is just now that too little has been kept for too long."""
        engine = self._engine
        if not engine.is_leader or engine.commit_index >= self._log.end.index:
            self._waiting_since, self.reason = None, ""
            return False
        if self._waiting_since is None or engine.commit_index > self._committed:
            self._committed, self._waiting_since, self.reason = engine.commit_index, now, ""
            return False
        if self.reason or now - self._waiting_since < self._patience_seconds:
            return False
        self.reason = self._explain()
        return True

    def _explain(self) -> str:
        wanted = self._engine.commit_index + 1
        behind = [m for m in sorted(self._engine.others) if self._engine.match_index(m) < wanted]
        if self._log.durable_index < wanted:
            behind.append(self._me)
        members = len(self._engine.voters)
        return (
            f"no quorum: only {members - len(behind)} of {members} masters keep what they are sent; "
            f"waiting for the disks of {', '.join(behind)}"
        )
