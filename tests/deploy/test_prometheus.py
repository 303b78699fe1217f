"""Alerts: valid, tried case by case, explained, and made of what programs really show of themselves."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from pathlib import Path

from click.testing import CliRunner

from gfs.chunkserver.process import ChunkServer
from gfs.cli.app import cli
from gfs.local.ports import free_ports
from gfs.master.process import Master
from gfs.settings import ChunkServerNode, ClusterSettings, MasterNode, Settings
from gfs.vocabulary import Address
from tests.deploy.dashboards import expressions as asked_by_dashboards
from tests.deploy.places import DEPLOY, judge
from tests.waiting import until

PROMETHEUS = DEPLOY / "prometheus"
RULES = (PROMETHEUS / "rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)
LOOK_SECONDS = 20.0


def test_promtool_accepts_configuration_and_rules() -> None:
    for what, file in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        judged = judge("promtool", "check", what, file, directory=PROMETHEUS)
        assert judged.returncode == 0, judged.stdout + judged.stderr


def test_every_alert_is_silent_when_all_is_well_and_fires_when_it_should() -> None:
    judged = judge("promtool", "test", "rules", "rules_test.yml", directory=PROMETHEUS)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    tried = set(re.findall(r"alertname: (\w+)", (PROMETHEUS / "rules_test.yml").read_text()))
    assert tried == set(ALERTS)


def test_alertmanager_accepts_its_configuration() -> None:
    judged = judge("amtool", "check-config", DEPLOY / "alertmanager" / "alertmanager.yml")
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", (DEPLOY / "runbooks.md").read_text(), re.MULTILINE) == ALERTS
    assert re.findall(r"runbook: deploy/runbooks\.md#(\w+)", RULES) == [name.lower() for name in ALERTS]


async def fetch(address: Address, page: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://{address}{page}", timeout=LOOK_SECONDS) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(get)


async def test_programs_are_discovered_and_show_all_that_alerts_and_dashboards_are_made_of(
    tmp_path: Path,
) -> None:
    control, raft, served, data = (Address(f"127.0.0.1:{port}") for port in free_ports(4))
    settings = Settings(
        cluster=ClusterSettings(id="discovered"),
        masters={"m1": MasterNode(control=control, raft=raft)},
        chunkservers={"c1": ChunkServerNode(control=served, data=data, rack="r1")},
    )
    master = Master(settings, "m1", str(tmp_path / "m1"))
    await master.start()
    server = ChunkServer(settings, "c1", str(tmp_path / "c1"))
    await server.start()
    try:
        wanted = [(control, "http", "master", "m1", ""), (served, "http", "chunkserver", "cs", "r1")]

        async def all_discovered() -> bool:
            found = []
            for group in json.loads(await fetch(control, "/sd")):
                [target], labels = group["targets"], group["labels"]
                name = labels["node"].split("-")[0]  # a chunk server is called by its disk: cs-…
                found.append((target, labels["__scheme__"], labels["role"], name, labels["rack"]))
            return found == wanted

        await until(all_discovered, "the master names itself and the chunk server")
        shown: set[str] = set()

        async def all_shown() -> bool:
            nonlocal shown
            pages = [await fetch(address, "/metrics") for address in (control, served)]
            shown = set(re.findall(r"# TYPE (\w+)", "".join(pages)))
            return "gfs_chunks_unavailable" in shown

        await until(all_shown, "the leader has counted replicas")
        for address in (control, served):
            assert await fetch(address, "/startupz") == "started\n"
    finally:
        await server.stop()
        await master.stop()
    expressions = "".join(re.findall(r"expr:((?:.|\n)*?)\n        (?:for|labels):", RULES))
    assert set(re.findall(r"\bgfs_\w+", expressions)) <= shown
    series = shown | {f"{name}_{part}" for name in shown for part in ("bucket", "count")}
    for asked in asked_by_dashboards():
        assert set(re.findall(r"\bgfs_\w+", asked)) <= series, asked


def test_commands_of_the_runbooks_exist() -> None:
    named = re.findall(r"`gfs ([a-z][a-z -]*)`", (DEPLOY / "runbooks.md").read_text())
    assert named
    for words in named:
        judged = CliRunner().invoke(cli, [*words.replace(" --help", "").split(), "--help"])
        assert judged.exit_code == 0, f"gfs {words}: {judged.output}"
