"""Faults that an operator names: shell commands of his own, one that begins each and one that ends it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gfs.errors import InvalidArgument
from gfs.verification.history import Fault
from gfs.verification.recorder import Recorder

COMMAND_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class OperatorFault:
    """`end` may be empty: a single blow, which nothing ends."""

    name: str
    begin: str
    end: str = ""


def parse_fault(text: str) -> OperatorFault:
    """`name=begin command;end command`. Raises: InvalidArgument."""
    name, equals, commands = text.partition("=")
    begin, _, end = commands.partition(";")
    if not name.strip() or not equals or not begin.strip():
        raise InvalidArgument(
            f"--fault {text!r} is no fault",
            hint="Write it as 'name=begin command;end command'; without ';' nothing ends it.",
        )
    return OperatorFault(name.strip(), begin.strip(), end.strip())


class FaultFailed(Exception):
    """A command could not do its work: what was to be tested was not."""


async def hold(fault: OperatorFault, recorder: Recorder, seconds: float) -> None:
    """Begin it, wait, end it (also when cancelled) and write it down. Raises: FaultFailed."""
    began_ns = recorder.now_ns()
    begun = await _status_of(fault.begin)
    try:
        if begun == 0 and fault.end:
            await asyncio.sleep(seconds)
    finally:
        # Also after a begin that failed: it may have done half of its work.
        ended = await _status_of(fault.end) if fault.end else 0
        recorder.history.add(
            Fault(
                name=fault.name,
                began_ns=began_ns,
                ended_ns=recorder.now_ns(),
                arguments={"begin": fault.begin, "end": fault.end},
            )
        )
    if begun or ended:
        which, status = (fault.begin, begun) if begun else (fault.end, ended)
        raise FaultFailed(f"fault {fault.name}: '{which}' ended with status {status}")


async def _status_of(command: str) -> int:
    """Its output goes to standard error, which is for the person. -1: not over in COMMAND_SECONDS_MAX."""
    process = await asyncio.create_subprocess_shell(command, stdin=asyncio.subprocess.DEVNULL, stdout=2)
    try:
        async with asyncio.timeout(COMMAND_SECONDS_MAX):
            return await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return -1
