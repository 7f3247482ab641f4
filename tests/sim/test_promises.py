"""Single faults with a figure: a dead host, a store that is away, clocks that jump, a rollout without any fault."""

from __future__ import annotations

from collections.abc import Callable

from hsu_core.model.ids import InstanceId
from tests.sim.options import LEADER_TTL_S, NODE_TIMES, WARM_UP_S, Decision, Options
from tests.sim.run import Result, run
from tests.sim.world import World

START_S = 2.0
"""Planning, sending, starting and reporting: more than they take."""


def _play(*decisions: Decision, look: Callable[[World], None] | None = None, nodes: int = 4, **more: object) -> Result:
    """Return a run with these decisions and no chance; `look` is called every 50 ms from the end of the warm-up on."""

    def prepare(world: World) -> None:
        def again() -> None:
            if look is not None and not world.loop.is_over:
                look(world)
                world.loop.later(0.05, again)

        world.loop.later(WARM_UP_S, again)

    options = Options(5, nodes=nodes, is_calm=True, decisions=decisions, **more)  # type: ignore[arg-type]
    result = run(options, prepare=prepare)
    assert result.violation is None, result.report()
    return result


def _after(result: Result, at_s: float, word: str) -> list[str]:
    return [line for line in result.log if float(line.split()[0]) >= at_s and f" {word} " in line]


def test_i4_what_ran_on_a_dead_host_runs_elsewhere_within_its_ttl_and_a_start() -> None:
    fall_s = WARM_UP_S + 10.0
    lacking: dict[InstanceId, float] = {}

    def look(world: World) -> None:
        for assignment in world.checks.assignments:
            if world.loop.time() > fall_s and not world.checks.alive.get(assignment.instance):
                lacking[assignment.instance] = world.loop.time() - fall_s

    _play(Decision(fall_s, "host_fall", ("node-1", 60.0)), look=look)
    assert lacking, "nothing ran there"
    assert max(lacking.values()) <= NODE_TIMES.ttl_s + 1.0 + START_S


def test_i4_with_the_leader_lost_in_the_same_moment() -> None:
    fall_s = WARM_UP_S + 10.0
    late: list[float] = []

    def look(world: World) -> None:
        if world.loop.time() > fall_s and any(not world.checks.alive.get(a.instance) for a in world.checks.assignments):
            late.append(world.loop.time() - fall_s)

    both = Decision(fall_s, "host_fall", ("node-1", 80.0)), Decision(fall_s, "master_stop", ("leader", 60.0))
    _play(*both, look=look)
    assert late
    assert max(late) <= LEADER_TTL_S + 1.0 + NODE_TIMES.ttl_s + 1.0 + START_S


def test_i16_an_hour_without_the_store_starts_and_ends_nothing() -> None:
    outage = Decision(WARM_UP_S + 5.0, "store_outage", (3600.0,))
    killed = Decision(WARM_UP_S + 1800.0, "kill_workers", ("node-1", 1.0))
    result = _play(outage, killed, fault_phase_s=3700.0)
    strict = [line for line in _after(result, WARM_UP_S, "exit") if "bank/" in line]
    ended = [line for line in _after(result, WARM_UP_S, "exit") if "bank/" not in line]
    assert all("killed by somebody" in line for line in ended)
    started = [line for line in _after(result, WARM_UP_S, "spawn") if "bank/" not in line]
    assert len(started) == len(ended), "what was killed is started again here, and nothing else is"
    assert all("fenced" in line or "killed by somebody" in line for line in strict)


def test_i14_clocks_that_jump_end_start_and_move_nothing() -> None:
    jumps = [
        Decision(WARM_UP_S + 2.0 + number, "clock", (name, jump_s))
        for number, (name, jump_s) in enumerate(
            [
                ("leader", 3600.0),
                ("node-1", -3e8),
                ("node-2", 3e8),
                ("leader", -3e8),
                ("master-1", 3e8),
                ("node-3", 1.0),
            ]
        )
    ]
    result = _play(*jumps, fault_phase_s=60.0)
    assert not _after(result, WARM_UP_S, "exit") + _after(result, WARM_UP_S, "spawn")
    assert not [line for line in _after(result, WARM_UP_S, "commits") if "/assignments/" in line]


def test_i17_losing_most_nodes_together_moves_nothing() -> None:
    cuts = [Decision(WARM_UP_S + 5.0, "cut_node", (f"node-{number}", "both", 30.0)) for number in range(1, 5)]
    result = _play(*cuts, nodes=6, fault_phase_s=60.0)
    assert result.reached["the brake holds"]
    moved = [line for line in _after(result, WARM_UP_S, "commits") if "/assignments/default/shop" in line]
    assert not moved


def test_i7_a_rollout_without_faults_stays_above_its_floor_and_below_its_ceiling() -> None:
    counts: set[int] = set()

    def look(world: World) -> None:
        web = [found for each, here in world.checks.alive.items() if each.worker == "web" for _, found in here]
        counts.add(sum(not found.is_signalled for found in web))

    _play(Decision(WARM_UP_S + 2.0, "deploy", (2, 0)), look=look)
    assert min(counts) >= 3, "four instances, a quarter of them may be away"
    assert max(counts) <= 5, "and a quarter may be beside them"
