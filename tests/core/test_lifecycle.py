"""The lifecycle table: complete, without dead ends, and every gap of HSU's closed."""

from __future__ import annotations

import pytest

from hsu_core.model.errors import Bug
from hsu_core.model.lifecycle import (
    ALIVE,
    ALLOWED,
    TRANSITIONS,
    Event,
    Operation,
    State,
    advance,
    allowed_operations,
)


def _reachable(start: State) -> set[State]:
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is state and target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_every_state_can_be_reached_from_registered() -> None:
    assert _reachable(State.REGISTERED) == set(State)


@pytest.mark.parametrize("state", State)
def test_no_state_is_a_dead_end(state: State) -> None:
    assert State.RUNNING in _reachable(state)


@pytest.mark.parametrize("state", [state for state in State if state is not State.UNKNOWN])
def test_a_lost_node_makes_every_state_unknown(state: State) -> None:
    assert advance(state, Event.LOST) is State.UNKNOWN


def test_a_failed_spawn_is_tried_again() -> None:
    assert advance(State.REGISTERED, Event.SPAWN_FAILED) is State.RESTARTING
    assert advance(advance(State.RESTARTING, Event.SPAWN_FAILED), Event.SPAWNED) is State.STARTING


def test_a_crash_changes_the_state() -> None:
    assert advance(State.RUNNING, Event.EXITED_RETRY) is State.RESTARTING


def test_nothing_starts_again_before_its_tree_is_empty() -> None:
    after_stop = {event: target for (source, event), target in TRANSITIONS.items() if source is State.STOPPING}
    assert after_stop == {
        Event.TREE_EMPTY: State.STOPPED,
        Event.EXITED_FAILED: State.FAILED,
        Event.LOST: State.UNKNOWN,
    }


def test_an_unknown_pair_is_a_bug_that_names_both() -> None:
    with pytest.raises(Bug, match=r"spawned in state running"):
        advance(State.RUNNING, Event.SPAWNED)


def test_only_what_has_processes_can_be_signalled() -> None:
    assert ALLOWED[Operation.SIGNAL] == ALIVE


def test_every_state_says_what_can_be_asked_of_it() -> None:
    assert allowed_operations(State.RUNNING) == (
        Operation.STOP,
        Operation.RESTART,
        Operation.REMOVE,
        Operation.SIGNAL,
    )
    assert allowed_operations(State.STOPPED) == (Operation.START, Operation.REMOVE)
    assert allowed_operations(State.UNKNOWN) == (Operation.REMOVE,)
