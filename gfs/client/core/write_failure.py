"""What the failure of one piece says about its lease and replicas (GFS §3.1, §4.5). Decides, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfs.errors import (
    ChecksumMismatch,
    ConnectionLost,
    CorruptState,
    DataUnavailable,
    GfsError,
    InternalFault,
    LeaseExpired,
    NoSpace,
    NotFound,
    NotPrimary,
    OutcomeUnknown,
    Overloaded,
    PushMissing,
    ReplicaFailed,
    StaleVersion,
    Superseded,
    Unavailable,
)
from gfs.messages.chunks import ChunkLease, Replica
from gfs.vocabulary import ServerId


@dataclass(frozen=True, slots=True)
class SameLease:
    """The lease is good; try again under it."""


@dataclass(frozen=True, slots=True)
class AskForLease:
    """The lease has run out, no replica has failed: the master may prolong or renew it."""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """Nothing more may be sent under this version; `suspects` are to be left out of the next.

    `certain` False: one of the replicas failed, but it takes a look at them to say which;
    `suspects` is the guess to use when all of them look well.
    """

    suspects: tuple[ServerId, ...]
    certain: bool


@dataclass(frozen=True, slots=True)
class Final:
    """No lease can help: the caller has to know."""


Diagnosis = SameLease | AskForLease | NewVersion | Final


def diagnose(error: GfsError, lease: ChunkLease, asked: ServerId) -> Diagnosis:
    """Judge `error`, which `asked` (a replica of `lease`) answered or caused."""
    match error:
        case Overloaded():
            return SameLease()
        case LeaseExpired():
            return AskForLease()
        case NotPrimary() | PushMissing() | Superseded():
            return NewVersion((), certain=True)
        case StaleVersion():
            # A replica ahead of us has been told of a newer grant; one behind us has missed ours.
            held = error.details.get("version", "")
            behind = held.isdigit() and int(held) < lease.version
            return NewVersion(_not_everybody((asked,), lease) if behind else (), certain=True)
        case ReplicaFailed():
            named = _named(error, lease)
            return NewVersion(_not_everybody(named, lease), certain=bool(named))
        case NoSpace():
            # Also when that is everybody: only other servers can help.
            return NewVersion(_named(error, lease) or (asked,), certain=True)
        case ChecksumMismatch() | CorruptState() | DataUnavailable() | NotFound() | InternalFault():
            return NewVersion(_not_everybody(_named(error, lease) or (asked,), lease), certain=True)
        case Unavailable() | ConnectionLost():
            return NewVersion(_not_everybody((asked,), lease), certain=True)
        case OutcomeUnknown():
            return NewVersion(_not_everybody((asked,), lease), certain=False)
        case _:
            return Final()


def push_failure(failed: Mapping[str, str], lease: ChunkLease) -> GfsError:
    """The error for a push that did not reach every hop; `failed` is the PushAnswer's, by data address.

    The chain passes over a dead hop to the one behind it, so each that is listed is itself at fault.
    """
    assert failed
    told = ", ".join(f"{address}: {why}" for address, why in sorted(failed.items()))
    if all(why.startswith(f"{Overloaded.code}:") for why in failed.values()):
        return Overloaded(f"the push found no room on {told}")
    servers = [replica.server for replica in lease.replicas if replica.data in failed]
    return ReplicaFailed(f"the push did not reach {told}", details={"servers": ",".join(servers)})


def suspects_after_look(
    guess: Sequence[ServerId], silent: Sequence[ServerId], lease: ChunkLease
) -> tuple[ServerId, ...]:
    """Whom to leave out once it is known who keeps silent."""
    if silent:
        return _not_everybody(tuple(silent), lease)
    return tuple(guess)


def _not_everybody(suspects: tuple[ServerId, ...], lease: ChunkLease) -> tuple[ServerId, ...]:
    """`suspects`, or nobody when that is every replica.

    Leaving out the last copy helps nobody: the chunk goes on when one of them is back. And a client that
    is itself cut off must not talk the master out of all replicas.
    """
    everybody = {replica.server for replica in lease.replicas}
    return () if everybody <= set(suspects) else suspects


def primary_of(lease: ChunkLease) -> Replica | None:
    """The replica that orders mutations; None in a lease that names none of its own."""
    for replica in lease.replicas:
        if replica.server == lease.primary:
            return replica
    return None


def _named(error: GfsError, lease: ChunkLease) -> tuple[ServerId, ...]:
    named = set(error.details.get("servers", "").split(","))
    return tuple(replica.server for replica in lease.replicas if replica.server in named)
