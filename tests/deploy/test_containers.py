"""The image and the cluster of containers: valid, of one piece with gfs.toml, and without secrets or root."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gfs import settings as settings_module
from tests.deploy.command_lines import assert_known, commands_in, parse
from tests.deploy.places import DEPLOY, judge

COMPOSE = DEPLOY / "compose" / "compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]  # Any: the file's own shape
PROGRAMS = {name: service for name, service in SERVICES.items() if name != "admin"}
TEMPLATE = settings_module.load(str(DEPLOY / "gfs.toml"), environment={})


def test_hadolint_has_nothing_to_say_against_the_image() -> None:
    judged = judge("hadolint", "Dockerfile")
    assert judged.returncode == 0, judged.stdout


def test_the_cluster_of_containers_is_valid() -> None:
    judged = judge("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_there_is_one_container_for_each_node_under_the_host_name_that_the_configuration_has() -> None:
    wanted = {}
    for role, nodes in (("master", TEMPLATE.masters), ("chunkserver", TEMPLATE.chunkservers)):
        for node, where in nodes.items():  # type: ignore[attr-defined]  # both kinds have a control address
            wanted[where.control] = (role, node)
    found = {}
    for name, service in PROGRAMS.items():
        role, parameters = parse(service["command"])
        found[service["environment"]["GFS_CONTROL"]] = (role, parameters["node"])
        assert service["hostname"] == name == service["environment"]["GFS_CONTROL"].partition(":")[0]
    assert found == wanted


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_container_keeps_its_state_and_sees_no_other_nodes_key(name: str) -> None:
    service = PROGRAMS[name]
    _, parameters = parse(service["command"])
    node = parameters["node"]
    assert service["volumes"] == [f"{node}:/var/lib/gfs", f"./secrets/{node}:/etc/gfs/{node}:ro"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_write_nothing_but_its_volume_and_has_no_rights_of_root(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert "USER 10001:10001" in (DEPLOY / "Dockerfile").read_text()


def test_commands_that_make_the_secrets_exist() -> None:
    named = commands_in(COMPOSE.read_text())
    assert ["cert", "init-ca"] in [words[:2] for words in named] and len(named) >= 4
    for words in named:
        assert_known(words)
