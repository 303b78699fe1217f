"""Which life of the cluster this is: the first one, or one begun from an older state (restore, recovery).

A state that was put back is older than the chunk servers' disks: they hold chunks it has never heard of, and
versions above those it knows. The new life must neither take these for garbage nor give their names away.

 - Ids. A life has a number, above that of each life before: the second in which it began. Handles and inodes
   are given out from number << ID_SHIFT on: no life has given out so many a second. Versions granted in it
   are at least the number, above all that chunk servers may hold from an earlier life (nobody grants a chunk
   once a second for a whole life); so each (handle, version) still has one replica set (I1).
 - Versions. Until chunk servers have said what they hold, no chunk of the state put back is granted or read:
   it is not *settled*. Meanwhile the leader takes over what they hold at a higher version than logged, as
   GFS §4.5 tells ("the master assumes that it failed when granting the lease"): AdoptReplicas.
 - Garbage. Nothing is named as garbage and nothing is reclaimed until an operator says so: HoldGarbage.

The row lies in META and is there from the first such life on, or once an operator has held the garbage.
"""

from __future__ import annotations

import msgspec

from gfs.errors import CorruptState, InvalidArgument, Unavailable
from gfs.master.core.records import ID_MAX, Counters
from gfs.master.core.tables import ReadTables, Table, Tables
from gfs.messages.operations import BeginIncarnation, HoldGarbage

INCARNATION_KEY = b"incarnation"
NAME_BYTES_MAX = 64
NUMBER_MAX = 3 * 2**30  # seconds since 1970: until the year 2072
ID_SHIFT = 15  # 32,768 ids a second
ID_STEP_MIN = 2**32  # at least so far ahead, should a clock have gone wrong
assert NUMBER_MAX << ID_SHIFT <= ID_MAX - 2**44  # which leaves 17 million million for the life itself
assert NUMBER_MAX < 2**32 - 2**29  # versions fit in four bytes, see locations


class Incarnation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`name` is empty in a cluster's first life. `old_handles`: those below it are from before this life.

    `began_ms` by the clock of who began it; `at_index`: the log entry it began with. `settled`: chunks from
    before may be read and granted. `garbage_held`: nothing is collected or reclaimed.
    """

    name: str = ""
    number: int = 0
    began_ms: int = 0
    at_index: int = 0
    old_handles: int = 0
    settled: bool = True
    garbage_held: bool = False


FIRST = Incarnation()
_encode = encode_incarnation = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Incarnation).decode


def read_incarnation(tables: ReadTables) -> Incarnation:
    """Raises: CorruptState."""
    row = tables.get(Table.META, INCARNATION_KEY)
    if row is None:
        return FIRST
    try:
        return _decode(row)
    except msgspec.DecodeError as error:
        raise CorruptState(f"which life of the cluster this is cannot be read: {error}") from error


def unsettled_below(tables: ReadTables) -> int:
    """Chunks with handles below this may not be used yet; 0 where all may."""
    row = tables.get(Table.META, INCARNATION_KEY)  # most clusters have none: nothing is decoded
    if row is None:
        return 0
    found = read_incarnation(tables)
    return 0 if found.settled else found.old_handles


def not_settled(handle: int) -> Unavailable:
    return Unavailable(
        f"chunk {handle:x} is from before the cluster's state was put back, and chunk servers have yet to "
        "say what they hold of it",
        hint="It takes until all have reported; 'gfs status' shows which have not.",
    )


class Incarnations:
    """The one row, written as part of `apply`. Every method checks first and writes after."""

    def __init__(self, tables: Tables, counters: Counters) -> None:
        """`tables`: the plain ones, as META is no part of the digest. Raises: CorruptState."""
        self._tables = tables
        self._counters = counters
        self.now = read_incarnation(tables)

    @property
    def first_version(self) -> int:
        """The lowest version that is granted in this life."""
        return max(self.now.number, 1)

    def require_settled(self, handle: int) -> None:
        """Raises: Unavailable for a chunk from before that nobody may be granted yet."""
        if not self.now.settled and handle < self.now.old_handles:
            raise not_settled(handle)

    def begin(self, operation: BeginIncarnation, *, index: int, at_ms: int) -> None:
        """Raises: InvalidArgument."""
        counters = self._counters
        first_id = operation.number << ID_SHIFT if 0 < operation.number <= NUMBER_MAX else 0
        if not self.now.number < operation.number <= NUMBER_MAX:
            raise InvalidArgument(
                f"life {operation.number} of the cluster does not come after {self.now.number}"
            )
        if not 0 < len(operation.name.encode("utf-8", "replace")) <= NAME_BYTES_MAX:
            raise InvalidArgument("a life of the cluster has a short name")
        handle = max(first_id, counters.next_handle + ID_STEP_MIN)
        inode = max(first_id, counters.next_inode + ID_STEP_MIN)
        if max(handle, inode) > ID_MAX - ID_STEP_MIN:
            raise InvalidArgument("this state has no ids left to begin another life with")
        self._write(
            Incarnation(
                name=operation.name,
                number=operation.number,
                began_ms=at_ms,
                at_index=index,
                old_handles=counters.next_handle,
                settled=False,
                garbage_held=True,
            )
        )
        counters.next_handle, counters.next_inode = handle, inode

    def settle(self) -> None:
        if not self.now.settled:
            self._write(msgspec.structs.replace(self.now, settled=True))

    def hold_garbage(self, operation: HoldGarbage) -> None:
        """Raises: Unavailable while chunks from before have not been settled."""
        if not operation.held and not self.now.settled:
            raise Unavailable(
                "garbage cannot be collected yet: not all chunk servers have said what they hold",
                hint="See 'gfs status' for which are awaited; then say it again.",
            )
        if operation.held != self.now.garbage_held:
            self._write(msgspec.structs.replace(self.now, garbage_held=operation.held))

    def may_adopt(self, handle: int, *, logged: int, version: int) -> bool:
        """Whether what servers hold at `version` may take the place of the `logged` one: only for a chunk
        from before, of which this life has granted nothing."""
        return handle < self.now.old_handles and logged < version < self.now.number

    def _write(self, changed: Incarnation) -> None:
        self.now = changed
        self._tables.put(Table.META, INCARNATION_KEY, _encode(changed))
