"""The REST interface of HDFS, /webhdfs/v1/<path>?op=…, for its clients. `gfs gateway webhdfs` runs it.

As in HDFS, CREATE and APPEND take two steps: the first is answered with 307 and where to send the bytes
(`&data=true` here), or with that address as JSON when `noredirect=true`. Where we differ: a file appears when
it is whole; the deleted goes to the trash; `user.name` is not believed, all is done as the gateway's user.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from gfs import errors
from gfs.client.client import AsyncClient, WriteMode
from gfs.errors import AlreadyExists, GfsError, InvalidArgument, IsADirectory, NotFound
from gfs.integrations.gateways.gateway_server import BLOCK_BYTES, blocks_of_body, send_range
from gfs.integrations.gateways.webhdfs_blocks import Json, block_locations, located_blocks
from gfs.integrations.gateways.webhdfs_checksum import FileChecksum
from gfs.integrations.published import published
from gfs.messages.namespace import Entry
from gfs.vocabulary import CHUNK_BYTES, TRASH_DIRECTORY

PREFIX = "/webhdfs/v1"
BATCH_ENTRIES = 10_000  # of one directory, in one answer to a client that asks for pieces
SUPERUSER = "superuser"  # what an owner without a name is called; HDFS knows no empty one

Operation = Callable[["WebHdfsGateway", web.Request, str], Awaitable[web.StreamResponse]]


class NotSupported(InvalidArgument):
    """What HDFS does, and nothing here can."""


class UnknownOperation(NotSupported):
    """An `op` this gateway has not."""


# The first that fits counts: subclasses stand before their bases. Name and status are those of HDFS.
_EXCEPTIONS: tuple[tuple[type[GfsError], str, int], ...] = (
    (NotSupported, "java.lang.UnsupportedOperationException", 400),
    (errors.NotFound, "java.io.FileNotFoundException", 404),
    (errors.IsADirectory, "java.io.FileNotFoundException", 404),
    (errors.AlreadyExists, "org.apache.hadoop.fs.FileAlreadyExistsException", 403),
    (errors.DirectoryNotEmpty, "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException", 403),
    (errors.NotADirectory, "org.apache.hadoop.fs.ParentNotDirectoryException", 403),
    (errors.PermissionDenied, "org.apache.hadoop.security.AccessControlException", 403),
    (errors.Unauthenticated, "java.lang.SecurityException", 401),
    (errors.QuotaExceeded, "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", 403),
    (errors.InvalidArgument, "java.lang.IllegalArgumentException", 400),
    # A client that knows several gateways goes on to the next one.
    (errors.Overloaded, "org.apache.hadoop.ipc.RetriableException", 403),
    (errors.NoQuorum, "org.apache.hadoop.ipc.RetriableException", 403),
    (errors.Unavailable, "org.apache.hadoop.ipc.RetriableException", 403),
)


def refusal(error: GfsError) -> web.Response:
    """An error in the form of HDFS, which its clients raise again."""
    known = (named for named in _EXCEPTIONS if isinstance(error, named[0]))
    _, name, status = next(known, (GfsError, "java.io.IOException", 500))
    told = {
        "exception": name.rpartition(".")[2],
        "javaClassName": name,
        "message": f"{error.message} ({error.hint})" if error.hint else error.message,
    }
    return _json({"RemoteException": told}, status=status)


class WebHdfsGateway:
    """The handlers; `client` is whose name everything is done in."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        # Two appends at one time would write over each other (HDFS refuses the second; here it waits).
        self._appending: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @property
    def routes(self) -> list[web.RouteDef]:
        methods = {"GET": web.get, "PUT": web.put, "POST": web.post, "DELETE": web.delete}
        return [
            add(PREFIX + "{path:(?:/.*)?}", self._handler(OPERATIONS[method]))
            for method, add in methods.items()
        ]

    def _handler(
        self, operations: Mapping[str, Operation]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked = request.query.get("op", "").upper()
            operation = operations.get(asked)
            if operation is None:
                raise UnknownOperation(
                    f"there is no operation {asked!r} by {request.method}",
                    hint=f"There are: {', '.join(sorted(operations))}.",
                )
            return await operation(self, request, request.match_info["path"] or "/")

        return handle

    # --- GET ------------------------------------------------------------------------------------

    async def _status(self, _: web.Request, path: str) -> web.StreamResponse:
        return _json({"FileStatus": file_status(await self._client.stat(path), "")})

    async def _list(self, _: web.Request, path: str) -> web.StreamResponse:
        return _json({"FileStatuses": {"FileStatus": await self._rows(path)}})

    async def _list_batch(self, request: web.Request, path: str) -> web.StreamResponse:
        """A piece of a listing: what comes behind `startAfter`, by the bytes of the names."""
        after = request.query.get("startAfter", "").encode()
        rows = [row for row in await self._rows(path) if not after or row["pathSuffix"].encode() > after]
        rows.sort(key=lambda row: row["pathSuffix"].encode())
        piece = {"FileStatuses": {"FileStatus": rows[:BATCH_ENTRIES]}}
        left = max(0, len(rows) - BATCH_ENTRIES)
        return _json({"DirectoryListing": {"partialListing": piece, "remainingEntries": left}})

    async def _rows(self, path: str) -> list[Json]:
        entry = await self._client.stat(path)
        if entry.kind == "file":
            return [file_status(entry, "")]
        below = await self._listed(path)
        return [file_status(one, one.path.rpartition("/")[2]) for one in below]

    async def _open(self, request: web.Request, path: str) -> web.StreamResponse:
        if _flag(request, "noredirect"):
            return _json({"Location": _data_url(request)})
        first = _number(request, "offset", 0)
        async with await self._client.open(path, "rb") as file:
            length = await file.length()
            if first > length:
                raise InvalidArgument(f"offset {first} is beyond the end of {path}, which has {length} bytes")
            count = min(_number(request, "length", length), length - first)
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            await send_range(request, response, file, first, count)
            return response

    async def _summary(self, _: web.Request, path: str) -> web.StreamResponse:
        entry = await self._client.stat(path)
        files, directories, length, stored = 0, 0, 0, 0
        waiting = [entry]
        while waiting:
            one = waiting.pop()
            if one.kind == "directory":
                directories += 1
                waiting += [below for below in await self._listed(one.path) if below.path != TRASH_DIRECTORY]
            else:
                files, length = files + 1, length + one.length_bytes
                stored += one.length_bytes * one.replication_goal
        summary = {
            "directoryCount": directories,
            "fileCount": files,
            "length": length,
            "quota": -1,
            "spaceConsumed": stored,
            "spaceQuota": -1,
        }
        return _json({"ContentSummary": summary})

    async def _listed(self, path: str) -> list[Entry]:
        return await published(self._client, [entry async for entry in self._client.list(path)])

    async def _checksum(self, _: web.Request, path: str) -> web.StreamResponse:
        """The file is read whole for it."""
        checksum = FileChecksum()
        async with await self._client.open(path, "rb") as file:
            while block := await file.read(BLOCK_BYTES):
                checksum.feed(block)
        return _json({"FileChecksum": checksum.answer()})

    async def _block_locations(self, request: web.Request, path: str) -> web.StreamResponse:
        return await self._places(request, path, block_locations)

    async def _located_blocks(self, request: web.Request, path: str) -> web.StreamResponse:
        return await self._places(request, path, located_blocks)

    async def _places(self, request: web.Request, path: str, told: Callable[..., Json]) -> web.StreamResponse:
        entry = await self._client.stat(path)
        if entry.kind == "directory":
            raise IsADirectory(f"{path} is a directory")
        first = _number(request, "offset", 0)
        length = _number(request, "length", entry.length_bytes)
        places = await self._client.chunks(path)
        return _json(told(places, file_bytes=entry.length_bytes, first=first, length_bytes=length))

    async def _home(self, request: web.Request, _: str) -> web.StreamResponse:
        return _json({"Path": _home_of(request)})

    async def _trash_root(self, request: web.Request, _: str) -> web.StreamResponse:
        # Clients move into it what they want to keep; nothing can be moved into the cluster's own trash.
        return _json({"Path": f"{_home_of(request)}/.Trash"})

    async def _access_list(self, _: web.Request, path: str) -> web.StreamResponse:
        entry = await self._client.stat(path)
        told = {
            "entries": [],
            "group": entry.group or SUPERUSER,
            "owner": entry.owner or SUPERUSER,
            "permission": f"{entry.mode:o}",
            "stickyBit": False,
        }
        return _json({"AclStatus": told})

    # --- PUT, POST, DELETE ----------------------------------------------------------------------

    async def _create(self, request: web.Request, path: str) -> web.StreamResponse:
        replace = _flag(request, "overwrite")
        if not _flag(request, "data"):
            await self._check_free(path, replace)
            return _redirect(request)
        replication = _number(request, "replication", 0)
        if _flag(request, "createparent", default=True):
            await self._client.mkdir(path.rstrip("/").rpartition("/")[0] or "/", parents=True)
        mode: WriteMode = "wb" if replace else "xb"
        async with await self._client.open(path, mode, atomic=True, replication_goal=replication) as file:
            async for block in blocks_of_body(request):
                await file.write(block)
        await self._set_mode_asked(request, path)
        return web.Response(status=201, headers={"Location": f"webhdfs://{request.host}{path}"})

    async def _check_free(self, path: str, replace: bool) -> None:
        try:
            entry = await self._client.stat(path)
        except NotFound:
            return
        if entry.kind == "directory" or not replace:
            raise AlreadyExists(f"{path} exists already")

    async def _append(self, request: web.Request, path: str) -> web.StreamResponse:
        if (await self._client.stat(path)).kind == "directory":
            raise IsADirectory(f"{path} is a directory")
        if not _flag(request, "data"):
            return _redirect(request)
        turn = self._appending.setdefault(path, asyncio.Lock())
        async with turn, await self._client.open(path, "ab") as file:
            async for block in blocks_of_body(request):
                await file.write(block)
        return web.Response(status=200)

    async def _make_directory(self, request: web.Request, path: str) -> web.StreamResponse:
        await self._client.mkdir(path, parents=True)
        await self._set_mode_asked(request, path)
        return _json({"boolean": True})

    async def _rename(self, request: web.Request, path: str) -> web.StreamResponse:
        target = request.query.get("destination", "")
        if not target.startswith("/"):
            raise InvalidArgument(f"destination {target!r} is no absolute path")
        replace = request.query.get("renameoptions", "").upper() == "OVERWRITE"
        try:
            if (await self._client.stat(target)).kind == "directory":
                target = f"{target.rstrip('/')}/{path.rstrip('/').rpartition('/')[2]}"
        except NotFound:
            pass
        try:
            await self._client.rename(path, target, replace=replace)
        except (NotFound, AlreadyExists):
            return _json({"boolean": False})  # so HDFS tells it
        return _json({"boolean": True})

    async def _delete(self, request: web.Request, path: str) -> web.StreamResponse:
        try:
            await self._client.delete(path, recursive=_flag(request, "recursive"))
        except NotFound:
            return _json({"boolean": False})
        return _json({"boolean": True})

    async def _set_mode(self, request: web.Request, path: str) -> web.StreamResponse:
        await self._client.chmod(path, _mode(request.query.get("permission", "755")))
        return web.Response(status=200)

    async def _set_owner(self, request: web.Request, path: str) -> web.StreamResponse:
        query = request.query
        await self._client.chown(path, owner=query.get("owner") or None, group=query.get("group") or None)
        return web.Response(status=200)

    async def _set_replication(self, request: web.Request, path: str) -> web.StreamResponse:
        """True for a file that has this goal already; false, as HDFS tells it, for a directory."""
        entry = await self._client.stat(path)
        wanted = _number(request, "replication", entry.replication_goal)
        if entry.kind == "directory":
            return _json({"boolean": False})
        if wanted != entry.replication_goal:
            raise NotSupported(
                f"the replication of {path} is {entry.replication_goal}, and not changed for one file alone",
                hint="It comes from CREATE, or else from the policy of the directory: gfs policy set.",
            )
        return _json({"boolean": True})

    async def _set_times(self, _: web.Request, path: str) -> web.StreamResponse:
        raise NotSupported(f"times of {path} are the masters' own: no client sets them")

    async def _concat(self, _: web.Request, path: str) -> web.StreamResponse:
        raise NotSupported(
            f"nothing can be moved behind {path}: chunks are not taken from one file for another",
            hint="APPEND the contents of the others, and delete them.",
        )

    async def _set_mode_asked(self, request: web.Request, path: str) -> None:
        if "permission" in request.query:
            await self._client.chmod(path, _mode(request.query["permission"]))


OPERATIONS: dict[str, dict[str, Operation]] = {
    "GET": {
        "GETFILESTATUS": WebHdfsGateway._status,
        "LISTSTATUS": WebHdfsGateway._list,
        "LISTSTATUS_BATCH": WebHdfsGateway._list_batch,
        "OPEN": WebHdfsGateway._open,
        "GETCONTENTSUMMARY": WebHdfsGateway._summary,
        "GETFILECHECKSUM": WebHdfsGateway._checksum,
        "GETFILEBLOCKLOCATIONS": WebHdfsGateway._block_locations,
        "GET_BLOCK_LOCATIONS": WebHdfsGateway._located_blocks,
        "GETHOMEDIRECTORY": WebHdfsGateway._home,
        "GETTRASHROOT": WebHdfsGateway._trash_root,
        "GETACLSTATUS": WebHdfsGateway._access_list,
    },
    "PUT": {
        "CREATE": WebHdfsGateway._create,
        "MKDIRS": WebHdfsGateway._make_directory,
        "RENAME": WebHdfsGateway._rename,
        "SETPERMISSION": WebHdfsGateway._set_mode,
        "SETOWNER": WebHdfsGateway._set_owner,
        "SETREPLICATION": WebHdfsGateway._set_replication,
        "SETTIMES": WebHdfsGateway._set_times,
    },
    "POST": {"APPEND": WebHdfsGateway._append, "CONCAT": WebHdfsGateway._concat},
    "DELETE": {"DELETE": WebHdfsGateway._delete},
}


def file_status(entry: Entry, suffix: str) -> Json:
    """An entry as HDFS tells it; times are milliseconds, and nobody notes when a file is read."""
    is_file = entry.kind == "file"
    return {
        "accessTime": entry.modified_ms,
        "blockSize": CHUNK_BYTES if is_file else 0,
        "fileId": entry.inode,
        "group": entry.group or SUPERUSER,
        "length": entry.length_bytes if is_file else 0,
        "modificationTime": entry.modified_ms,
        "owner": entry.owner or SUPERUSER,
        "pathSuffix": suffix,
        "permission": f"{entry.mode:o}",
        "replication": entry.replication_goal if is_file else 0,
        "storagePolicy": 0,
        "type": "FILE" if is_file else "DIRECTORY",
    }


def _home_of(request: web.Request) -> str:
    return "/user/" + request.query.get("user.name", SUPERUSER)


def _json(told: Json, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(told), status=status, content_type="application/json")


def _data_url(request: web.Request) -> str:
    kept = {name: value for name, value in request.query.items() if name not in ("noredirect", "data")}
    return str(request.url.with_query({**kept, "data": "true"}))


def _redirect(request: web.Request) -> web.Response:
    location = _data_url(request)
    if _flag(request, "noredirect"):
        return _json({"Location": location})
    response = web.Response(status=307, headers={"Location": location})
    if request.can_read_body:
        response.force_close()  # a body that came in the first step is not read
    return response


def _flag(request: web.Request, name: str, *, default: bool = False) -> bool:
    told = request.query.get(name)
    return default if told is None else told.lower() == "true"


def _number(request: web.Request, name: str, default: int) -> int:
    told = request.query.get(name, "")
    if not told or told == "null":
        return default
    if not (told.isascii() and told.isdigit()):
        raise InvalidArgument(f"{name}={told!r} is no number of zero or above")
    return int(told)


def _mode(told: str) -> int:
    try:
        mode = int(told, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise InvalidArgument(f"permission={told!r} is not 0 to 777, octal")
    return mode
