"""The one lifecycle of an instance: HSU's states and operations, as data.

Every change of state in the product goes through `advance`. A pair that is not in the table is
a bug and raises. Compared with HSU: an exit and an automatic restart change the state (HSU stayed
"running"), a failed start can be retried (HSU's dead end), `restarting` is entered and left.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from hsu_core.model.errors import Bug


class State(StrEnum):
    """Where an instance is in its life."""

    UNKNOWN = "unknown"  # its node is lost; it may be running
    REGISTERED = "registered"  # assigned, not started yet (also: waits for a dependency)
    STARTING = "starting"  # spawned; startup probe (if any) has not passed
    RUNNING = "running"  # alive and started; `ready` tells whether it takes work
    RESTARTING = "restarting"  # ended; waits for its back-off, then starts again
    STOPPING = "stopping"  # stop signal sent; some of its processes are still there
    STOPPED = "stopped"  # ended on request, or ended well with nothing to restart
    FAILED = "failed"  # ended and will not be started by itself


class Event(StrEnum):
    """What can happen to an instance."""

    SPAWNED = "spawned"
    SPAWN_FAILED = "spawn_failed"
    STARTED = "started"  # startup probe passed, or there is none
    EXITED_RETRY = "exited_retry"  # ended; its policy wants another start
    EXITED_DONE = "exited_done"  # ended well; its policy wants no other start
    EXITED_FAILED = "exited_failed"  # ended badly; its policy wants no other start
    RESTART_REQUESTED = "restart_requested"  # by a person, a probe or a new specification
    STOP_REQUESTED = "stop_requested"
    TREE_EMPTY = "tree_empty"  # the last process of it has gone
    START_REQUESTED = "start_requested"
    LOST = "lost"
    FOUND_RUNNING = "found_running"
    FOUND_ENDED = "found_ended"


_S, _E = State, Event

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (_S.UNKNOWN, _E.FOUND_RUNNING): _S.RUNNING,
    (_S.UNKNOWN, _E.FOUND_ENDED): _S.REGISTERED,
    (_S.REGISTERED, _E.SPAWNED): _S.STARTING,
    (_S.REGISTERED, _E.SPAWN_FAILED): _S.RESTARTING,
    (_S.REGISTERED, _E.FOUND_RUNNING): _S.RUNNING,
    (_S.REGISTERED, _E.STOP_REQUESTED): _S.STOPPED,
    (_S.STARTING, _E.STARTED): _S.RUNNING,
    (_S.STARTING, _E.EXITED_RETRY): _S.RESTARTING,
    (_S.STARTING, _E.EXITED_DONE): _S.STOPPED,
    (_S.STARTING, _E.EXITED_FAILED): _S.FAILED,
    (_S.STARTING, _E.RESTART_REQUESTED): _S.STOPPING,
    (_S.STARTING, _E.STOP_REQUESTED): _S.STOPPING,
    (_S.RUNNING, _E.EXITED_RETRY): _S.RESTARTING,
    (_S.RUNNING, _E.EXITED_DONE): _S.STOPPED,
    (_S.RUNNING, _E.EXITED_FAILED): _S.FAILED,
    (_S.RUNNING, _E.RESTART_REQUESTED): _S.STOPPING,
    (_S.RUNNING, _E.STOP_REQUESTED): _S.STOPPING,
    (_S.RESTARTING, _E.SPAWNED): _S.STARTING,
    (_S.RESTARTING, _E.SPAWN_FAILED): _S.RESTARTING,
    (_S.RESTARTING, _E.RESTART_REQUESTED): _S.REGISTERED,
    (_S.RESTARTING, _E.STOP_REQUESTED): _S.STOPPED,
    (_S.STOPPING, _E.TREE_EMPTY): _S.STOPPED,
    (_S.STOPPING, _E.EXITED_FAILED): _S.FAILED,
    (_S.STOPPED, _E.START_REQUESTED): _S.REGISTERED,
    (_S.FAILED, _E.START_REQUESTED): _S.REGISTERED,
    (_S.FAILED, _E.STOP_REQUESTED): _S.STOPPED,
    (_S.REGISTERED, _E.LOST): _S.UNKNOWN,
    (_S.STARTING, _E.LOST): _S.UNKNOWN,
    (_S.RUNNING, _E.LOST): _S.UNKNOWN,
    (_S.RESTARTING, _E.LOST): _S.UNKNOWN,
    (_S.STOPPING, _E.LOST): _S.UNKNOWN,
    (_S.STOPPED, _E.LOST): _S.UNKNOWN,
    (_S.FAILED, _E.LOST): _S.UNKNOWN,
}


class Operation(StrEnum):
    """What a person can ask of an instance."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    REMOVE = "remove"
    SIGNAL = "signal"


ALLOWED: Mapping[Operation, frozenset[State]] = {
    Operation.START: frozenset({_S.REGISTERED, _S.STOPPED, _S.FAILED}),
    Operation.STOP: frozenset({_S.REGISTERED, _S.STARTING, _S.RUNNING, _S.RESTARTING, _S.FAILED}),
    Operation.RESTART: frozenset({_S.STARTING, _S.RUNNING, _S.RESTARTING, _S.FAILED}),
    Operation.REMOVE: frozenset(State),
    Operation.SIGNAL: frozenset({_S.STARTING, _S.RUNNING, _S.STOPPING}),
}


def allowed_operations(state: State) -> tuple[Operation, ...]:
    """Return what a person can ask of an instance in `state`, in the order of `Operation`."""
    return tuple(operation for operation in Operation if state in ALLOWED[operation])


ALIVE = frozenset({_S.STARTING, _S.RUNNING, _S.STOPPING})
"""States in which the instance has processes."""


def advance(state: State, event: Event) -> State:
    """Return the state after `event`. Raises Bug for a pair that the table does not have."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Bug(
            f"take event {event} in state {state}",
            "the lifecycle table has no such row",
            code="internal.lifecycle",
        ) from None
