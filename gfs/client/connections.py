"""What all parts of one client share: masters, wires, worker threads, clock and chance. No verbs here."""

from __future__ import annotations

import asyncio
import contextvars
import random
import secrets
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from gfs.client.core.location_cache import LocationCache
from gfs.client.core.retry_plan import RetryPlan
from gfs.client.master_session import MasterSession
from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.messages.base import Ack, Consistency, Ping, Reply, Request
from gfs.messages.chunks import Replica
from gfs.messages.data import PushAnswer
from gfs.settings import CACHED_PLACES_MAX, CLIENT_WORKERS_MAX, ClientSettings
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClientId, PushId, ServerId

PING_SECONDS = 0.5  # a chunk server that does not answer a ping by then keeps silent
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")

T = TypeVar("T")
R = TypeVar("R", bound=Reply)


class BulkClient(Protocol):
    """What the client needs of the bulk wire; transport/data_client provides it. Blocking, thread-safe."""

    def push(
        self,
        address: Address,
        push_id: PushId,
        data: memoryview,
        *,
        offset: int,
        chain: Sequence[Address],
        checksums: Sequence[int] | None,
        deadline_seconds: float,
        capability: bytes = b"",
    ) -> PushAnswer: ...

    def read_into(
        self,
        address: Address,
        handle: ChunkHandle,
        version: ChunkVersion,
        first: int,
        buffer: memoryview,
        *,
        deadline_seconds: float,
        verify_here: bool = False,
        capability: bytes = b"",
    ) -> tuple[int, int]:
        """Fill `buffer` from `first` on: (bytes read, fewer only at the end; committed length).

        `verify_here`: compare with the server's sums as the bytes arrive, instead of its doing so before it
        sends them. Raises: then ChecksumMismatch also for bytes that changed on their way.
        """
        ...

    def close(self) -> None: ...


async def answered_within(clock: Clock, answer: asyncio.Future[T], seconds: float) -> bool:
    """Wait for `answer` at most `seconds`; True when it has come (or failed). Never cancels it."""
    alarm = asyncio.ensure_future(clock.sleep(seconds))
    either: set[asyncio.Future[T] | asyncio.Future[None]] = {answer, alarm}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        alarm.cancel()
    return answer.done()


class Connections:
    """One client's ways to the cluster. Everything that moves bytes or sends a request goes through it."""

    def __init__(
        self,
        *,
        masters: MasterSession,
        caller: RpcCaller,
        bulk: BulkClient,
        client: ClientId,
        clock: Clock,
        chance: random.Random,
        settings: ClientSettings,
        consistency: Consistency = "linearizable",
    ) -> None:
        self.masters = masters
        self.consistency: Consistency = consistency  # of reads that do not say
        self.caller = caller
        self.bulk = bulk
        self.client = client
        self.clock = clock
        self.chance = chance
        self.settings = settings
        self.places = LocationCache(seconds=settings.metadata_cache_seconds, places_max=CACHED_PLACES_MAX)
        self.local_hosts = frozenset((*LOOPBACK_HOSTS, socket.gethostname()))
        self._workers = ThreadPoolExecutor(CLIENT_WORKERS_MAX, thread_name_prefix="gfs-bulk")
        self._pushes = 0
        self._records = 0

    async def ask(self, request: Request, expected: type[R], what: str, consistency: Consistency) -> R:
        """A read from the leader, or from any master when the answer need not be the newest state."""
        if consistency == "linearizable":
            return await self.masters.ask_leader(request, expected, what)
        return await self.masters.ask_any(request, expected, what)

    def new_push_id(self) -> PushId:
        """Unique among all clients: the client's id is random, the number its own."""
        self._pushes += 1
        return PushId(f"{self.client:x}-{self._pushes:x}")

    def new_record_number(self) -> int:
        """Higher than all before it, whatever files they are for: with the client's id it names a record."""
        self._records += 1
        return self._records

    def new_record_id(self) -> bytes:
        """For a framed record: unique among all clients, as for pushes. 16 bytes."""
        return self.client.to_bytes(8, "big") + self.new_record_number().to_bytes(8, "big")

    def new_plan(self, what: str, *, has_effects: bool = True) -> RetryPlan:
        return RetryPlan(
            what,
            started=self.clock.monotonic(),
            budget_seconds=self.settings.retry_seconds,
            chance=self.chance.random,
            has_effects=has_effects,
            quorum_seconds=self.settings.quorum_seconds,
        )

    def in_worker(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Start blocking work on a worker thread. Once begun it runs to its end, whoever waits for it."""
        # In the caller's context: the request id goes out with the bytes too.
        in_context = contextvars.copy_context().run
        return asyncio.get_running_loop().run_in_executor(self._workers, in_context, work)

    async def to_its_end(self, work: Callable[[], T]) -> T:
        """Run blocking work on our caller's memory or files; even when cancelled, outlast the thread."""
        running = self.in_worker(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running})
            if not running.cancelled():
                running.exception()  # nobody asks for it any more
            raise

    async def silent(self, replicas: Sequence[Replica]) -> tuple[ServerId, ...]:
        """Those of `replicas` that do not answer a ping."""

        async def answers(replica: Replica) -> bool:
            try:
                await self.caller.call(replica.control, Ping(), Ack, deadline_seconds=PING_SECONDS)
            except GfsError:
                return False
            return True

        heard = await asyncio.gather(*(answers(replica) for replica in replicas))
        return tuple(
            replica.server for replica, answered in zip(replicas, heard, strict=True) if not answered
        )

    async def close(self) -> None:
        """Hang up. Reads and writes still under way fail."""
        await self.masters.close()
        await self.caller.close()
        self.bulk.close()
        # Not waiting: threads in blocking calls end with their sockets or their deadlines.
        self._workers.shutdown(wait=False, cancel_futures=True)


def new_client_id() -> ClientId:
    return ClientId(secrets.randbits(63))
