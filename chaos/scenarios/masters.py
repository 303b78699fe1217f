"""Scenarios about masters: who leads, what is acknowledged, what a checkpoint and a log give back."""

from __future__ import annotations

from chaos.scenarios.interface import Between, Blow, OneOf, Scenario
from chaos.testbed import Layer

# Small logs, so that checkpoints are taken and shipped within a run.
SMALL_LOGS = {"raft.checkpoint_log_bytes": OneOf((64 * 1024, 256 * 1024)), "raft.segment_bytes": 128 * 1024}
CHECKPOINTS_OFTEN = {
    "raft.checkpoint_log_bytes": OneOf((16 * 1024, 32 * 1024)),
    "raft.segment_bytes": 32 * 1024,
}
SHORT_LEASES = {"master.lease_seconds": OneOf((3.0, 10.0))}

NAMES_HOLD = ("linearizability", "durability", "replay")
ALL_LAYERS: tuple[Layer, ...] = ("sim", "toxi", "kernel")

MASTER_SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="partition-leader",
        says="The leader is cut off from everybody: no acknowledged change is lost, and it answers "
        "no stale read.",
        rounds=((Blow("isolate", "leader"),), (Blow("blackhole", "leader"),)),
        workloads=("namespace", "mix"),
        holds=(*NAMES_HOLD, "availability"),
        layers=ALL_LAYERS,
        tunings=SMALL_LOGS,
    ),
    Scenario(
        name="partition-minority",
        says="A minority of masters is cut off: it refuses within the deadline, and the others go on.",
        rounds=(
            (Blow("isolate", "minority", arguments={"peers": "masters"}),),
            (Blow("isolate", "minority"),),
        ),
        workloads=("namespace",),
        holds=(*NAMES_HOLD, "availability"),
        masters=(3, 5),
        tunings=SMALL_LOGS,
    ),
    Scenario(
        name="partition-halves-5",
        says="Five masters fall apart three to two, into a ring, or around a bridge: one leader a term.",
        rounds=((Blow("halves", "masters"),), (Blow("ring", "masters"),), (Blow("bridge", "masters"),)),
        workloads=("namespace",),
        holds=NAMES_HOLD,
        masters=(5,),
        tunings=SMALL_LOGS,
    ),
    Scenario(
        name="oneway-leader-mute",
        says="The leader hears and cannot send: another one leads, and terms do not run away.",
        rounds=((Blow("mute", "leader", arguments={"peers": OneOf(("masters", "all"))}),),),
        workloads=("namespace",),
        holds=(*NAMES_HOLD, "availability"),
        layers=ALL_LAYERS,
    ),
    Scenario(
        name="oneway-leader-deaf",
        says="The leader sends and cannot hear: it steps down in time, and grants nothing it may not.",
        rounds=((Blow("deaf", "leader", arguments={"peers": OneOf(("masters", "all"))}),),),
        workloads=("namespace", "leases"),
        holds=(*NAMES_HOLD, "leases"),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="late-delivery",
        says="Links hold what is sent and deliver it late: messages of a deposed leader or primary "
        "are harmless.",
        rounds=((Blow("hold", "leader"),), (Blow("hold", "primary"),), (Blow("hold", "master"),)),
        workloads=("namespace", "append", "mix"),
        holds=("linearizability", "append", "leases", "durability"),
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="snapshot-after-cut",
        says="A leader with uncommitted changes is cut off until the others have cut their logs: "
        "the checkpoint it is sent commits nothing of its own.",
        rounds=((Blow("isolate", "leader", Between(8, 20), arguments={"peers": "masters"}),),),
        workloads=("namespace", "namespace"),
        holds=NAMES_HOLD,
        gap=Between(3, 8),
        tunings=CHECKPOINTS_OFTEN,
    ),
    Scenario(
        name="big-backlog",
        says="A follower misses more than one message can carry, and has caught up soon after.",
        rounds=((Blow("isolate", "follower", Between(10, 25), arguments={"peers": "masters"}),),),
        workloads=("namespace", "namespace"),
        holds=NAMES_HOLD,
        gap=Between(5, 10),
    ),
    Scenario(
        name="kill-one-master",
        says="A master is killed at any moment: nothing acknowledged is lost, and another one leads.",
        rounds=((Blow("kill", "leader", Between(0.5, 8)),), (Blow("kill", "master", Between(0.5, 8)),)),
        workloads=("namespace", "append"),
        holds=(*NAMES_HOLD, "availability"),
        layers=ALL_LAYERS,
        tunings=CHECKPOINTS_OFTEN,
    ),
    Scenario(
        name="master-failpoints",
        says="A master dies in the midst of writing its log, voting, answering, granting or a checkpoint.",
        rounds=((Blow("kill-at", "leader", Between(2, 8)),), (Blow("kill-at", "master", Between(2, 8)),)),
        workloads=("namespace", "append"),
        holds=NAMES_HOLD,
        layers=ALL_LAYERS,
        tunings=CHECKPOINTS_OFTEN,
    ),
    Scenario(
        name="kill-all-masters",
        says="All masters are killed at once and started in any order: everything acknowledged is there.",
        rounds=(
            (
                Blow(
                    "kill",
                    "masters",
                    Between(0.5, 5),
                    arguments={"order": "random", "restart_gap_seconds": OneOf((0.0, 0.5))},
                    beyond_quorum=True,
                ),
            ),
        ),
        workloads=("namespace",),
        holds=NAMES_HOLD,
        layers=ALL_LAYERS,
        tunings=SMALL_LOGS,
    ),
    Scenario(
        name="power-cut-masters",
        says="Masters lose power, one or all at once, with what they had not synced: nothing "
        "acknowledged is lost.",
        rounds=(
            (
                Blow(
                    "power-cut", "masters", Between(0.5, 4), arguments={"order": "random"}, beyond_quorum=True
                ),
            ),
            (Blow("power-cut", "leader", Between(0.5, 6)),),
        ),
        workloads=("namespace",),
        holds=NAMES_HOLD,
        layers=("sim", "kernel"),
        tunings=CHECKPOINTS_OFTEN,
    ),
    Scenario(
        name="clock-drift",
        says="Clocks run up to a tenth too fast or too slow: leases still exclude each other in true time.",
        rounds=(
            (Blow("drift", "masters chunkservers", Between(10, 30), arguments={"spread": 0.1}),),
            (
                Blow("drift", "masters chunkservers", Between(10, 20), arguments={"spread": 0.1}),
                Blow("isolate", "primary", Between(3, 8), 2.0, {"peers": "masters"}),
            ),
        ),
        workloads=("leases", "append"),
        holds=("leases", "append"),
        layers=("sim", "kernel"),
        gap=Between(1, 4),
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="clock-jump",
        says="Wall clocks jump by ten minutes: leases hold, and no deletion is final before its time.",
        rounds=(
            (Blow("jump", "leader", Between(2, 10), arguments={"jump_seconds": OneOf((600.0, -600.0))}),),
            (
                Blow(
                    "jump", "chunkserver", Between(2, 10), arguments={"jump_seconds": OneOf((600.0, -600.0))}
                ),
            ),
        ),
        workloads=("leases", "trash"),
        holds=("leases", "garbage"),
        layers=("sim", "kernel"),
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="pause-leader",
        says="The leader stands still and goes on as if nothing had been: it serves nothing stale.",
        rounds=((Blow("pause", "leader", Between(1, 20)),),),
        workloads=("namespace", "leases"),
        holds=(*NAMES_HOLD, "leases"),
        layers=ALL_LAYERS,
        tunings=SHORT_LEASES,
    ),
    Scenario(
        name="membership-churn",
        says="Masters come and go while others are cut off: one change at a time, and nothing is lost.",
        rounds=(
            (Blow("churn", "master", Between(3, 10), arguments={"leaves": OneOf(("new", "old"))}),),
            (
                Blow("churn", "leader", Between(5, 12), arguments={"leaves": OneOf(("new", "old"))}),
                Blow("isolate", "leader", Between(1, 5), Between(0, 4)),
            ),
            (Blow("churn", "master", Between(5, 12)), Blow("kill", "leader", Between(1, 4), Between(0, 5))),
        ),
        workloads=("namespace",),
        holds=NAMES_HOLD,
        layers=("sim", "toxi", "kernel"),
        gap=Between(2, 6),
        tunings=SMALL_LOGS,
    ),
    Scenario(
        name="election-storm",
        says="All links between masters are about as slow as an election is patient: there is "
        "still progress.",
        rounds=(
            (
                Blow(
                    "slow",
                    "masters",
                    Between(10, 25),
                    arguments={
                        "peers": "masters",
                        "delay_seconds": Between(0.03, 0.2),
                        "jitter_seconds": Between(0.01, 0.1),
                    },
                ),
            ),
        ),
        workloads=("namespace",),
        holds=NAMES_HOLD,
        gap=Between(2, 6),
    ),
    Scenario(
        name="checkpoint-replay",
        says="Masters lose power while checkpoints are made, shipped and installed: they come back the same.",
        rounds=(
            (Blow("power-cut", "master", Between(1, 5)),),
            (
                Blow("isolate", "follower", Between(5, 12), arguments={"peers": "masters"}),
                Blow("power-cut", "same", Between(0.5, 3), Between(12, 13)),
            ),
        ),
        workloads=("namespace", "namespace"),
        holds=NAMES_HOLD,
        layers=("sim", "kernel"),
        tunings=CHECKPOINTS_OFTEN,
    ),
    Scenario(
        name="checkpoint-failpoints",
        says="Masters die in the midst of writing, renaming or installing a checkpoint.",
        rounds=(
            (
                Blow(
                    "kill-at",
                    "master",
                    Between(2, 8),
                    arguments={
                        "failpoint": OneOf(
                            (
                                "checkpoint.before_write",
                                "checkpoint.written",
                                "checkpoint.before_rename",
                                "checkpoint.renamed",
                                "oplog.segment_created",
                            )
                        ),
                        "passes": 1,
                    },
                ),
            ),
            (
                Blow(
                    "kill-at",
                    "follower",
                    Between(6, 10),
                    arguments={"failpoint": "checkpoint.before_install", "passes": 1},
                ),
            ),
        ),
        workloads=("namespace", "namespace"),
        holds=NAMES_HOLD,
        layers=ALL_LAYERS,
        tunings=CHECKPOINTS_OFTEN,
    ),
    Scenario(
        name="masters-disk",
        says="A master's disk is full or refuses: it stops or steps aside, and acknowledges "
        "nothing it cannot keep.",
        rounds=(
            (Blow("disk-full", "leader", Between(2, 8)),),
            (Blow("io-errors", "leader", Between(1, 6), arguments={"share": OneOf((0.05, 1.0))}),),
            (Blow("io-errors", "follower", Between(1, 6), arguments={"share": OneOf((0.05, 1.0))}),),
            (Blow("slow-disk", "leader", Between(3, 10), arguments={"delay_seconds": Between(0.05, 0.5)}),),
        ),
        workloads=("namespace",),
        holds=NAMES_HOLD,
        layers=("sim", "kernel"),
        tunings=SMALL_LOGS,
    ),
)
