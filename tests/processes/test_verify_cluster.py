"""`gfs verify-cluster` against real programs: verdicts, an operator's own faults, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument
from gfs.verification import history as histories
from gfs.verification.operator_faults import OperatorFault, parse_fault
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

COMMAND_SECONDS_MAX = 200.0
SHORT = ("--workload", "append", "--workload", "namespace", "--workload", "trash", "--seed", "5")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    """One for all: every test leaves it as it was, but for the last, which kills a master."""
    made = ProcessCluster(tmp_path_factory.mktemp("cluster"), masters=3, chunkservers=3)

    async def wait() -> None:
        async with await made.connect() as client:
            await made.ready(client)

    try:
        made.start()
        asyncio.run(wait())
        yield made
    finally:
        made.stop()


def command(cluster: ProcessCluster, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, "verify-cluster", *arguments]


def ran(cluster: ProcessCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Its output goes to files: a program that an operator's command starts keeps a pipe open."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(
            command(cluster, *arguments), stdout=out, stderr=err, text=True, timeout=COMMAND_SECONDS_MAX
        )
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())


def left_behind(cluster: ProcessCluster) -> list[str]:
    async def look(client: AsyncClient) -> list[str]:
        return [*await client.listdir("/"), *[entry.path async for entry in client.trash()]]

    async def main() -> list[str]:
        async with await cluster.connect() as client:
            return await look(client)

    return asyncio.run(main())


def test_a_sound_cluster_held_its_promises_and_is_left_as_it_was(
    cluster: ProcessCluster, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = ran(cluster, "--seconds", "4", *SHORT, "--out", str(out), "-o", "json")
    assert done.returncode == 0, done.stderr + done.stdout
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["outcome"] == "held" and told["seed"] == 5
    findings = {verdict["checker"]: verdict["finding"] for verdict in told["verdicts"]}
    assert findings["append"] == findings["linearizability"] == findings["fsck"] == "held", findings
    assert [one["name"] for one in told["workloads"]] == ["append", "namespace", "trash"]
    assert len(histories.load(out / "history.jsonl").operations) > 20
    assert json.loads((out / "verdict.json").read_text()) == told
    assert left_behind(cluster) == []


def test_after_an_interrupt_nothing_is_left_behind(cluster: ProcessCluster) -> None:
    with subprocess.Popen(
        command(cluster, "--seconds", "60", *SHORT), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "traffic for" in line:
                break
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=COMMAND_SECONDS_MAX)
    assert running.returncode == 130 and "taking /.verify-" in errors and "Traceback" not in errors, errors
    assert left_behind(cluster) == []


def test_what_keeps_it_from_beginning_is_said_and_takes_nothing_away(cluster: ProcessCluster) -> None:
    async def make() -> None:
        async with await cluster.connect() as client:
            await client.mkdir("/mine")
            await client.create("/mine/file")

    async def remove() -> None:
        async with await cluster.connect() as client:
            await client.delete("/mine", recursive=True, skip_trash=True)

    asyncio.run(make())
    taken = ran(cluster, "--seconds", "1", *SHORT, "--directory", "/mine")
    assert taken.returncode == 4 and "/mine" in taken.stderr, taken.stderr
    assert left_behind(cluster) == ["mine"]
    asyncio.run(remove())
    wrong = ran(cluster, "--workload", "nonsense")
    assert wrong.returncode == 2 and "namespace" in wrong.stderr
    other = subprocess.run(
        command(cluster, "--seconds", "1"),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        env={"PATH": "/usr/bin:/bin", "GFS__CLIENT__USER": "nobody", "PYTHONPATH": ":".join(sys.path)},
    )
    assert other.returncode == 5 and "--directory" in other.stderr, other.stderr


def test_a_fault_whose_command_fails_leaves_the_verdict_open(cluster: ProcessCluster) -> None:
    done = ran(cluster, "--seconds", "6", "--workload", "append", "--fault", "nothing=false", "-o", "json")
    assert done.returncode == 2, done.stderr
    assert "nothing" in json.loads(done.stdout)["remarks"][0]


def test_a_fault_is_a_name_and_one_or_two_commands() -> None:
    assert parse_fault("cut=ip link set a down;ip link set a up") == OperatorFault(
        "cut", "ip link set a down", "ip link set a up"
    )
    assert parse_fault("kill=kill -9 7") == OperatorFault("kill", "kill -9 7")
    for text in ("cut", "=true", "cut=", "cut=;true"):
        with pytest.raises(InvalidArgument, match="is no fault"):
            parse_fault(text)


def test_promises_hold_while_a_command_of_the_operator_kills_a_master(cluster: ProcessCluster) -> None:
    victim = cluster.processes["m1"]
    again = " ".join(cluster.command("master", "m1"))
    noted = Path(cluster.layout.directory) / "m1-again"
    fault = f"kill m1=kill -9 {victim.pid};{again} >/dev/null 2>&1 & echo $! > {noted}"
    done = ran(cluster, "--seconds", "16", *SHORT[:4], "--fault", fault, "-o", "json")
    try:
        told: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == 0, done.stderr + done.stdout
        assert told["faults"] == ["kill m1"] and victim.wait(1) == -signal.SIGKILL
        assert left_behind(cluster) == []
    finally:
        number = int(noted.read_text())
        subprocess.run(["kill", "-9", str(number)], check=True)
