"""Every link of the cluster, each through a proxy of its own, and what is wrong with it now.

A link is one direction of dialling: who dials, whom, on which wire. What ought to be is kept here, so that a
server that has died, or answers no more, is replaced by one that is given all of it again. That breaks every
connection; the run is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from chaos.toxiproxy.control import Control, NoSuchThing, Toxic, ToxiproxyFault, ToxiproxySilent
from chaos.toxiproxy.server import ToxiproxyServer
from gfs.local.ports import free_ports
from gfs.vocabulary import Address

Wire = Literal["raft", "control", "data"]

ORDERS_AT_ONCE = 32  # a server takes many orders side by side; each costs a thread, and some wait long
RATE_OPEN = 1_000_000_000  # KB/s: as good as none
LET_THROUGH_SECONDS = 0.1  # for the server to find out which connections that held bytes are dead
MEND_SECONDS = 1.0  # for links to be healed; those with dead connections that hold bytes take longer
LINKS_MAX = 2000  # in one cluster: as many listening sockets
RESET_SECONDS = 0.3  # so long who dials again after a reset is reset, too
RESTARTS_MAX = 50  # in one run; more means that the server cannot be used
LOOK_SECONDS = 0.5  # how often it is seen whether the server lives


class Link(NamedTuple):
    """`source` dials `target`, which listens at `meant`; it is told to dial `dialled`, where the proxy is."""

    source: str
    target: str
    wire: Wire
    meant: Address
    dialled: Address

    @property
    def name(self) -> str:
        return f"{self.source}.{self.target}.{self.wire}".lower()


class Wrong(NamedTuple):
    """What is wrong between a pair of nodes: of what `source` sends to `target`. `cut`: of both ways."""

    kind: str  # of a toxic, or "cut"
    source: str
    attributes: dict[str, int]


class _State:
    """Of one link, as it ought to be."""

    def __init__(self) -> None:
        self.enabled = True
        self.toxics: dict[str, Toxic] = {}


def _open(control: Control, link: Link, name: str) -> None:
    try:
        control.change_toxic(link.name, name, rate=RATE_OPEN)
    except NoSuchThing:
        pass  # as below


def _take_away(control: Control, link: Link, name: str) -> None:
    try:
        control.remove_toxic(link.name, name)
    except NoSuchThing:
        pass  # the server was replaced meanwhile, by one that never had it


class Links:
    """All methods belong to one event loop. Raises: ToxiproxyFault from all that change something."""

    def __init__(self, server: ToxiproxyServer, on_restart: Callable[[str], None]) -> None:
        """`on_restart` is told why, when the server had to be replaced."""
        self.server = server
        self._on_restart = on_restart
        self._states: dict[Link, _State] = {}
        self._wrong: dict[frozenset[str], list[Wrong]] = {}
        self._threads = ThreadPoolExecutor(ORDERS_AT_ONCE, thread_name_prefix="toxiproxy")
        self._restarting = asyncio.Lock()
        self._restarts = 0
        self._numbers = 0
        self._watching: asyncio.Task[None] | None = None
        self._relenting: dict[frozenset[str], asyncio.Task[None]] = {}
        self._mending: set[asyncio.Task[None]] = set()

    @property
    def restarts(self) -> int:
        """How often the server had to be replaced."""
        return self._restarts

    def __len__(self) -> int:
        return len(self._states)

    async def start(self) -> None:
        await self.server.start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        tasks = [*self._relenting.values(), *self._mending]
        tasks += [] if self._watching is None else [self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.server.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- which there are --------------------------------------------------------------------------

    async def add(self, wanted: Iterable[tuple[str, str, Wire, Address]]) -> list[Link]:
        """Links (who dials, whom, wire, where that listens), with what is wrong between these two now."""
        asked = list(wanted)
        assert len(self._states) + len(asked) <= LINKS_MAX, "too many links"
        taken = {int(link.dialled.rpartition(":")[2]) for link in self._states}
        taken |= {int(meant.rpartition(":")[2]) for *_, meant in asked}
        ports = free_ports(len(asked), but=taken)
        made = [
            Link(*one, dialled=Address(f"127.0.0.1:{port}")) for one, port in zip(asked, ports, strict=True)
        ]
        for link in made:
            self._states[link] = _State()
        await self._for_each(made, self._create)
        for link in made:
            for wrong in self._wrong.get(frozenset((link.source, link.target)), ()):
                await self._apply(link, wrong)
        return made

    async def remove_all_of(self, node: str) -> None:
        for link in [one for one in self._states if node in (one.source, one.target)]:
            del self._states[link]
            await self._destroy(link)
        self._wrong = {pair: wrong for pair, wrong in self._wrong.items() if node not in pair}

    def book_of(self, source: str) -> dict[Address, Address]:
        """What `source` has to dial, by whom it means."""
        return {link.meant: link.dialled for link in self._states if link.source == source}

    def all_links(self) -> list[Link]:
        return list(self._states)

    def between(self, one: str, other: str) -> list[Link]:
        return [link for link in self._states if {link.source, link.target} == {one, other}]

    # --- what is wrong with them --------------------------------------------------------------------

    async def cut(self, source: str, target: str) -> None:
        """Connections of the two end, both ways, and none can be made."""
        await self._wrongly(target, Wrong("cut", source, {}))

    async def poison(self, source: str, target: str, kind: str, **attributes: int) -> None:
        """A toxic on what `source` sends to `target`, whoever of them has dialled."""
        await self._wrongly(target, Wrong(kind, source, attributes))

    async def reset(self, source: str, target: str) -> None:
        """Connections of the two end now; who dials again within RESET_SECONDS is reset."""
        pair = frozenset((source, target))
        if pair in self._relenting:
            return  # they are being reset
        links = [link for link in self.between(source, target) if self._states[link].enabled]
        blow = [Wrong("reset_peer", end, {"timeout": 0}) for end in (source, target)]
        added: dict[Link, list[Toxic]] = {}

        async def hit(link: Link) -> None:
            toxics = added[link] = [self._noted(link, wrong) for wrong in blow]

            def order(control: Control) -> None:
                # In one go: hundreds of links are reset at once, by a harness that has much else to do.
                control.disable(link.name)
                for toxic in toxics:
                    control.add_toxic(link.name, toxic)
                control.enable(link.name)

            await self._order(order)

        async def relent() -> None:
            await asyncio.sleep(RESET_SECONDS)
            for link, toxics in added.items():
                for toxic in toxics:
                    await self._remove_toxic(link, toxic.name)

        await self._for_each(links, hit)
        task = self._relenting[pair] = asyncio.create_task(relent())
        task.add_done_callback(lambda _: self._relenting.pop(pair, None))

    async def heal(self, one: str, other: str) -> None:
        """Nothing is wrong between the two any more. What was held is delivered now.

        Connections that live get it at once. Where the server waits for dead ones, it goes on beside us, and
        lets nobody connect to that link meanwhile.
        """
        self._wrong.pop(frozenset((one, other)), None)
        begun = {asyncio.create_task(self._heal(link)) for link in self.between(one, other)}
        if not begun:
            return
        done, late = await asyncio.wait(begun, timeout=MEND_SECONDS)
        self._mending |= late
        for task in done:
            task.result()

    async def heal_all(self) -> None:
        """As heal, of all; what still went on is waited for."""
        self._wrong.clear()
        await self._for_each(list(self._states), self._heal)
        mending, self._mending = self._mending, set()
        await asyncio.gather(*mending)

    async def _wrongly(self, target: str, wrong: Wrong) -> None:
        self._wrong.setdefault(frozenset((wrong.source, target)), []).append(wrong)
        links = self.between(wrong.source, target)
        await self._for_each(links, lambda link: self._apply(link, wrong))

    async def _apply(self, link: Link, wrong: Wrong) -> None:
        state = self._states[link]
        if wrong.kind == "cut":
            if state.enabled:
                state.enabled = False
                await self._order(lambda control: control.disable(link.name))
        else:
            await self._add_toxic(link, wrong)

    async def _add_toxic(self, link: Link, wrong: Wrong) -> None:
        toxic = self._noted(link, wrong)
        await self._order(lambda control: control.add_toxic(link.name, toxic))

    def _noted(self, link: Link, wrong: Wrong) -> Toxic:
        """A toxic that this link ought to have from now on."""
        self._numbers += 1
        stream = "upstream" if wrong.source == link.source else "downstream"
        toxic = Toxic(f"{wrong.kind}-{self._numbers}-{stream}", wrong.kind, stream, wrong.attributes)
        self._states[link].toxics[toxic.name] = toxic
        return toxic

    async def _remove_toxic(self, link: Link, name: str) -> None:
        state = self._states.get(link)
        if state is not None:
            state.toxics.pop(name, None)
        await self._order(lambda control: _take_away(control, link, name))

    async def _let_through(self, link: Link, name: str) -> None:
        await self._order(lambda control: _open(control, link, name))
        await asyncio.sleep(LET_THROUGH_SECONDS)

    async def _heal(self, link: Link) -> None:
        state = self._states[link]
        toxics, was_cut = list(state.toxics.values()), not state.enabled
        # At once: what is done to the link from now on is none of what is healed here.
        state.toxics.clear()
        state.enabled = True
        # What was swallowed is missing, so those connections must end; and taking a toxic from a connection
        # is what the server may hang on.
        must_end = not was_cut and any(toxic.kind == "timeout" for toxic in toxics)
        if must_end:
            await self._order(lambda control: control.disable(link.name))
        # To take a toxic from a dead connection that holds bytes, the server waits 5 s for each piece, and
        # keeps the whole link locked. So they are let through first: dead connections end by it.
        for toxic in toxics:
            if toxic.kind == "bandwidth":
                await self._let_through(link, toxic.name)
        for toxic in toxics:
            await self._remove_toxic(link, toxic.name)
        if (must_end or was_cut) and state.enabled:
            await self._order(lambda control: control.enable(link.name))

    # --- orders -----------------------------------------------------------------------------------

    async def _for_each(self, links: list[Link], work: Callable[[Link], Awaitable[object]]) -> None:
        await asyncio.gather(*(work(link) for link in links))

    async def _create(self, link: Link) -> None:
        await self._order(lambda control: control.create(link.name, listen=link.dialled, upstream=link.meant))

    async def _destroy(self, link: Link) -> None:
        await self._order(lambda control: control.destroy(link.name))

    async def _order(self, order: Callable[[Control], None]) -> None:
        """Have the server do what `_states` says by now; one that keeps silent is replaced."""
        life = self._restarts
        loop = asyncio.get_running_loop()
        try:
            async with self._restarting:
                pass  # orders to a server that is being given everything would come twice
            if life == self._restarts:
                await loop.run_in_executor(self._threads, order, self.server.control)
        except ToxiproxySilent as error:
            await self._restart(life, str(error))

    async def _restart(self, life: int, why: str) -> None:
        async with self._restarting:
            if self._restarts != life:
                return  # another order has seen to it
            if self._restarts >= RESTARTS_MAX:
                raise ToxiproxyFault(f"the server was replaced {RESTARTS_MAX} times in this run: {why}")
            self._on_restart(why)
            await self.server.kill()
            await self.server.start()
            # In one step: what was wanted by now is given below, what is wanted from now on is ordered.
            self._restarts += 1
            all_of_it = [
                (link, state.enabled, list(state.toxics.values())) for link, state in self._states.items()
            ]

            def rebuild(control: Control) -> None:
                for link, enabled, toxics in all_of_it:
                    control.create(link.name, listen=link.dialled, upstream=link.meant)
                    for toxic in toxics:
                        control.add_toxic(link.name, toxic)
                    if not enabled:
                        control.disable(link.name)

            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, rebuild, self.server.control)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.server.has_died and not self._restarting.locked():
                await self._restart(self._restarts, "its process has ended")
