"""What the toxics of one direction do to its bytes, worked out anew whenever they change. No sockets here."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

KINDS = frozenset(("latency", "bandwidth", "slow_close", "timeout", "slicer", "limit_data", "reset_peer"))
STREAMS = ("upstream", "downstream")


class ToxicSpec(msgspec.Struct, frozen=True):
    """A toxic as the API has it. Milliseconds, KB/s, bytes; the slicer's delay in microseconds."""

    type: str
    name: str = ""
    stream: str = "downstream"
    toxicity: float = 1.0
    attributes: dict[str, int] = {}

    def attribute(self, name: str) -> int:
        return self.attributes.get(name, 0)


class Effects(msgspec.Struct):
    """Of all toxics that act on one connection's direction, together."""

    swallows: bool = False  # bytes are lost
    silent_seconds: float = 0.0  # with swallows: closed after so long without a byte; 0: never
    holds: bool = False  # bytes wait
    resets: bool = False  # closed at the first byte, after reset_seconds
    reset_seconds: float = 0.0
    bytes_per_second: float = 0.0  # 0: no limit
    slice_bytes: int = 0  # 0: not cut
    slice_variation: int = 0
    slice_pause_seconds: float = 0.0
    limit_bytes: int = -1  # closed after so many in all; -1: no limit
    close_seconds: float = 0.0  # the end is passed on so much later


class DirectionState:
    """One direction of one connection: which toxics it drew, and what has passed under each."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._drawn: dict[int, bool] = {}  # toxic's identity -> whether it acts on this connection
        self._passed_before: dict[int, int] = {}  # limit_data's identity -> bytes passed when it came
        self.passed_bytes = 0

    def acting(self, toxics: Sequence[ToxicSpec]) -> list[ToxicSpec]:
        found = []
        for toxic in toxics:
            key = id(toxic)  # a toxic lives as long as it is among a proxy's toxics
            if key not in self._drawn:
                self._drawn[key] = self._chance.random() < toxic.toxicity
                self._passed_before[key] = self.passed_bytes
            if self._drawn[key]:
                found.append(toxic)
        return found

    def effects(self, toxics: Sequence[ToxicSpec]) -> Effects:
        made = Effects()
        for toxic in self.acting(toxics):
            match toxic.type:
                case "timeout":
                    made.swallows = True
                    made.silent_seconds = toxic.attribute("timeout") / 1000
                case "bandwidth":
                    rate = toxic.attribute("rate") * 1000.0
                    made.holds |= rate <= 0
                    made.bytes_per_second = min(made.bytes_per_second or rate, rate)
                case "slow_close":
                    made.close_seconds += toxic.attribute("delay") / 1000
                case "slicer":
                    made.slice_bytes = max(1, toxic.attribute("average_size"))
                    made.slice_variation = toxic.attribute("size_variation")
                    made.slice_pause_seconds = toxic.attribute("delay") / 1e6
                case "limit_data":
                    left = self._passed_before[id(toxic)] + toxic.attribute("bytes")
                    made.limit_bytes = left if made.limit_bytes < 0 else min(made.limit_bytes, left)
                case "reset_peer":
                    made.resets = True
                    made.reset_seconds = toxic.attribute("timeout") / 1000
        return made

    def draw_delay(self, toxics: Sequence[ToxicSpec]) -> dict[int, float]:
        """Seconds by which each latency delays one piece; it stops counting when the toxic goes."""
        delays = {}
        for toxic in self.acting(toxics):
            if toxic.type == "latency":
                latency, jitter = toxic.attribute("latency"), toxic.attribute("jitter")
                drawn = latency + (self._chance.uniform(-jitter, jitter) if jitter > 0 else 0)
                delays[id(toxic)] = max(0.0, drawn / 1000)
        return delays

    def cut(self, length: int, effects: Effects) -> list[int]:
        """Lengths of the slices of a piece of `length` bytes."""
        lengths = []
        while length > 0:
            varied = effects.slice_bytes
            if effects.slice_variation > 0:
                varied += self._chance.randint(-effects.slice_variation, effects.slice_variation)
            lengths.append(min(length, max(1, varied)))
            length -= lengths[-1]
        return lengths
