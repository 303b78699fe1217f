"""The configuration that is shipped for a cluster of many hosts: accepted, safe, and free of secrets."""

from __future__ import annotations

import re

from click.testing import CliRunner

from gfs import settings as settings_module
from gfs.cli.app import cli
from tests.deploy.places import DEPLOY

TEMPLATE = DEPLOY / "gfs.toml"


def test_gfs_config_check_accepts_the_configuration_of_many_hosts() -> None:
    judged = CliRunner().invoke(cli, ["config", "check", str(TEMPLATE)])
    assert judged.exit_code == 0, judged.output
    assert "3 masters, 5 chunk servers" in judged.output


def test_the_cluster_of_many_hosts_outlives_a_master_and_a_rack_and_trusts_nobody_by_default() -> None:
    found = settings_module.load(str(TEMPLATE), environment={})
    hosts = [node.control.rpartition(":")[0] for node in found.masters.values()]
    assert len(set(hosts)) == len(hosts) == 3
    racks = [node.rack for node in found.chunkservers.values()]
    goal = found.master.replication_goal
    assert len(set(racks)) >= goal
    assert goal >= 2 and len(racks) - max(map(racks.count, racks)) >= goal, "a lost rack is made up for"
    assert found.access.tokens and not found.cluster.allow_insecure_network
    assert found.tls.ca_file and found.tls.certificate_file and found.tls.key_file


def test_secrets_are_files_that_the_configuration_only_names() -> None:
    text = TEMPLATE.read_text()
    assert "gfst_" not in text and "PRIVATE KEY" not in text
    assert re.search(r"[0-9a-f]{64}", text) is None
