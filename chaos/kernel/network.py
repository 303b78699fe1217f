"""The network of one run: a namespace for each node, one bridge, and what befalls each ordered pair.

A fault of `source → target` stands where the packets arrive: in the target's namespace, in a chain of its own
that vanishes with it. HARNESS is this process's own namespace, where all clients are; what it would receive
is stopped where it is sent, so that no rule stands in the machine's own firewall but those that packets to a
queue need.

What TCP makes of it: `drop` and `hold` both lose packets without a word, so both ends go on believing in
their connections (half-open). After `hold` the kernels send again what was lost, with their doubled patience:
a hold of ten seconds may last up to ten more. After `drop` the connections are reset when it is healed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from chaos.kernel.machine import CommandFailed, Run, command

HARNESS = "harness"
HARNESS_HOST = 1
QUEUE_MARK = 0x6B  # on copies of packets, which are not to be copied again
RATE_ENDLESS = "10gbit"
THROTTLE_SECONDS_MAX = 2.0  # what waits longer behind a throttle is dropped
RATE_BYTES_MIN = 1000
TABLE = "gfs"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where packets of a pair can be met: in whose namespace, at which hook, by which address."""

    node: str
    hook: str
    match: str


class Network:
    """Use from one thread; each call returns once it holds. Raises: CommandFailed."""

    def __init__(self, run: Run, seed: int) -> None:
        self._run, self._seed = run, seed
        self._hosts: dict[str, int] = {HARNESS: HARNESS_HOST}
        self._faults: dict[tuple[str, str], set[str]] = {}
        self._shaped: set[str] = set()  # interfaces with a root qdisc of ours
        self._loops: dict[str, subprocess.Popen[str]] = {}
        self._queues: dict[tuple[str, str], dict[str, float]] = {}
        command("ip", "link", "add", run.name, "type", "bridge")
        command("ip", "address", "add", f"{run.address(HARNESS_HOST)}/24", "dev", run.name)
        command("ip", "link", "set", run.name, "up")

    def add(self, node: str) -> str:
        """A namespace for this node; its address."""
        host = HARNESS_HOST + len(self._hosts)
        self._hosts[node] = host
        namespace, outside = self._run.namespace(node), self._outside(node)
        command("ip", "netns", "add", namespace)
        command(*f"ip link add {outside} type veth peer name eth0 netns {namespace}".split())
        command(*f"ip link set {outside} master {self._run.name} up".split())
        # Every rule of ours needs IPv4 only; a link-local address of IPv6 would be a way around them.
        self._inside(node, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", check=False)
        for words in (
            "ip link set lo up",
            f"ip address add {self._run.address(host)}/24 dev eth0",
            "ip link set eth0 up",
        ):
            self._inside(node, *words.split())
        self._inside(node, "nft", f"add table ip {TABLE}")
        return self._run.address(host)

    def address(self, node: str) -> str:
        return self._run.address(self._host(node))

    # --- faults of one direction --------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """What arrives is answered with a reset, and what stands between the two ends now."""
        self._chain(source, target, "cut", "meta l4proto tcp reject with tcp reset", "drop")
        self.reset(source, target)

    def drop(self, source: str, target: str) -> None:
        self._chain(source, target, "drop", "drop")

    def hold(self, source: str, target: str) -> None:
        self._chain(source, target, "hold", "drop")

    def lose(self, source: str, target: str, *, share: float) -> None:
        """This share of packets, by the kernel's own chance: not seeded, but at any speed."""
        self._chain(source, target, "lose", f"numgen random mod 1000 < {round(share * 1000)} drop")

    def limit(self, source: str, target: str, *, limit_bytes: int) -> None:
        """After so many bytes (headers included) every further packet is answered with a reset."""
        self._chain(
            source,
            target,
            "limit",
            f"meta l4proto tcp quota over {limit_bytes} bytes reject with tcp reset",
        )

    def slice(self, source: str, target: str, *, piece_bytes: int) -> None:
        """Connections made from now on carry at most so much in a packet (88 is the least that TCP does)."""
        other = f"{self._place(target, source).match} tcp flags syn"
        place = self._place(target, source)
        rule = f"{other} tcp option maxseg size set {piece_bytes}"
        self._write_chain(place, f"slice-{source}-{target}", rule)
        self._faults.setdefault((source, target), set()).add("slice")

    def reset(self, source: str, target: str) -> None:
        """End every connection between the two, now: both ends see a reset."""
        for here, there in ((source, target), (target, source)):
            words = ["ss", "--kill", "--tcp", "dst", self.address(there)]
            command(*([] if here == HARNESS else self._run.inside(here)), *words, check=False)

    def throttle(self, source: str, target: str, *, bytes_per_second: int) -> None:
        words, interface, match = self._egress(source, target)
        number = self._class(source)
        if interface not in self._shaped:
            command(*words, *f"qdisc add dev {interface} root handle 1: htb default fff".split())
            every = f"class add dev {interface} parent 1: classid 1:fff htb rate {RATE_ENDLESS} quantum 60000"
            command(*words, *every.split())
            self._shaped.add(interface)
        rate = f"{max(bytes_per_second, RATE_BYTES_MIN)}bps"
        change = "change" if "throttle" in self._faults.get((source, target), ()) else "add"
        command(
            *words,
            *f"class {change} dev {interface} parent 1: classid 1:{number}".split(),
            *f"htb rate {rate} ceil {rate}".split(),
        )
        patience = f"burst 16kb latency {THROTTLE_SECONDS_MAX}s"
        handle = f"dev {interface} parent 1:{number} handle {number}0:"
        command(*words, *f"qdisc replace {handle} tbf rate {rate} {patience}".split())
        if change == "add":
            command(
                *words,
                *f"filter add dev {interface} parent 1: prio {int(number, 16)} protocol ip u32".split(),
                *f"match ip {match} flowid 1:{number}".split(),
            )
        self._faults.setdefault((source, target), set()).add("throttle")

    def slow(self, source: str, target: str, *, seconds: float, jitter: float = 0.0) -> None:
        self._treat(source, target, seconds=seconds, jitter=jitter)

    def packets(
        self,
        source: str,
        target: str,
        *,
        loss: float = 0,
        reorder: float = 0,
        duplicate: float = 0,
        corrupt: float = 0,
    ) -> None:
        self._treat(source, target, loss=loss, reorder=reorder, duplicate=duplicate, corrupt=corrupt)

    def counts(self, source: str, target: str) -> dict[str, int]:
        """What has become of packets of a pair that are treated by a queue now."""
        told = json.loads(self._ask(source, {"counts": True}))
        counts: dict[str, int] = told[str(self._queue_number(target))]
        return counts

    # --- and their end -------------------------------------------------------------------------------

    def heal(self, source: str, target: str) -> None:
        """End all that was done to packets between the two, in both directions."""
        for pair in ((source, target), (target, source)):
            if pair in self._queues:
                self._end_queue(*pair)
            kinds = self._faults.pop(pair, set())
            for kind in sorted(kinds):
                if kind == "throttle":
                    self._end_throttle(*pair)
                    continue
                place = self._place(pair[1], pair[0]) if kind == "slice" else self._place(*pair)
                self._delete_chain(place, f"{kind}-{pair[0]}-{pair[1]}")
            if "drop" in kinds:
                self.reset(*pair)

    def heal_all(self) -> None:
        for pair in list(self._faults) + list(self._queues):
            self.heal(*pair)

    def close(self) -> None:
        """End the loops; namespaces and interfaces go with the run."""
        for loop in self._loops.values():
            assert loop.stdin is not None and loop.stdout is not None
            loop.stdin.close()
            try:
                loop.wait(2)
            except subprocess.TimeoutExpired:
                loop.kill()
                loop.wait()
            loop.stdout.close()
        self._loops.clear()

    # --- chains ----------------------------------------------------------------------------------------

    def _place(self, source: str, target: str) -> _Place:
        if target != HARNESS:
            return _Place(target, "input", f"ip saddr {self.address(source)}")
        return _Place(source, "output", f"ip daddr {self.address(HARNESS)}")

    def _chain(self, source: str, target: str, kind: str, *actions: str) -> None:
        place = self._place(source, target)
        self._write_chain(place, f"{kind}-{source}-{target}", *(f"{place.match} {what}" for what in actions))
        self._faults.setdefault((source, target), set()).add(kind)

    def _write_chain(self, place: _Place, name: str, *rules: str) -> None:
        chain = f"ip {TABLE} {name}"
        lines = [
            f"add chain {chain} {{ type filter hook {place.hook} priority 0 ; }}",
            f"flush chain {chain}",
            *(f"add rule {chain} {rule}" for rule in rules),
        ]
        command(*self._run.inside(place.node), "nft", "-f", "-", text="\n".join(lines) + "\n")

    def _delete_chain(self, place: _Place, name: str) -> None:
        chain = f"ip {TABLE} {name}"
        text = f"flush chain {chain}\ndelete chain {chain}\n"
        command(*self._run.inside(place.node), "nft", "-f", "-", text=text)

    # --- throttles ---------------------------------------------------------------------------------------

    def _egress(self, source: str, target: str) -> tuple[list[str], str, str]:
        """The last interface that packets of this pair leave by, and what tells them from others there."""
        if target != HARNESS:
            return ["tc"], self._outside(target), f"src {self.address(source)}/32"
        return ["tc", "-n", self._run.namespace(source)], "eth0", f"dst {self.address(HARNESS)}/32"

    def _class(self, source: str) -> str:
        return f"{self._host(source):x}"

    def _end_throttle(self, source: str, target: str) -> None:
        words, interface, _ = self._egress(source, target)
        number = self._class(source)
        command(*words, *f"filter delete dev {interface} parent 1: prio {int(number, 16)}".split())
        command(*words, *f"class delete dev {interface} classid 1:{number}".split())

    # --- queues --------------------------------------------------------------------------------------------

    def _treat(self, source: str, target: str, **wanted: float) -> None:
        queue = self._queues.setdefault((source, target), {})
        is_new = not queue
        queue.update(wanted)
        self._ask(source, {"queue": self._queue_number(target), **queue})
        if is_new:
            self._queue_rule("-A", source, target)

    def _end_queue(self, source: str, target: str) -> None:
        del self._queues[source, target]
        self._queue_rule("-D", source, target)
        self._ask(source, {"queue": self._queue_number(target), "end": True})

    def _queue_number(self, target: str) -> int:
        return self._run.number * 256 + self._host(target)  # HARNESS's namespace is shared by all runs

    def _queue_rule(self, what: str, source: str, target: str) -> None:
        words = f"-t mangle {what} OUTPUT -d {self.address(target)}/32 -m mark ! --mark {QUEUE_MARK:#x}"
        comment = f"-m comment --comment {self._run.name}-{source}-{target}"
        queue = f"-j NFQUEUE --queue-num {self._queue_number(target)} --queue-bypass"
        self._inside(source, "iptables", "-w", "5", *words.split(), *comment.split(), *queue.split())

    def _ask(self, source: str, question: dict[str, object]) -> str:
        loop = self._loops.get(source) or self._start_loop(source)
        assert loop.stdin is not None and loop.stdout is not None
        try:
            loop.stdin.write(json.dumps(question) + "\n")
            loop.stdin.flush()
        except OSError as error:
            raise CommandFailed(f"the packet loop of {source} has ended: {error}") from error
        answer = loop.stdout.readline().strip()
        if not answer:
            raise CommandFailed(f"the packet loop of {source} has ended with {loop.wait()}")
        return answer

    def _start_loop(self, source: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "chaos.kernel.packets", f"{self._seed}", f"{QUEUE_MARK}"]
        loop = subprocess.Popen(
            [*([] if source == HARNESS else self._run.inside(source)), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert loop.stdout is not None
        self._loops[source] = loop
        if loop.stdout.readline().strip() != "ready":
            raise CommandFailed(f"the packet loop of {source} could not start")
        return loop

    # --- names --------------------------------------------------------------------------------------------

    def _host(self, node: str) -> int:
        return self._hosts[node]

    def _outside(self, node: str) -> str:
        """The bridge's end of a node's cable. Names of interfaces are short."""
        return f"{self._run.name}.{self._hosts[node]}"

    def _inside(self, node: str, *words: str, check: bool = True) -> None:
        command(*([] if node == HARNESS else self._run.inside(node)), *words, check=check)
