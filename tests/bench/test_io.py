"""What `gfs bench io` says of CPU time, over programs that are this very process."""

from __future__ import annotations

import os
import time
from typing import Any, cast

from gfs.bench import io
from gfs.local.supervisor import Supervisor
from gfs.settings import Settings


class OneProcess:
    """A supervisor whose every program is this one."""

    settings = Settings(
        masters={"m1": cast(Any, None), "m2": cast(Any, None)}, chunkservers={"c1": cast(Any, None)}
    )

    def process_id(self, _: str) -> int:
        return os.getpid()


async def test_cpu_time_is_told_for_a_gib_and_added_up_over_programs_of_one_kind() -> None:
    cpu = io.CpuTime(cast(Supervisor, OneProcess()))

    async def work() -> str:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        return "done"

    assert await cpu.of("write", work()) == "done"
    cpu.note("limit", "all", 0.25)
    found = cpu._found["write"]
    (client,), (masters,), (servers,) = found["client"], found["masters"], found["chunk servers"]
    gib = io.FILE_BYTES / 2**30
    assert 0.08 <= client * gib <= 5.0
    assert abs(servers - client) < 0.2 and abs(masters - 2 * client) < 0.4  # by a few ticks of the clock
    assert cpu.lines()[1] == "limit: 0.25 CPU seconds a GiB (all 0.25)"
