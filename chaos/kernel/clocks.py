"""Clocks of programs that go wrong: libfaketime between a program and its system. Knows no cluster.

A rate holds from a program's start, and for all its clocks; a jump comes while it runs, to the wall clock
alone.
"""

from __future__ import annotations

from pathlib import Path

# Where Debian, Ubuntu, Fedora and Arch put it.
_PLACES = ("*/faketime/", "faketime/")
# Of the two, that for many threads locks around its state. Where only the wall clock is faked, threads of
# Python wait for that lock whenever they hand on the interpreter, and a program does a fifth of its work. The
# other may be caught, by a thread that looks when the file has just changed, with some other offset: a wall
# clock that jumps is what is wanted.
_LOCKING, _PLAIN = "libfaketimeMT.so.1", "libfaketime.so.1"
_LOOKS_EVERY_SECONDS = 1  # how old what a program knows of the file may become
JUMP_SEEN_SECONDS = _LOOKS_EVERY_SECONDS + 1  # the library counts whole seconds


def clock_library(name: str = _LOCKING) -> str:
    """Its path; empty when it is not installed."""
    for directory in ("/usr/lib", "/usr/lib64", "/usr/local/lib"):
        for place in _PLACES:
            for found in sorted(Path(directory).glob(place + name)):
                return str(found)
    return ""


def clock_variables(file: Path, *, rate: float) -> dict[str, str]:
    """Environment of a program that takes its clock's offset from `file`, or goes at `rate` from its start.

    A rate cannot be read from the file (time.sleep fails with EINVAL), so a program has one or the other.
    """
    common = {"LD_PRELOAD": clock_library(), "FAKETIME_DONT_RESET": "1"}
    if rate != 1.0:
        return {**common, "FAKETIME": f"+0 x{rate:.6f}"}
    return {
        **common,
        "LD_PRELOAD": clock_library(_PLAIN) or clock_library(),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": str(_LOOKS_EVERY_SECONDS),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_offset(file: Path, seconds: float) -> None:
    """The wall clock of programs with this file is ahead by so much, within JUMP_SEEN_SECONDS."""
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(f"{seconds:+.3f}s\n")
    temporary.rename(file)  # whole or not at all: a half-read offset would be another clock
