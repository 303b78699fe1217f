"""Whatever a run makes on the machine goes with it, also when the harness is killed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from chaos.kernel import machine, tools
from chaos.kernel.network import Network
from chaos.testbed import Power

pytestmark = pytest.mark.timeout(60)

# Makes one of each kind of thing, tells its run's number and waits to be killed.
HARNESS = """
import subprocess, sys, time
from chaos.kernel import machine
from chaos.kernel.network import Network
with machine.taken() as run:
    network = Network(run, 0)
    network.add("one")
    if sys.argv[1] == "queue":
        network.add_client("client")
        network.packets("client", "one", loss=0.1)
    machine.command("mount", "-t", "tmpfs", "-o", "size=1m", f"{run.name}-disk", str(run.directory))
    subprocess.Popen([*run.inside("one"), "sleep", "100"])
    print(run.number, flush=True)
    time.sleep(100)
"""


def _traces(number: int) -> list[str]:
    """What still carries the number of a run."""
    name = f"{machine.PREFIX}{number}"
    said = [machine.command(*words.split()) for words in ("ip netns list", "ip link", "mount")]
    said.append(machine.command("iptables", "-t", "mangle", "-S", check=False))
    found = [line for text in said for line in text.splitlines() if f"{name}-" in line or f"{name}." in line]
    return found + [str(path) for path in machine.RUNS.glob(f"{number}*")]


@pytest.mark.needs_tools("namespaces", "mounts", "nft")
def test_what_a_killed_harness_leaves_is_found_and_removed() -> None:
    kind = "plain" if tools.why_not("nfqueue") else "queue"
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS, kind], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert harness.stdout is not None
    number = int(harness.stdout.readline())
    try:
        assert f"{machine.PREFIX}{number} belongs to a run that goes on: left alone" in machine.clean()
        assert _traces(number)
    finally:
        harness.kill()
        harness.wait()
        harness.stdout.close()
    assert _traces(number)
    found = machine.clean()
    assert any(line.startswith("process ") for line in found), found
    assert any(line.startswith("mount ") for line in found), found
    assert _traces(number) == []
    assert machine.clean() == [line for line in machine.clean() if "goes on" in line]


@pytest.mark.needs_tools("namespaces", "nft")
def test_a_run_that_fails_leaves_nothing() -> None:
    with pytest.raises(RuntimeError), machine.taken() as run:
        Network(run, 0).add("one")
        assert _traces(run.number)
        raise RuntimeError
    assert _traces(run.number) == []


@pytest.mark.needs_tools("namespaces", "nft")
def test_two_runs_at_once_have_names_and_addresses_of_their_own() -> None:
    with machine.taken() as one, machine.taken() as other:
        assert Network(one, 0).add("m1") != Network(other, 0).add("m1")
        assert one.name != other.name


def test_every_tool_is_there_or_says_why_not() -> None:
    found = tools.tools()
    assert len({tool.name for tool in found}) == len(found) >= 10
    for tool in found:
        assert tool.gives
        assert tool.why_not == tools.why_not(tool.name)


@pytest.mark.skipif(os.geteuid() == 0, reason="this user is root")
def test_without_root_nothing_is_there_and_the_reason_is_root() -> None:
    assert {tool.why_not for tool in tools.tools()} == {"needs root"}


def test_a_power_is_missing_when_a_tool_it_needs_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "why_not", lambda name: "was never installed" if name == "nfqueue" else "")
    power: Power = "packets"
    assert tools.power_why_not(power) == "nfqueue: was never installed"
    assert tools.power_why_not("cut") == ""
    assert tools.power_why_not("slow_close")


def test_every_power_is_accounted_for() -> None:
    from typing import get_args

    assert set(tools.NEEDS) | set(tools.NEVER) == set(get_args(Power))
    assert not set(tools.NEEDS) & set(tools.NEVER)
