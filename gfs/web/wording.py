"""How numbers, times and handles are written on pages."""

from __future__ import annotations

import datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def in_bytes(number: float) -> str:
    if number < 0:
        return "?"
    at = 0
    while number >= 1024 and at < len(_UNITS) - 1:
        number, at = number / 1024, at + 1
    return f"{number:.0f} {_UNITS[at]}" if at == 0 or number >= 100 else f"{number:.1f} {_UNITS[at]}"


def in_count(number: float) -> str:
    """Digits in groups of three; a fraction only of what is small."""
    if number != int(number) and abs(number) < 100:
        return f"{number:.1f}"
    return f"{round(number):,}".replace(",", "\u202f")


def at_time(unix_ms: float) -> str:
    if unix_ms <= 0:
        return "—"
    moment = datetime.datetime.fromtimestamp(unix_ms / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def at_second(unix_us: float) -> str:
    """To the millisecond, for what follows fast on each other."""
    moment = datetime.datetime.fromtimestamp(unix_us / 1e6, datetime.UTC)
    return moment.strftime("%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def for_seconds(seconds: float) -> str:
    if seconds < 0:
        return "—"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def handle(number: int) -> str:
    return f"{number:016x}"


def mode(bits: int) -> str:
    return "".join(letter if bits >> (8 - at) & 1 else "-" for at, letter in enumerate("rwxrwxrwx"))
