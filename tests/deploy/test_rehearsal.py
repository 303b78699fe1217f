"""The short form of deploy/rehearse: README's commands on hosts of namespaces, a kill, an upgrade."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.rehearsal.cluster import commands_of_readme
from tests.deploy.places import DEPLOY

COMMANDS_MAX = 10
REHEARSAL_SECONDS_MAX = 400.0  # on a machine that does much else; it takes a tenth of that
NEEDED = ("ip", "nsenter", "unshare")


def test_three_hosts_become_a_cluster_by_no_more_than_ten_commands() -> None:
    commands = commands_of_readme()
    assert 0 < len(commands) <= COMMANDS_MAX
    assert any("deploy/gfs.toml" in line for line in commands)
    assert any("systemctl enable --now" in line for line in commands)


@pytest.mark.processes
@pytest.mark.timeout(REHEARSAL_SECONDS_MAX + 20)
@pytest.mark.skipif(os.geteuid() != 0, reason="root makes namespaces")
def test_a_killed_master_and_an_upgrade_cost_clients_of_the_shipped_layout_nothing(tmp_path: Path) -> None:
    for name in NEEDED:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    if subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("namespaces cannot be made here")
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "rehearse"), "--quick", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=REHEARSAL_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problems"] == []
    assert report["files"] > 0 and report["records"] > 0
    assert "passed" in (tmp_path / "report.md").read_text()
