"""What must hold of every plan, over generated histories: safety, liveness, determinism."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hsu_cluster.planning.intents import deploy, restart, scale, start, stop
from hsu_cluster.planning.reconcile import reconcile
from hsu_cluster.planning.rollout_math import fenceposts
from hsu_core.model.ids import TargetName
from hsu_core.model.node import NodeIntent, NodeState
from hsu_core.model.spec import Guarantee, PlacementSpec, WorkerSpec
from hsu_core.model.view import ClusterView
from tests.planning.simulation import Cluster
from tests.support.builders import SHOP, make_node, make_revision, make_worker

Key = TypeVar("Key")
Value = TypeVar("Value")

QUICK = settings(
    max_examples=60,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
OPERATIONS = (
    *("deploy", "deploy", "scale", "stop", "start", "restart", "restart-slot", "remove-app"),
    *("lose", "return", "leave", "remove", "add", "drain", "cordon", "release"),
    *("act", "act", "report", "report", "tick", "tick", "tick", "plan", "plan", "plan", "plan", "plan"),
)
# Hypothesis draws lists hardly longer than `min_size`: a history has to be long to get anywhere.
EVENTS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 7), st.integers(0, 1000)), min_size=40, max_size=80
)
ROLLING_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *("deploy", "same", "broken", "restart", "drain", "release"),
                *("act", "act", "report", "tick", "tick", "tick", "plan", "plan", "plan", "plan"),
            )
        ),
        st.integers(0, 3),
        st.just(0),
    ),
    min_size=40,
    max_size=80,
)


def _specs(choice: int) -> list[WorkerSpec]:
    """Return three workers whose shape depends on `choice`."""
    rng = random.Random(choice)
    return [
        make_worker(
            "db",
            rng.randint(0, 2),
            cpu=rng.choice((0, 300)),
            ports={"sql": rng.choice((5432, 5433))},
            guarantee=Guarantee.STRICT,
            strategy=rng.choice(("rolling", "recreate")),
        ),
        make_worker(
            "web",
            rng.randint(1, 4),
            cpu=rng.choice((0, 200, 900)),
            memory_mib=rng.choice((0, 100, 700)),
            ports=rng.choice(({"http": 0}, {"http": 0, "admin": 0}, {})),
            placement=PlacementSpec(
                max_per_node=rng.choice((0, 1, 2)),
                spread=rng.choice(((), ("zone",))),
                strategy=rng.choice(("spread", "binpack")),
                anti_affinity=rng.choice(((), ("job",))),
            ),
            max_unavailable=rng.choice((1, 2, "25%", "100%")),
            depends_on=rng.choice(((), ("db",))),
        ),
        make_worker("job", rng.randint(0, 3), memory_mib=300, is_enabled=rng.random() > 0.2),
    ]


def _new_cluster(count: int = 4) -> Cluster:
    nodes = [
        make_node(f"n{number}", cpu=1000, memory_mib=1024, ports=(20000, 20005), zone="ab"[number % 2])
        for number in range(count)
    ]
    return Cluster(nodes)


def _deploy(cluster: Cluster, specs: list[WorkerSpec], seed: int) -> None:
    number = max((number for _, number in cluster.revisions), default=0) + 1
    hashes = {spec.id: f"s{(seed // (index + 1)) % 3}" for index, spec in enumerate(specs)}
    for spec in specs:  # a worker's ports are in its hash, as in real life: changed ports restart it
        hashes[spec.id] += f"-{spec.ports}"
    revision = make_revision(number, *specs, hashes=hashes)
    cluster.revisions[SHOP, number] = revision
    cluster.apps[SHOP] = deploy(cluster.apps.get(SHOP), revision)
    cluster.touch()


def _happen(cluster: Cluster, event: tuple[str, int, int]) -> None:
    """Make one event happen; one that makes no sense now does nothing."""
    name, index, seed = event
    names = sorted(cluster.nodes)
    node = names[index % len(names)] if names else ""
    record = cluster.apps.get(SHOP)
    spec = cluster.revisions[SHOP, record.revision].spec if record else None
    worker = ("db", "web", "job")[seed % 3]
    match name:
        case "deploy":
            _deploy(cluster, _specs(seed), seed)
        case "scale" if record and spec:
            cluster.apps[SHOP] = scale(record, spec, worker, index % 6)
        case "stop" if record and spec:
            cluster.apps[SHOP] = stop(record, spec, TargetName("shop", worker))
        case "start" if record and spec:
            cluster.apps[SHOP] = start(record, spec, TargetName("shop"))
        case "restart" if record and spec and not record.intent(worker).is_stopped:
            cluster.apps[SHOP] = restart(record, spec, TargetName("shop", worker))
        case "restart-slot" if record and spec and spec.workers[1].replicas > index:
            if record.intent("web").replicas is None and not record.intent("web").wants_stopped(index):
                cluster.apps[SHOP] = restart(record, spec, TargetName("shop", "web", index))
        case "lose" if node:
            cluster.set_state(node, NodeState.LOST)
        case "leave" if node and cluster.nodes[node].state is NodeState.READY:
            cluster.set_state(node, NodeState.LEFT)
        case "return" if node:
            cluster.set_state(node, NodeState.READY)
        case "remove" if len(names) > 1 and node:
            cluster.remove_node(node)
        case "add" if len(names) < 6:
            added = make_node(f"m{cluster.revision}", cpu=1000, memory_mib=1024, ports=(20000, 20005), zone="c")
            cluster.nodes[added.name] = added
        case "drain" if node:
            cluster.node_intents[node] = NodeIntent(node, is_draining=True)
        case "cordon" if node:
            cluster.node_intents[node] = NodeIntent(node, is_cordoned=True)
        case "release":
            cluster.node_intents.clear()
        case "remove-app":
            cluster.apps.clear()
        case "act" if node:
            cluster.act(node)
        case "report" if node:
            cluster.report(node)
        case "tick":
            for other in names:
                cluster.act(other)
                cluster.report(other)
        case "plan":
            cluster.plan_and_apply()
    cluster.touch()


@QUICK
@given(EVENTS)
def test_no_plan_of_any_history_breaks_a_limit_or_doubles_a_strict_slot(
    events: list[tuple[str, int, int]],
) -> None:
    cluster = _new_cluster()
    _deploy(cluster, _specs(1), 1)
    for event in events:
        _happen(cluster, event)
        cluster.check_strict()


@QUICK
@given(EVENTS)
def test_after_any_history_a_healed_cluster_becomes_what_was_asked_and_rests(
    events: list[tuple[str, int, int]],
) -> None:
    cluster = _new_cluster()
    _deploy(cluster, _specs(1), 1)
    for event in events:
        _happen(cluster, event)
    cluster.node_intents.clear()
    for name in cluster.nodes:
        cluster.set_state(name, NodeState.READY)
    for number in range(8):  # room for everything that was asked for
        cluster.nodes[f"r{number}"] = make_node(f"r{number}", cpu=9000, memory_mib=9000, zone="r")
    if record := cluster.apps.get(SHOP):
        cluster.apps[SHOP] = start(record, cluster.revisions[SHOP, record.revision].spec, TargetName("shop"))
    last = cluster.settle(rounds=120)
    assert last.actions == ()
    record = cluster.apps.get(SHOP)
    wanted: set[str] = set()
    if record is not None:
        spec = cluster.revisions[SHOP, record.revision].spec
        counts = {worker.id: record.intent(worker.id).replicas for worker in spec.workers if worker.is_enabled}
        sizes = {
            worker.id: worker.replicas if counts[worker.id] is None else counts[worker.id]
            for worker in spec.workers
            if worker.id in counts
        }
        if sizes["db"] == 0 and "db" in spec.workers[1].depends_on:
            return  # web may wait for ever for a worker that was scaled to nothing: said in `waiting`
        wanted = {f"shop/{name}.{slot}" for name, size in sizes.items() for slot in range(size or 0)}
    assert last.waiting == ()
    assert {str(instance) for instance, _ in cluster.processes} == wanted
    assert all(process.is_ready for process in cluster.processes.values())


@QUICK
@given(
    replicas=st.integers(1, 6),
    unavailable=st.sampled_from([0, 1, 2, "25%", "50%"]),
    events=ROLLING_EVENTS,
    min_healthy_s=st.sampled_from([0.0, 2.0]),
)
def test_ready_instances_never_fall_below_the_floor_while_revisions_roll_and_nodes_drain(
    replicas: int, unavailable: int | str, events: list[tuple[str, int, int]], min_healthy_s: float
) -> None:
    cluster = _new_cluster()
    spec = make_worker("web", replicas, max_unavailable=unavailable, ports=("http",), min_healthy_s=min_healthy_s)
    number = 1
    cluster.revisions[SHOP, 1] = make_revision(1, spec)
    cluster.apps[SHOP] = deploy(None, cluster.revisions[SHOP, 1])
    cluster.settle(rounds=40)
    floor = replicas - fenceposts(spec.rollout, replicas)[1]
    assert cluster.ready_count("web") == replicas
    for name, index, _ in events:
        cluster.now_s += 0.5
        if name in ("deploy", "same", "broken"):
            number += 1
            before = dict(cluster.revisions[SHOP, number - 1].spec_hashes)["web"]
            spec_hash = before if name == "same" else f"{name}-{number}"
            if name == "broken":
                cluster.broken_hashes.add(spec_hash)
            cluster.revisions[SHOP, number] = make_revision(number, spec, hashes={"web": spec_hash})
            cluster.apps[SHOP] = deploy(cluster.apps[SHOP], cluster.revisions[SHOP, number])
        elif name == "restart":
            revision = cluster.revisions[SHOP, number]
            cluster.apps[SHOP] = restart(cluster.apps[SHOP], revision.spec, TargetName("shop", "web"))
        elif name == "plan":
            cluster.plan_and_apply()
        else:
            _happen(cluster, (name, index, 0))
        cluster.touch()
        assert cluster.ready_count("web") >= floor


@QUICK
@given(EVENTS, st.randoms(use_true_random=False))
def test_the_same_view_gives_the_same_plan_in_whatever_order_it_is_held(
    events: list[tuple[str, int, int]], rng: random.Random
) -> None:
    cluster = _new_cluster()
    _deploy(cluster, _specs(1), 1)
    for event in events:
        _happen(cluster, event)
    view = cluster.view()
    plan = reconcile(view, cluster.now_s)
    assert reconcile(view, cluster.now_s) == plan
    assert reconcile(_shuffled(view, rng), cluster.now_s) == plan


def _shuffled(view: ClusterView, rng: random.Random) -> ClusterView:
    def shuffle(mapping: dict[Key, Value]) -> dict[Key, Value]:
        items = list(mapping.items())
        rng.shuffle(items)
        return dict(items)

    return replace(
        view,
        apps=shuffle(dict(view.apps)),
        revisions=shuffle(dict(view.revisions)),
        assignments=shuffle(dict(view.assignments)),
        statuses=shuffle(dict(view.statuses)),
        nodes=shuffle(dict(view.nodes)),
        node_intents=shuffle(dict(view.node_intents)),
    )
