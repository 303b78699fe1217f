"""Whom a fault meets: roles are looked up in the running cluster when the fault begins."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.faults.interface import NotNow, Scene
from gfs.errors import GfsError

# The roles a target may name, besides nodes and clients by name. Several names stand with spaces between.
ROLES: dict[str, str] = {
    "leader": "the master that leads",
    "follower": "one master that does not lead",
    "master": "one master",
    "masters": "all masters",
    "minority": "as many masters as may fail, chosen by chance",
    "leader-minority": "as many masters as may fail, the leader among them",
    "chunkserver": "one chunk server",
    "chunkservers": "all chunk servers",
    "rack": "half of the chunk servers, rounded down",
    "primary": "the chunk server with the lease of a chunk that is written",
    "secondary": "another replica of a chunk that is written",
    "replica": "one replica of a chunk that is written",
    "replicas": "all replicas of a chunk that is written",
    "all-but-one-replica": "all of them but one",
    "client": "one client",
    "clients": "all clients",
    "same": "those of the fault before",
    "nobody": "no node in particular",
}
LEADER_WAIT_SECONDS = 5.0
LOOKED_BACK = 2000  # operations, for a file that is written


async def resolve(scene: Scene, target: str) -> list[str]:
    """Names of nodes or clients, in a fixed order.

    Raises: NotNow, when there is nobody of that description.
    """
    found: list[str] = []
    for word in target.split():
        if word in ROLES:
            found += await _role(scene, word)
        elif word in _everybody(scene):
            found.append(word)
        else:
            raise NotNow(f"there is no node, client or role {word!r}")
    found = list(dict.fromkeys(found))
    if not found and target != "nobody":
        raise NotNow(f"there is no {target} now")
    return found


async def _role(scene: Scene, role: str) -> list[str]:
    testbed, chance = scene.testbed, scene.chance
    masters, servers = list(testbed.masters), list(testbed.chunkservers)
    match role:
        case "nobody":
            return []
        case "same":
            return list(scene.last_met)
        case "leader":
            return [await _leader(scene)]
        case "follower":
            leader = await _leader(scene)
            return _one(scene, [node for node in masters if node != leader])
        case "master":
            return _one(scene, masters)
        case "masters":
            return masters
        case "minority":
            return sorted(chance.sample(masters, (len(masters) - 1) // 2))
        case "leader-minority":
            leader = await _leader(scene)
            others = [node for node in masters if node != leader]
            return [leader, *sorted(chance.sample(others, max(0, (len(masters) - 1) // 2 - 1)))]
        case "chunkserver":
            return _one(scene, servers)
        case "chunkservers":
            return servers
        case "rack":
            return sorted(chance.sample(servers, len(servers) // 2))
        case "client":
            return _one(scene, list(testbed.clients))
        case "clients":
            return list(testbed.clients)
        case _:
            return await _of_a_chunk(scene, role)


async def _leader(scene: Scene) -> str:
    waited = 0.0
    while not (leader := await scene.testbed.leader()):
        if waited >= LEADER_WAIT_SECONDS:
            return scene.chance.choice(list(scene.testbed.masters))
        await scene.testbed.sleep(0.1)
        waited += 0.1
    return leader


async def _of_a_chunk(scene: Scene, role: str) -> list[str]:
    """Of the file that was written last; chunk servers by chance where it has none or nobody can say."""
    servers = list(scene.testbed.chunkservers)
    path = written_last(scene)
    primary, replicas = "", list[str]()
    if path:
        try:
            primary = await scene.testbed.primary(path)
            replicas = sorted(set(await scene.testbed.replicas(path)) & set(servers))
        except GfsError:  # the cluster is hurt already: chance must do
            pass
    if not replicas:
        goal = min(scene.configuration.replication_goal, len(servers))
        replicas = sorted(scene.chance.sample(servers, goal))
    primary = primary if primary in servers else scene.chance.choice(replicas)
    match role:
        case "primary":
            return [primary]
        case "secondary":
            return _one(scene, [node for node in replicas if node != primary])
        case "replica":
            return _one(scene, replicas)
        case "replicas":
            return replicas
        case "all-but-one-replica":
            spared = scene.chance.choice(replicas)
            return [node for node in replicas if node != spared]
    raise AssertionError(role)


def written_last(scene: Scene) -> str:
    """The file of the newest acknowledged write or append, or ""."""
    for operation in reversed(scene.history.operations[-LOOKED_BACK:]):
        if operation.outcome != "ok" or not any(
            word in operation.function for word in ("append", "write", "put")
        ):
            continue
        path = operation.arguments.get("path")
        if isinstance(path, str):
            return path
    return ""


def _one(scene: Scene, nodes: Sequence[str]) -> list[str]:
    """One that is not out already, where there is such a one."""
    well = [node for node in nodes if node not in scene.out] or list(nodes)
    return [scene.chance.choice(well)] if well else []


def _everybody(scene: Scene) -> set[str]:
    return {*scene.testbed.masters, *scene.testbed.chunkservers, *scene.testbed.clients}
