"""Who is right when masters' states differ at one index of the log (I7). Judges; asks nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gfs.vocabulary import MasterId


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one master says. `copied`: its state came from the leader and was never compared since."""

    digest: str
    copied: bool = False
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

    A copy of the leader's state says nothing that the leader has not said: it has no vote, unless all that
    vote are there and equal (as after a cluster has grown from one master). A digest tells the history of a
    state; that the rows are what this history made of them, one original must be able to say. Answers that
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
    are_all_equal = len(said) == len(voters) and len({ballot.digest for ballot in said.values()}) == 1
    originals = [ballot for ballot in said.values() if are_all_equal or not ballot.copied]
    votes = Counter(ballot.digest for ballot in originals)
    for digest, count in votes.most_common(1):
        if 2 * count > len(voters):
            if any(ballot.sound and ballot.digest == digest for ballot in originals):
                return Verdict(digest, count, unsound=unsound)
            return Verdict(split=True, unsound=unsound)
    differ = len({ballot.digest for ballot in said.values()}) > 1
    return Verdict(split=differ, unsound=unsound)
