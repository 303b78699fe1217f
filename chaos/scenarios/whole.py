"""Scenarios about the whole cluster: snapshots and garbage under fire, restarts, mixtures of everything."""

from __future__ import annotations

from chaos.plan import Json
from chaos.scenarios.chunkservers import CHUNKSERVER_SCENARIOS, QUICK_REPAIR
from chaos.scenarios.interface import Between, Blow, OneOf, Round, Scenario
from chaos.scenarios.masters import ALL_LAYERS, MASTER_SCENARIOS, NAMES_HOLD, SHORT_LEASES, SMALL_LOGS

TIER: Json = {  # idle chunks go out soon; each layer has a service of its own behind the URL
    "url": "of the layer",
    "idle_seconds": 2.0,
    "chunk_bytes_min": 1,
    "collect_seconds": 3.0,
}


def _every_round() -> tuple[Round, ...]:
    rounds = [r for scenario in (*MASTER_SCENARIOS, *CHUNKSERVER_SCENARIOS) for r in scenario.rounds]
    return tuple(r for number, r in enumerate(rounds) if r not in rounds[:number])


WHOLE_SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="calm",
        says="No fault at all: the workloads and the checkers agree with a cluster that is well.",
        rounds=(),
        workloads=("namespace", "append", "regions", "stream", "snapshot", "trash"),
        holds=("linearizability", "durability", "append", "regions"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="snapshot-under-fire",
        says="Snapshots are taken while leases are revoked, primaries cut off and masters killed.",
        rounds=(
            (Blow("kill", "leader", Between(0.5, 4)),),
            (Blow("isolate", "primary", Between(1, 6)),),
            (Blow("kill", "replica", Between(1, 5)),),
        ),
        workloads=("snapshot",),
        holds=("snapshot",),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="snapshot-failpoints",
        says="The leader dies in the midst of a snapshot or copy, a chunk server in that of a deletion.",
        rounds=(
            (
                Blow(
                    "kill-at",
                    "leader",
                    Between(2, 6),
                    arguments={
                        "failpoint": OneOf(
                            (
                                "snapshot.begun",
                                "snapshot.leases_revoked",
                                "snapshot.step",
                                "copy.reserved",
                                "copy.made",
                                "copy.adopted",
                            )
                        ),
                        "passes": OneOf((1, 2, 3)),
                    },
                ),
            ),
            (
                Blow(
                    "kill-at",
                    "chunkserver",
                    Between(2, 6),
                    arguments={
                        "failpoint": OneOf(("chunk.delete_recorded", "chunk.before_copy", "chunk.copied")),
                        "passes": OneOf((1, 2, 3)),
                    },
                ),
            ),
        ),
        workloads=("snapshot", "trash"),
        holds=("snapshot", "garbage"),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="gc-race",
        says="Deletion, undeletion, snapshots and renames race with reclamation whose messages are lost.",
        rounds=(
            (Blow("blackhole", "chunkserver", Between(1, 6), arguments={"peers": "masters"}),),
            (Blow("kill", "leader", Between(0.5, 4)),),
            (Blow("hold", "chunkserver", Between(1, 6), arguments={"peers": "masters"}),),
        ),
        workloads=("trash", "snapshot"),
        holds=("garbage",),
        layers=("sim", "toxi"),
        tunings=QUICK_REPAIR,
    ),
    Scenario(
        name="mixed-stores",
        says="Chunk servers with four different stores die in turns; one loses all it had, one has a tier.",
        rounds=(
            (Blow("kill", "chunkserver", Between(1, 4)),),
            (Blow("kill", "primary", Between(1, 4)),),
            (Blow("kill", "leader", Between(0.5, 4)),),
        ),
        workloads=("append", "stream"),
        holds=("append", "durability"),
        layers=("toxi",),
        gap=Between(1, 4),
        always={
            "chunkservers.c1.store": "file",
            "chunkservers.c2.store": "lmdb",
            "chunkservers.c3.store": "memory",
            "chunkservers.c4.store": "file",
            "chunkserver.tier": TIER,
            **{f"chunkservers.c{number}.tier": "false" for number in (1, 2, 3)},
        },
        tunings=QUICK_REPAIR,
    ),
    Scenario(
        name="swizzle",
        says="Links are stopped one after the other and let go in another order.",
        rounds=(
            (Blow("swizzle", "minority", Between(2, 8)),),
            (Blow("swizzle", "leader chunkserver", Between(2, 8)),),
        ),
        workloads=("mix",),
        holds=("linearizability", "durability"),
        masters=(3, 5),
    ),
    Scenario(
        name="packet-level",
        says="Packets are lost, reordered, doubled and spoilt: checksums from end to end hold.",
        rounds=(
            (
                Blow(
                    "packets",
                    "chunkservers",
                    Between(5, 12),
                    arguments={"loss": Between(0.01, 0.1), "reorder": 0.1, "duplicate": 0.05},
                ),
            ),
            (
                Blow(
                    "packets",
                    "masters",
                    Between(5, 12),
                    arguments={"loss": Between(0.01, 0.1), "reorder": 0.1},
                ),
            ),
            (Blow("packets", "chunkservers", Between(3, 8), arguments={"corrupt": Between(0.005, 0.03)}),),
        ),
        workloads=("mix",),
        holds=("linearizability", "durability"),
        layers=("kernel",),
    ),
    Scenario(
        name="half-open",
        says="Connections die without a word, for short and for long: deadlines fire, pools drop "
        "the dead ones.",
        rounds=(
            (Blow("blackhole", "chunkserver", Between(1, 4)),),
            (Blow("blackhole", "chunkserver", Between(10, 25)),),
            (Blow("blackhole", "leader", Between(5, 15)),),
        ),
        workloads=("stream", "append"),
        holds=("append", "durability", "availability"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="slicer-reset",
        says="Bytes come in pieces, connections are reset or closed late: framing holds, what is "
        "repeated is done once.",
        rounds=(
            (
                Blow(
                    "slice",
                    "masters chunkservers",
                    Between(3, 10),
                    arguments={"piece_bytes": OneOf((16, 200, 1400))},
                ),
            ),
            (Blow("reset", "leader", 0.5),),
            (Blow("reset", "chunkserver", 0.5),),
            (Blow("slow-close", "chunkservers", Between(3, 8)),),
        ),
        workloads=("mix", "append"),
        holds=("linearizability", "append"),
        layers=("toxi",),
        gap=Between(1, 5),
    ),
    Scenario(
        name="reset-storm",
        says="Connections of everybody are reset again and again.",
        rounds=(
            (Blow("reset", "masters", 0.5),),
            (Blow("reset", "chunkservers", 0.5),),
            (Blow("reset", "clients", 0.5),),
        ),
        workloads=("mix", "append"),
        holds=("linearizability", "append"),
        layers=("sim", "toxi"),
        gap=Between(0.5, 4),
    ),
    Scenario(
        name="rolling-restart",
        says="Every program is stopped and started in turn under load: no long window without an answer.",
        rounds=(
            (Blow("kill", "leader", Between(0.3, 1.5)),),
            (Blow("kill", "follower", Between(0.3, 1.5)),),
            (Blow("kill", "chunkserver", Between(0.3, 1.5)),),
        ),
        workloads=("mix",),
        holds=("durability", "availability"),
        layers=ALL_LAYERS,
        gap=Between(3, 6),
    ),
    Scenario(
        name="cold-start-all",
        says="Everything is killed and comes back in any order: all acknowledged is there, and "
        "nothing stale.",
        rounds=(
            (
                Blow(
                    "kill",
                    "masters chunkservers",
                    Between(0.5, 4),
                    arguments={"order": "random", "restart_gap_seconds": OneOf((0.0, 0.3))},
                    beyond_quorum=True,
                ),
            ),
        ),
        workloads=("mix",),
        holds=("linearizability", "durability"),
        layers=("sim", "kernel", "toxi"),
        gap=Between(8, 20),
    ),
    Scenario(
        name="names-everything",
        says="A swarm of everything that can befall masters, under names only.",
        rounds=tuple(r for scenario in MASTER_SCENARIOS for r in scenario.rounds),
        workloads=("namespace", "namespace"),
        holds=NAMES_HOLD,
        layers=ALL_LAYERS,
        gap=Between(0.5, 8),
        masters=(3, 3, 5),
        chunkservers=(3,),
        tunings={**SMALL_LOGS, **SHORT_LEASES},
        swarm=True,
        as_far_as_possible=True,
    ),
    Scenario(
        name="tiered",
        says="A swarm over idle chunks on an object service that refuses one call in ten.",
        rounds=_every_round(),
        workloads=("append", "regions", "stream", "snapshot", "trash", "mix"),
        holds=(),
        layers=("sim",),
        gap=Between(0.5, 10),
        chunkservers=(3, 4, 5),
        goals=(2, 3),
        durability=("flush", "flush", "sync"),
        always={
            "chunkserver.tier": TIER,
        },
        tunings={**SHORT_LEASES, **QUICK_REPAIR},
        swarm=True,
        as_far_as_possible=True,
    ),
    Scenario(
        name="everything",
        says="A swarm: each seed draws its own cluster, work and faults from all that this layer can do.",
        rounds=_every_round(),
        workloads=("namespace", "append", "regions", "stream", "snapshot", "trash", "leases", "mix"),
        holds=(),
        layers=ALL_LAYERS,
        gap=Between(0.5, 10),
        masters=(3, 3, 3, 5),
        chunkservers=(3, 4, 5, 6),
        goals=(2, 3),
        durability=("flush", "flush", "sync"),
        tunings={
            **SMALL_LOGS,
            **SHORT_LEASES,
            **QUICK_REPAIR,
            "chunkserver.flush_seconds": OneOf((0.2, 1.0)),
        },
        swarm=True,
        as_far_as_possible=True,
    ),
)
