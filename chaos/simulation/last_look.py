"""What is looked at within simulated programs when all is over: their memory against their disks, and chunk
servers' disks against the masters' tables. Changes nothing, and judges nothing.

Writes down, under the workload `within`
  audits `state` {node, index, digest} and `replayed` {node, index, digest, from_index}: of each master that
    runs: what it has in memory, and what its newest checkpoint, and its oldest, give with its log. A digest
    that begins with "none: " says why nothing can be had of them;
  audit `rows` {node, rows}: "sound" or "unsound", of each master;
  audit `orphans` {server, chunks}: [[handle, version], …] that no file counts on, and that were there from
    the first look until COLLECTED_SECONDS_MAX later;
  audit `leftovers` {node, files}: half-made files, and chunks' bytes that no index knows, for as long.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping

from chaos.replaying import log_reaches, replayed
from chaos.simulation.nodes import Node
from gfs.chunkserver.core.chunk_record import FILLING
from gfs.chunkserver.process import ChunkServer
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.chunkserver.stores.file import CHUNK_SUFFIX, CHUNKS_DIRECTORY
from gfs.master.core.chunk_copies import is_reserved
from gfs.master.core.lookup import chunk_by_handle
from gfs.master.core.tables import ReadTables
from gfs.master.process import Master
from gfs.master.row_check import rows_are_sound
from gfs.master.state_machine import ReplicatedState
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.vocabulary import ServerId

WORKLOAD = "within"
COLLECTED_SECONDS_MAX = 60.0  # garbage is named 10 s after it was found, and found by a walk over all files
LOOK_SECONDS = 1.0
LOG_TRIES_MAX = 20  # a follower may apply an entry before its own log has it on its disk
# Copies of chunks and checkpoints that were cut short: every start removes them. Other half-made files are of
# a name that is written again, and are replaced then.
HALF_MADE = re.compile(r"^(chunks/.*\.clone|checkpoints/checkpoint-\d+-\d+\.tmp)$")

Replica = tuple[str, int, int]  # node, handle, version
File = tuple[str, str]  # node, path below its directory


async def look_within(
    subject: Subject, nodes: Mapping[str, Node], servers: Mapping[str, str], leader: str, recorder: Recorder
) -> None:
    """`servers`: the nodes of chunk servers by their ids. A node that does not run is left out."""
    for node in nodes.values():
        if isinstance(node.program, Master):
            await _look_at_master(subject, node, recorder)
    await _look_for_rests(subject, nodes, servers, leader, recorder)


# --- masters ---------------------------------------------------------------------------------------


async def _look_at_master(subject: Subject, node: Node, recorder: Recorder) -> None:
    for _ in range(LOG_TRIES_MAX):
        if not isinstance(node.program, Master):
            return
        state: ReplicatedState = node.program._state
        index, digest = int(state.committed_index()), state.committed_digest()
        with tempfile.TemporaryDirectory(dir=os.path.dirname(node.directory)) as place:
            _lay_out(node, place)
            if log_reaches(place) >= index:
                recorder.audit(WORKLOAD, "state", node=node.name, index=index, digest=digest)
                for oldest in (False, True):
                    made, from_index = replayed(place, index, oldest=oldest, work=place)
                    recorder.audit(
                        WORKLOAD,
                        "replayed",
                        node=node.name,
                        index=index,
                        digest=made,
                        from_index=from_index,
                    )
                    if not from_index:
                        break  # from the first entry on: there is nothing older
                break
        await subject.sleep(LOOK_SECONDS)
    if isinstance(node.program, Master):
        with node.program._state.held() as tables:
            rows = "sound" if rows_are_sound(tables) else "unsound"
        recorder.audit(WORKLOAD, "rows", node=node.name, rows=rows)


def _lay_out(node: Node, place: str) -> None:
    """Copy what is on the simulated disk to where a tool can read it."""
    for path in node.disk.files_below(node.directory):
        to = os.path.join(place, os.path.relpath(path, node.directory))
        os.makedirs(os.path.dirname(to), exist_ok=True)
        with open(to, "wb") as file:
            file.write(node.disk.open(path).pread(node.disk.length_of(path), 0))


# --- chunk servers -----------------------------------------------------------------------------------


async def _look_for_rests(
    subject: Subject, nodes: Mapping[str, Node], servers: Mapping[str, str], leader: str, recorder: Recorder
) -> None:
    began_ns = subject.now_ns()
    replicas, files = _orphans(nodes, servers, leader), _leftovers(nodes)
    while (replicas or files) and (subject.now_ns() - began_ns) / 1e9 < COLLECTED_SECONDS_MAX:
        await subject.sleep(LOOK_SECONDS)
        replicas &= _orphans(nodes, servers, leader)
        files &= _leftovers(nodes)
    for name, node in nodes.items():
        if isinstance(node.program, ChunkServer):
            chunks = [[handle, version] for where, handle, version in sorted(replicas) if where == name]
            recorder.audit(WORKLOAD, "orphans", server=name, chunks=chunks)
        if node.runs:
            left = [path for where, path in sorted(files) if where == name]
            recorder.audit(WORKLOAD, "leftovers", node=name, files=left)


def _orphans(nodes: Mapping[str, Node], servers: Mapping[str, str], leader: str) -> set[Replica]:
    """As the leader's tables have it at this moment."""
    program = nodes[leader].program if leader else None
    if not isinstance(program, Master):
        return set()
    tables = program._state.committed()
    return {
        (node.name, handle, version)
        for node in nodes.values()
        for handle, version in _held(node, unfinished=False).items()
        if not _is_wanted(tables, node.name, handle, version, servers)
    }


def _is_wanted(tables: ReadTables, name: str, handle: int, version: int, servers: Mapping[str, str]) -> bool:
    chunk = chunk_by_handle(tables, handle)
    if chunk is None:
        return is_reserved(tables, handle)
    members = {servers.get(str(ServerId(server)), "") for server in chunk.replicas}
    return name in members or version > chunk.version


def _held(node: Node, *, unfinished: bool) -> dict[int, int]:
    """Versions by handle; nothing while it starts.

    `unfinished`: copies, too, that nobody has gone on with yet. Their server drops them by itself, after
    GUEST_IDLE_SECONDS, which no run lasts.
    """
    replicas = _replicas(node)
    if replicas is None:
        return {}
    return {
        int(handle): 0 if header is None else int(header.version)
        for handle, header in replicas._access.index.headers()
        if unfinished or header is None or header.guest != FILLING
    }


def _replicas(node: Node) -> ReplicaStore | None:
    program = node.program
    if not isinstance(program, ChunkServer) or program._service is None:
        return None
    replicas = program._service._replicas
    return replicas if isinstance(replicas, ReplicaStore) else None


def _leftovers(nodes: Mapping[str, Node]) -> set[File]:
    found: set[File] = set()
    for name, node in nodes.items():
        if not node.runs:
            continue
        held = None if _replicas(node) is None else _held(node, unfinished=True)
        for path in node.disk.files_below(node.directory):
            inside = os.path.relpath(path, node.directory)
            if HALF_MADE.match(inside) or (held is not None and _is_of_no_replica(inside, held)):
                found.add((name, inside))
    return found


def _is_of_no_replica(path: str, held: Mapping[int, int]) -> bool:
    if not (path.startswith(f"{CHUNKS_DIRECTORY}/") and path.endswith(CHUNK_SUFFIX)):
        return False
    return int(os.path.basename(path).removesuffix(CHUNK_SUFFIX), 16) not in held
