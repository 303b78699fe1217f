"""`gfs fsck`: how safe the files below a path are, with a verification of every byte, and their repair."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import click
import msgspec

from gfs.cli.cluster_address import remote_path, run_with_client
from gfs.cli.render import counted, emit_one, human_bytes, note, on_terminal, text_table
from gfs.client.client import AsyncClient
from gfs.errors import NotFound
from gfs.messages.check import RISKS, CheckedChunk, CheckedFile, CheckFilesReply, ChunkRisk
from gfs.messages.chunks import ChunkPlace

EXIT_DAMAGE = 7
WORST_SHOWN = 20
WORST_KEPT = 1000  # files at risk remembered, the worst ones
CHUNKS_VERIFIED_AT_ONCE = 4
REPAIR_LOOK_SECONDS = 0.5
REPAIR_ROUNDS_MAX = 10  # how often what was damaged is read again
REPAIR_PATIENCE_SECONDS = 30.0  # without any chunk coming out of danger

_NAMES: dict[ChunkRisk, str] = {
    "lost": "lost: no good replica can be reached",
    "last_replica": "one failure from loss: a single good replica",
    "one_rack": "one rack from loss: all good replicas in one rack",
    "short": "under-replicated",
    "ok": "ok",
}
Advance = Callable[[str], None]


class DamageFound(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What --deep found in one chunk; `bad_blocks` and `unread` by chunk server."""

    path: str
    index: int
    handle: int
    bad_blocks: dict[str, list[int]] = {}
    unread: dict[str, str] = {}
    differing: list[str] = []


class Findings(msgspec.Struct, kw_only=True):
    """The result of one fsck. `at_risk` has the worst files first, at most WORST_KEPT of `files_at_risk`."""

    path: str
    files: int = 0
    chunks: int = 0
    counts: dict[ChunkRisk, int] = msgspec.field(default_factory=lambda: dict.fromkeys(RISKS, 0))
    files_at_risk: int = 0
    at_risk: list[CheckedFile] = []
    verified_bytes: int = 0
    damage: list[DamageFound] = []

    @property
    def is_well(self) -> bool:
        return self.counts["ok"] == self.chunks and not self.damage


@dataclass
class _Walk:
    """Adds pages up without keeping them."""

    found: Findings
    _last: CheckedFile | None = None
    _kept: list[CheckedFile] = field(default_factory=list)

    def add(self, page: CheckFilesReply) -> None:
        self.found.files += page.files
        for risk, count in page.counts.items():
            self.found.counts[risk] += count
            self.found.chunks += count
        for file in page.at_risk:
            if self._last is not None and self._last.path == file.path:
                file = _joined(self._last, file)
            else:
                self._keep_last()
            self._last = file

    def end(self) -> None:
        self._keep_last()
        self.found.at_risk = sorted(self._kept, key=_badness)[:WORST_KEPT]

    def _keep_last(self) -> None:
        if self._last is None:
            return
        self.found.files_at_risk += 1
        self._kept.append(self._last)
        if len(self._kept) >= 2 * WORST_KEPT:
            self._kept = sorted(self._kept, key=_badness)[:WORST_KEPT]
        self._last = None


@click.command()
@click.argument("path", default="/")
@click.option("--deep", is_flag=True, help="Read and verify every byte of every replica, and compare them.")
@click.option("--repair", is_flag=True, help="Have what is at risk repaired first, and wait for it.")
@click.pass_context
def fsck(ctx: click.Context, path: str, deep: bool, repair: bool) -> None:
    """Check how safe the files at and below PATH are. Exits 7 when not every chunk is ok.

    Without --deep it tells what the leader knows: which replicas are alive, up to date, and not known to be
    damaged. Damage that --deep finds is repaired by itself, as soon as it is found.
    """
    target = remote_path(path)

    async def work(client: AsyncClient) -> Findings:
        with _progress(quiet=ctx.obj.quiet) as advance:
            return await _run(client, target, deep, repair, advance)

    found = run_with_client(ctx, work)
    emit_one(found, ctx.obj.output, _as_text(found, deep=deep))
    if not found.is_well:
        ctx.exit(EXIT_DAMAGE)


async def _run(client: AsyncClient, path: str, deep: bool, repair: bool, advance: Advance) -> Findings:
    damage: list[DamageFound] = []
    verified = 0
    if deep:
        damage, verified = await _verify_all(client, path, advance)
    found = await _check(client, path, advance)
    for _ in range(REPAIR_ROUNDS_MAX):
        if not repair or (found.is_well and not damage):
            break
        found = await _repair(client, path, found, advance)
        # What was damaged is looked at again, until its replacement is there to be read.
        damaged, damage = sorted({one.path for one in damage}), []
        for file in damaged:
            with suppress(NotFound):  # deleted meanwhile
                more, again = await _verify_all(client, file, advance)
                damage, verified = damage + more, verified + again
        if damaged:
            found = await _check(client, path, advance)
        if damage:
            await asyncio.sleep(REPAIR_LOOK_SECONDS)
    found.damage, found.verified_bytes = damage, verified
    return found


async def _check(client: AsyncClient, path: str, advance: Advance) -> Findings:
    walk = _Walk(Findings(path=path))
    async for page in client.check(path):
        walk.add(page)
        advance(f"{walk.found.files} files, {walk.found.chunks} chunks looked at")
    walk.end()
    return walk.found


async def _verify_all(client: AsyncClient, path: str, advance: Advance) -> tuple[list[DamageFound], int]:
    damage: list[DamageFound] = []
    verified = chunks = 0
    turns = asyncio.Semaphore(CHUNKS_VERIFIED_AT_ONCE)

    async def verify(file: str, place: ChunkPlace) -> None:
        nonlocal verified, chunks
        async with turns:
            found = await client.verify_chunk(place)
        verified += found.verified_bytes
        chunks += 1
        advance(f"{chunks} chunks, {human_bytes(verified)} verified")
        if found.bad_blocks or found.unread or found.differing:
            damage.append(
                DamageFound(
                    path=file,
                    index=place.index,
                    handle=place.handle,
                    bad_blocks={str(server): blocks for server, blocks in found.bad_blocks.items()},
                    unread={str(server): why for server, why in found.unread.items()},
                    differing=[str(server) for server in found.differing],
                )
            )

    async for page in client.check(path, with_places=True):
        async with asyncio.TaskGroup() as group:
            for file in page.places:
                for place in file.chunks:
                    group.create_task(verify(file.path, place))
    return sorted(damage, key=lambda found: (found.path, found.index)), verified


async def _repair(client: AsyncClient, path: str, found: Findings, advance: Advance) -> Findings:
    """Ask again for what is still at risk until nothing is, or nothing changes any more."""
    least, since = found.chunks - found.counts["ok"], time.monotonic()
    while not found.is_well:
        await client.repair([file.path for file in found.at_risk])
        await asyncio.sleep(REPAIR_LOOK_SECONDS)
        found = await _check(client, path, lambda _: None)
        left = found.chunks - found.counts["ok"]
        advance(f"{left} chunks left to repair")
        if left < least:
            least, since = left, time.monotonic()
        elif time.monotonic() - since > REPAIR_PATIENCE_SECONDS:
            note(f"{left} chunks could not be repaired for {REPAIR_PATIENCE_SECONDS:.0f} s; see 'gfs status'")
            break
    return found


def _joined(first: CheckedFile, second: CheckedFile) -> CheckedFile:
    """Two parts of one file, told of in two pages."""
    counts = {risk: first.counts.get(risk, 0) + second.counts.get(risk, 0) for risk in RISKS}
    worst = sorted((*first.worst, *second.worst), key=lambda chunk: RISKS.index(chunk.risk))
    return msgspec.structs.replace(
        first,
        risk=worst[0].risk,
        counts={risk: count for risk, count in counts.items() if count},
        worst=worst[: len(first.worst)],
    )


def _badness(file: CheckedFile) -> tuple[int, int, str]:
    return RISKS.index(file.risk), -file.counts[file.risk], file.path


# --- what a person sees ---------------------------------------------------------------------------


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Advance]:
    if quiet or not on_terminal():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("checking") as shown:
        yield shown.update


def _as_text(found: Findings, *, deep: bool) -> str:
    lines = [f"{found.path}: {counted(found.files, 'file')}, {counted(found.chunks, 'chunk')}"]
    lines += [
        f"  {found.counts[risk]:>8}  {_NAMES[risk]}" for risk in RISKS if found.counts[risk] or risk == "ok"
    ]
    if deep:
        lines.append(f"  {human_bytes(found.verified_bytes)} read and verified, on all replicas")
    if found.at_risk:
        shown = found.at_risk[:WORST_SHOWN]
        rows = ([file.risk, str(_at_risk(file)), file.path, _told(file.worst[0])] for file in shown)
        lines += ["", text_table(["worst", ">chunks", "file", "its worst chunk"], rows).rstrip("\n")]
        if found.files_at_risk > len(shown):
            lines.append(f"… and {found.files_at_risk - len(shown)} more files")
    if found.damage:
        rows = ([one.path, str(one.index), f"{one.handle:016x}", _damage_told(one)] for one in found.damage)
        lines += ["", text_table(["file", ">chunk", "handle", "found by reading"], rows).rstrip("\n")]
    if found.is_well:
        lines.append("every chunk is ok")
    return "\n".join(lines)


def _at_risk(file: CheckedFile) -> int:
    return sum(count for risk, count in file.counts.items() if risk != "ok")


def _told(chunk: CheckedChunk) -> str:
    good = f"{len(chunk.good)} of {chunk.wanted} good"
    bad = ", ".join(f"{server} {condition}" for server, condition in chunk.bad.items())
    return f"chunk {chunk.index}: {good}" + (f" ({bad})" if bad else "")


def _damage_told(one: DamageFound) -> str:
    told = [f"{server}: {len(blocks)} bad blocks" for server, blocks in one.bad_blocks.items()]
    told += [f"{server}: {why}" for server, why in one.unread.items()]
    if one.differing:
        told.append(f"{', '.join(one.differing)}: other bytes than most replicas, after a write that failed")
    return "; ".join(told)
