"""The audit log says who asked for what, when and with which outcome, and shows no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gfs.credentials import new_token, read_token, token_digest, token_id, write_token
from gfs.errors import PermissionDenied, Unauthenticated
from gfs.master.audit import FILES_KEPT, AuditLog
from gfs.messages.namespace import MakeDirectory, Stat
from gfs.settings import ClientSettings
from gfs.transport.interface import CallContext
from tests.client.real_cluster import RealCluster
from tests.fakes.clock import VirtualClock


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_changes_and_refusals_are_noted_with_who_and_what(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=1, tokens=True) as cluster:
        write_token(str(tmp_path / "reader"), token := new_token())
        async with await cluster.client() as admin:
            await admin.mkdir("/d")
            await admin.write_bytes("/d/f", b"not to be seen in any log")
            await admin.read_bytes("/d/f")
            await admin.operator.create_token(token_digest(token).hex(), role="reader", user="ann")
        async with await cluster.client(ClientSettings(token_file=str(tmp_path / "reader"))) as reader:
            with pytest.raises(PermissionDenied):
                await reader.delete("/d/f")
        async with await cluster.client(ClientSettings()) as nobody:
            with pytest.raises(Unauthenticated):
                await nobody.mkdir("/e")
        first = read_token(cluster.token_file)
    path = tmp_path / "m1" / "audit.jsonl"
    found = lines(path)
    said = [(one["method"], one["asked"].get("path", ""), one["outcome"]) for one in found]
    assert ("mkdir", "/d", "ok") in said
    assert ("delete", "/d/f", "permission_denied") in said
    assert ("mkdir", "/e", "unauthenticated") in said
    assert not [one for one in said if one[0] in ("stat", "find_chunks", "heartbeat") and one[2] == "ok"]
    [refused] = [one for one in found if one["method"] == "delete"]
    assert refused["token"] == token_id(token_digest(token)) and refused["request_id"]
    assert refused["time"].endswith("Z")
    assert path.stat().st_mode & 0o777 == 0o600
    secrets = (token, first, "a long line nobody guesses", "not to be seen in any log")
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name not in ("token", "reader", "secret") and "cs1" not in file.parts:
            content = file.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], file


async def test_its_files_have_a_limit_together(tmp_path: Path) -> None:
    bytes_max = 40_000
    audit = AuditLog(str(tmp_path), VirtualClock(), bytes_max=bytes_max)
    context = CallContext("here", "trace", 1.0)
    for number in range(1000):
        audit.note(MakeDirectory(path=f"/d/{number}"), context, "ok")
        audit.note(Stat(path=f"/d/{number}"), context, "ok")
        if number % 20 == 0:
            audit._hand_over()  # what the timer does
    audit.note(MakeDirectory(path="/" + "x" * 100_000), context, "ok")
    audit.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == FILES_KEPT
    assert sum(file.stat().st_size for file in files) <= bytes_max
    last = lines(tmp_path / "audit.jsonl")[-1]
    assert "cut" in last["asked"] and len(json.dumps(last)) < 5000
