"""What an agent and the leader say to each other over the node's WebSocket, one msgpack frame a message.

    agent                               master
      | Hello  ------------------------> |  (a standby answers Redirect, a refusal is Refuse)
      | <------------------------- Queued|  now and then, while others are admitted first
      | <------------------------ Welcome|  term, incarnation, pace of the beats
      | Report(is_full) ---------------> |  everything observed; then changes at once
      | <----------------- Orders(full)  |  its own assignments only; then changes
      | Beat --------------------------> |  every `beat_s`
      | <------------------------ BeatAck|
      | <---------------------------- Ask|  logs, signal; answered by Answer and Chunks
      | Goodbye -----------------------> |  clean stop

Unknown frame kinds and unknown fields are ignored by the receiver, so that the two programs may be
one release apart.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Any

from hsu_core.model.assignment import Assignment, InstanceStatus
from hsu_core.model.enforcement import HostLayout
from hsu_core.model.ids import InstanceId
from hsu_core.model.node import Capacity
from hsu_core.model.spec import Pairs
from hsu_core.wire.codec import Undecodable, decode_plain, encode, from_plain, to_plain

PROTOCOL = 1
"""Version of this conversation; the lower one of the two is spoken, and each speaks its predecessor's."""

OLDEST_PROTOCOL = 1
"""Oldest version this release still speaks."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of an agent. `incarnation` and `term` are the last it obeyed ("" and 0: none).

    `revision` is the highest store revision of that incarnation it has heard of: a store that is not that far was
    restored. `workers`: how many instances it runs or is to run (0 also: a release that does not tell).

    `agent` is the identity that its data folder keeps ("": a release that does not tell): two agents of one
    name differ in it even on one host. `host`: what it has to hold limits with (None: a release that does not tell).
    `fence`: why it cannot fence strict workers, empty if it can (None: a release that cannot).
    """

    node: str
    capacity: Capacity
    protocol: int = PROTOCOL
    version: str = ""
    labels: Pairs = ()
    os: str = ""
    arch: str = ""
    address: str = ""
    boot_id: str = ""
    incarnation: str = ""
    term: int = 0
    agent: str = ""
    host: HostLayout | None = None
    revision: int = 0
    workers: int = 0
    fence: str | None = None


@dataclass(frozen=True, slots=True)
class Welcome:
    """The leader takes the node. Beat every `beat_s`; silent for `ttl_s` means lost.

    An agent that heard nothing for `silence_s` looks for another way to a leader, in time to be heard again before
    `ttl_s` (0: a release that does not tell; half of `ttl_s` then). `accepted`: other incarnations whose work may be
    ended or kept as this one orders; an agent with work of any other holds it, and obeys nothing.
    """

    term: int
    incarnation: str
    beat_s: float
    ttl_s: float
    leader: str = ""
    protocol: int = PROTOCOL
    silence_s: float = 0.0
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Queued:
    """The leader admits others first, `waiting` agents are in the line: stay, this counts as a sign of life."""

    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Redirect:
    """This master does not lead: dial one of `urls` (empty: nobody leads yet, try again after `retry_s`)."""

    urls: tuple[str, ...] = ()
    retry_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Refuse:
    """The node is not taken; `is_final` means another try cannot help without a change of configuration."""

    code: str
    text: str
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Beat:
    """I am alive. `sent_at` is the agent's CLOCK_BOOTTIME in seconds, echoed back: its lease counts from there."""

    sent_at: float


@dataclass(frozen=True, slots=True)
class BeatAck:
    """The leader heard the beat of `sent_at`, and leads: until its TTL after that this node keeps what is its own.

    The store is at `revision` at least (0: a release that does not tell).
    """

    sent_at: float
    term: int
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """One assignment and the key of its specification in `Orders.specs`."""

    assignment: Assignment
    spec: str


@dataclass(frozen=True, slots=True)
class Orders:
    """Assignments of this node. `is_full`: all of them, anything else is to be stopped.

    `specs` maps a key to the plain tree of an OrderSpec; keys sent once are kept by the agent for
    the session. `revision` is the store revision up to which the orders are complete.
    """

    term: int
    revision: int
    is_full: bool = False
    specs: dict[str, Any] = field(default_factory=dict)
    orders: tuple[Order, ...] = ()
    removed: tuple[InstanceId, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What the agent observed. `gone`: instances with no process and no assignment left."""

    statuses: tuple[InstanceStatus, ...] = ()
    gone: tuple[InstanceId, ...] = ()
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the leader. `verb`: `logs` (arguments tail, follow, stream, since_at) or `signal` (name)."""

    id: int
    verb: str
    instance: InstanceId
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a streamed answer: bytes of one log stream (`stdout`, `stderr`)."""

    id: int
    payload: bytes
    stream: str = "stdout"


@dataclass(frozen=True, slots=True)
class Answer:
    """End of a request. `code` empty: it went well."""

    id: int
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The leader needs no more of request `id`."""

    id: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Clean end of the agent; its workers run on unless `is_stopping_workers`."""

    is_stopping_workers: bool = False


Frame = (
    Hello
    | Welcome
    | Queued
    | Redirect
    | Refuse
    | Beat
    | BeatAck
    | Orders
    | Report
    | Ask
    | Chunk
    | Answer
    | Cancel
    | Goodbye
)

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Frame)}


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of one frame."""
    return encode({"f": type(frame).__name__, "d": to_plain(frame)})


def decode_frame(payload: bytes) -> Frame | None:
    """Return the frame, or None for a kind this release does not know. Raises Undecodable."""
    tree = decode_plain(payload)
    if not isinstance(tree, dict):
        raise Undecodable("read a frame", "it is not a map")
    kind = _KINDS.get(str(tree.get("f")))
    return None if kind is None else typing.cast(Frame, from_plain(kind, tree.get("d")))
