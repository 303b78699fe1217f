"""Scenarios about chunk servers: leases, versions, the pipeline; replicas that die, rot, come back stale."""

from __future__ import annotations

from chaos.scenarios.interface import Between, Blow, OneOf, Scenario
from chaos.scenarios.masters import ALL_LAYERS, SHORT_LEASES

QUICK_REPAIR = {"master.repair_delay_seconds": OneOf((1.0, 4.0)), "master.chunkserver_dead_seconds": 3.0}
WRITE_FAILPOINTS = (
    "chunk.before_write",
    "chunk.data_written",
    "chunk.index_committed",
    "chunk.before_ack",
    "push.received",
    "push.forwarded",
    "write.before_reply",
    "chunk.before_bump",
    "chunk.bumped",
)

CHUNKSERVER_SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="pause-primary",
        says="A primary stands still past its lease and wakes in the midst of a write: its version "
        "fences it.",
        rounds=((Blow("pause", "primary", Between(2, 15)),),),
        workloads=("append", "regions"),
        holds=("leases", "append", "regions"),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="primary-cut-from-master",
        says="A primary reaches clients and secondaries and no master, past the end of its lease.",
        rounds=(
            (Blow("isolate", "primary", Between(5, 15), arguments={"peers": "masters"}),),
            (Blow("blackhole", "primary", Between(5, 15), arguments={"peers": "masters"}),),
        ),
        workloads=("append", "leases"),
        holds=("leases", "append"),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="secondary-cut-midpipe",
        says="The link to a secondary ends after some bytes of a push: a retry leaves padding or "
        "duplicates only.",
        rounds=(
            (
                Blow(
                    "limit",
                    "secondary",
                    Between(1, 8),
                    arguments={"peers": "chunkservers", "limit_bytes": OneOf((100, 5_000, 70_000))},
                ),
            ),
            (Blow("blackhole", "secondary", Between(1, 8), arguments={"peers": "chunkservers"}),),
        ),
        workloads=("append", "stream"),
        holds=("append", "durability"),
        layers=("sim", "toxi"),
    ),
    Scenario(
        name="pipeline-cut",
        says="The links between chunk servers are cut or dropped in the midst of pushes and mutations.",
        rounds=(
            (Blow("isolate", "secondary", Between(1, 8), arguments={"peers": "chunkservers"}),),
            (Blow("mute", "secondary", Between(1, 8), arguments={"peers": "chunkservers"}),),
        ),
        workloads=("append", "stream"),
        holds=("append", "durability"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="client-cut-after-send",
        says="A client's requests arrive and the answers do not: what it repeats is done once.",
        rounds=(
            (Blow("deaf", "client", Between(1, 6)),),
            (Blow("mute", "leader", Between(1, 4), arguments={"peers": "clients"}),),
        ),
        workloads=("append", "namespace"),
        holds=("append", "linearizability"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="slow-replica",
        says="One chunk server is slow on the wire or on its disk: others are not held up, nothing is lost.",
        rounds=((Blow("throttle", "secondary", Between(5, 15), arguments={"bytes_per_second": 100_000}),),),
        workloads=("stream", "append"),
        holds=("append", "durability"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="slow-disk",
        says="One chunk server's disk stalls: what waits for it is answered in time, or goes on without it.",
        rounds=(
            (Blow("slow-disk", "replica", Between(3, 10), arguments={"delay_seconds": OneOf((0.3, 2.0))}),),
        ),
        workloads=("stream", "append"),
        holds=("append", "durability"),
        layers=("sim", "kernel"),
    ),
    Scenario(
        name="kill-chunkserver",
        says="A chunk server is killed at any moment; replicas are made anew up to the goal.",
        rounds=((Blow("kill", "primary", Between(0.5, 8)),), (Blow("kill", "replica", Between(0.5, 8)),)),
        workloads=("append", "regions"),
        holds=("append", "regions"),
        layers=ALL_LAYERS,
        tunings=QUICK_REPAIR,
    ),
    Scenario(
        name="write-failpoints",
        says="A chunk server dies in each phase of a write: around bytes, index, hop, acknowledgement.",
        rounds=(
            (Blow("kill-at", "primary", Between(2, 8), arguments={"failpoint": OneOf(WRITE_FAILPOINTS)}),),
            (Blow("kill-at", "secondary", Between(2, 8), arguments={"failpoint": OneOf(WRITE_FAILPOINTS)}),),
        ),
        workloads=("append", "regions"),
        holds=("append", "regions"),
        layers=ALL_LAYERS,
        tunings=QUICK_REPAIR,
    ),
    Scenario(
        name="two-servers-die",
        says="Two of three holders of a chunk die one after the other: the last replica saves it.",
        rounds=(
            (Blow("kill", "replica", Between(8, 14)), Blow("kill", "replica", Between(4, 8), Between(1, 4))),
        ),
        workloads=("stream", "append"),
        holds=("durability",),
        layers=ALL_LAYERS,
        chunkservers=(5,),
        tunings=QUICK_REPAIR,
    ),
    Scenario(
        name="rack-cut",
        says="A group of chunk servers is unreachable and comes back: replicas are judged by "
        "version, none twice.",
        rounds=((Blow("isolate", "rack", Between(4, 15)),),),
        workloads=("append", "trash"),
        holds=("append", "durability"),
        chunkservers=(4, 5),
        tunings=QUICK_REPAIR,
    ),
    Scenario(
        name="stale-comeback",
        says="A chunk server misses mutations and comes back with old bytes: nobody is served from them.",
        rounds=((Blow("kill", "replica", Between(4, 12)),), (Blow("isolate", "replica", Between(4, 12)),)),
        workloads=("regions",),
        holds=("stale_reads", "regions"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="bit-rot",
        says="Bits flip in chunk files: a reader never gets them, and a good replica replaces the bad one.",
        rounds=((Blow("bit-rot", "replica", 0.0, arguments={"bits": OneOf((1, 8, 40))}),),),
        workloads=("stream",),
        holds=("durability", "stale_reads"),
        layers=("sim", "kernel"),
        gap=Between(5, 15),
    ),
    Scenario(
        name="disk-full",
        says="A chunk server's disk is full: a clean refusal, and no record is acknowledged that "
        "is not whole.",
        rounds=((Blow("disk-full", "replica", Between(3, 10)),),),
        workloads=("append", "regions"),
        holds=("append", "regions"),
        layers=("sim", "kernel"),
    ),
    Scenario(
        name="io-errors",
        says="Writes and syncs of a chunk server fail, once or for good: none of them is acknowledged.",
        rounds=(
            (Blow("io-errors", "replica", Between(1, 8), arguments={"share": OneOf((0.02, 0.3, 1.0))}),),
        ),
        workloads=("append", "regions"),
        holds=("append", "regions"),
        layers=("sim", "kernel"),
    ),
    Scenario(
        name="power-cut-servers",
        says="One chunk server loses power with what it had not synced: the other replicas have "
        "what was acknowledged.",
        rounds=((Blow("power-cut", "replica", Between(0.5, 8)),),),
        workloads=("append", "regions"),
        holds=("append", "regions"),
        layers=("sim", "kernel"),
        gap=Between(8, 30),
        tunings=QUICK_REPAIR,
    ),
    Scenario(
        name="power-cut-synced",
        says="All chunk servers lose power at once under durability sync: what was acknowledged "
        "was on every disk.",
        rounds=((Blow("power-cut", "chunkservers", Between(0.5, 4), beyond_quorum=True),),),
        workloads=("append", "regions"),
        holds=("append", "regions"),
        layers=("sim", "kernel"),
        durability=("sync",),
        gap=Between(5, 15),
    ),
    Scenario(
        name="torn-chunk-write",
        says="Chunk servers die again and again while regions are overwritten: no block is half written.",
        rounds=((Blow("kill", "replica", Between(0.2, 3)),),),
        workloads=("regions",),
        holds=("regions", "stale_reads"),
        layers=ALL_LAYERS,
        gap=Between(0.5, 5),
    ),
    Scenario(
        name="overwrite-failpoints",
        says="A chunk server dies with half a block or a redo record on its disk: its checksum tells.",
        rounds=(
            (
                Blow(
                    "kill-at",
                    "replica",
                    Between(2, 6),
                    arguments={
                        "failpoint": OneOf(
                            (
                                "chunk.data_written",
                                "chunk.redo_logged",
                                "chunk.overwritten",
                                "chunk.before_sync",
                            )
                        )
                    },
                ),
            ),
        ),
        workloads=("regions",),
        holds=("regions", "stale_reads"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="heartbeat-loss",
        says="Heartbeats are late or lost while data links are fine: no needless cloning, no double primary.",
        rounds=(
            (
                Blow(
                    "slow",
                    "chunkservers",
                    Between(5, 15),
                    arguments={"peers": "masters", "delay_seconds": Between(0.3, 1.5), "jitter_seconds": 0.3},
                ),
            ),
            (Blow("blackhole", "chunkserver", Between(2, 6), arguments={"peers": "masters"}),),
        ),
        workloads=("append", "leases"),
        holds=("leases", "append"),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="hot-spot",
        says="Many append to and read one chunk while its primary changes.",
        rounds=(
            (Blow("kill", "primary", Between(0.5, 4)),),
            (Blow("pause", "primary", Between(1, 6)),),
            (Blow("isolate", "primary", Between(1, 6)),),
        ),
        workloads=("append", "append", "leases"),
        holds=("append", "leases"),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
)
