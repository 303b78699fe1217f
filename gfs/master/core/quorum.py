"""How many masters may still fail, in a number and in words for an operator. Judges rows; asks nobody."""

from __future__ import annotations

from collections.abc import Sequence

from gfs.messages.members import MemberRow
from gfs.vocabulary import MasterId

TAKES_PART = ("leader", "follower", "candidate")  # roles in which a voter can acknowledge what is logged


def spare_voters(rows: Sequence[MemberRow]) -> int:
    """How many more voters may fail before nothing can be written; below zero: nothing can be now."""
    voters = [row for row in rows if row.voter]
    taking_part = sum(row.role in TAKES_PART for row in voters)
    return taking_part - (len(voters) // 2 + 1)


def what_it_means(rows: Sequence[MemberRow]) -> list[str]:
    """One sentence each: what may fail, who is missing, who is still learning."""
    voters = [row for row in rows if row.voter]
    missing = [row.id for row in voters if row.role not in TAKES_PART]
    spare = spare_voters(rows)
    here = len(voters) - len(missing)
    notes = []
    if spare < 0:
        notes.append(
            f"no quorum: {here} of {_count(len(voters), 'voter')} take part and {len(voters) // 2 + 1} must: "
            f"nothing can be written until {' or '.join(missing)} is back"
        )
    elif len(voters) == 1:
        notes.append(
            "there is one voter: while it is away nothing can be written, and its disk is the only one; "
            "three voters survive the loss of one"
        )
    else:
        may = f"{spare} more may fail" if spare else "none of them may fail now"
        notes.append(f"{here} of {len(voters)} voters take part: {may}")
    if missing and spare >= 0:
        notes.append(
            f"taking no part: {', '.join(missing)}; whoever is lost for good is replaced by "
            "'gfs admin members add' of a new one and 'remove' of the old one"
        )
    if len(voters) % 2 == 0:
        notes.append(
            f"{len(voters)} voters survive no more failures than {len(voters) - 1}: add or remove one"
        )
    for row in rows:
        if not row.voter:
            notes.append(
                f"{row.id} is a learner, {_count(row.lag_entries, 'log record')} behind, and counts in no "
                f"quorum until it has caught up; 'gfs admin members add {row.id}' goes on with it"
            )
    return notes


def removal_hindrance(rows: Sequence[MemberRow], member: MasterId) -> str:
    """Why `member` must not be removed now; empty: nothing speaks against it."""
    rest = [row for row in rows if row.id != member]
    leaving = next(row for row in rows if row.id == member)
    if not leaving.voter:
        return ""
    voters = [row for row in rest if row.voter]
    if not voters:
        return f"{member} is the last voter: without it there is no cluster"
    missing = [row.id for row in voters if row.role not in TAKES_PART]
    if spare_voters(rest) < 0:
        return (
            f"without {member} only {len(voters) - len(missing)} of {_count(len(voters), 'voter')} would "
            f"take part, too few to write anything: {', '.join(missing)} must be back, or be removed, first"
        )
    return ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
