"""How results look: tables for people, JSON for programs. Results on standard output, all else on error."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_bytes(count: int) -> str:
    amount = float(count)
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def human_time(unix_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(unix_ms / 1000, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def rfc3339(unix_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(unix_ms / 1000, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def emit_one(document: Any, output: str, table: str) -> None:  # Any: whatever msgspec can encode
    """Print one result: as JSON for both machine formats, else the given text."""
    if output == "table":
        click.echo(table)
    else:
        click.echo(msgspec.json.encode(document).decode())


def emit_many(
    documents: Iterable[Any], output: str, headers: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Print a list: one JSON array, one JSON object a line, or an aligned table."""
    if output == "json":
        click.echo(msgspec.json.encode(list(documents)).decode())
    elif output == "jsonl":
        for document in documents:
            click.echo(msgspec.json.encode(document).decode())
    else:
        click.echo(text_table(headers, rows), nl=False)


def emit_stream(documents: Iterable[Any], output: str, line: Callable[[Any], str]) -> None:
    """Print a list of any length as it comes: `line` is how one looks as text."""
    if output == "json":
        click.echo("[", nl=False)
        for position, document in enumerate(documents):
            click.echo(("," if position else "") + msgspec.json.encode(document).decode())
        click.echo("]")
        return
    for document in documents:
        if output == "jsonl":
            click.echo(msgspec.json.encode(document).decode())
        else:
            click.echo(visible(line(document)))


def emit_schema(answers: Mapping[str, type]) -> None:
    """Print the JSON Schema of what commands answer with '-o json' (a list of these, or one) and jsonl."""
    template = "#/$defs/{name}"
    told, parts = msgspec.json.schema_components(list(answers.values()), ref_template=template)
    document = {"commands": dict(zip(answers, told, strict=True)), "$defs": parts}
    click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())


def text_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns; a header starting with '>' is right-aligned. Control characters are made visible."""
    titles = [header.lstrip(">") for header in headers]
    right = [header.startswith(">") for header in headers]
    body = [[visible(cell) for cell in row] for row in rows]
    if not body:
        return ""
    widths = [max(len(titles[i]), *(len(row[i]) for row in body)) for i in range(len(titles))]
    lines = []
    for cells in ([titles] if any(titles) else []) + body:
        padded = [
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(cells, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip() + "\n")
    return "".join(lines)


def visible(cell: str) -> str:
    # A file name may hold escape sequences that would drive the reader's terminal.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cell)


def note(message: str) -> None:
    """Something for the person, not part of the result; above a progress bar when one is shown."""
    print(message, file=sys.stderr, flush=True)  # not click.echo: a bar catches only what passes sys.stderr


def on_terminal() -> bool:
    return sys.stderr.isatty()
