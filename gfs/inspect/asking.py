"""How a question reaches a checkpoint: its bytes are checked first, then a child process reads its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from gfs.inspect.checkpoint_files import CheckpointFile, require_whole
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.guarded import guarded

Answer = Callable[[CheckpointTables], Iterable[bytes]]


def ask(file: CheckpointFile, answer: Answer) -> Iterator[bytes]:
    """What `answer` yields, in a child process, from the rows of `file`.

    Raises: CorruptState, UnsupportedVersion; what `answer` raises, if it is ours; OSError.
    """
    require_whole(file)
    return guarded(lambda: answer(CheckpointTables(file.path)), os.path.basename(file.path))


def ask_both(
    first: CheckpointFile,
    second: CheckpointFile,
    answer: Callable[[CheckpointTables, CheckpointTables], Iterable[bytes]],
) -> Iterator[bytes]:
    """As ask(), of two checkpoints at once."""
    if os.path.samefile(first.path, second.path):  # LMDB maps a file once in a process

        def answer_same(tables: CheckpointTables) -> Iterable[bytes]:
            return answer(tables, tables)

        return ask(first, answer_same)
    require_whole(first)
    require_whole(second)
    what = f"{os.path.basename(first.path)} or {os.path.basename(second.path)}"
    return guarded(lambda: answer(CheckpointTables(first.path), CheckpointTables(second.path)), what)


def pieces(texts: Iterable[bytes], piece_bytes: int = 2**16) -> Iterator[bytes]:
    """The same bytes in fewer, larger pieces."""
    gathered: list[bytes] = []
    length = 0
    for text in texts:
        gathered.append(text)
        length += len(text)
        if length >= piece_bytes:
            yield b"".join(gathered)
            gathered, length = [], 0
    if gathered:
        yield b"".join(gathered)
