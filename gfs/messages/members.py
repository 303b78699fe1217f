"""The masters as Raft members: who they are, to anybody, and what an operator changes about it."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gfs.messages.base import Reply, Request
from gfs.vocabulary import Address, ClusterId, MasterId, Term


class MastersReply(Reply, tag="masters_reply", frozen=True, kw_only=True):
    """`masters`: control addresses of all members, as the log of the master that answers has them. Only a
    leader's word is the newest; a follower may lag behind, or have been removed and not know it."""

    cluster: ClusterId
    term: Term
    is_leader: bool
    masters: list[Address]


class FindMasters(Request, tag="find_masters", frozen=True, kw_only=True):
    """Where the masters are. Any master answers at once, whether there is a quorum or not."""

    reply: ClassVar[type[Reply]] = MastersReply


class MemberRow(msgspec.Struct, frozen=True, kw_only=True):
    """One member. A learner (`voter` false) gets the log and counts in no quorum."""

    id: MasterId
    role: str  # as in MasterStatus, or learner
    control: Address
    raft: Address
    voter: bool = True
    applied_index: int = 0
    lag_entries: int = 0
    lag_seconds: float = 0.0  # below zero: it has heard no leader since it started
    disk: str = ""  # identity of the log it votes from; empty while the master asked has not met it
    reason: str = ""  # why it takes no part, and what to do


class MembersReply(Reply, tag="members_reply", frozen=True, kw_only=True):
    """`spare`: how many more voters may fail before nothing can be written; below zero: nothing can now.
    `notes`: that and whatever else is worth knowing, one sentence each."""

    cluster: ClusterId
    answered_by: MasterId
    leader: MasterId  # empty: none is known
    term: Term
    members: list[MemberRow]
    spare: int
    notes: list[str]


class ListMembers(Request, tag="list_members", frozen=True, kw_only=True):
    reply: ClassVar[type[Reply]] = MembersReply


class MemberChangeReply(Reply, tag="member_change_reply", frozen=True, kw_only=True):
    """`done` false: it goes on at the leader; ask again for how far it is. `state`: that, in words."""

    member: MasterId
    done: bool
    state: str


class AddMember(Request, tag="add_member", frozen=True, kw_only=True):
    """Make a running master a voter, by way of a learner that catches up first. Asking again is harmless."""

    reply: ClassVar[type[Reply]] = MemberChangeReply
    member: MasterId
    control: Address
    raft: Address


class RemoveMember(Request, tag="remove_member", frozen=True, kw_only=True):
    """Let a master go, the leader too. Nothing is left to do when there is no such member."""

    reply: ClassVar[type[Reply]] = MemberChangeReply
    member: MasterId


class TransferLeadership(Request, tag="transfer_leadership", frozen=True, kw_only=True):
    """Have `source` hand leadership to `target`, or to whoever is nearest when that is empty. Nothing is done
    when `source` does not lead any more: asking again is harmless."""

    reply: ClassVar[type[Reply]] = MemberChangeReply
    source: MasterId
    target: MasterId = MasterId("")
