"""Waits for the outcome of a change: shows the way there and returns the exit status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hsu_cluster.cli.failure import FAILED
from hsu_cluster.cli.follow import follow
from hsu_cluster.cli.render_progress import progress_line, progress_tree
from hsu_cluster.cli.session import Terminal
from hsu_cluster.cli.text import count, shown
from hsu_cluster.client.documents import AppDocument, InstanceDocument
from hsu_core.model.errors import HsuError
from hsu_core.model.ids import TargetName
from hsu_core.model.lifecycle import State
from hsu_core.model.quantity import format_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hsu_cluster.client.client import ClusterClient

GOOD_PHASES = frozenset({"healthy", "stopped"})
BAD_PHASES = frozenset({"degraded", "failed"})

PASSING_REASONS = frozenset({"Unschedulable", "NodeLost"})
SETTLE_S = 3.0
"""A degraded app whose reason may pass by itself (a node is just joining) is waited for so long."""

Instances = Sequence[InstanceDocument]


def matches(instance: InstanceDocument, target: TargetName) -> bool:
    """Return whether an instance is part of APP[/WORKER[.SLOT]]."""
    return target.worker in (None, instance["worker"]) and target.slot in (None, instance["slot"])


class HealthWait:
    """Follows an app until it is healthy or degraded: a tree on a terminal, lines on change in a pipe."""

    def __init__(self, terminal: Terminal, cluster: ClusterClient, namespace: str, app: str) -> None:
        self._terminal = terminal
        self._cluster = cluster
        self._namespace = namespace
        self._app = app
        self._last_line = ""
        self._last: AppDocument | None = None
        self._bad_since_s: float | None = None

    async def run(self, timeout_s: float) -> int:
        """Wait and return the exit status: 0 only when healthy."""
        in_time = await (self._run_live(timeout_s) if self._terminal.is_live else self._run_plain(timeout_s))
        return self._verdict(in_time, timeout_s)

    async def _read(self) -> tuple[AppDocument, bool]:
        app = await self._cluster.get_app(self._namespace, self._app)
        self._last = app
        return app, app["phase"].lower() in GOOD_PHASES or self._is_hopeless(app)

    def _is_hopeless(self, app: AppDocument) -> bool:
        if app["phase"].lower() not in BAD_PHASES:
            self._bad_since_s = None
            return False
        now_s = asyncio.get_running_loop().time()
        self._bad_since_s = now_s if self._bad_since_s is None else self._bad_since_s
        return app["reason"] not in PASSING_REASONS or now_s - self._bad_since_s >= SETTLE_S

    async def _run_plain(self, timeout_s: float) -> bool:
        async def look() -> bool:
            app, is_over = await self._read()
            line = progress_line(app)
            if line != self._last_line:
                self._last_line = line
                self._terminal.lines([line])
            return is_over

        return await follow(
            self._cluster, look, namespace=self._namespace, app=self._app, kinds=_KINDS, timeout_s=timeout_s
        )

    async def _run_live(self, timeout_s: float) -> bool:
        from rich.console import Group
        from rich.live import Live

        clock = asyncio.get_running_loop().time
        started = clock()
        with Live(console=self._terminal.output, auto_refresh=False) as live:

            async def look() -> bool:
                app, is_over = await self._read()
                instances = await self._cluster.list_instances(self._namespace, self._app)
                tree: list[RenderableType] = list(progress_tree(app, instances["items"], clock() - started))
                live.update(Group(*tree), refresh=True)
                return is_over

            return await follow(
                self._cluster, look, namespace=self._namespace, app=self._app, kinds=_KINDS, timeout_s=timeout_s
            )

    def _verdict(self, in_time: bool, timeout_s: float) -> int:
        app = self._last
        if app is not None and in_time and app["phase"].lower() in GOOD_PHASES:
            self._terminal.lines([shown(app["text"] or f"{app['app']} is {app['phase'].lower()}")])
            return 0
        told = "no master answered" if app is None else shown(app["text"] or app["reason"] or app["phase"])
        late = "" if in_time else f"not healthy after {format_duration(timeout_s)}: "
        look_again = f"hsu-cluster rollout status {self._app}" + (
            f" -n {self._namespace}" if self._namespace != "default" else ""
        )
        code = "deploy.timeout" if not in_time else "deploy.degraded"
        self._terminal.warn([f"error: cannot bring {self._app} to health: {late}{told}; see {look_again} [{code}]"])
        return FAILED


_KINDS = ("apps", "instances")


async def until_instances(
    cluster: ClusterClient, namespace: str, app: str, is_done: Callable[[Instances], bool], timeout_s: float
) -> bool:
    """Wait until the app's instances are as wanted; return False when the time is over."""

    async def look() -> bool:
        return is_done((await cluster.list_instances(namespace, app))["items"])

    return await follow(cluster, look, namespace=namespace, app=app, kinds=_KINDS, timeout_s=timeout_s)


def all_gone(target: TargetName) -> Callable[[Instances], bool]:
    """Return the condition that no instance of the target is left, but for copies on lost nodes.

    Those stop when their node is back; nobody can wait for that.
    """
    return lambda instances: (
        not any(matches(instance, target) and instance["state"] != State.UNKNOWN for instance in instances)
    )


def all_stopped(target: TargetName) -> Callable[[Instances], bool]:
    """Return the condition that no instance of the target has processes or will start by itself."""
    ended = (State.STOPPED, State.FAILED)
    return lambda instances: all(instance["state"] in ended for instance in instances if matches(instance, target))


def all_ready(target: TargetName) -> Callable[[Instances], bool]:
    """Return the condition that every instance of the target is ready."""

    def is_done(instances: Instances) -> bool:
        own = [instance for instance in instances if matches(instance, target)]
        return bool(own) and all(instance["ready"] for instance in own)

    return is_done


def all_ready_again(target: TargetName, before: Instances) -> Callable[[Instances], bool]:
    """Return the condition that what ran `before` is ready as another process."""
    old = {instance["id"]: _process(instance) for instance in before if matches(instance, target) and instance["pid"]}

    def is_done(instances: Instances) -> bool:
        now: Mapping[str, InstanceDocument] = {instance["id"]: instance for instance in instances}
        return all(
            name in now and now[name]["ready"] and _process(now[name]) != process for name, process in old.items()
        )

    return is_done


def has_replicas(target: TargetName, replicas: int) -> Callable[[Instances], bool]:
    """Return the condition that the worker has exactly so many instances, all of them ready."""

    def is_done(instances: Instances) -> bool:
        own = [instance for instance in instances if matches(instance, target)]
        return len(own) == replicas and all(instance["ready"] for instance in own)

    return is_done


def _process(instance: InstanceDocument) -> tuple[object, ...]:
    return instance["node"], instance["pid"], instance["started_at"]


def late(what: str, instances: Instances, target: TargetName, timeout_s: float) -> HsuError:
    """Return the error of a wait that ended without its condition, with what every instance waits for."""
    own = [instance for instance in instances if matches(instance, target) and not instance["ready"]]
    told = [
        f"{instance['id']} is {instance['state']}" + (f" ({instance['reason']})" if instance["reason"] else "")
        for instance in own[:3]
    ]
    more = f" and {count(len(own) - 3, 'more instance')}" if len(own) > 3 else ""
    why = f"not done after {format_duration(timeout_s)}" + (f": {', '.join(told)}{more}" if told else "")
    return HsuError(what, why, f"it goes on; see hsu-cluster describe {target.app}", code="wait.timeout")
