"""Commands that look inside: status, chunks."""

from __future__ import annotations

import click

from gfs.cli.cluster_address import consistency_option, remote_path, run_with_client
from gfs.cli.completion import complete_remote
from gfs.cli.render import counted, emit_many, emit_one, human_bytes, text_table
from gfs.client.client import AsyncClient
from gfs.messages.chunks import ChunkPlace
from gfs.messages.cluster import ClusterStatusReply, MasterStatus

EXIT_NOT_HEALTHY = 6


@click.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show masters, chunk servers and health in words. Exits 6 when the cluster cannot take writes."""

    async def work(client: AsyncClient) -> ClusterStatusReply:
        return await client.cluster_status()

    found = run_with_client(ctx, work)
    emit_one(found, ctx.obj.output, _as_text(found))
    if found.health == "down":
        ctx.exit(EXIT_NOT_HEALTHY)


def _heard(master: MasterStatus) -> str:
    if master.role == "leader":
        return "-"
    return "never" if master.lag_seconds < 0 else f"{master.lag_seconds:.2f} s ago"


def _as_text(found: ClusterStatusReply) -> str:
    masters = text_table(
        ["master", "role", ">term", ">applied", ">behind", ">heard leader", "address"],
        (
            [m.id, m.role, str(m.term), str(m.applied_index), str(m.lag_entries), _heard(m), m.control]
            if m.role != "unreachable"
            else [m.id, m.role, "-", "-", "-", "-", m.control]
            for m in found.masters
        ),
    )
    servers = text_table(
        ["chunk server", "state", ">chunks", ">free", ">of", "rack", ">last heard", "address"],
        (
            [
                s.id,
                ("alive" if s.alive else "away") + (", draining" if s.tenure == "draining" else ""),
                str(s.chunk_count),
                human_bytes(s.disk_free_bytes),
                human_bytes(s.disk_total_bytes),
                s.rack or "-",
                f"{s.last_heartbeat_seconds:.1f} s ago",
                s.control,
            ]
            for s in found.chunkservers
        ),
    )
    held = f" ({human_bytes(found.trash_bytes)})" if found.trash_bytes >= 0 else ""
    lines = [f"cluster {found.cluster or '(unnamed)'}: {found.health}"]
    lines += [f"  - {reason}" for reason in found.reasons]
    lines += [
        f"{counted(found.files, 'file')}, "
        + ("1 directory, " if found.directories == 1 else f"{found.directories} directories, ")
        + counted(found.chunks, "chunk")
        + (f", with what {found.trash} deleted entries still hold{held}" if found.trash else ""),
        "",
        masters.rstrip("\n"),
        "",
        servers.rstrip("\n") or "no chunk server has reported yet",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("path", shell_complete=complete_remote)
@consistency_option
@click.pass_context
def chunks(ctx: click.Context, path: str) -> None:
    """Show a file's chunks: handle, version, and the chunk servers that hold a good replica."""

    async def work(client: AsyncClient) -> list[ChunkPlace]:
        return list(await client.chunks(remote_path(path)))

    places = run_with_client(ctx, work)
    emit_many(
        places,
        ctx.obj.output,
        [">index", "handle", ">version", "sealed", "replicas", "away"],
        (
            [
                str(place.index),
                f"{place.handle:016x}",
                str(place.version),
                "yes" if place.sealed else "no",
                " ".join(f"{r.server}@{r.control}" for r in place.replicas) or "none",
                " ".join(place.missing) or "-",
            ]
            for place in places
        ),
    )
