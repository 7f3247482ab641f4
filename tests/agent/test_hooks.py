"""Hooks: the rows of the plan as data, and each hook on real processes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hsu_agent.planning import hook_changes, reconcile
from hsu_agent.planning import observed as changes
from hsu_agent.planning.observed import Desired, Observed, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.hooks import HookName, HookSpec, HooksSpec
from hsu_core.model.lifecycle import State
from hsu_core.model.spec import RestartPolicy, RestartSpec, StopSpec
from tests.agent.harness import AgentProcess, instance, is_running, marked_pids, order, shell, status_where
from tests.agent.test_end_to_end import play
from tests.support.fake_master import FakeMaster
from tests.support.waiting import eventually

WEB = instance()


def hook(code: str, timeout_s: float = 30.0) -> HookSpec:
    """Return a hook that runs shell code."""
    return HookSpec(shell(code), timeout_s)


def desired(hooks: HooksSpec) -> Desired:
    """Return an order with hooks."""
    assignment, spec = order("sleep", "1", hooks=hooks)
    return Desired(assignment, spec)


class Walk:
    """Plays the shell: applies what is planned, in the order in which it is planned."""

    def __init__(self, wanted: Desired) -> None:
        self.wanted: Desired | None = wanted
        self.observed: Observed | None = None
        self.done: list[str] = []
        self.now_s = 0.0

    def settle(self, passing: bool = True) -> None:
        """Apply actions until there are none; hooks end at once."""
        for _ in range(30):
            step = reconcile.plan_instance(WEB, self.wanted, self.observed, self.now_s)
            if not step.actions:
                return
            for action in step.actions:
                self.apply(action, passing)
        raise AssertionError(f"goes in circles: {self.done}")

    def apply(self, action: reconcile.Action, passing: bool) -> None:
        """Apply one action."""
        now_s, seen = self.now_s, self.observed
        if isinstance(action, reconcile.Register):
            self.observed = Observed(WEB)
            return
        assert seen is not None
        match action:
            case reconcile.RunHook():
                self.done.append(str(action.name))
                begun = hook_changes.begun(seen, action.name, action.order)
                if passing or action.name is not HookName.PRE_START:
                    self.observed = hook_changes.passed(begun, action.name)
                else:
                    self.observed = hook_changes.not_prepared(begun, action.order, "no", now_s, 0.0, 0.5)
            case reconcile.Spawn():
                self.done.append("spawn")
                self.observed = changes.spawned(seen, action.order, Process(1, 1, "b"), now_s, 0.0)
            case reconcile.SignalStop():
                self.done.append("signal")
                self.observed = changes.stop_sent(seen, action.event, now_s + action.grace_s, now_s, 0.5, 0.0)
            case reconcile.BeginStop():
                self.done.append("pre_stop")
                sent = changes.stop_sent(seen, action.event, now_s + action.grace_s, now_s, 0.5, 0.0)
                self.observed = hook_changes.passed(hook_changes.stop_begun(sent, action.signal), HookName.PRE_STOP)
            case reconcile.SendSignal():
                self.done.append("signal")
                self.observed = hook_changes.signalled(seen)
            case reconcile.KillTree():
                self.observed = changes.tree_empty(changes.killing(seen), 0.0)
            case reconcile.Settle():
                self.observed = changes.settled(seen, action.event, 0.0)
            case reconcile.Forget():
                self.done.append("forget")
                self.observed = None
            case _:
                raise AssertionError(action)

    def end(self) -> None:
        """End the process."""
        assert self.observed is not None
        self.observed = changes.exited(self.observed, LastExit(code=0, at=0.0), self.now_s, 0.5)


@st.composite
def any_hooks(draw: st.DrawFn) -> HooksSpec:
    """Return hooks, any of them absent."""
    return HooksSpec(*[draw(st.sampled_from([None, HookSpec(("true",))])) for _ in HookName])


@given(hooks=any_hooks())
def test_every_hook_runs_once_and_in_its_place(hooks: HooksSpec) -> None:
    walk = Walk(desired(hooks))
    walk.settle()
    walk.wanted = None
    walk.settle()
    walk.end()
    walk.settle()
    order_of_all = ["pre_start", "spawn", "post_start", "pre_stop", "signal", "post_stop", "forget"]
    absent = {str(name) for name in HookName if hooks.get(name) is None}
    assert walk.done == [step for step in order_of_all if step not in absent]


@given(hooks=any_hooks())
def test_a_restart_has_post_stop_before_the_next_pre_start(hooks: HooksSpec) -> None:
    walk = Walk(desired(hooks))
    walk.settle()
    walk.done.clear()
    walk.end()
    walk.settle()
    absent = {str(name) for name in HookName if hooks.get(name) is None}
    assert walk.done == [step for step in ("post_stop", "pre_start", "spawn", "post_start") if step not in absent]


def test_a_worker_without_hooks_takes_the_plain_path() -> None:
    walk = Walk(desired(HooksSpec()))
    walk.settle()
    walk.wanted = None
    walk.settle()
    walk.end()
    walk.settle()
    assert walk.done == ["spawn", "signal", "forget"]


def test_a_pre_start_that_fails_is_a_failed_start_that_backs_off() -> None:
    walk = Walk(desired(HooksSpec(pre_start=HookSpec(("false",)))))
    walk.settle(passing=False)
    assert walk.done == ["pre_start"]
    assert walk.observed is not None
    assert (walk.observed.state, walk.observed.failures) == (State.RESTARTING, 1)
    assert walk.observed.next_start_s > 0
    walk.now_s = walk.observed.next_start_s
    walk.settle()
    assert walk.done == ["pre_start", "pre_start", "spawn"]


def test_a_pre_start_for_another_order_is_ended_and_run_anew() -> None:
    wanted = desired(HooksSpec(pre_start=HookSpec(("true",))))
    begun = hook_changes.begun(Observed(WEB), HookName.PRE_START, wanted)
    assert reconcile.plan_instance(WEB, wanted, begun, 0.0).actions == ()
    other = replace(wanted, assignment=replace(wanted.assignment, spec_hash="other"))
    for changed in (other, None):
        assert reconcile.plan_instance(WEB, changed, begun, 0.0).actions == (reconcile.EndHook(WEB),)
    cut = hook_changes.cut_short(begun)
    assert reconcile.plan_instance(WEB, other, cut, 0.0).actions == (reconcile.KillTree(WEB),)


def test_all_hooks_on_real_processes(tmp_path: Path, agents: list[AgentProcess]) -> None:
    out = tmp_path / "out"
    mark = "echo {} $HSU_SLOT >> " + str(out)
    hooks = HooksSpec(
        hook(mark.format("pre_start")),
        hook(f"while ! grep -q worker {out}; do :; done; " + mark.format("post_start")),
        hook(mark.format("pre_stop") + "; echo from the hook"),
        hook(mark.format("post_stop")),
    )
    code = f"trap 'echo term >> {out}; exit 0' TERM; echo worker >> {out}; while :; do sleep 0.05; done"

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order(*shell(code), hooks=hooks))
        await status_where(master, WEB, state=State.RUNNING)
        await eventually(lambda: "post_start" in out.read_text())
        await master.drop(WEB)
        await eventually(lambda: WEB in master.gone)
        said = out.read_text().split("\n")
        assert said == ["pre_start 0", "worker", "post_start 0", "pre_stop 0", "term", "post_stop 0", ""]
        assert not marked_pids(agent.identity())

    play(tmp_path, agents, scenario)


def test_a_failing_pre_start_says_why_and_starts_nothing(tmp_path: Path, agents: list[AgentProcess]) -> None:
    flag = tmp_path / "flag"
    hooks = HooksSpec(pre_start=hook(f"test -e {flag} && exit 0; echo first; echo no database >&2; exit 3"))

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000", hooks=hooks))
        status = await status_where(master, WEB, state=State.RESTARTING)
        assert status.reason.startswith("pre_start failed: ended with code 3: no database; next try in ")
        flag.touch()
        await status_where(master, WEB, state=State.RUNNING)

    play(tmp_path, agents, scenario)


def test_a_pre_start_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, agents: list[AgentProcess]) -> None:
    pids = tmp_path / "pids"
    code = f"setsid sleep 1000 & echo $! >> {pids}; sleep 1000 & echo $! >> {pids}; wait"
    slow = RestartSpec(RestartPolicy.ALWAYS, base_s=60.0)

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000", hooks=HooksSpec(pre_start=hook(code, 0.5)), restart=slow))
        status = await status_where(master, WEB, state=State.RESTARTING, has_processes=False)
        assert "was ended after its timeout of 0.5 s" in status.reason
        await eventually(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()))

    play(tmp_path, agents, scenario)


def test_a_failing_post_start_restarts_the_worker(tmp_path: Path, agents: list[AgentProcess]) -> None:
    hooks = HooksSpec(post_start=hook("echo not announced >&2; exit 1"))

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        never = RestartSpec(RestartPolicy.NEVER)
        await master.put(order("sleep", "1000", hooks=hooks, restart=never))
        status = await status_where(master, WEB, state=State.FAILED)
        assert status.reason == "post_start failed: ended with code 1: not announced"

    play(tmp_path, agents, scenario)


def test_a_pre_stop_that_hangs_is_bounded_by_the_grace(tmp_path: Path, agents: list[AgentProcess]) -> None:
    hooks = HooksSpec(pre_stop=hook("sleep 1000"))

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000", hooks=hooks, stop=StopSpec(grace_s=0.5)))
        await status_where(master, WEB, state=State.RUNNING)
        await master.drop(WEB)
        await eventually(lambda: WEB in master.gone, within_s=10)
        assert not marked_pids(agent.identity())

    play(tmp_path, agents, scenario)


def test_an_agent_killed_during_pre_start_leaves_it_to_the_next(tmp_path: Path, agents: list[AgentProcess]) -> None:
    out, flag = tmp_path / "out", tmp_path / "flag"
    code = f"echo $$ >> {out}; while ! test -e {flag}; do sleep 0.05; done"

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        await master.put(order("sleep", "1000", hooks=HooksSpec(pre_start=hook(code))))
        await eventually(lambda: out.exists() and out.read_text())
        os.kill(agent.agent_pid(), signal.SIGKILL)
        await eventually(lambda: len(out.read_text().split()) == 2)
        first, second = map(int, out.read_text().split())
        assert not is_running(first)
        assert is_running(second)
        flag.touch()
        await status_where(master, WEB, state=State.RUNNING)
        assert len(out.read_text().split()) == 2

    play(tmp_path, agents, scenario)


def test_a_post_stop_missed_by_a_killed_agent_is_run_by_the_next(tmp_path: Path, agents: list[AgentProcess]) -> None:
    out, flag = tmp_path / "out", tmp_path / "flag"
    post_stop = hook(f"echo begun >> {out}; while ! test -e {flag}; do sleep 0.05; done; echo ended >> {out}")

    async def scenario(master: FakeMaster, agent: AgentProcess) -> None:
        restart = RestartSpec(RestartPolicy.NEVER)
        await master.put(order("true", hooks=HooksSpec(post_stop=post_stop), restart=restart))
        await eventually(lambda: out.exists() and "begun" in out.read_text())
        os.kill(agent.agent_pid(), signal.SIGKILL)
        await eventually(lambda: out.read_text().count("begun") == 2)
        flag.touch()
        status = await status_where(master, WEB, state=State.STOPPED, has_processes=False)
        assert status.last_exit is not None
        assert status.last_exit.code == 0
        assert "ended" in out.read_text()

    play(tmp_path, agents, scenario)
