"""What a new agent makes of what an earlier one left behind: ledger and marked processes in, instances out.

No window between writing and doing leaves an unknown or a second process: a process whose start was
written is recognised by its identity, one whose start was only intended by its run number. Others with our
mark are strays: a ledger that was lost, or written by a newer release, is no reason to end them, so they are
left alone until the leader has said what this host runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hsu_agent.host.base import HOOK_RUN, Found
from hsu_agent.ledger import Remembered, Run
from hsu_agent.planning.health import resume
from hsu_agent.planning.hooks import HookPhase
from hsu_agent.planning.observed import Desired, Observed, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.ids import InstanceId
from hsu_core.model.lifecycle import State

IDLE = "idle"
"""Written into the ledger for an instance that has no process and is not waiting for a restart of its own."""

OWES_POST_STOP = "+post_stop"
"""Follows such a state in the ledger while the post_stop of the ended process has still to be run."""

STRAY = "the ledger does not tell of its processes: they are left alone until the leader's orders come"

_ENDED = {str(state): state for state in (State.STOPPED, State.FAILED, State.RESTARTING)}


@dataclass(slots=True)
class Taken:
    """Instances as they are held from now on; `processes` are those that may be alive and are to be watched.

    `strays` are left as they are until the full orders come, with the marked processes that were found of them.
    """

    observed: dict[InstanceId, Observed] = field(default_factory=dict)
    processes: dict[InstanceId, Process] = field(default_factory=dict)
    strays: dict[InstanceId, tuple[Found, ...]] = field(default_factory=dict)


def take_over(remembered: Remembered, found: Sequence[Found], boot_id: str) -> Taken:
    """Return the instances that an earlier agent left. `found` is sorted by age, oldest first."""
    taken = Taken()
    by_instance: dict[InstanceId, list[Found]] = {}
    for item in found:
        by_instance.setdefault(item.instance, []).append(item)
    for instance, run in remembered.runs.items():
        observed, process = _of_run(run, by_instance.get(instance, ()), boot_id)
        taken.observed[instance] = observed
        if process is not None:
            taken.processes[instance] = process
    for instance in sorted(remembered.unreadable | (by_instance.keys() - remembered.runs.keys())):
        taken.strays[instance] = tuple(by_instance.get(instance, ()))
        taken.observed.setdefault(instance, Observed(instance, is_tree_empty=False, reason=STRAY))
    return taken


def adopt_stray(instance: InstanceId, order: Desired, found: Sequence[Found]) -> tuple[Observed, Process] | None:
    """Return the instance with its process, if its marked processes are of one start and the first may be there."""
    found = [item for item in found if not item.process.run.startswith(HOOK_RUN)]
    leaders = [item.process for item in found if item.is_leader]
    if not leaders or len({item.process.run for item in found}) != 1:
        return None
    health = resume(order.spec.worker.health, is_started=True, is_ready=False)
    return Observed(instance, order=order, process=leaders[0], is_tree_empty=False, health=health), leaders[0]


def _of_run(run: Run, found: Sequence[Found], boot_id: str) -> tuple[Observed, Process | None]:
    process = run.process or next(
        (item.process for item in found if item.is_leader and item.process.run == run.run), None
    )
    is_other_boot = process is not None and process.boot_id != boot_id
    observed = Observed(
        run.instance,
        order=run.order,
        process=process,
        is_tree_empty=is_other_boot and not found,
        failures=run.failures,
        restarts=run.restarts,
        health=resume(run.order.spec.worker.health, is_started=run.is_started, is_ready=run.is_ready),
        last_exit=run.last_exit,
    )
    word = run.state.removesuffix(OWES_POST_STOP)
    if word != run.state and not is_other_boot:
        observed = replace(observed, hooks=HookPhase(owes_post_stop=True))
    state = _ENDED.get(word)
    if state is not None:
        has_finished = state is not State.RESTARTING
        return replace(observed, state=state, has_finished=has_finished, reason="as the last agent left it"), None
    if word == IDLE or process is None:
        return observed, None
    if is_other_boot:
        last_exit = LastExit(reason="ended when the host was restarted")
        return replace(observed, process=None, failures=0, last_exit=last_exit, reason=last_exit.reason), None
    return observed, process
