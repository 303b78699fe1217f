"""Churn: masters come and go under namespace traffic, where the subject can add and remove them.

Writes down what the workload `namespace` does, and without a partition
  operation `add_master` {} → {member}, `remove_master` {member}.
Where the subject has no such power (`subject.changes_masters`) it is namespace traffic only.
"""

from __future__ import annotations

import random

from gfs.verification.subject import changes_masters
from gfs.verification.workloads.namespace import NamespaceWorkload
from gfs.verification.workloads.traffic import Actor

CHANGE_EVERY = 25  # steps of the one client that does it


class ChurnWorkload(NamespaceWorkload):
    name = "churn"
    checkers: tuple[str, ...] = (*NamespaceWorkload.checkers,)

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self._added: list[str] = []
        self._steps = 0

    async def step(self, actor: Actor) -> bool:
        if actor.number == 0:
            self._steps += 1
            if self._steps % CHANGE_EVERY == 0:
                return await self._change(actor)
        return await super().step(actor)

    async def _change(self, actor: Actor) -> bool:
        subject = changes_masters(actor.subject)
        if subject is None:
            return await super().step(actor)
        if self._added:
            member = self._added[0]
            removed = await actor.attempt("remove_master", {"member": member}, subject.remove_master(member))
            if removed.ok:
                self._added.remove(member)
            return removed.ok
        added = await actor.attempt(
            "add_master", {}, subject.add_master(), result=lambda member: {"member": member}
        )
        if added.answer is not None:
            self._added.append(added.answer)
        return added.ok
