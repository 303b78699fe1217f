"""A program told to dial elsewhere: every wire goes there, and speaks of the address that is meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfs.errors import ConfigInvalid, Unavailable
from gfs.messages.base import Ack, Ping
from gfs.transport import dial_map
from gfs.transport.data_client import DataClient
from gfs.transport.dial_map import DialMap, dialled_address, dialled_endpoint
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion
from tests.transport.ports import make_server, running

MEANT = Address("127.0.0.1:1")  # nobody listens there


def written(path: Path, content: dict[str, str]) -> Path:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content))
    os.replace(beside, path)
    return path


def test_addresses_in_the_map_are_dialled_elsewhere_and_all_others_as_they_are(tmp_path: Path) -> None:
    dial = DialMap(str(written(tmp_path / "map", {"10.0.0.1:9500": "127.0.0.1:19500"})))
    assert dial(Address("10.0.0.1:9500")) == "127.0.0.1:19500"
    assert dial(Address("10.0.0.1:9501")) == "10.0.0.1:9501"


def test_a_map_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "map", {})
    dial = DialMap(str(path))
    assert dial(MEANT) == MEANT
    written(path, {MEANT: "127.0.0.1:19500"})
    assert dial(MEANT) == "127.0.0.1:19500"


def test_a_map_that_has_become_unreadable_is_used_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "map", {MEANT: "127.0.0.1:19500"})
    dial = DialMap(str(path))
    path.write_text("{")
    assert dial(MEANT) == "127.0.0.1:19500"
    path.unlink()
    assert dial(MEANT) == "127.0.0.1:19500"


@pytest.mark.parametrize("content", ["{", "[]", '{"a:1": 2}', '{"a": "b:2"}', '{"a:1": "b:99999"}'])
def test_what_is_no_map_of_addresses_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "map"
    path.write_text(content)
    with pytest.raises(ConfigInvalid, match="GFS_DIAL_MAP"):
        DialMap(str(path))


def test_a_program_with_a_map_that_is_not_there_says_so_and_ends(tmp_path: Path) -> None:
    environment = dict(os.environ, GFS_DIAL_MAP=str(tmp_path / "none"))
    done = subprocess.run(
        [sys.executable, "-m", "gfs", "--master", "127.0.0.1:1", "ls", "/"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "GFS_DIAL_MAP" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_map_nothing_is_dialled_elsewhere() -> None:
    assert dialled_address(MEANT) == MEANT
    assert dialled_endpoint("::1", 9500) == ("::1", 9500)


def test_masters_dial_each_other_as_the_map_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "map", {"[::1]:9501": "127.0.0.1:19501", "m2:9501": "[::1]:7"})
    monkeypatch.setattr(dial_map, "_map", DialMap(str(path)))
    assert dialled_endpoint("::1", 9501) == ("127.0.0.1", 19501)
    assert dialled_endpoint("m2", 9501) == ("::1", 7)
    assert dialled_endpoint("m3", 9501) == ("m3", 9501)


async def test_a_control_call_goes_where_the_map_says() -> None:
    async with running(make_server()) as server:
        caller = WebSocketCaller("client", "c1", dial={MEANT: server.address}.__getitem__)
        try:
            assert isinstance(await caller.call(MEANT, Ping(), Ack, deadline_seconds=5), Ack)
            assert caller.peer(MEANT) is not None
            assert caller.peer(server.address) is None
        finally:
            await caller.close()


async def test_a_failed_control_call_names_the_address_that_is_meant() -> None:
    caller = WebSocketCaller("client", "c1", dial=lambda _: Address("127.0.0.1:2"))
    try:
        with pytest.raises(Unavailable, match=MEANT):
            await caller.call(MEANT, Ping(), Ack, deadline_seconds=5)
    finally:
        await caller.close()


def test_a_bulk_read_goes_where_the_map_says_and_names_the_address_that_is_meant() -> None:
    asked: list[Address] = []

    def dial(address: Address) -> Address:
        asked.append(address)
        return Address("127.0.0.1:2")

    client = DataClient(congestion_control="", dial=dial)
    try:
        with pytest.raises(Unavailable, match=MEANT):
            client.read_into(
                MEANT, ChunkHandle(1), ChunkVersion(1), 0, memoryview(bytearray(1)), deadline_seconds=5
            )
    finally:
        client.close()
    assert asked == [MEANT]
