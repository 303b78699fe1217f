"""Named limits of the console: rows on a page, streams, waits. No other constants."""

from __future__ import annotations

from gfs.vocabulary import KIB

ENTRIES_PER_PAGE = 100
CHUNKS_PER_PAGE = 64
RECORDS_PER_PAGE = 200
QUEUE_ROWS_MAX = 100
EXPLAINED_PER_PAGE = 16
PREVIEW_BYTES_MAX = 8 * KIB
PREVIEWS_AT_ONCE_MAX = 4
FORM_BYTES_MAX = 16 * KIB
TEXT_CHARS_MAX = 4096  # of a path or another value that a page is asked with

LIVE_STREAMS_MAX = 64
LIVE_SECONDS = 2.0
STATUS_SECONDS = 1.0  # how old the cluster's status may be on a page: masters ask each other for it
SAMPLE_SECONDS = 2.0
SAMPLES_KEPT = 150  # five minutes

ASK_SECONDS = 5.0
ACT_SECONDS = 10.0
REPLICA_SECONDS = 0.5  # what a page waits for a chunk server that does not answer
PREVIEW_SECONDS = 2.0

SESSION_SECONDS = 8 * 3600
SIGN_IN_PAUSE_SECONDS = 0.5  # after a wrong secret; tries are judged one at a time
assert SAMPLES_KEPT * SAMPLE_SECONDS == 300
