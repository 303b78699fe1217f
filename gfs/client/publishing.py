"""How a written file comes into being and under its name: created in place, or hidden and then renamed."""

from __future__ import annotations

import asyncio
import secrets

from gfs.client.connections import Connections
from gfs.client.file import AsyncWriter
from gfs.client.mutator import Mutator
from gfs.client.reader import Reader
from gfs.errors import AlreadyExists, GfsError, IsADirectory, NotFound
from gfs.messages.namespace import CreateFile, DeletePath, Entry, EntryReply, RenamePath, SetLengthHint, Stat
from gfs.vocabulary import NAME_BYTES_MAX, TRASH_DIRECTORY, InodeId, join_path, split_path

TEMPORARY_MARK = ".gfs-tmp-"


async def create(
    connections: Connections, path: str, *, replication_goal: int = 0, replace: bool = False
) -> InodeId:
    """Make an empty file. Raises: AlreadyExists unless `replace`, IsADirectory, NotFound."""
    made = await connections.masters.mutate(
        lambda request: CreateFile(
            path=path, replication_goal=replication_goal, replace=replace, request=request
        ),
        f"create {path}",
    )
    connections.places.forget(path)
    return made.inode


async def open_in_place(
    connections: Connections, path: str, *, replace: bool, replication_goal: int
) -> AsyncWriter:
    """A writer of a file that is there, and grows, while it is written."""
    inode = await create(connections, path, replication_goal=replication_goal, replace=replace)

    async def finish(length_bytes: int) -> None:
        await _tell_length(connections, inode, length_bytes, path)
        connections.places.forget(path)

    async def discard() -> None:
        connections.places.forget(path)

    return AsyncWriter(
        Mutator(connections, inode=inode, path=path), path=path, finish=finish, discard=discard
    )


async def open_at_end(connections: Connections, path: str, *, replication_goal: int) -> AsyncWriter:
    """A writer that goes on where the file ends as of now; one that is not there is made."""
    try:
        entry = (await connections.masters.ask_leader(Stat(path=path), EntryReply, f"stat {path}")).entry
    except NotFound:
        return await open_in_place(connections, path, replace=False, replication_goal=replication_goal)
    if entry.kind == "directory":
        raise IsADirectory(f"{path} is a directory")
    reader = Reader(connections, path, entry, consistency="linearizable")
    try:
        end = await reader.exact_length()
    finally:
        await reader.close()

    async def finish(length_bytes: int) -> None:
        if length_bytes > end:
            await _tell_length(connections, entry.inode, length_bytes, path)
        connections.places.forget(path)

    async def discard() -> None:
        connections.places.forget(path)

    mutator = Mutator(connections, inode=entry.inode, path=path, first_offset=end)
    return AsyncWriter(mutator, path=path, finish=finish, discard=discard)


async def open_atomic(
    connections: Connections, path: str, *, replace: bool, replication_goal: int
) -> AsyncWriter:
    """A writer whose file appears under its name when it is closed, whole, or never (GFS §2.7.2)."""
    hidden = temporary_path(path)
    # What would be refused at the end is refused now, before the bytes are sent.
    checked, made = await asyncio.gather(
        _check_free(connections, path, replace=replace),
        create(connections, hidden, replication_goal=replication_goal),
        return_exceptions=True,
    )
    if isinstance(made, BaseException):
        raise made

    async def finish(length_bytes: int) -> None:
        await _tell_length(connections, made, length_bytes, path)
        await connections.masters.mutate(
            lambda request: RenamePath(source=hidden, destination=path, replace=replace, request=request),
            f"publish {path}",
        )
        connections.places.forget(path)

    async def discard() -> None:
        await _remove(connections, hidden)

    if isinstance(checked, BaseException):
        await discard()
        raise checked
    return AsyncWriter(Mutator(connections, inode=made, path=path), path=path, finish=finish, discard=discard)


def temporary_path(path: str) -> str:
    """A hidden name beside `path` that nobody else has. Raises: IsADirectory for the root."""
    names = split_path(path)
    if not names:
        raise IsADirectory("/ is a directory")
    return join_path((*names[:-1], hidden_name(names[-1])))


def hidden_name(name: str) -> str:
    """`.<name>.gfs-tmp-<hex>`, with as much of the name as the length limit leaves room for."""
    tail = TEMPORARY_MARK + secrets.token_hex(8)
    room = NAME_BYTES_MAX - len(tail) - 1
    # Cut between characters, not within one.
    return "." + name.encode("utf-8", errors="ignore")[:room].decode("utf-8", errors="ignore") + tail


async def tell_reached(connections: Connections, entry: Entry, end: int) -> None:
    """Bytes up to `end` are acknowledged: no length below that is exact, nor becomes it when another writer
    closes the file. A new lease makes a master forget an exact length, but a writer may find one still good.
    """
    if end > entry.length_bytes:
        await _tell_length(connections, entry.inode, end, entry.path, closed=False)


async def tell_appended(connections: Connections, entry: Entry, end: int) -> None:
    """Records are appended to the file, and acknowledged up to `end`."""
    await connections.masters.mutate(
        lambda request: SetLengthHint(
            inode=entry.inode, length_bytes=end, closed=False, appending=True, request=request
        ),
        f"tell how far {entry.path} reaches",
    )


async def _check_free(connections: Connections, path: str, *, replace: bool) -> None:
    try:
        found = await connections.masters.ask_leader(Stat(path=path), EntryReply, f"stat {path}")
    except NotFound:
        return
    if found.entry.kind == "directory":
        raise IsADirectory(f"{path} is a directory")
    if not replace:
        raise AlreadyExists(f"{path} exists already")


async def _tell_length(
    connections: Connections, inode: InodeId, length_bytes: int, path: str, *, closed: bool = True
) -> None:
    await connections.masters.mutate(
        lambda request: SetLengthHint(inode=inode, length_bytes=length_bytes, closed=closed, request=request),
        f"tell the length of {path}",
    )


async def _remove(connections: Connections, hidden: str) -> None:
    """Delete what was never published; nobody wants to find it in the trash."""
    try:
        done = await connections.masters.mutate(
            lambda request: DeletePath(path=hidden, request=request), f"delete {hidden}"
        )
        await connections.masters.mutate(
            lambda request: DeletePath(path=f"{TRASH_DIRECTORY}/{done.inode}", request=request),
            f"purge {hidden}",
        )
    except GfsError:
        pass  # it is hidden and harms nobody; what made us discard it is what the caller has to hear
