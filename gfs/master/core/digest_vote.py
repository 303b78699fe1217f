"""Who is right when masters' states differ at one index of the log (I7). Judges; asks nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gfs.vocabulary import MasterId

FEW_VOTERS = 3  # with fewer there is no majority without the master that was just healed


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one master says. `healed`: its state was copied from the leader and never compared since."""

    digest: str
    healed: bool = False
    sound: bool = True  # its rows are those of its digest, as far as anybody has looked


@dataclass(frozen=True, slots=True)
class Verdict:
    """`agreed` masters that vote have `digest`. 0: too few answered, or, when `split`, nobody can say."""

    digest: str = ""
    agreed: int = 0
    split: bool = False
    unsound: tuple[MasterId, ...] = ()


def judge(
    ballots: Mapping[MasterId, Ballot], voters: Collection[MasterId], *, trust: MasterId | None = None
) -> Verdict:
    """The majority of all that vote is right, not of those that have answered.

    A copy of the leader's state says nothing that the leader has not said: it has no vote, but where fewer
    than FEW_VOTERS vote, without a difference among the others. A digest tells the history of a state; that
    the rows are what this history made of them, at least one original must be able to say. Answers that
    differ without a majority, or a majority of which nobody is sound, are a split: whoever goes on serving
    may be the wrong one. `trust`: an operator's word stands for all that.
    """
    unsound = tuple(sorted(master for master, ballot in ballots.items() if not ballot.sound))
    if trust is not None:
        if trust not in ballots:
            return Verdict()
        digest = ballots[trust].digest
        equal = sum(ballot.digest == digest for ballot in ballots.values())
        return Verdict(digest, equal, unsound=tuple(master for master in unsound if master != trust))
    said = {master: ballot for master, ballot in ballots.items() if master in voters}
    originals = [ballot for ballot in said.values() if not ballot.healed]
    votes = Counter(ballot.digest for ballot in originals)
    if len(votes) == 1 and len(voters) < FEW_VOTERS:
        votes.update(ballot.digest for ballot in said.values() if ballot.healed and ballot.digest in votes)
    for digest, count in votes.most_common(1):
        if 2 * count > len(voters):
            if any(ballot.sound and ballot.digest == digest for ballot in originals):
                return Verdict(digest, count, unsound=unsound)
            return Verdict(split=True, unsound=unsound)
    return Verdict(split=len(votes) > 1, unsound=unsound)
