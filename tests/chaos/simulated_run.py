"""A short run of layer S with deaths in it, for tests; as a program it prints its fingerprint."""

from __future__ import annotations

import sys
from typing import NamedTuple, cast

from chaos.plan import Configuration, Plan
from chaos.simulation import entry
from chaos.simulation.testbed import SimTestbed
from chaos.simulation.trace import Trace
from chaos.testbed import Testbed
from gfs.verification.history import History
from gfs.verification.recorder import Recorder

RECORDS = 30


class Run(NamedTuple):
    fingerprint: str
    crossings: int
    found: list[bytes]
    appended: list[bytes]
    virtual_seconds: float
    leaders: list[str]
    seen: set[str]


def play(seed: int, directory: str) -> Run:
    """Records are appended while the leader is killed and a server loses its power; then all is read."""
    configuration = Configuration(masters=3, chunkservers=3, durability="sync")
    plan = Plan(seed=seed, layer="sim", scenario="short", configuration=configuration)

    async def body(given: Testbed) -> Run:
        testbed = cast(SimTestbed, given)
        trace, history = Trace(testbed.network), History()
        await testbed.start(Recorder(history, testbed.now_ns))
        leaders = [await testbed.leader()]
        client = await testbed.client("writer")
        appended = []
        await client.create("/log")
        for number in range(RECORDS):
            if number == 10:
                await testbed.kill(leaders[0])
            if number == 20:
                await testbed.restart(leaders[0])
                await testbed.power_cut(["c2"])
            if number == 25:
                await testbed.restart("c2")
            record = b"record %d;" % number
            await client.record_append("/log", record)
            appended.append(record)
        leaders.append(await testbed.leader())
        content = await client.read_bytes("/log")
        await client.close()
        seconds = testbed.now_ns() / 1e9
        await testbed.stop()
        return Run(
            trace.fingerprint(),
            trace.crossings,
            content.split(b";"),
            appended,
            seconds,
            leaders,
            {sighting.what for sighting in history.sightings},
        )

    return entry.run(plan, directory, body)


if __name__ == "__main__":
    sys.stdout.write(play(int(sys.argv[1]), sys.argv[2]).fingerprint + "\n")
