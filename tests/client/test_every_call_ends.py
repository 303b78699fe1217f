"""Every public call of the SDK ends within the client's patience when nobody answers, and says what it is."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import gfs
from gfs.client.blocking import BlockingOperator
from gfs.client.client import AsyncClient
from gfs.client.operating import Operator
from gfs.errors import GfsError
from gfs.messages.chunks import ChunkPlace, Replica
from gfs.messages.policies import PolicyFields
from gfs.settings import ClientSettings
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, ServerId
from tests.client.real_cluster import RealCluster

HURRIED = ClientSettings(call_seconds=0.3, data_seconds=0.3, retry_seconds=0.5, quorum_seconds=0.5)
PATIENCE_SECONDS = 60.0  # of this test, on a busy machine; forever is what it looks for
ENDS_WELL = {"close", "verify_chunk"}  # the latter says which replicas did not answer
NOBODY = Replica(ServerId("cs-1"), Address("127.0.0.1:1"), Address("127.0.0.1:1"))
# By the names of parameters without a default.
VALUES: dict[str, Any] = {  # Any: of whatever kind each parameter is
    "path": "/f",
    "pattern": "/*",
    "source": "/f",
    "target": "/g",
    "destination": "/g",
    "place": ChunkPlace(
        index=ChunkIndex(0), handle=ChunkHandle(1), version=ChunkVersion(1), replicas=[NOBODY]
    ),
    "server": "127.0.0.1:1",
    "handle": 1,
    "version": 1,
    "paths": ["/f"],
    "member": "m1",
    "address": "127.0.0.1:1",
    "control": "127.0.0.1:1",
    "raft": "127.0.0.1:2",
    "tenure": "serving",
    "token": "a token",
    "user": "somebody",
    "sha256": "00" * 32,
    "role": "reader",
    "fields": PolicyFields(),
    "mode": 0o644,
    "offset": 0,
    "data": b"bytes",
}


def public(kind: type) -> list[str]:
    return [name for name, found in vars(kind).items() if not name.startswith("_") and callable(found)]


def arguments(call: Callable[..., object], own: dict[str, Any]) -> dict[str, Any]:
    wanted = inspect.signature(call).parameters.values()
    known = {**VALUES, **own}
    return {each.name: known[each.name] for each in wanted if each.default is inspect.Parameter.empty}


async def finish(call: Callable[..., Any], given: dict[str, Any]) -> None:
    """Whatever kind of call it is: to its answer, or to the first thing it gives."""
    made = call(**given)
    if inspect.isawaitable(made):
        made = await made
    if isinstance(made, AsyncIterator):
        await anext(made)


@pytest.mark.timeout(120)
async def test_every_call_ends_with_an_error_of_ours_when_nobody_answers(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"bytes")
    async with RealCluster(tmp_path, chunkservers=1) as cluster:
        client = await cluster.client(HURRIED)
        await client.write_bytes("/f", b"bytes")
        for server in cluster.chunkservers.values():
            await server.stop()
        for master in cluster.masters.values():
            await master.stop()
        cluster.chunkservers.clear()
        cluster.masters.clear()
        calls = {name: getattr(client, name) for name in public(AsyncClient) if name != "close"}
        calls |= {f"operator.{name}": getattr(client.operator, name) for name in public(Operator)}
        endings: dict[str, object] = {}

        own = {"put_file": {"source": str(local)}, "get_file": {"destination": f"{local}-2"}}

        async def see(name: str, call: Callable[..., Any]) -> None:
            given = arguments(call, own.get(name, {}))
            try:
                await asyncio.wait_for(finish(call, given), PATIENCE_SECONDS)
                endings[name] = "it said that it had been done"
            except GfsError as error:
                endings[name] = error
            except TimeoutError:
                endings[name] = "it did not end"

        await asyncio.gather(*(see(name, call) for name, call in calls.items()))
        await see("close", client.close)
    bad = {name: ending for name, ending in endings.items() if not isinstance(ending, GfsError)}
    assert set(bad) == ENDS_WELL and "it did not end" not in bad.values(), bad
    assert len(endings) > 45


@pytest.mark.parametrize("face", [gfs.Client, AsyncClient, Operator, BlockingOperator])
def test_help_explains_every_verb(face: type) -> None:
    silent = [name for name in public(face) if not (getattr(face, name).__doc__ or "").strip()]
    assert not silent


@pytest.mark.parametrize(("face", "original"), [(gfs.Client, AsyncClient), (BlockingOperator, Operator)])
def test_both_faces_have_the_same_verbs(face: type, original: type) -> None:
    assert set(public(face)) == set(public(original))
