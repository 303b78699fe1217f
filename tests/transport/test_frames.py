"""Frames on the wire: their bytes stay what they are, and no bytes of a stranger surprise a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.errors import FrameTooLarge, GfsError, InvalidArgument, UnsupportedVersion, WrongCluster
from gfs.messages.base import NOBODY, Ack, ErrorReply, Identity, Ping, Reply, Request
from gfs.messages.methods import CHUNKSERVER_REQUESTS, MASTER_REQUESTS
from gfs.messages.namespace import ListDirectory, Stat
from gfs.settings import FRAME_BYTES_MAX
from gfs.transport.dispatch import Dispatcher, answer_ping
from gfs.transport.frames import (
    DECODE_FAULTS,
    Answer,
    Call,
    Cancel,
    Frame,
    Hello,
    Refusal,
    agree,
    decode_reply,
    encode_frame,
    join_frames,
    raw_reply_decoder,
    raw_request_decoder,
    reply_decoder,
    request_decoder,
)

# What version 1 of the protocol sends. Never changed, only added to.
GOLDEN: list[tuple[Frame, str]] = [
    (
        Hello(1, 1, "client", "c1", "x", Identity("ann", ("crawl",)), "t"),
        "98a568656c6c6f0101a6636c69656e74a26331a17892a3616e6e91a5637261776ca174",
    ),
    (
        Refusal(ErrorReply(code="c", message="m")),
        "92a77265667573616c83a474797065a56572726f72a4636f6465a163a76d657373616765a16d",
    ),
    (Call(7, 1.5, "t", Ping()), "95a463616c6c07cb3ff8000000000000a17481a474797065a470696e67"),
    (Answer(7, Ack()), "93a6616e737765720781a474797065a361636b"),
    (Cancel(7), "92a663616e63656c07"),
]


@pytest.mark.parametrize(("frame", "encoded"), GOLDEN, ids=[type(frame).__name__ for frame, _ in GOLDEN])
def test_the_bytes_of_version_1_stay_as_they_are(frame: Frame, encoded: str) -> None:
    assert encode_frame(frame) == bytes.fromhex(encoded)
    message = join_frames([bytes.fromhex(encoded)])
    assert message[:5] == b"\xdd\x00\x00\x00\x01"
    decoders: tuple[Callable[[bytes], Sequence[Frame]], ...] = (
        request_decoder([Ping]).decode,
        reply_decoder([Ack, ErrorReply]).decode,
    )
    assert any(_decodes_to(decode, message, [frame]) for decode in decoders)


def test_a_hello_that_does_not_say_for_whom_is_nobodys() -> None:
    earlier = join_frames([bytes.fromhex("96a568656c6c6f0101a6636c69656e74a26331a178")])
    assert request_decoder([Ping]).decode(earlier) == [Hello(1, 1, "client", "c1", "x", NOBODY)]


def test_a_hello_that_shows_no_credential_is_understood() -> None:
    earlier = bytes.fromhex("97a568656c6c6f0101a6636c69656e74a26331a17892a3616e6e91a5637261776c")
    found = request_decoder([Ping]).decode(join_frames([earlier]))
    assert found == [Hello(1, 1, "client", "c1", "x", Identity("ann", ("crawl",)), "")]


def _decodes_to(decode: Callable[[bytes], Sequence[Frame]], message: bytes, frames: list[Frame]) -> bool:
    try:
        return decode(message) == frames
    except DECODE_FAULTS:
        return False


def test_a_number_that_no_frame_can_carry_is_refused_before_it_leaves() -> None:
    with pytest.raises(InvalidArgument, match="64 bits"):
        encode_frame(Call(1, 1.0, "", ListDirectory(path="/", limit=2**80)))


@given(
    st.lists(
        st.tuples(st.integers(0, 2**63 - 1), st.floats(0, 1e6), st.text(max_size=20), st.text(max_size=300)),
        max_size=20,
    )
)
def test_frames_come_out_as_they_went_in(calls: list[tuple[int, float, str, str]]) -> None:
    frames = [Call(call_id, seconds, trace, Stat(path=path)) for call_id, seconds, trace, path in calls]
    message = join_frames([encode_frame(frame) for frame in frames])
    assert request_decoder([Ping, Stat]).decode(message) == frames


@given(st.binary(max_size=200))
def test_random_bytes_are_decoded_or_refused_and_nothing_else(junk: bytes) -> None:
    dispatcher = Dispatcher({Ping: answer_ping, Stat: answer_ping}, role="master")
    for decode in (
        dispatcher.message_decoder.decode,
        raw_request_decoder.decode,
        raw_reply_decoder.decode,
        reply_decoder([Ack, ErrorReply]).decode,
        lambda data: decode_reply(data, Ack),
    ):
        try:
            decode(junk)
        except DECODE_FAULTS:
            pass
    try:
        dispatcher.decode(junk)
    except GfsError:
        pass


@given(st.data())
def test_a_flipped_byte_is_decoded_or_refused_and_nothing_else(data: st.DataObject) -> None:
    message = bytearray(
        join_frames([encode_frame(frame) for frame, _ in GOLDEN if not isinstance(frame, Answer)])
    )
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        raw_request_decoder.decode(bytes(message))
    except DECODE_FAULTS:
        pass


def test_all_requests_of_a_program_fit_one_decoder() -> None:
    for requests in (MASTER_REQUESTS, CHUNKSERVER_REQUESTS):
        handlers = dict.fromkeys(requests, answer_ping)
        assert set(Dispatcher(handlers, role="any").by_method.values()) == set(requests)
    replies: set[type[Reply]] = {kind.reply for kind in (*MASTER_REQUESTS, *CHUNKSERVER_REQUESTS)}
    reply_decoder(replies | {ErrorReply})


def test_two_requests_of_one_name_are_refused_at_start() -> None:
    class Impostor(Request, tag="ping", frozen=True, kw_only=True):
        pass

    with pytest.raises((AssertionError, TypeError)):
        Dispatcher({Ping: answer_ping, Impostor: answer_ping}, role="any")


def test_a_frame_over_the_limit_is_never_made() -> None:
    with pytest.raises(FrameTooLarge):
        encode_frame(Call(1, 1.0, "t", Stat(path="x" * FRAME_BYTES_MAX)))


def _hello(low: int, high: int, cluster: str = "") -> Hello:
    return Hello(low, high, "role", "node", cluster)


@pytest.mark.parametrize(
    ("mine", "theirs", "common"), [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 2), (1, 9), 2)]
)
def test_the_highest_common_version_is_spoken(
    mine: tuple[int, int], theirs: tuple[int, int], common: int
) -> None:
    assert agree(_hello(*mine), _hello(*theirs)) == common
    assert agree(_hello(*theirs), _hello(*mine)) == common


def test_no_common_version_or_another_cluster_is_refused() -> None:
    for mine, theirs in (((1, 1), (2, 3)), ((2, 3), (1, 1))):
        with pytest.raises(UnsupportedVersion):
            agree(_hello(*mine), _hello(*theirs))
    with pytest.raises(WrongCluster):
        agree(_hello(1, 1, "a"), _hello(1, 1, "b"))
    assert agree(_hello(1, 1, "a"), _hello(1, 1, "")) == 1
