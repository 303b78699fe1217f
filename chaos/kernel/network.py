"""The network of one run: a namespace for each node, one bridge, and what befalls each ordered pair.

A fault of `source → target` stands where the packets arrive: in the target's namespace, in a chain of its own
that vanishes with it. Clients are in this process's own namespace; what one would receive is stopped where it
is sent, so that no rule stands in the machine's own firewall but those that packets to a queue need.

To tell clients of one process apart, each has a path of its own: every node has one more address for it, and
the client's packets come from an address that goes with it. The path of HARNESS itself is never hurt.

What TCP makes of it: `drop` and `hold` both lose packets without a word, so both ends go on believing in
their connections (half-open). After `hold` the kernels send again what was lost, with their doubled patience:
a hold of ten seconds may last up to ten more. After `drop` the connections are reset when it is healed.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.kernel import inside
from chaos.kernel.machine import RUNS_MAX, CommandFailed, Run, command
from chaos.kernel.packets import QUEUE_MARK

HARNESS = "harness"  # this process, on a path that nothing befalls
HARNESS_HOST = 1
PATHS_MAX = 250  # of clients
QUEUES_MAX = 65536 // RUNS_MAX  # of one run, in the course of it
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
        self._hosts: dict[str, int] = {}
        self._paths: dict[str, int] = {HARNESS: 0}
        self._faults: dict[tuple[str, str], set[str]] = {}
        self._shaped: set[str] = set()  # interfaces with a root qdisc of ours
        self._loops: dict[str, subprocess.Popen[str]] = {}
        self._queues: dict[tuple[str, str], dict[str, float]] = {}
        self._queue_numbers: dict[tuple[str, str], int] = {}
        command("ip", "link", "add", run.name, "type", "bridge")
        command("ip", "address", "add", f"{run.address(HARNESS_HOST)}/24", "dev", run.name)
        command("ip", "link", "set", run.name, "up")

    def add(self, node: str) -> str:
        """A namespace for this node; its address."""
        assert node not in self._hosts and node not in self._paths, node
        host = self._hosts[node] = HARNESS_HOST + 1 + len(self._hosts)
        namespace, outside = self._run.namespace(node), self._outside(node)
        command("ip", "netns", "add", namespace)
        command(*f"ip link add {outside} type veth peer name eth0 netns {namespace}".split())
        command(*f"ip link set {outside} master {self._run.name} up".split())
        # Every rule of ours is of IPv4 only; a link-local address of IPv6 would be a way around them.
        self._inside(node, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", check=False)
        for words in ("ip link set lo up", "ip link set eth0 up"):
            self._inside(node, *words.split())
        own = self._run.address(host)
        text = (
            f"add table ip {TABLE}\n"
            f"add chain ip {TABLE} paths {{ type nat hook prerouting priority -100 ; }}\n"
            f"add rule ip {TABLE} paths ip daddr != {own} meta iifname eth0 dnat to {own}\n"
        )
        inside.within(self._namespace_file(node), lambda: inside.set_rules(text))
        for path in self._paths.values():
            self._join(node, path)
        return own

    def add_client(self, client: str) -> None:
        """A path of its own for a client in this process. Raises: CommandFailed after PATHS_MAX of them."""
        assert client not in self._hosts and client not in self._paths, client
        path = len(self._paths)
        if path > PATHS_MAX:
            raise CommandFailed(f"{PATHS_MAX} clients have a path of their own already")
        address = self._run.address(HARNESS_HOST, path)
        command(*f"ip address add {address}/24 dev {self._run.name}".split())
        self._paths[client] = path
        for node in self._hosts:
            self._join(node, path)

    def address(self, node: str, seen_by: str = HARNESS) -> str:
        """Where `seen_by` dials this node."""
        return self._run.address(self._hosts[node], self._paths.get(seen_by, 0))

    @property
    def nodes(self) -> Sequence[str]:
        return tuple(self._hosts)

    @property
    def clients(self) -> Sequence[str]:
        return tuple(self._paths)

    def _join(self, node: str, path: int) -> None:
        address = self._run.address(self._hosts[node], path)
        self._inside(node, *f"ip address add {address}/24 dev eth0".split())

    # --- faults of one direction --------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """What arrives is answered with a reset, and what stands between the two ends now."""
        # First the resets, or they would be stopped, too; then at once the rule, before anybody dials anew.
        self._chain(source, target, "cut", "meta l4proto tcp reject with tcp reset", "drop", with_reset=True)

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
        self._write_chain(place, self._chain_name("slice", source, target), rule)
        self._faults.setdefault((source, target), set()).add("slice")

    def reset(self, source: str, target: str) -> None:
        """End every connection between the two, now: both ends see a reset."""
        for here, there in ((source, target), (target, source)):
            address = self._address(here, there)
            inside.within(self._namespace_file(here), functools.partial(inside.end_connections, address))

    def throttle(self, source: str, target: str, *, bytes_per_second: int) -> None:
        words, interface, match = self._egress(source, target)
        number = self._class(source, target)
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
        handle = f"dev {interface} parent 1:{number} handle {number}:"
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
        counts: dict[str, int] = told[str(self._queue_number(source, target))]
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
                self._delete_chain(place, self._chain_name(kind, *pair))
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
        if target in self._hosts:
            return _Place(target, "input", f"ip saddr {self._address(target, source)}")
        return _Place(source, "output", f"ip daddr {self._address(source, target)}")

    def _chain(self, source: str, target: str, kind: str, *actions: str, with_reset: bool = False) -> None:
        place = self._place(source, target)
        other = source if place.node == target else target
        self._write_chain(
            place,
            self._chain_name(kind, source, target),
            *(f"{place.match} {what}" for what in actions),
            reset=self._address(place.node, other) if with_reset else "",
        )
        self._faults.setdefault((source, target), set()).add(kind)

    def _write_chain(self, place: _Place, name: str, *rules: str, reset: str = "") -> None:
        """`reset`: connections with this address are ended right before."""
        chain = f"ip {TABLE} {name}"
        lines = [
            f"add chain {chain} {{ type filter hook {place.hook} priority 0 ; }}",
            f"flush chain {chain}",
            *(f"add rule {chain} {rule}" for rule in rules),
        ]

        def write() -> None:
            if reset:
                inside.end_connections(reset)
            inside.set_rules("\n".join(lines) + "\n")

        inside.within(self._namespace_file(place.node), write)

    def _delete_chain(self, place: _Place, name: str) -> None:
        chain = f"ip {TABLE} {name}"
        text = f"flush chain {chain}\ndelete chain {chain}\n"
        inside.within(self._namespace_file(place.node), lambda: inside.set_rules(text))

    # --- throttles ---------------------------------------------------------------------------------------

    def _egress(self, source: str, target: str) -> tuple[list[str], str, str]:
        """The last interface that packets of this pair leave by, and what tells them from others there."""
        if target in self._hosts:
            return ["tc"], self._outside(target), f"src {self._address(target, source)}/32"
        address = self._address(source, target)
        return ["tc", "-n", self._run.namespace(source)], "eth0", f"dst {address}/32"

    def _class(self, source: str, target: str) -> str:
        """Of this pair among those that leave by one interface: a hexadecimal number above zero."""
        clients = self._paths.get(source, 0) or self._paths.get(target, 0)
        return f"{clients + 256 if clients else self._hosts[source]:x}"

    def _end_throttle(self, source: str, target: str) -> None:
        words, interface, _ = self._egress(source, target)
        number = self._class(source, target)
        command(*words, *f"filter delete dev {interface} parent 1: prio {int(number, 16)}".split())
        command(*words, *f"class delete dev {interface} classid 1:{number}".split())

    # --- queues --------------------------------------------------------------------------------------------

    def _treat(self, source: str, target: str, **wanted: float) -> None:
        queue = self._queues.setdefault((source, target), {})
        is_new = not queue
        queue.update(wanted)
        self._ask(source, {"queue": self._queue_number(source, target), **queue})
        if is_new:
            self._queue_rule("-A", source, target)

    def _end_queue(self, source: str, target: str) -> None:
        del self._queues[source, target]
        self._queue_rule("-D", source, target)
        self._ask(source, {"queue": self._queue_number(source, target), "end": True})

    def _queue_number(self, source: str, target: str) -> int:
        """Clients of all runs share one namespace, and with it one row of numbers."""
        number = self._queue_numbers.setdefault((source, target), len(self._queue_numbers))
        if number >= QUEUES_MAX:
            raise CommandFailed(f"{QUEUES_MAX} pairs have had a packet queue already")
        return self._run.number * QUEUES_MAX + number

    def _queue_rule(self, what: str, source: str, target: str) -> None:
        words = (
            f"-t mangle {what} OUTPUT -d {self._address(source, target)}/32 -m mark ! --mark {QUEUE_MARK:#x}"
        )
        comment = f"-m comment --comment {self._run.name}-{self._tag(source)}-{self._tag(target)}"
        queue = f"-j NFQUEUE --queue-num {self._queue_number(source, target)} --queue-bypass"
        self._inside(source, "iptables", "-w", "5", *words.split(), *comment.split(), *queue.split())

    def _ask(self, source: str, question: dict[str, object]) -> str:
        loop = self._loops.get(self._home(source)) or self._start_loop(source)
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
        home = self._home(source)
        loop = subprocess.Popen(
            [*self._words(source), sys.executable, "-m", "chaos.kernel.packets", f"{self._seed}/{home}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert loop.stdout is not None
        self._loops[home] = loop
        if loop.stdout.readline().strip() != "ready":
            raise CommandFailed(f"the packet loop of {source} could not start")
        return loop

    # --- names --------------------------------------------------------------------------------------------

    def _address(self, here: str, there: str) -> str:
        """By which `here` knows `there`, whether it dials or is dialled."""
        if there in self._hosts:
            return self.address(there, here)
        return self._run.address(HARNESS_HOST, self._paths[there])

    def _chain_name(self, kind: str, source: str, target: str) -> str:
        return f"{kind}-{self._tag(source)}-{self._tag(target)}"

    def _tag(self, name: str) -> str:
        """Clients may be called anything; rules may not."""
        return f"client{self._paths[name]}" if name in self._paths else name

    def _home(self, name: str) -> str:
        """Whose namespace it is in: clients share one."""
        return name if name in self._hosts else HARNESS

    def _namespace_file(self, name: str) -> str:
        """Empty for clients, which are in our own."""
        return f"/run/netns/{self._run.namespace(name)}" if name in self._hosts else ""

    def _words(self, name: str) -> list[str]:
        """Before a command that is to run where it is."""
        return self._run.inside(name) if name in self._hosts else []

    def _outside(self, node: str) -> str:
        """The bridge's end of a node's cable. Names of interfaces are short."""
        return f"{self._run.name}.{self._hosts[node]}"

    def _inside(self, node: str, *words: str, text: str = "", check: bool = True) -> None:
        command(*self._words(node), *words, text=text, check=check)
