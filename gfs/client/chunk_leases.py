"""The leases of the chunks of one file being written: asked for once, shared, renewed after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gfs.client.core.write_failure import primary_of
from gfs.client.master_session import MasterSession
from gfs.errors import GfsError, ProtocolFault
from gfs.messages.chunks import AcquireLease, ChunkLease
from gfs.vocabulary import ChunkIndex, ChunkVersion, InodeId, ServerId


class ChunkLeases:
    """Knows for each chunk the newest lease a master has told us of (GFS §3.1 steps 1-2: cached).

    Invariants: the version known of a chunk never goes back; one question per chunk is open at a time.
    """

    def __init__(self, masters: MasterSession, *, inode: InodeId, path: str, appending: bool = False) -> None:
        """`appending`: for record appends, see AcquireLease."""
        self._masters = masters
        self._appending = appending
        self._inode = inode
        self._path = path
        self._known: dict[ChunkIndex, ChunkLease] = {}
        self._asking: dict[ChunkIndex, asyncio.Task[ChunkLease]] = {}

    async def current(self, index: ChunkIndex) -> ChunkLease:
        """The lease of chunk `index`, which comes into being if need be.

        Raises: what the master answered for good, e.g. NotFound when the file was deleted meanwhile.
        """
        known = self._known.get(index)
        if known is not None and index not in self._asking:
            return known
        return await asyncio.shield(self._ask(index, ChunkVersion(0), ()))

    def prefetch(self, index: ChunkIndex) -> None:
        """Ask for a lease that is about to be needed; whoever needs it hears of a failure then."""
        if index not in self._known:
            self._ask(index, ChunkVersion(0), ())

    def version(self, index: ChunkIndex) -> ChunkVersion:
        """The newest version known; 0 when none is."""
        known = self._known.get(index)
        return ChunkVersion(0) if known is None else known.version

    async def renew(
        self, index: ChunkIndex, old: ChunkLease, *, failed: bool, suspects: Sequence[ServerId] = ()
    ) -> None:
        """Have a newer lease than `old`, or with `failed` False perhaps the same one prolonged.

        Several pieces may report one failure; the first makes the master act, the others find it done.
        """
        while (asking := self._asking.get(index)) is not None:
            try:
                await asyncio.shield(asking)
            except GfsError:
                pass  # whoever asked hears of it
            # One that has just ended is taken out in the next turn of the loop; to await it gives it none.
            await asyncio.sleep(0)
        if self.version(index) > old.version:
            return
        failed_version = old.version if failed else ChunkVersion(0)
        await asyncio.shield(self._ask(index, failed_version, suspects))

    def forget(self, index: ChunkIndex) -> None:
        """Nothing more will be written to this chunk."""
        self._known.pop(index, None)

    async def close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _ask(
        self, index: ChunkIndex, failed_version: ChunkVersion, suspects: Sequence[ServerId]
    ) -> asyncio.Task[ChunkLease]:
        asking = self._asking.get(index)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._acquire(index, failed_version, suspects))
            self._asking[index] = asking
            asking.add_done_callback(lambda task: self._answered(index, task))
        return asking

    async def _acquire(
        self, index: ChunkIndex, failed_version: ChunkVersion, suspects: Sequence[ServerId]
    ) -> ChunkLease:
        request = AcquireLease(
            inode=self._inode,
            index=index,
            create=True,
            failed_version=failed_version,
            suspects=list(suspects),
            appending=self._appending,
        )
        what = f"write {self._path}, lease of chunk {index}"
        lease = await self._masters.ask_leader(request, ChunkLease, what, effects=True)
        if primary_of(lease) is None:
            raise ProtocolFault(f"{what}: the primary {lease.primary!r} is not one of its replicas")
        return lease

    def _answered(self, index: ChunkIndex, task: asyncio.Task[ChunkLease]) -> None:
        del self._asking[index]
        if task.cancelled() or task.exception() is not None:
            return  # exception() marks it as seen: after a prefetch nobody may be waiting
        lease = task.result()
        known = self._known.get(index)
        if known is None or lease.version >= known.version:
            self._known[index] = lease
