"""What is said of masters that cannot be reached."""

from __future__ import annotations

import errno

from gfs.master.replication.silence import CLOSED, SILENT, Silence
from gfs.vocabulary import MasterId

M2 = MasterId("m2")


def test_a_master_that_was_never_heard_is_told_so() -> None:
    silence = Silence()
    assert silence.in_words(M2, now=9.0) == "not heard since this master started"
    silence.not_reached(M2, ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('1.2.3.4', 5)"))
    assert silence.in_words(M2, now=9.0) == "not heard since this master started: connection refused"


def test_a_lost_master_is_told_with_when_it_was_last_heard_and_why_not_since() -> None:
    silence = Silence()
    silence.lost(M2, heard_at=100.0, why=CLOSED)
    assert silence.in_words(M2, now=112.4) == "last heard 12 s ago: its connection was closed"
    silence.not_reached(M2, ConnectionRefusedError(errno.ECONNREFUSED, "no"))
    assert silence.in_words(M2, now=112.4) == "last heard 12 s ago: connection refused"
    silence.not_reached(M2, TimeoutError())
    assert silence.in_words(M2, now=113.4) == "last heard 13 s ago: no answer"


def test_a_master_that_was_stopped_keeps_silent() -> None:
    silence = Silence()
    silence.lost(M2, heard_at=100.0, why=SILENT)
    assert silence.in_words(M2, now=101.0) == "last heard 1 s ago: it keeps silent"
