"""The `gfs` command: a lazy group, global options, and the one place where an error becomes an exit status.

`--help` and completion read the static table below, so that no command pays for another's imports.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from gfs.errors import GfsError

if TYPE_CHECKING:
    from gfs.messages.base import Consistency

VERSION = "0.1.0"
_WORTH_TRACING = (1, 6, 7, 8, 9, 10)  # not what was wrong with the command itself
# What the local disk refuses, as if the cluster had: see the table of exit statuses in README.
_OS_STATUSES = {
    errno.ENOENT: 3,
    errno.EEXIST: 4,
    errno.EISDIR: 4,
    errno.ENOTDIR: 4,
    errno.EACCES: 5,
    errno.EPERM: 5,
    errno.EROFS: 5,
    errno.ENOSPC: 8,
    errno.EDQUOT: 8,
}
EXIT_BROKEN_PIPE = 141  # as a shell shows death by SIGPIPE


class CommandRow(NamedTuple):
    module: str
    attribute: str
    section: str
    summary: str


COMMANDS: dict[str, CommandRow] = {
    "up": CommandRow("serve", "up", "Start here", "Start a whole cluster on this machine."),
    "down": CommandRow("serve", "down", "Start here", "Stop the cluster on this machine; its data stays."),
    "status": CommandRow("look", "status", "Start here", "Show masters, chunk servers and health in words."),
    "ui": CommandRow("ui", "ui", "Start here", "Say where the web console of the cluster is."),
    "demo": CommandRow(
        "demo", "demo", "Start here", "Boot, store, kill a leader and a chunk server, verify."
    ),
    "doctor": CommandRow("doctor", "doctor", "Start here", "Say what is wrong, and what to do."),
    "completion": CommandRow(
        "completion", "completion", "Start here", "Make bash, zsh or fish complete commands and paths."
    ),
    "ls": CommandRow("files", "ls", "Files", "List a directory."),
    "stat": CommandRow("files", "stat", "Files", "Show one file or directory."),
    "put": CommandRow("transfer", "put", "Files", "Store local files or standard input."),
    "get": CommandRow("transfer", "get", "Files", "Fetch files to this machine or standard output."),
    "cat": CommandRow("transfer", "cat", "Files", "Write a file's bytes to standard output."),
    "append": CommandRow("records", "append", "Files", "Append records while others do, each exactly once."),
    "mkdir": CommandRow("files", "mkdir", "Files", "Make directories."),
    "rm": CommandRow("files", "rm", "Files", "Move files or directories to the trash."),
    "undelete": CommandRow("trash", "undelete", "Files", "Give back what was deleted."),
    "trash": CommandRow("trash", "trash", "Files", "Show what was deleted, or free its space now."),
    "cp": CommandRow("copying", "cp", "Files", "Copy files or trees within the cluster, at once."),
    "mv": CommandRow("files", "mv", "Files", "Rename a file or a whole tree in one step."),
    "snapshot": CommandRow("files", "snapshot", "Files", "Copy a file or tree as it is at one moment."),
    "sync": CommandRow("syncing", "sync", "Files", "Make a directory like one on the other side."),
    "touch": CommandRow("copying", "touch", "Files", "Make empty files."),
    "head": CommandRow("peek", "head", "Files", "Write a file's first lines or bytes."),
    "tail": CommandRow("peek", "tail", "Files", "Write a file's last lines or bytes, and what comes."),
    "checksum": CommandRow("peek", "checksum", "Files", "Sum up files by CRC32C or SHA-256."),
    "find": CommandRow("trees", "find", "Files", "List what fits a name, size or age."),
    "tree": CommandRow("trees", "tree", "Files", "Draw what is below a directory."),
    "du": CommandRow("trees", "du", "Files", "Add up files and bytes below a directory."),
    "df": CommandRow("trees", "df", "Files", "Show how full the cluster is."),
    "chmod": CommandRow("access", "chmod", "Files", "Change who may read, write and enter."),
    "chown": CommandRow("access", "chown", "Files", "Change owner and group."),
    "policy": CommandRow("policies", "policy", "Files", "Show or set what holds below a directory."),
    "setrep": CommandRow("policies", "setrep", "Files", "Have so many replicas below a directory."),
    "glob": CommandRow("files", "glob", "Files", "List the paths that match a pattern."),
    "watch": CommandRow("watch", "watch", "Files", "Show what changes below a path, as it happens."),
    "mount": CommandRow("mount", "mount", "Files", "Show the cluster as a directory of this machine."),
    "umount": CommandRow("mount", "umount", "Files", "End a mount."),
    "chunks": CommandRow("look", "chunks", "Look inside", "Show a file's chunks, versions and replicas."),
    "top": CommandRow("top", "top", "Look inside", "Show what the cluster is doing, again and again."),
    "explain": CommandRow(
        "placement", "explain", "Look inside", "Say why replicas are where they are, and what blocks."
    ),
    "rpclog": CommandRow("diagnosis", "rpclog", "Look inside", "Show the calls that programs answered."),
    "trace": CommandRow("diagnosis", "trace", "Look inside", "Show all that was done for one request."),
    "events": CommandRow("diagnosis", "events", "Look inside", "Show what happened in the cluster."),
    "bench": CommandRow("bench", "bench", "Look inside", "Measure, or play a recorded log back."),
    "fsck": CommandRow("check", "fsck", "Look inside", "Check how safe files are; verify and repair them."),
    "verify-cluster": CommandRow(
        "verify_cluster", "verify_cluster", "Look inside", "Try whether a running cluster keeps its promises."
    ),
    "checkpoint": CommandRow(
        "checkpoint", "checkpoint", "Look inside", "Ask a master's checkpoints, without any server."
    ),
    "backup": CommandRow(
        "backup", "backup", "Look inside", "Save the masters' state while the cluster runs, and put it back."
    ),
    "config": CommandRow("configuration", "config", "Look inside", "Check, show or describe gfs.toml."),
    "oplog": CommandRow("oplog", "oplog", "Look inside", "Read a master's operation log, offline."),
    "chunk": CommandRow("chunk", "chunk", "Look inside", "Look at a chunk server's disk, offline."),
    "token": CommandRow("token", "token", "Look inside", "Make and revoke users' tokens."),
    "cert": CommandRow("cert", "cert", "Look inside", "Make the certificates that programs show each other."),
    "secret": CommandRow("token", "secret", "Look inside", "Rotate the keys of chunk capabilities."),
    "admin": CommandRow("admin", "admin", "Look inside", "Operate masters, chunk servers, replicas."),
    "master": CommandRow("serve", "master", "Daemons", "Run one master in the foreground."),
    "chunkserver": CommandRow("serve", "chunkserver", "Daemons", "Run one chunk server in the foreground."),
    "gateway": CommandRow("gateway", "gateway", "Daemons", "Serve files by plain HTTP, WebHDFS or S3."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        command = getattr(importlib.import_module(f"gfs.cli.{row.module}"), row.attribute)
        assert isinstance(command, click.Command), cmd_name
        _take_global_options(command)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # Any: as click declares it
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has gone (`gfs cat x | head`): Python would flush into it once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(EXIT_BROKEN_PIPE) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(row.section for row in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(n, r.summary) for n, r in COMMANDS.items() if r.section == section])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [
            CompletionItem(name, help=row.summary)
            for name, row in COMMANDS.items()
            if name.startswith(incomplete)
        ]


def _take_global_options(command: click.Command) -> None:
    """Let the global options stand behind a command, too: `gfs ls / -o json` means `gfs -o json ls /`."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None, name
            _take_global_options(below)
        return
    taken = {name for parameter in command.params for name in (*parameter.opts, parameter.name or "")}
    added = [option for option in _late_options() if not taken & {*option.opts, option.name or ""}]
    command.params += added
    if added and command.epilog is None:
        command.epilog = "Global options may follow, too: -o json, -q, --timeout …, see 'gfs --help'."


def _late_options() -> list[click.Option]:
    return [
        click.Option(
            parameter.opts,
            type=parameter.type,
            is_flag=parameter.is_flag,
            default=None,
            hidden=True,
            expose_value=False,
            callback=_keep_late,
        )
        for parameter in cli.params
        if isinstance(parameter, click.Option) and parameter.name in GlobalOptions._fields
    ]


def _keep_late(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    # Only what stands on the command line: a default or the environment has been heard before the command.
    if parameter.name and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
        ctx.obj = ctx.obj._replace(**{parameter.name: value})


class GlobalOptions(NamedTuple):
    """What every command may need; kept in click's context object."""

    master: str | None
    config: str | None
    data: str | None
    output: str
    quiet: bool
    timeout: float | None
    request_id: str
    consistency: Consistency


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "GFS"},
    epilog="Paths in the cluster are absolute: /data/part-0. '-' is standard input or output.",
)
@click.option("--master", metavar="HOST:PORT[,…]", help="Masters to connect to.")
@click.option("--config", metavar="FILE", help="A gfs.toml to take the masters from.")
@click.option("--data", metavar="DIR", help="Data directory of the local cluster ('gfs up').")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "jsonl"]), default="table", show_default=True
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on the terminal.")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="Give up after this long (default: 20 without any progress).",
)
@click.option(
    "--request-id",
    default="",
    metavar="ID",
    help="Name of this command for 'gfs trace' (default: random).",
)
@click.option(
    "--consistency",
    type=click.Choice(["linearizable", "session", "stale"]),
    default="linearizable",
    show_default=True,
    help="Of reads; 'stale' is answered by any master, also without a quorum.",
)
@click.version_option(VERSION, prog_name="gfs")
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:  # Any: click's parsed values, typed by GlobalOptions
    """The Google File System for Python: a replicated file system that survives its machines."""
    ctx.obj = GlobalOptions(**options)


def main() -> None:
    """Entry point of the `gfs` script."""
    _open_standard_streams()
    try:
        status = cli.main(
            prog_name="gfs", standalone_mode=False
        )  # commands return None; ctx.exit() comes back as a number
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        if _wants_json():
            command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "gfs"
            _print_json(
                "usage",
                error.format_message(),
                hint=f"'{command} --help' tells how it is used.",
                definite=True,
            )
        else:
            error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except GfsError as error:
        _report(error)
        sys.exit(error.exit_status)
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        message = f"cannot use{where} on this machine: {error.strerror or error}"
        if _wants_json():
            _print_json("local_file", message, hint="", definite=False)
        else:
            print(f"gfs: {message}", file=sys.stderr)
        sys.exit(_OS_STATUSES.get(error.errno or 0, 1))


def _open_standard_streams() -> None:
    """Whoever closed one of ours must not find the first socket in its place (uvloop aborts on that)."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == descriptor  # the lowest free one, and those below are open
            setattr(sys, name, os.fdopen(opened, "w" if descriptor else "r"))


def _wants_json() -> bool:
    ahead = zip(sys.argv, sys.argv[1:], strict=False)
    return (
        os.environ.get("GFS_OUTPUT", "").startswith("json")
        or any(flag in ("-o", "--output") and value.startswith("json") for flag, value in ahead)
        or any(flag.startswith(("-ojson", "--output=json")) for flag in sys.argv)
    )


def _print_json(
    code: str, message: str, *, hint: str, definite: bool, details: Mapping[str, str] | None = None
) -> None:
    body = {"code": code, "message": message, "hint": hint, "definite": definite}
    print(json.dumps({"error": {**body, **({"details": details} if details else {})}}), file=sys.stderr)


def _report(error: GfsError) -> None:
    if _wants_json():
        _print_json(
            error.code, error.message, hint=error.hint, definite=error.definite, details=error.details
        )
        return
    print(f"gfs: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"     {error.hint}", file=sys.stderr)
    if error.exit_status in _WORTH_TRACING and "request_id" in error.details:
        print(f"     What was tried: gfs trace {error.details['request_id']}", file=sys.stderr)
