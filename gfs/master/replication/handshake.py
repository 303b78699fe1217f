"""Who is at the other end of a Raft connection: HMAC challenge and response both ways. Pure, no sockets.

    dialer                                              listener
    Hello(cluster, from, to, purpose, nonce)  ->
                                              <-        Challenge(nonce, proof)
    Response(introduction, proof)             ->
                                              <-        Welcome(introduction, proof)   or Refusal(reason)

Each proof is an HMAC-SHA256 under the cluster secret over everything said so far, so neither side learns the
secret, a recording cannot be replayed, and a peer of another cluster gets no further than Hello. The
introduction tells which disk a member votes from: a wiped one must not vote as before (member_disks).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TypeVar

import msgspec

from gfs.errors import ProtocolFault, Unauthenticated, UnsupportedVersion, WrongCluster
from gfs.vocabulary import ClusterId, MasterId

RAFT_PROTOCOL = 2
NONCE_BYTES = 32
PURPOSES = ("raft", "checkpoint")


class _Step(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


class Hello(_Step, frozen=True):
    protocol: int
    cluster: ClusterId
    source: MasterId
    target: MasterId
    purpose: str
    nonce: bytes


class Challenge(_Step, frozen=True):
    nonce: bytes
    proof: bytes


class Introduction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`disk`: the identity made when this member's log was created; `known`: what it knows of the others'.

    `life`: of the cluster, as far as its log goes; empty for the first one, and for who has no log yet.
    `starts` counts the processes that have used this disk, and `process` is this one. `configuration`: term
    and index of the newest one in its log (see membership).
    """

    disk: str
    known: dict[MasterId, str]
    log_end: int
    life: str = ""
    starts: int = 0
    process: str = ""
    configuration: tuple[int, int] = (0, 0)


class Response(_Step, frozen=True):
    introduction: Introduction
    proof: bytes


class Welcome(_Step, frozen=True):
    introduction: Introduction
    proof: bytes


class Refusal(_Step, frozen=True):
    """Says who refuses as well, so that a readmission can name the disk."""

    reason: str
    introduction: Introduction
    proof: bytes


_encode = msgspec.msgpack.Encoder().encode
_StepType = TypeVar("_StepType", bound=msgspec.Struct)


class Party:
    """What a member needs to shake hands, and the running transcript of one handshake."""

    def __init__(self, *, me: MasterId, cluster: ClusterId, secret: bytes) -> None:
        assert secret, "a cluster has a secret"
        self.me, self.cluster, self._secret = me, cluster, secret
        self._transcript = b""

    def _extend(self, step: msgspec.Struct) -> None:
        self._transcript += _encode(step)

    def _proof(self, role: bytes, *said: msgspec.Struct) -> bytes:
        message = b"gfs raft handshake\0" + role + b"\0" + self._transcript
        return hmac.digest(self._secret, message + b"".join(map(_encode, said)), hashlib.sha256)

    def _demand_proof(self, given: bytes, role: bytes, *said: msgspec.Struct) -> None:
        if not hmac.compare_digest(given, self._proof(role, *said)):
            raise Unauthenticated("the peer does not know this cluster's secret")


class Dialer(Party):
    refused_because = ""  # after finish(): why the listener does not let us in

    def hello(self, target: MasterId, purpose: str) -> Hello:
        assert purpose in PURPOSES
        nonce = secrets.token_bytes(NONCE_BYTES)
        hello = Hello(RAFT_PROTOCOL, self.cluster, self.me, target, purpose, nonce)
        self._extend(hello)
        return hello

    def respond(self, frame: bytes, introduction: Introduction) -> Response:
        challenge = _decode_step(frame, Challenge)
        self._extend_nonce(challenge.nonce)
        self._demand_proof(challenge.proof, b"challenge")
        return Response(introduction, self._proof(b"response", introduction))

    def finish(self, frame: bytes, introduction: Introduction) -> Introduction:
        """Returns: the listener's introduction. `introduction` is the one given to respond()."""
        verdict = _decode_verdict(frame)
        role = b"welcome" if isinstance(verdict, Welcome) else b"refusal"
        self._demand_proof(verdict.proof, role, introduction, verdict.introduction)
        self.refused_because = verdict.reason if isinstance(verdict, Refusal) else ""
        return verdict.introduction

    def _extend_nonce(self, nonce: bytes) -> None:
        self._transcript += _encode(nonce)


class Listener(Party):
    hello: Hello

    def challenge(self, frame: bytes) -> Challenge:
        """Whether the dialer is one of us is judged when it has proven to know the secret."""
        self.hello = hello = _decode_step(frame, Hello)
        if hello.protocol != RAFT_PROTOCOL:
            raise UnsupportedVersion(f"{hello.source} speaks Raft protocol {hello.protocol}")
        if hello.cluster != self.cluster:
            raise WrongCluster(f"{hello.source} belongs to cluster {hello.cluster!r}, not {self.cluster!r}")
        if hello.target != self.me or hello.source == self.me or hello.purpose not in PURPOSES:
            raise ProtocolFault(f"{hello.source} wants to reach {hello.target} for {hello.purpose!r}")
        if len(hello.nonce) != NONCE_BYTES:
            raise ProtocolFault(f"{hello.source} sends a nonce of {len(hello.nonce)} bytes")
        self._extend(hello)
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._transcript += _encode(nonce)
        return Challenge(nonce, self._proof(b"challenge"))

    def check(self, frame: bytes) -> Introduction:
        """Returns: the dialer's introduction, proven to come from a holder of the secret."""
        response = _decode_step(frame, Response)
        self._demand_proof(response.proof, b"response", response.introduction)
        self._theirs = response.introduction
        return response.introduction

    def welcome(self, introduction: Introduction) -> Welcome:
        return Welcome(introduction, self._proof(b"welcome", self._theirs, introduction))

    def refuse(self, introduction: Introduction, reason: str) -> Refusal:
        return Refusal(reason, introduction, self._proof(b"refusal", self._theirs, introduction))


def _decode(frame: bytes) -> Hello | Challenge | Response | Welcome | Refusal:
    try:
        return msgspec.msgpack.decode(frame, type=Hello | Challenge | Response | Welcome | Refusal)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolFault(f"not a handshake: {error}") from error


def _decode_verdict(frame: bytes) -> Welcome | Refusal:
    step = _decode(frame)
    if not isinstance(step, Welcome | Refusal):
        raise ProtocolFault(f"{type(step).__name__} came where a verdict was due")
    return step


def _decode_step(frame: bytes, expected: type[_StepType]) -> _StepType:
    step = _decode(frame)
    if not isinstance(step, expected):
        raise ProtocolFault(f"{type(step).__name__} came where {expected.__name__} was due")
    return step
