"""What happened in one run, as every checker reads it: one record a line.

The harness alone stamps the records (ns since the run began): the clocks of the programs are under attack.
A record is only ever added to: new fields have defaults. What makes the records is `recorder`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from gfs.errors import CorruptState

FORMAT_VERSION = 1

Nanoseconds = int
# What a client knows of its call: it happened, it did not and will not, or nobody can say (and it still may).
Outcome = Literal["ok", "fail", "info"]
Json = Any  # Any: what msgspec writes as JSON; each workload documents its own arguments and results


class Header(msgspec.Struct, tag="header", tag_field="kind", forbid_unknown_fields=True):
    """The first line of a file."""

    version: int = FORMAT_VERSION
    layer: str = ""
    scenario: str = ""
    seed: int = 0


class Operation(msgspec.Struct, tag="op", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """One call of one client, complete. Written when it has ended.

    `process`: a client that does one thing after the other. After an `info` its number is never used again,
    because that operation may still happen while the client goes on (Jepsen's rule).
    `partition`: operations of different partitions cannot influence each other; "" where that is not so.
    `returned_ns`: of an `info`, when the client gave up.
    """

    number: int
    process: int
    workload: str
    function: str
    called_ns: Nanoseconds
    returned_ns: Nanoseconds
    outcome: Outcome
    partition: str = ""
    arguments: dict[str, Json] = {}
    result: Json = None
    error: str = ""  # the code of the GfsError
    message: str = ""


class Fault(msgspec.Struct, tag="fault", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """A fault that held from `began_ns` to `ended_ns` (equal: a single blow). Written when it has ended."""

    name: str
    began_ns: Nanoseconds
    ended_ns: Nanoseconds
    nodes: list[str] = []
    arguments: dict[str, Json] = {}


class Sighting(msgspec.Struct, tag="seen", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """What a program did or said of itself, as the harness saw it: a role, a lease, an order, a deletion.

    `what` names it; `values` are documented where the checker that reads them lives.
    """

    at_ns: Nanoseconds
    node: str
    what: str
    values: dict[str, Json] = {}


class Audit(msgspec.Struct, tag="audit", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """What was found after the last fault had ended and the cluster had settled."""

    at_ns: Nanoseconds
    workload: str
    what: str
    values: dict[str, Json] = {}


class Phase(msgspec.Struct, tag="phase", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """The run enters a phase: "calm" (before the first fault), "faults", "settling" (all healed), "audit"."""

    at_ns: Nanoseconds
    name: str


Record = Header | Operation | Fault | Sighting | Audit | Phase
_decoder = msgspec.json.Decoder(Record)


class History:
    """The records of one run, in memory."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.header = Header()
        self.operations: list[Operation] = []
        self.faults: list[Fault] = []
        self.sightings: list[Sighting] = []
        self.audits: list[Audit] = []
        self.phases: list[Phase] = []
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        match record:
            case Operation():
                self.operations.append(record)
            case Fault():
                self.faults.append(record)
            case Sighting():
                self.sightings.append(record)
            case Audit():
                self.audits.append(record)
            case Phase():
                self.phases.append(record)
            case Header():
                self.header = record

    def records(self) -> Iterator[Record]:
        yield self.header
        for part in (self.phases, self.faults, self.operations, self.sightings, self.audits):
            yield from part

    def save(self, path: str | os.PathLike[str]) -> None:
        encode = msgspec.json.encode
        with open(path, "wb") as file:
            for record in self.records():
                file.write(encode(record) + b"\n")


class ReadValues(dict[str, Json]):
    """What a record of a file holds: to look for what it lacks is the file's fault, and is said so."""

    def __init__(self, values: dict[str, Json], of: str) -> None:
        super().__init__(values)
        self._of = of

    def __missing__(self, key: str) -> Json:
        raise CorruptState(f"{self._of} holds no {key!r}: the history is damaged, or not of this program")


def load(path: str | os.PathLike[str]) -> History:
    """Raises: CorruptState, with the line, when it is no history or one of a later version; OSError.

    Whoever asks a record for a value that it lacks gets CorruptState, too.
    """
    history = History()
    number = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = _decoder.decode(line)
            except msgspec.DecodeError as error:
                raise CorruptState(
                    f"{path}, line {number}: this is no record of a history: {error}"
                ) from error
            if number == 1 and not isinstance(record, Header):
                raise CorruptState(f"{path} does not begin with a header: this is no history")
            if isinstance(record, Header) and record.version > FORMAT_VERSION:
                raise CorruptState(
                    f"{path} is of format {record.version}; this program reads up to {FORMAT_VERSION}"
                )
            history.add(_with_words(record, f"{path}, line {number},"))
    if not number:
        raise CorruptState(f"{path} is empty: this is no history")
    return history


def _with_words(record: Record, of: str) -> Record:
    match record:
        case Operation():
            record.arguments = ReadValues(record.arguments, f"{of} operation {record.function}")
            if isinstance(record.result, dict):
                record.result = ReadValues(record.result, f"{of} the result of {record.function}")
        case Sighting() | Audit():
            record.values = ReadValues(record.values, f"{of} {record.what}")
        case _:
            pass
    return record
