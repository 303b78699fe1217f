"""What this machine could do at most: the raw-socket chain and the unverified read our figures stand beside.

The same work as a chunk server's, by plain programs without protocol, errors or
state: in C when there is a compiler, in Python always. Every socket uses the same congestion control as ours.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from gfs.checksums import crc32c
from gfs.transport.data_socket import set_congestion_control
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, KIB, MIB

Engine = Literal["c", "python"]

WINDOW_BYTES = 256 * KIB
PIECE_BYTES = 4 * MIB
CONGESTION_CONTROL = "cubic"
ANSWER = b"done"
SOURCE = Path(__file__).with_name("chain_limit.c")
LOOPBACK = "127.0.0.1"


class Measured(NamedTuple):
    """`cpu_seconds_per_gib`: of the serving processes and the sender together, user and system."""

    mib_per_second: float
    cpu_seconds_per_gib: float


def write_limit(
    bytes_total: int,
    replicas: int = 3,
    engine: Engine | None = None,
    directory: str | None = None,
    files: str | None = None,
) -> float:
    """MiB/s of one stream down a chain of `replicas`; see measure_write()."""
    return measure_write(bytes_total, replicas, engine, directory, files).mib_per_second


def warm_free_memory(bytes_total: int, directory: str | None = None) -> None:
    """Touch so much of the system's free memory, by a file that is removed again.

    A virtual machine may hand free memory back to its host, and then the first touch of a page costs more
    than all the work on it: 170 MiB/s instead of 1,250 for the C chain, three files at a time. Who writes to
    pages that another has just freed wins every comparison, so both sides begin with such pages, or neither.
    """
    piece = os.urandom(PIECE_BYTES)
    with tempfile.NamedTemporaryFile(prefix="gfs-warm-", dir=directory, buffering=0) as file:
        for _ in range(0, bytes_total, PIECE_BYTES):
            file.write(piece)


def read_limit(bytes_total: int, directory: str | None = None) -> float:
    """MiB/s of one reader of unverified bytes from the page cache; see measure_read()."""
    return measure_read(bytes_total, directory).mib_per_second


def has_compiler() -> bool:
    return shutil.which("cc") is not None


def measure_write(
    bytes_total: int,
    replicas: int = 3,
    engine: Engine | None = None,
    directory: str | None = None,
    files: str | None = None,
) -> Measured:
    """Send `bytes_total` through `replicas` processes that each receive, forward, checksum and write them.

    `engine` None takes C when there is a compiler. Files go to `directory` (default: the temporary one),
    which should be on the disk of what is compared, and are removed; in `files` they stay, under new names.
    """
    assert bytes_total > 0 and replicas > 0
    engine = engine or ("c" if has_compiler() else "python")
    with tempfile.TemporaryDirectory(prefix="gfs-limit-", dir=directory) as place:
        program = [_compile(place)] if engine == "c" else [sys.executable, "-m", "gfs.bench.limit"]
        before = _children_cpu_seconds()
        port = 0
        with _Programs() as programs:
            for hop in range(replicas):
                path = os.path.join(files or place, f"{os.path.basename(place)}-replica-{hop}")
                port = programs.start([*program, "serve", str(port), path, CONGESTION_CONTROL])
            sent = subprocess.run(
                [*program, "send", str(port), str(bytes_total), CONGESTION_CONTROL],
                stdout=subprocess.PIPE,
                check=True,
            )
        return _measured(bytes_total, float(sent.stdout), _children_cpu_seconds() - before)


def measure_read(bytes_total: int, directory: str | None = None) -> Measured:
    """Receive `bytes_total` that another process sends from one cached 64 MiB file by sendfile."""
    assert bytes_total > 0
    with tempfile.NamedTemporaryFile(prefix="gfs-limit-", dir=directory) as file, _Programs() as programs:
        for _ in range(64 * MIB // PIECE_BYTES):
            file.write(os.urandom(PIECE_BYTES))
        file.flush()
        before = _children_cpu_seconds() + time.process_time()
        program = [sys.executable, "-m", "gfs.bench.limit", "sendfile"]
        port = programs.start([*program, file.name, str(bytes_total), CONGESTION_CONTROL])
        window = memoryview(bytearray(WINDOW_BYTES))
        with _dial(port, CONGESTION_CONTROL) as connection:
            start = time.perf_counter()
            connection.sendall(ANSWER)
            seen = 0
            while got := connection.recv_into(window):
                seen += got
            seconds = time.perf_counter() - start
        assert seen == bytes_total, (seen, bytes_total)
        programs.wait()
        return _measured(bytes_total, seconds, _children_cpu_seconds() + time.process_time() - before)


class _Programs:
    """Child processes of one measurement, ended with it."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Programs:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for process in self._running:
            if kind is not None:
                process.kill()
        self.wait()

    def start(self, command: Sequence[str]) -> int:
        """Start a program that prints its port; returns the port."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._running.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def wait(self) -> None:
        for process in self._running:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _compile(place: str) -> str:
    program = os.path.join(place, "chain_limit")
    subprocess.run(["cc", "-O2", "-o", program, str(SOURCE)], check=True)
    return program


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measured(bytes_total: int, seconds: float, cpu_seconds: float) -> Measured:
    return Measured(bytes_total / MIB / seconds, cpu_seconds / (bytes_total / 2**30))


# --- the programs ------------------------------------------------------------------------------


def _dial(port: int, congestion_control: str) -> socket.socket:
    dialling = socket.socket()
    set_congestion_control(dialling, congestion_control)
    dialling.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    dialling.connect((LOOPBACK, port))
    return dialling


@contextmanager
def _accepted(congestion_control: str) -> Iterator[socket.socket]:
    """Print a port and wait for the one connection to it."""
    with socket.socket() as listener:
        set_congestion_control(listener, congestion_control)
        listener.bind((LOOPBACK, 0))
        listener.listen(1)
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        connection, _ = listener.accept()
    with connection:
        yield connection


def _serve(next_port: int, path: str, congestion_control: str) -> None:
    """One hop: what chain_limit.c does, in Python."""
    with _accepted(congestion_control) as source, open(path, "wb", buffering=0) as file:
        following = _dial(next_port, congestion_control) if next_port else None
        window = memoryview(bytearray(WINDOW_BYTES))
        have = summed = written = total = 0
        while got := source.recv_into(window[have:]):
            if following is not None:
                following.sendall(window[have : have + got])
            have += got
            while summed + CHECKSUM_BLOCK_BYTES <= have:
                total ^= crc32c(window[summed : summed + CHECKSUM_BLOCK_BYTES])
                summed += CHECKSUM_BLOCK_BYTES
            if have == WINDOW_BYTES:
                written += os.pwrite(file.fileno(), window, written)
                have = summed = 0
        if have:
            os.pwrite(file.fileno(), window[:have], written)
        answer = total.to_bytes(4, "little")
        if following is not None:
            following.shutdown(socket.SHUT_WR)
            assert following.recv(4, socket.MSG_WAITALL) == answer, "other sums behind"
        source.sendall(answer)


def _send(port: int, bytes_total: int, congestion_control: str) -> None:
    piece = memoryview(os.urandom(PIECE_BYTES))
    with _dial(port, congestion_control) as connection:
        start = time.perf_counter()
        for at in range(0, bytes_total, PIECE_BYTES):
            connection.sendall(piece[: bytes_total - at])
        connection.shutdown(socket.SHUT_WR)
        assert len(connection.recv(4, socket.MSG_WAITALL)) == 4, "no answer"
        sys.stdout.write(f"{time.perf_counter() - start:.6f}\n")


def _sendfile(path: str, bytes_total: int, congestion_control: str) -> None:
    with _accepted(congestion_control) as connection, open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        connection.recv(len(ANSWER), socket.MSG_WAITALL)
        sent = 0
        while sent < bytes_total:
            at = sent % length
            sent += os.sendfile(connection.fileno(), file.fileno(), at, min(length - at, bytes_total - sent))


def main(words: Sequence[str]) -> None:
    """The hops of a measurement; started by it, not by people."""
    match words:
        case ["serve", next_port, path, congestion_control]:
            _serve(int(next_port), path, congestion_control)
        case ["send", port, bytes_total, congestion_control]:
            _send(int(port), int(bytes_total), congestion_control)
        case ["sendfile", path, bytes_total, congestion_control]:
            _sendfile(path, int(bytes_total), congestion_control)
        case _:
            raise SystemExit("gfs.bench.limit: serve, send or sendfile")


if __name__ == "__main__":
    main(sys.argv[1:])
