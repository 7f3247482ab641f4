"""Orders and answers: what the leader assigns to a node, and what the agent observed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hsu_core.model.ids import AppId, InstanceId
from hsu_core.model.lifecycle import State
from hsu_core.model.rollout import NO_INTENT, RolloutIntent
from hsu_core.model.spec import AppSpec

Ports = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class WorkerIntent:
    """What people asked of a worker since the deploy, beside its specification.

    `replicas` None: as the specification says. A slot's generation is `restart_generation` plus its
    entry in `slot_restarts`; a higher one than the running instance's means: restart it.
    """

    replicas: int | None = None
    is_stopped: bool = False
    stopped_slots: tuple[int, ...] = ()
    restart_generation: int = 0
    slot_restarts: tuple[tuple[int, int], ...] = ()

    def generation(self, slot: int) -> int:
        """Return the restart generation that `slot` should run."""
        return self.restart_generation + dict(self.slot_restarts).get(slot, 0)

    def wants_stopped(self, slot: int) -> bool:
        """Return whether `slot` is stopped on request."""
        return self.is_stopped or slot in self.stopped_slots


@dataclass(frozen=True, slots=True)
class AppRecord:
    """The head of an app: its current revision number and what people asked since. Written by the API alone."""

    id: AppId
    revision: int
    intents: tuple[tuple[str, WorkerIntent], ...] = ()
    deployed_at: float = 0.0
    deployed_by: str = ""
    rollout: RolloutIntent = NO_INTENT

    def intent(self, worker: str) -> WorkerIntent:
        """Return what was asked of `worker` (the default where nothing was)."""
        return dict(self.intents).get(worker, WorkerIntent())


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable version of an app. `spec_hashes` has (worker id, hash of what needs a restart when changed)."""

    id: AppId
    number: int
    content_hash: str
    spec: AppSpec
    spec_hashes: tuple[tuple[str, str], ...]
    created_at: float = 0.0
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The order "slot S runs revision R on node N". `epoch` grows with every change of the slot.

    The agent restarts the process when `spec_hash` or `generation` changes, stops it when
    `is_stopped`, and only keeps the rest in mind otherwise. `is_extra`: it runs beside those that were asked for while
    others are replaced or moved, and goes when these are available. `replaces`: the lost node that this copy was placed
    for. `beside`: the node whose copy runs on until this order is confirmed. `avoided`: nodes where this specification
    kept failing in the slot, each with the time until which it is not placed there, in seconds since 1970.
    """

    instance: InstanceId
    node: str
    epoch: int
    revision: int
    spec_hash: str
    generation: int = 0
    ports: Ports = ()
    is_stopped: bool = False
    is_extra: bool = False
    replaces: str = ""
    beside: str = ""
    avoided: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LastExit:
    """How the process ended last: `code` or `signal` (a name such as SIGKILL); both None when nobody saw it.

    `cpu_s` and `max_rss_bytes`: what it and the children that it waited for used, None where nobody told. The kernel
    counts memory from the fork on, so a small process shows that of the agent: it used at most so much.
    """

    code: int | None = None
    signal: str | None = None
    at: float = 0.0
    reason: str = ""
    cpu_s: float | None = None
    max_rss_bytes: int | None = None

    @property
    def is_success(self) -> bool:
        """Return whether it ended by itself with code 0."""
        return self.code == 0 and self.signal is None


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """What an agent observed of one instance. Times are seconds since 1970 on the node's clock.

    `restarts` counts automatic starts after the first of this epoch's process history; `reason` is a
    sentence for people (why it waits, failed or is not ready). `busy_ports`: numbers of this order that another
    program holds on the node, so that it cannot start. `has_processes`: that no process of the instance is left
    is not proven, whatever the state says, so the slot must not start elsewhere. `breaker`: where the breaker of
    its restarts stands, if it is not closed (`open`, `half-open`). `failures`: starts in a row that were in vain or
    ended early.
    """

    instance: InstanceId
    node: str
    epoch: int
    state: State
    is_ready: bool = False
    """Whether it is ready; in state unknown: whether it was when its node was last heard of."""

    revision: int = 0
    spec_hash: str = ""
    generation: int = 0
    pid: int | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    started_at: float | None = None
    ports: Ports = ()
    reason: str = ""
    changed_at: float = 0.0
    busy_ports: tuple[int, ...] = ()
    has_processes: bool = False
    breaker: str = ""
    failures: int = 0
