"""When certificates end is read from their files as they are, and told to Prometheus."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gfs import certificates
from gfs.certificate_dates import earliest_end, not_after
from gfs.telemetry import Metrics
from gfs.tls import NodeName, TlsIdentity
from gfs.transport.program_gauges import ProgramGauges
from tests.fakes.clock import VirtualClock

NODE = NodeName("c", "master", "m1")


def made(directory: Path, days: int) -> Path:
    certificates.make_authority(str(directory / "ca"), days=days + 1)
    certificates.issue(str(directory / "ca"), NODE, str(directory / "m1"), days=days)
    return directory / "m1" / "certificate.pem"


# After 2049 the time has another form (RFC 5280 §4.1.2.5).
@pytest.mark.parametrize("days", [1, 365, 36_000])
def test_the_end_is_what_a_library_reads(tmp_path: Path, days: int) -> None:
    path = made(tmp_path, days)
    wanted = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    assert earliest_end(path.read_text()) == wanted.timestamp()


def test_of_several_in_one_file_the_first_end_counts(tmp_path: Path) -> None:
    texts = [made(tmp_path / str(days), days).read_text() for days in (30, 10, 20)]
    found = datetime.datetime.fromtimestamp(earliest_end("".join(texts)), datetime.UTC)
    assert (found - datetime.datetime.now(datetime.UTC)).days in (9, 10)


@given(st.binary(max_size=200))
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        not_after(content)


def test_a_file_without_a_certificate_is_refused() -> None:
    with pytest.raises(ValueError):
        earliest_end("no certificate")


def test_prometheus_is_told_and_a_certificate_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    path, clock, metrics = made(tmp_path, 30), VirtualClock(), Metrics()
    tls = TlsIdentity(
        ca_file=str(tmp_path / "ca" / "ca.pem"),
        certificate_file=str(path),
        key_file=str(path.with_name("key.pem")),
    )
    ProgramGauges(metrics, tls, clock)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("gfs_clock_timestamp_seconds") == clock.wall_ms() / 1000
    end = "gfs_certificate_end_timestamp_seconds"
    assert value(end, of="node") == earliest_end(path.read_text())
    assert value(end, of="authority") == (value(end, of="node") or 0) + 86400
    path.write_text(path.read_text()[:300])
    assert value(end, of="node") is None and value(end, of="authority") is not None
