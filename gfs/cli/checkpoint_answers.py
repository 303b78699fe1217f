"""What the commands of `gfs checkpoint` share: which file is meant, and answers of any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from gfs.cli.render import note, text_table
from gfs.inspect.checkpoint_files import CheckpointFile, find_checkpoint

EXIT_DAMAGE = 7
ROWS_ALIGNED = 1000  # so many rows are gathered to align their columns; the next ones are aligned anew


def find_noted(path: str) -> CheckpointFile:
    file = find_checkpoint(path)
    for other in file.passed_over:
        note(f"passed over as it is not whole: {other}")
    return file


def open_noted(path: str) -> CheckpointFile:
    file = find_noted(path)
    if file.manifest is None and file.fault is not None:
        note(f"{file.path}: {file.fault.message}; its bytes cannot be checked")
    return file


# Any: whatever msgspec can encode, as in render
def emit_rows(output: str, headers: Sequence[str], rows: Iterator[tuple[Any, Sequence[str]]]) -> bool:
    """Print documents, or rows of a table, as they come; whether there were any."""
    count = 0
    waiting: list[Sequence[str]] = []
    for document, cells in rows:
        if output == "table":
            waiting.append(cells)
            if len(waiting) == ROWS_ALIGNED:
                click.echo(
                    text_table(headers if count < ROWS_ALIGNED else [""] * len(headers), waiting), nl=False
                )
                waiting = []
        else:
            before = "" if output == "jsonl" else ",\n" if count else "["
            line = msgspec.json.encode(document).decode()
            click.echo(before + line, nl=output == "jsonl")
        count += 1
    if output == "json":
        click.echo("]" if count else "[]")
    elif waiting:
        click.echo(text_table(headers if count <= ROWS_ALIGNED else [""] * len(headers), waiting), nl=False)
    return count > 0
