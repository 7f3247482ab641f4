"""The app shop in a small cluster, for tests of rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hsu_cluster.planning.intents import deploy
from hsu_cluster.planning.rollout_begin import rollout_of
from hsu_core.model.analysis import Verdict
from hsu_core.model.rollout import Rollout
from hsu_core.model.routes import HaproxyProvider, RouteSpec, RouteState
from hsu_core.model.spec import WorkerSpec
from tests.planning.simulation import Cluster
from tests.support.builders import SHOP, make_node, make_revision, make_worker


class Shop:
    """A cluster with the app shop in its first revision, all of it available."""

    def __init__(self, *workers: WorkerSpec, is_routed: bool = False, nodes: int = 3) -> None:
        self.cluster = Cluster([make_node(f"n{number}", cpu=8000) for number in range(nodes)])
        self.is_routed = is_routed
        self.number = 0
        self.deploy(*workers)
        self.until(lambda rollout: rollout.is_over)

    def deploy(self, *workers: WorkerSpec, hashes: dict[str, str] | None = None, is_broken: str = "") -> None:
        """Deploy the next revision: a worker's hash is that of the revision unless `hashes` says otherwise."""
        self.number += 1
        given = {worker.id: f"s{self.number}" for worker in workers} | (hashes or {})
        revision = make_revision(self.number, *workers, hashes=given)
        if self.is_routed:
            routes = tuple(
                RouteSpec(worker.id, worker.id, "http", HaproxyProvider(("127.0.0.1:1",), worker.id))
                for worker in workers
            )
            revision = replace(revision, spec=replace(revision.spec, routes=routes))
        getattr(self.cluster, f"{is_broken or 'broken'}_hashes").update(given.values() if is_broken else ())
        self.cluster.revisions[SHOP, self.number] = revision
        self.cluster.apps[SHOP] = deploy(self.cluster.apps.get(SHOP), revision)
        self.cluster.touch()

    @property
    def rollout(self) -> Rollout:
        """Return the rollout of the present revision."""
        view = self.cluster.view()
        return rollout_of(view, view.apps[SHOP], self.cluster.now_s)

    def ask(self, edit: Callable[..., Any], *arguments: Any) -> None:
        """Ask something of the rollout."""
        self.cluster.apps[SHOP] = edit(self.cluster.apps[SHOP], self.rollout, *arguments)
        self.cluster.touch()

    def step(self) -> None:
        """Let everybody act once; routes, if there are any, confirm what the plan says."""
        plan = self.cluster.step_all()
        if self.is_routed:
            for (app, worker), percent in plan.weights.items():
                self.cluster.routes[app, worker] = RouteState(app, worker, weights=(("canary", percent),))
            self.cluster.touch()

    def until(self, is_there: Callable[[Rollout], bool], limit: int = 120) -> Rollout:
        """Step until the rollout is where it should be."""
        for _ in range(limit):
            self.step()
            if is_there(self.rollout):
                return self.rollout
        raise AssertionError(f"not there after {limit} steps: {self.rollout}")

    def revisions(self, worker: str = "web") -> dict[int, int]:
        """Return how many instances of a worker are assigned to each revision."""
        found: dict[int, int] = {}
        for assignment in self.cluster.assignments.values():
            if assignment.instance.worker == worker:
                found[assignment.revision] = found.get(assignment.revision, 0) + 1
        return found

    def slots(self, worker: str = "web") -> list[int]:
        """Return the slots of a worker."""
        return sorted(instance.slot for instance in self.cluster.assignments if instance.worker == worker)

    def codes(self) -> list[str]:
        """Return the codes of the events since the first revision."""
        return [code for code, _ in self.cluster.events][2:]


def web(replicas: int = 4, strategy: str = "rolling", **rule: Any) -> WorkerSpec:
    """Return a worker with a dynamic port; `rule` is of its rollout, surge one."""
    return make_worker(
        "web", replicas, ports=("http",), strategy=strategy, rollout={"max_surge": 1, **rule}, max_unavailable=0
    )


def is_over(rollout: Rollout) -> bool:
    """Return whether it has ended."""
    return rollout.is_over


def waits_for(text: str) -> Callable[[Rollout], bool]:
    """Return the condition that some worker waits for this."""
    return lambda rollout: any(text in part.waits_for for part in rollout.workers)


def judge(shop: Shop, place: str, verdict: Verdict) -> None:
    """Let the run at this place end with a verdict."""
    for key, run in shop.cluster.runs.items():
        if f"-{place}-" in run.id:
            shop.cluster.runs[key] = replace(run, verdict=verdict, finished_at=shop.cluster.now_s)
    shop.cluster.touch()
