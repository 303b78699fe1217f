"""Loss, delay, order, copies and damage of single packets: a seeded loop over the kernel's packet queues.

    ip netns exec NAMESPACE python -m chaos.kernel.packets SEED

It speaks netlink itself (linux/netfilter/nfnetlink_queue.h) and needs nothing that Python has not. Commands
come on standard input as JSON, a line each: {"queue": 7, "loss": 0.1, …} (see Treatment) begins or changes a
queue, {"queue": 7, "end": true} ends it, {"counts": true} asks for counts; each is answered by a line. Which
packets come here is said by iptables rules (`network`); they let packets pass when this loop has ended.

Damage keeps the TCP checksum as it was, so that the receiver's kernel drops the packet, as it does with what
a bad wire has spoilt: no program without a checksum of its own could stand what TCP's checksum does not see.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import random
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

NETLINK_NETFILTER = 12
SUBSYSTEM_QUEUE = 3
PACKET, VERDICT, CONFIG = 0, 1, 2
REQUEST, ACK = 1, 4
ERROR = 2
CONFIG_COMMAND, CONFIG_PARAMETERS, CONFIG_LENGTH_MAX = 1, 2, 3
BIND, UNBIND = 1, 2
COPY_PACKET = 2
PACKET_HEADER, VERDICT_HEADER, PAYLOAD = 1, 2, 10
DROP, ACCEPT = 0, 1
ATTRIBUTE_MASK = 0x3FFF  # the upper bits of an attribute's type say how it is laid out

PACKETS_WAITING_MAX = 20_000  # of one queue, in the kernel; more are lost, as on a full link
SOCKET_BYTES = 16 * 2**20
OVERTAKEN_SECONDS = 0.02  # a packet that is to lose its place waits so long
IP_HEADER_BYTES = 20
SO_MARK = 36
QUEUE_MARK = 0x6B  # on copies of packets, which are not to be treated again


@dataclass(slots=True)
class Treatment:
    """Shares of packets, 0 … 1; `seconds` and `jitter` of delay for all, in order."""

    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    seconds: float = 0.0
    jitter: float = 0.0


@dataclass(slots=True)
class Counts:
    passed: int = 0
    lost: int = 0
    reordered: int = 0
    duplicated: int = 0
    corrupted: int = 0


@dataclass(slots=True)
class _Queue:
    chance: random.Random
    treatment: Treatment
    counts: Counts = field(default_factory=Counts)
    last_release: float = 0.0


def attribute(number: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), number) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    position = 0
    while position + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, position)
        if length < 4:
            break
        found[number & ATTRIBUTE_MASK] = data[position + 4 : position + length]
        position += length + (-length % 4)
    return found


def message(kind: int, queue: int, body: bytes, *, ack: bool = False) -> bytes:
    flags = REQUEST | (ACK if ack else 0)
    content = struct.pack(">BBH", socket.AF_UNSPEC, 0, queue) + body
    return struct.pack("=IHHII", 16 + len(content), SUBSYSTEM_QUEUE << 8 | kind, flags, 0, 0) + content


class PacketLoop:
    """All queues of one namespace."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._queues: dict[int, _Queue] = {}
        self._waiting: list[tuple[float, int, int, int, bytes | None]] = []  # release, order, queue, id, copy
        self._order = itertools.count()
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        self._netlink.bind((0, 0))
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, SO_MARK, QUEUE_MARK)

    def run(self) -> None:
        """Until standard input ends: then whoever asked for it has gone."""
        selector = selectors.DefaultSelector()
        selector.register(self._netlink, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        self._netlink.setblocking(False)
        while True:
            patience = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            for key, _ in selector.select(patience):
                if key.fileobj is self._netlink:
                    self._take()
                elif line := sys.stdin.readline():
                    sys.stdout.write(self.obey(line) + "\n")
                    sys.stdout.flush()
                else:
                    return
            self._release()

    def obey(self, line: str) -> str:
        wanted = json.loads(line)
        if "counts" in wanted:
            told = {
                number: {name: getattr(queue.counts, name) for name in Counts.__slots__}
                for number, queue in self._queues.items()
            }
            return json.dumps(told)
        number = int(wanted.pop("queue"))
        if wanted.pop("end", False):
            self._end(number)
        elif number in self._queues:
            self._queues[number].treatment = Treatment(**wanted)
        else:
            self._begin(number, Treatment(**wanted))
        return "done"

    def _begin(self, number: int, treatment: Treatment) -> None:
        self._queues[number] = _Queue(random.Random(f"{self._seed}/{number}"), treatment)
        command = struct.pack(">BBH", BIND, 0, socket.AF_INET)
        self._configure(number, attribute(CONFIG_COMMAND, command))
        self._configure(number, attribute(CONFIG_PARAMETERS, struct.pack(">IB", 0xFFFF, COPY_PACKET)))
        self._configure(number, attribute(CONFIG_LENGTH_MAX, struct.pack(">I", PACKETS_WAITING_MAX)))

    def _end(self, number: int) -> None:
        if self._queues.pop(number, None) is None:
            return
        for _, _, queue, packet, copy in self._waiting:  # what waits goes on its way now
            if queue == number and copy is None:
                self._pass(number, packet)
        self._waiting = [entry for entry in self._waiting if entry[2] != number]
        heapq.heapify(self._waiting)
        self._configure(number, attribute(CONFIG_COMMAND, struct.pack(">BBH", UNBIND, 0, socket.AF_INET)))

    def _configure(self, number: int, body: bytes) -> None:
        """Send it and wait for the kernel's word. Packets that come meanwhile are treated as ever."""
        self._netlink.setblocking(True)
        self._netlink.send(message(CONFIG, number, body, ack=True))
        while True:
            data = self._netlink.recv(65536 + 4096)
            kind = struct.unpack_from("=IH", data)[1]
            if kind != ERROR:
                self._read(data)
                continue
            code = struct.unpack_from("=i", data, 16)[0]
            if code:
                raise OSError(-code, f"packet queue {number} cannot be had")
            break
        self._netlink.setblocking(False)

    def _take(self) -> None:
        while True:
            try:
                data = self._netlink.recv(65536 + 4096)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more came than fit; the kernel has dropped them
                continue
            self._read(data)

    def _read(self, data: bytes) -> None:
        length, kind = struct.unpack_from("=IH", data)
        if kind != SUBSYSTEM_QUEUE << 8 | PACKET:
            return
        number = struct.unpack_from(">H", data, 18)[0]
        found = attributes(data[20:length])
        packet = struct.unpack_from(">I", found[PACKET_HEADER])[0]
        queue = self._queues.get(number)
        if queue is None:
            self._pass(number, packet)
        else:
            self._treat(queue, number, packet, found.get(PAYLOAD, b""))

    def _treat(self, queue: _Queue, number: int, packet: int, payload: bytes) -> None:
        chance, treatment, counts = queue.chance, queue.treatment, queue.counts
        if chance.random() < treatment.loss:
            counts.lost += 1
            self._send(number, packet, DROP)
            return
        now = time.monotonic()
        release = now
        if treatment.seconds or treatment.jitter:
            release = now + max(0.0, treatment.seconds + chance.uniform(-1, 1) * treatment.jitter)
            release = queue.last_release = max(release, queue.last_release)
        if chance.random() < treatment.duplicate:
            counts.duplicated += 1
            heapq.heappush(self._waiting, (release, next(self._order), number, packet, payload))
        if len(payload) > IP_HEADER_BYTES and chance.random() < treatment.corrupt:
            counts.corrupted += 1
            spoilt = bytearray(payload)
            position = chance.randrange(IP_HEADER_BYTES, len(payload))
            spoilt[position] ^= 1 << chance.randrange(8)
            self._send(number, packet, ACCEPT, bytes(spoilt))
            return
        if chance.random() < treatment.reorder:
            counts.reordered += 1
            release += OVERTAKEN_SECONDS
        counts.passed += 1
        if release <= now:
            self._pass(number, packet)
        else:
            heapq.heappush(self._waiting, (release, next(self._order), number, packet, None))

    def _release(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, number, packet, copy = heapq.heappop(self._waiting)
            if copy is None:
                self._pass(number, packet)
                continue
            with contextlib.suppress(OSError):  # no route, or a full buffer: a copy that is lost
                self._raw.sendto(copy, (socket.inet_ntoa(copy[16:20]), 0))

    def _pass(self, number: int, packet: int) -> None:
        self._send(number, packet, ACCEPT)

    def _send(self, number: int, packet: int, verdict: int, payload: bytes = b"") -> None:
        body = attribute(VERDICT_HEADER, struct.pack(">II", verdict, packet))
        if payload:
            body += attribute(PAYLOAD, payload)
        with contextlib.suppress(OSError):  # ENOENT: the queue was ended meanwhile, and let it pass
            self._netlink.send(message(VERDICT, number, body))


def main() -> None:
    loop = PacketLoop(sys.argv[1])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    loop.run()


if __name__ == "__main__":
    main()
