"""A master's state made again from the checkpoint and the log in its directory, to be compared with what it
has in memory (I7). Changes nothing there."""

from __future__ import annotations

from gfs.errors import GfsError
from gfs.inspect.oplog_entries import EntryReader
from gfs.inspect.oplog_replay import open_replay


def log_reaches(directory: str) -> int:
    """The last entry of the log in a master's directory. Raises: GfsError."""
    return int(EntryReader(directory).last)


def replayed(directory: str, index: int, *, oldest: bool, work: str) -> tuple[str, int]:
    """The digest at `index`, and the entry of the checkpoint it was made from.

    Args:
        oldest: from the oldest checkpoint that the log continues, not from the newest.
        work: where the state is laid out meanwhile.
    Returns: a digest that begins with "none: " says why there is no state.
    """
    try:
        log = EntryReader(directory)
        with open_replay(directory, log=log, to=index, oldest=oldest, work=work) as replay:
            replay.run(to=index)
            if int(replay.applied[0]) != index:
                return f"none: the log ends at entry {replay.applied[0]}", 0
            return replay.digest(), int(replay.began_at)
    except GfsError as error:
        return f"none: {error.message.replace(directory, '')}", 0
