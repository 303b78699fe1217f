"""Every error of gfs, in one tree. No behaviour beyond naming what went wrong.

`definite` True means the operation did not, and will not, take effect: it may be repeated without a
second thought. False means nobody can say; only a request id makes a retry safe.

    GfsError
      definite                                            exit
        InvalidArgument  InvalidPath  ConfigInvalid          2
        NotFound                                             3
        AlreadyExists  IsADirectory  NotADirectory
          DirectoryNotEmpty                                  4
        PermissionDenied  Unauthenticated                    5
        NotLeader  NoQuorum  Overloaded  PathBusy  Unavailable
          NotEnoughChunkServers  DataUnavailable             6
        ChecksumMismatch  CorruptState                       7
        NoSpace  QuotaExceeded                               8
        LeaseExpired  CapabilityExpired  NotPrimary  StaleVersion  ChunkSealed
          PushMissing  Superseded  ChangesForgotten         10
        FrameTooLarge  ProtocolFault  UnsupportedVersion
          WrongCluster                                       1
      indefinite
        OutcomeUnknown  DeadlineExceeded  ConnectionLost
          RecordForgotten                                    6
        ReplicaFailed                                        6
        PartlyDone                                           9
        InternalFault                                        1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class GfsError(Exception):
    """Base of the tree. `message` is one sentence for a person; `hint` says what to do next."""

    code: ClassVar[str] = "error"
    definite: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.details: dict[str, str] = dict(details or {})  # machine-readable: leader, servers, version …


class InvalidArgument(GfsError):
    code, definite, exit_status = "invalid_argument", True, 2


class InvalidPath(InvalidArgument):
    code = "invalid_path"
    default_hint = "Paths are absolute, UTF-8 and '/'-separated, like /data/part-0."


class ConfigInvalid(InvalidArgument):
    code = "config_invalid"
    default_hint = "Run 'gfs config schema' to see every key with its type and default."


class NotFound(GfsError):
    code, definite, exit_status = "not_found", True, 3


class AlreadyExists(GfsError):
    code, definite, exit_status = "already_exists", True, 4


class IsADirectory(GfsError):
    code, definite, exit_status = "is_a_directory", True, 4


class NotADirectory(GfsError):
    code, definite, exit_status = "not_a_directory", True, 4


class DirectoryNotEmpty(GfsError):
    code, definite, exit_status = "directory_not_empty", True, 4
    default_hint = "Add -r to delete a directory with everything in it."


class PermissionDenied(GfsError):
    code, definite, exit_status = "permission_denied", True, 5


class Unauthenticated(GfsError):
    code, definite, exit_status = "unauthenticated", True, 5


class NotLeader(GfsError):
    """details["leader"]: control address of the leader, when this master knows one."""

    code, definite, exit_status = "not_leader", True, 6


class NoQuorum(GfsError):
    code, definite, exit_status = "no_quorum", True, 6
    default_hint = (
        "Start the missing masters, see 'gfs status' for which. Reads with --consistency stale are answered "
        "meanwhile."
    )


class Overloaded(GfsError):
    code, definite, exit_status = "overloaded", True, 6


class PathBusy(Overloaded):
    """A snapshot under way keeps this path as it is; it takes seconds."""

    code = "path_busy"
    default_hint = "Try again in a moment: a snapshot is being taken of, or made at, this path."


class Unavailable(GfsError):
    """The program asked is starting, stopping or out of service; nothing was done."""

    code, definite, exit_status = "unavailable", True, 6


class NotEnoughChunkServers(GfsError):
    code, definite, exit_status = "not_enough_chunkservers", True, 6
    default_hint = "See 'gfs status' for the chunk servers that are alive."


class DataUnavailable(GfsError):
    """No good replica of a chunk could be reached. Names file, chunk and servers."""

    code, definite, exit_status = "data_unavailable", True, 6


class ChecksumMismatch(GfsError):
    code, definite, exit_status = "checksum_mismatch", True, 7


class CorruptState(GfsError):
    """A log, checkpoint or index on disk is damaged beyond what a crash can do."""

    code, definite, exit_status = "corrupt_state", True, 7


class NoSpace(GfsError):
    code, definite, exit_status = "no_space", True, 8


class QuotaExceeded(GfsError):
    code, definite, exit_status = "quota_exceeded", True, 8
    default_hint = (
        "What was written before stays. Delete something (what is in the trash does not count), or have the "
        "quota raised: 'gfs policy show' tells it."
    )


class LeaseExpired(GfsError):
    code, definite, exit_status = "lease_expired", True, 10


class CapabilityExpired(LeaseExpired):
    """What a master has let this client do with a chunk holds no more; asking again gives a newer word."""

    code = "capability_expired"


class NotPrimary(GfsError):
    code, definite, exit_status = "not_primary", True, 10


class StaleVersion(GfsError):
    """The version asked for is not the one this replica holds (§4.5). details["version"]: ours."""

    code, definite, exit_status = "stale_version", True, 10


class ChunkSealed(GfsError):
    code, definite, exit_status = "chunk_sealed", True, 10


class PushMissing(GfsError):
    """The pushed bytes are not, or no longer, in this server's push buffer: push again."""

    code, definite, exit_status = "push_missing", True, 10


class Superseded(GfsError):
    """A newer master, session or writer has taken over."""

    code, definite, exit_status = "superseded", True, 10


class ChangesForgotten(GfsError):
    """No master remembers what changed since the index asked for. details["next"]: where to begin."""

    code, definite, exit_status = "changes_forgotten", True, 10
    default_hint = (
        "Begin a new watch, then list again what is watched: everything that changes after the watch began "
        "is told by it."
    )


class FrameTooLarge(GfsError):
    code, definite, exit_status = "frame_too_large", True, 1


class ProtocolFault(GfsError):
    code, definite, exit_status = "protocol_fault", True, 1


class UnsupportedVersion(GfsError):
    code, definite, exit_status = "unsupported_version", True, 1
    default_hint = "Upgrade the older side; neighbouring minor versions understand each other."


class WrongCluster(GfsError):
    code, definite, exit_status = "wrong_cluster", True, 1
    default_hint = "This disk or program belongs to another cluster; check addresses and data directory."


class OutcomeUnknown(GfsError):
    """The operation may or may not have taken effect; its request id makes a retry safe."""

    code, definite, exit_status = "outcome_unknown", False, 6


class DeadlineExceeded(OutcomeUnknown):
    code = "deadline_exceeded"


class ConnectionLost(OutcomeUnknown):
    code = "connection_lost"


class RecordForgotten(OutcomeUnknown):
    """Whether an earlier try at a record append succeeded is no longer remembered."""

    code = "record_forgotten"
    default_hint = "Read the file to see whether the record is there before appending it again."


class ReplicaFailed(GfsError):
    """A mutation did not reach every replica: the region may be inconsistent (§2.7).

    details["servers"]: comma-separated ids of the replicas that failed.
    """

    code, definite, exit_status = "replica_failed", False, 6


class PartlyDone(GfsError):
    code, definite, exit_status = "partly_done", False, 9


class InternalFault(GfsError):
    """A bug of ours; the server has logged the details under the request id."""

    code, definite, exit_status = "internal_fault", False, 1


def _leaves(kind: type[GfsError]) -> dict[str, type[GfsError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found |= _leaves(child)
    return found


BY_CODE: Mapping[str, type[GfsError]] = _leaves(GfsError)


def from_code(
    code: str, message: str, *, hint: str = "", details: Mapping[str, str] | None = None
) -> GfsError:
    """Rebuild an error that crossed the wire. An unknown code (a newer peer) becomes InternalFault."""
    return BY_CODE.get(code, InternalFault)(message, hint=hint, details=details)
