"""The RPC log: what is recorded of a call, what is not, how it is asked for, and that it never waits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import ClassVar

import pytest

from gfs.diagnosis import recorder as recorder_module
from gfs.diagnosis.program import Diagnosis, read_stopped_events, read_stopped_rpc_log
from gfs.diagnosis.recorder import RECENT_RECORDS
from gfs.diagnosis.rpc_log import BODY_BYTES_MAX, RpcLog, decode_record
from gfs.messages.base import Ack, Reply, Request
from gfs.messages.diagnosis import ReadEvents, ReadRpcLog, RpcLogPage, RpcRecord
from gfs.messages.namespace import EntriesReply, ListDirectory, Stat
from gfs.settings import TelemetrySettings
from gfs.telemetry import note_event
from gfs.transport.interface import CallContext

CONTEXT = CallContext("test", "t", 1.0)


class PutRecord(Request, tag="test_put_record", frozen=True, kw_only=True):
    """A request that carries file data inline."""

    reply: ClassVar[type[Reply]] = Ack
    handle: int
    parts: list[bytes]


def records(log: RpcLog, query: ReadRpcLog | None = None) -> list[RpcRecord]:
    from gfs.diagnosis.rpc_log import choose

    query = query or ReadRpcLog()
    page = log.recorder.page(after=query.after, newest=query.newest, limit=query.limit, wanted=choose(query))
    return [decode_record(payload) for payload in page.payloads]


def call(log: RpcLog, request: Request, reply: Reply | None = None, trace: str = "t1") -> None:
    log.called(request, reply or Ack(), peer="c7", trace=trace, code="ok", seconds=0.25)


def test_a_record_has_request_reply_caller_outcome_time_and_sizes(tmp_path: Path) -> None:
    log = RpcLog(str(tmp_path), bytes_max=1_000_000)
    call(log, Stat(path="/a"))
    log.called(Stat(path="/b"), None, peer="c7", trace="t2", code="cancelled", seconds=1.0)
    first, second = records(log)
    assert (first.method, first.trace, first.peer, first.code) == ("stat", "t1", "c7", "ok")
    assert first.request == {"type": "stat", "path": "/a"} and first.reply == {"type": "ack"}
    assert first.seconds == 0.25 and first.request_bytes > 10 and first.at_us > 1e15
    assert (second.code, second.reply) == ("cancelled", None)
    log.recorder.close()


def test_file_data_is_replaced_by_its_length(tmp_path: Path) -> None:
    log = RpcLog(str(tmp_path), bytes_max=1_000_000)
    call(log, PutRecord(handle=3, parts=[b"secret" * 1000, b""]))
    (record,) = records(log)
    assert record.request == {
        "type": "test_put_record",
        "handle": 3,
        "parts": [{"bytes": 6000}, {"bytes": 0}],
    }
    assert record.request_bytes > 6000
    log.recorder.close()
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_of_a_long_reply_only_the_length_is_kept(tmp_path: Path) -> None:
    log = RpcLog(str(tmp_path), bytes_max=1_000_000)
    call(log, ListDirectory(path="/"), EntriesReply(entries=[], next_after="x" * 10_000, applied_index=1))
    (record,) = records(log)
    assert record.reply is None and record.reply_bytes > BODY_BYTES_MAX
    assert record.request == {"type": "list", "path": "/"}
    log.recorder.close()


def test_records_are_chosen_by_method_request_id_and_time(tmp_path: Path) -> None:
    log = RpcLog(str(tmp_path), bytes_max=1_000_000)
    call(log, Stat(path="/a"), trace="one")
    call(log, ListDirectory(path="/"), EntriesReply(entries=[], next_after="", applied_index=1), trace="two")
    assert [r.method for r in records(log, ReadRpcLog(methods=["list"]))] == ["list"]
    assert [r.method for r in records(log, ReadRpcLog(trace="one"))] == ["stat"]
    newest = records(log)[-1].at_us
    assert records(log, ReadRpcLog(since_us=newest + 1_000_000)) == []
    log.recorder.close()


def test_too_many_calls_at_once_are_dropped_counted_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PENDING_MAX", 100)
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", 60.0)  # the recorder's thread does not come
    log = RpcLog(str(tmp_path), bytes_max=1_000_000)
    for _ in range(250):
        call(log, Stat(path="/a"))
    assert log.recorder.dropped == 150
    assert len(records(log)) == 100
    log.recorder.close()


def test_a_disk_that_takes_nothing_leaves_the_newest_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    log = RpcLog(str(blocked / "rpclog"), bytes_max=1_000_000)
    call(log, Stat(path="/a"))
    assert log.recorder.page(after=0, newest=True, limit=10, wanted=lambda _: True).payloads
    assert log.recorder.dropped == 1
    log.recorder.close()


def test_without_a_ring_the_newest_are_in_memory_and_no_thread_runs(tmp_path: Path) -> None:
    running = threading.active_count()
    log = RpcLog(str(tmp_path / "rpclog"), bytes_max=0)
    assert threading.active_count() == running
    for number in range(RECENT_RECORDS + 500):
        call(log, Stat(path=f"/{number}"))
    page = log.recorder.page(after=0, newest=True, limit=5000, wanted=lambda _: True)
    assert len(page.payloads) == RECENT_RECORDS and log.recorder.dropped == 0
    behind = log.recorder.page(after=RECENT_RECORDS + 498, newest=False, limit=10, wanted=lambda _: True)
    assert [decode_record(payload).request["path"] for payload in behind.payloads] == [
        f"/{RECENT_RECORDS + 498}",
        f"/{RECENT_RECORDS + 499}",
    ]
    log.recorder.close()


async def ask(diagnosis: Diagnosis, request: ReadRpcLog) -> RpcLogPage:
    reply = await diagnosis.read_rpc_log(request, CONTEXT)
    assert isinstance(reply, RpcLogPage)
    return reply


async def test_who_follows_gets_each_record_once_also_over_a_restart(tmp_path: Path) -> None:
    seen: list[str] = []
    after = 0
    for round_number in range(3):
        diagnosis = Diagnosis(str(tmp_path), "m1", TelemetrySettings())
        for number in range(5):
            call(diagnosis.calls, Stat(path=f"/{round_number}.{number}"))
            page = await ask(diagnosis, ReadRpcLog(after=after, limit=2))
            seen += [record.request["path"] for record in page.records]
            after = page.next_after
        diagnosis.close()
    assert seen == [f"/{r}.{n}" for r in range(3) for n in range(5)]


async def test_the_newest_come_first_from_a_running_and_from_a_stopped_program(tmp_path: Path) -> None:
    diagnosis = Diagnosis(str(tmp_path), "m1", TelemetrySettings())
    for number in range(1500):  # more than memory holds
        call(diagnosis.calls, Stat(path=f"/{number}"))
    page = await ask(diagnosis, ReadRpcLog(newest=True, limit=3))
    assert [record.request["path"] for record in page.records] == ["/1497", "/1498", "/1499"]
    assert len((await ask(diagnosis, ReadRpcLog(newest=True, limit=1400))).records) == 1400
    follow = await ask(diagnosis, ReadRpcLog(after=page.next_after))
    assert follow.records == []
    diagnosis.close()
    stopped = read_stopped_rpc_log(str(tmp_path), "m1", ReadRpcLog(newest=True, limit=3))
    assert stopped.records == page.records


async def test_events_are_kept_with_their_fields_and_the_request_that_caused_them(tmp_path: Path) -> None:
    diagnosis = Diagnosis(str(tmp_path), "m1", TelemetrySettings())
    note_event("master", "lease granted", version=3, replicas=("c1", "c2"), odd={1: object})
    reply = await diagnosis.read_events(ReadEvents(), CONTEXT)
    (record,) = reply.records  # type: ignore[attr-defined]
    assert (record.room, record.event, record.level) == ("master", "lease granted", "info")
    diagnosis.events.note("critical", "raft", "master_ends", {"reason": "a failed sync"})
    on_disk = read_stopped_events(str(tmp_path), "m1", ReadEvents(newest=True))
    assert [event.event for event in on_disk.records] == ["lease granted", "master_ends"]
    assert record.fields["version"] == 3 and record.fields["replicas"] == ["c1", "c2"]
    diagnosis.close()


async def test_what_cannot_be_encoded_or_is_too_long_fails_no_call_and_no_log_line(tmp_path: Path) -> None:
    diagnosis = Diagnosis(str(tmp_path), "m1", TelemetrySettings())
    call(diagnosis.calls, Stat(path="\ud800"))
    note_event("master", "odd", name="\ud800", number=2**80)
    note_event("master", "long", text="x" * 100_000)
    reply = await diagnosis.read_events(ReadEvents(), CONTEXT)
    (record,) = reply.records  # type: ignore[attr-defined]
    assert record.event == "long" and record.fields["left_out_bytes"] > 100_000
    assert diagnosis.calls.recorder.dropped == diagnosis.events.recorder.dropped == 1
    diagnosis.close()
