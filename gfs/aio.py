"""The async SDK's front door: `client = await gfs.aio.connect("gfs://m1:9500,m2:9500,m3:9500")`."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence

from gfs.client.client import AsyncClient
from gfs.client.connections import Connections, new_client_id
from gfs.client.file import AsyncReader, AsyncWriter
from gfs.client.master_session import MasterSession
from gfs.clock import Clock, SystemClock
from gfs.credentials import user_credential
from gfs.errors import GfsError, InvalidArgument
from gfs.identity import stated_identity
from gfs.messages.base import Consistency
from gfs.settings import ClientSettings, load, local_data_directory
from gfs.tls_files import tls_of_client
from gfs.transport.dial_map import Dial, dialled_address
from gfs.transport.wires import SOCKETS, Wires
from gfs.vocabulary import Address

__all__ = ["AsyncClient", "AsyncReader", "AsyncWriter", "connect", "parse_masters"]

SCHEME = "gfs://"
PORT_DEFAULT = 9500
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


async def connect(
    masters: str | Sequence[str],
    *,
    settings: ClientSettings | None = None,
    cluster: str = "",
    consistency: Consistency = "linearizable",
    dial: Dial = dialled_address,
) -> AsyncClient:
    """Connect to the cluster of these masters; any one that is alive suffices.

    Returns at once: the leader is looked for at all masters side by side, and the first request waits for it.

    Args:
        masters: "gfs://m1:9500,m2:9500,m3:9500", or a sequence of "host:port"; the port defaults to 9500.
        settings: time limits and sizes, by default those of gfs.settings; and where the user's token is.
            GFS_TOKEN_FILE comes before that; without either, a cluster of 'gfs up' is known by its addresses.
        cluster: id of the cluster meant; programs of another one at these addresses are not used. "": any.
        consistency: of all reads that do not name another; see AsyncClient.
        dial: where to dial instead of an address, when ports are forwarded; by default as GFS_DIAL_MAP says.
    Raises: InvalidArgument for something that is not an address; ConfigInvalid for a token file that cannot
        be read, or that others may read.
    """
    return assemble(
        parse_masters(masters),
        settings or ClientSettings(),
        cluster=cluster,
        consistency=consistency,
        dial=dial,
    )


def assemble(
    addresses: list[Address],
    settings: ClientSettings,
    *,
    cluster: str = "",
    consistency: Consistency = "linearizable",
    dial: Dial = dialled_address,
    clock: Clock | None = None,
    wires: Wires = SOCKETS,
) -> AsyncClient:
    """As connect(), with a clock and wires that are not the system's."""
    client = new_client_id()
    clock = clock or SystemClock()
    chance = random.Random(client)
    identity = stated_identity(settings.user, settings.groups)
    credential = user_credential(settings.token_file or _token_of_local_cluster(addresses))
    caller = wires.caller(
        "client",
        f"{client:x}",
        cluster,
        identity=identity,
        credential=credential,
        tls=tls_of_client(settings),
        dial=dial,
    )

    def note_cluster(found: str) -> None:
        caller.cluster = caller.cluster or found  # from now on no other cluster's programs are used

    session = MasterSession(
        addresses,
        caller,
        client=client,
        clock=clock,
        chance=chance,
        settings=settings,
        on_cluster=note_cluster,
    )
    connections = Connections(
        masters=session,
        caller=caller,
        bulk=wires.bulk_client(congestion_control=settings.congestion_control, dial=dial),
        client=client,
        clock=clock,
        chance=chance,
        settings=settings,
        consistency=consistency,
    )
    session.start()
    return AsyncClient(connections)


def _token_of_local_cluster(addresses: Sequence[Address]) -> str:
    """The token file of this user's 'gfs up', when its masters are meant and nobody else's; else ""."""
    path = os.path.join(local_data_directory(), "gfs.toml")
    if not os.path.exists(path):
        return ""
    try:
        local = load(path)
    except GfsError:
        return ""  # whoever starts that cluster is told
    return local.client.token_file if {*addresses} <= {m.control for m in local.masters.values()} else ""


def parse_masters(masters: str | Sequence[str]) -> list[Address]:
    """Control addresses of masters, from a gfs:// URL, a comma-separated list or a sequence.

    Raises: InvalidArgument saying which part is not an address.
    """
    if isinstance(masters, str):
        masters = masters.removeprefix(SCHEME).rstrip("/").split(",")
    addresses: list[Address] = []
    for text in masters:
        match = _ADDRESS.fullmatch(text.strip())
        port = PORT_DEFAULT if match is None or match[2] is None else int(match[2])
        if match is None or not 0 < port < 65536:
            raise InvalidArgument(
                f"{text!r} is not the address of a master",
                hint="Addresses are host:port, several as gfs://m1:9500,m2:9500,m3:9500.",
            )
        addresses.append(Address(f"{match[1]}:{port}"))
    if not addresses:
        raise InvalidArgument("no master is named", hint="For example gfs://127.0.0.1:9500.")
    return list(dict.fromkeys(addresses))
