"""A host as the cluster sees it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hsu_core.model.enforcement import HostLayout
from hsu_core.model.spec import Pairs


class NodeState(StrEnum):
    """What the leader holds of a node."""

    READY = "ready"
    SUSPECT = "suspect"  # silent for half its TTL: in the leader's memory and answers alone, never stored
    LOST = "lost"  # silent for its TTL: its instances are placed elsewhere
    LEFT = "left"  # said good-bye: a clean stop of the agent, its workers run on


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """How long a node may be silent, and what follows from it; seconds. The masters dictate them.

    An agent beats every `beat_s`, is suspect after `suspect_s` of silence and lost after `ttl_s`. Nothing new is placed
    for `cooldown_s` on one that was lost and came back; the time doubles each time it is lost again soon after.
    """

    beat_s: float = 2.0
    suspect_s: float = 4.0
    ttl_s: float = 8.0
    cooldown_s: float = 30.0


DEFAULT_TIMES = NodeTimes()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node offers for placement, after its own reserve."""

    cpu_milli: int
    memory_bytes: int
    port_low: int = 20000
    port_high: int = 29999
    """Range (inclusive) from which dynamic ports are picked; below Linux' ephemeral range (32768 up)."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What the node hub keeps of a node: written when it registers, is lost or comes back.

    `host`: what it has to hold limits with; None: its agent does not tell. `lost_at` and `back_at`: when it was last
    lost without a good-bye and when it came back from that (0: never); `flaps`: how many times in a row. `held_by`: the
    other incarnation of the cluster that its workers belong to; it obeys no orders until a restore is accepted.
    `fence`: empty if this node ends its strict workers by itself before it counts as lost, else why it cannot; None:
    its agent does not tell, so it cannot.
    """

    name: str
    state: NodeState
    labels: Pairs = ()
    capacity: Capacity = Capacity(0, 0)
    os: str = ""
    arch: str = ""
    version: str = ""
    address: str = ""
    boot_id: str = ""
    changed_at: float = 0.0
    reason: str = ""
    host: HostLayout | None = None
    lost_at: float = 0.0
    back_at: float = 0.0
    flaps: int = 0
    held_by: str = ""
    fence: str | None = None


@dataclass(frozen=True, slots=True)
class NodeIntent:
    """What people asked of a node: no new instances (cordon), move the present ones off (drain), labels to add.

    `drain_deadline_at` (seconds since 1970, None: never): what is still there then is taken off without regard to
    how many stay ready; `is_drain_forced`: at once.
    """

    name: str
    is_cordoned: bool = False
    is_draining: bool = False
    labels: Pairs = ()
    drain_deadline_at: float | None = None
    is_drain_forced: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What the assignments on a node reserve."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    instances: int = 0
