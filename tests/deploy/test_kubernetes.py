"""The manifests as kubectl renders them: valid, of one piece with gfs.toml, safe, and without secrets."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gfs import settings as settings_module
from tests.deploy.command_lines import parse
from tests.deploy.places import DEPLOY, judge

OVERLAYS = ("dev", "ha")
Manifest = dict[str, Any]  # Any: what Kubernetes has for its many kinds


@cache
def rendered(overlay: str) -> str:
    judged = judge("kubectl", "kustomize", DEPLOY / "k8s" / "overlays" / overlay)
    assert judged.returncode == 0, judged.stderr
    return judged.stdout


def manifests(overlay: str, kind: str) -> list[Manifest]:
    return [found for found in yaml.safe_load_all(rendered(overlay)) if found["kind"] == kind]


def containers(overlay: str) -> list[tuple[Manifest, Manifest]]:
    sets = [found["spec"] for found in manifests(overlay, "StatefulSet")]
    return [(one, container) for one in sets for container in one["template"]["spec"]["containers"]]


def configuration(overlay: str, directory: Path) -> settings_module.Settings:
    [found] = manifests(overlay, "ConfigMap")
    file = directory / "gfs.toml"
    file.write_text(found["data"]["gfs.toml"])
    return settings_module.load(str(file), environment={})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(overlay))
    judged = judge("kubernetes-validate", "--strict", file)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_pod_is_a_node_of_the_configuration_at_the_address_that_its_service_gives_it(
    overlay: str, tmp_path: Path
) -> None:
    found = configuration(overlay, tmp_path)
    services = {service["metadata"]["name"]: service["spec"] for service in manifests(overlay, "Service")}
    pods: dict[str, set[tuple[str, str, int, int]]] = {"master": set(), "chunkserver": set()}
    for one, container in containers(overlay):
        role, parameters = parse(container["args"])
        assert parameters == {"node": "$(POD_NAME)", "directory": "/var/lib/gfs/$(POD_NAME)"}
        service = services[one["serviceName"]]
        assert service["selector"].items() <= one["template"]["metadata"]["labels"].items()
        assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
        ports = [port["containerPort"] for port in container["ports"]]
        assert ports == [port["port"] for port in service["ports"]]
        name = one["serviceName"]
        for ordinal in range(one["replicas"]):
            host = f"{name}-{ordinal}.{name}.gfs.svc.cluster.local"
            pods[role].add((f"{name}-{ordinal}", host, ports[0], ports[1]))

    def place(node: str, control: str, other: str) -> tuple[str, str, int, int]:
        host, _, port = control.rpartition(":")
        assert other.rpartition(":")[0] == host
        return node, host, int(port), int(other.rpartition(":")[2])

    assert pods["master"] == {place(node, at.control, at.raft) for node, at in found.masters.items()}
    assert pods["chunkserver"] == {
        place(node, at.control, at.data) for node, at in found.chunkservers.items()
    }
    assert found.master.replication_goal <= len(found.chunkservers)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_mounted_where_the_configuration_looks_and_stand_in_no_manifest(
    overlay: str, tmp_path: Path
) -> None:
    assert manifests(overlay, "Secret") == []
    found = configuration(overlay, tmp_path)
    wanted = {found.cluster.secret_file, found.tls.ca_file, found.tls.certificate_file, found.tls.key_file}
    for one, container in containers(overlay):
        volumes = {volume["name"]: volume for volume in one["template"]["spec"]["volumes"]}
        mounted = {
            at["mountPath"] for at in container["volumeMounts"] if "secret" in volumes.get(at["name"], {})
        }
        assert {str(Path(file).parent) for file in wanted} == mounted


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_may_write_nothing_but_its_volume_and_has_no_rights_of_root(overlay: str) -> None:
    for one, container in containers(overlay):
        pod, own = one["template"]["spec"]["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] and pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert one["template"]["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_starting_being_ready_and_being_alive_are_asked_for_by_three_different_pages(overlay: str) -> None:
    for one, container in containers(overlay):
        probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
        assert [probe["path"] for probe in probes] == ["/startupz", "/readyz", "/livez"]
        assert {(probe["port"], probe["scheme"]) for probe in probes} == {("control", "HTTPS")}
        assert one["podManagementPolicy"] == "Parallel"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_pod_of_a_kind_may_be_away_and_each_pod_is_of_exactly_one_budget(overlay: str) -> None:
    budgets = [found["spec"] for found in manifests(overlay, "PodDisruptionBudget")]
    assert all(budget["maxUnavailable"] == 1 for budget in budgets)
    policies = [found["spec"]["podSelector"] for found in manifests(overlay, "NetworkPolicy")]
    for one, _ in containers(overlay):
        labels = one["template"]["metadata"]["labels"].items()
        for selectors in ([budget["selector"] for budget in budgets], policies):
            assert sum(selector["matchLabels"].items() <= labels for selector in selectors) == 1


def test_masters_that_are_relied_on_share_no_host_and_racks_are_the_zones_that_servers_are_in(
    tmp_path: Path,
) -> None:
    found = configuration("ha", tmp_path)
    for one, container in containers("ha"):
        affinity = one["template"]["spec"]["affinity"]
        [rule] = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert rule["topologyKey"] == "kubernetes.io/hostname"
        labels = one["template"]["metadata"]["labels"].items()
        assert rule["labelSelector"]["matchLabels"].items() <= labels
        if container["name"] == "master":
            [spread] = one["template"]["spec"]["topologySpreadConstraints"]
            assert spread["topologyKey"] == "topology.kubernetes.io/zone" and spread["maxSkew"] == 1
            continue
        node_rules = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        [expression] = node_rules["nodeSelectorTerms"][0]["matchExpressions"]
        for ordinal in range(one["replicas"]):
            assert [found.chunkservers[f"{one['serviceName']}-{ordinal}"].rack] == expression["values"]
    racks = [node.rack for node in found.chunkservers.values()]
    assert len(racks) - max(map(racks.count, racks)) >= found.master.replication_goal
