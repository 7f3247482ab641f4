"""Follows a rollout to its end: a live tree on a terminal, lines on change in a pipe; and its exit status."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from hsu_cluster.cli.failure import FAILED
from hsu_cluster.cli.follow import follow
from hsu_cluster.cli.render_rollout import rollout_line, rollout_tree
from hsu_cluster.cli.session import Terminal
from hsu_core.model.quantity import format_duration

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient
    from hsu_cluster.client.rollout_documents import RolloutDocument

ON_ITS_WAY = 3
"""Exit status while nothing is decided yet."""


class RolloutWait:
    """Shows one app's rollout: as a tree, or as documents where `form` is json or yaml."""

    def __init__(
        self, terminal: Terminal, cluster: ClusterClient, namespace: str, app: str, form: str = "table"
    ) -> None:
        self._terminal = terminal
        self._cluster = cluster
        self._namespace = namespace
        self._app = app
        self._form = form
        self._last: RolloutDocument | None = None
        self._last_line = ""

    async def show(self) -> int:
        """Print how far it is, and return the exit status."""
        rollout = await self._read()
        if self._form != "table":
            self._terminal.document(rollout, self._form)
            return exit_status(rollout)
        instances = (await self._cluster.list_instances(self._namespace, self._app))["items"]
        self._terminal.lines(rollout_tree(rollout, instances, time.time()))
        return exit_status(rollout)

    async def run(self, timeout_s: float) -> int:
        """Follow it until it is over or the time is."""
        is_live = self._terminal.is_live and self._form == "table"
        in_time = await (self._run_live(timeout_s) if is_live else self._run_plain(timeout_s))
        if not in_time:
            late = f"it is not over after {format_duration(timeout_s)}"
            self._terminal.warn([f"error: cannot see the end of the rollout of {self._app}: {late} [rollout.timeout]"])
        return exit_status(self._last) if self._last is not None else FAILED

    async def _read(self) -> RolloutDocument:
        self._last = await self._cluster.get_rollout(self._namespace, self._app)
        return self._last

    async def _run_plain(self, timeout_s: float) -> bool:
        async def look() -> bool:
            rollout = await self._read()
            line = rollout_line(rollout)
            if line != self._last_line:
                self._last_line = line
                if self._form == "table":
                    self._terminal.lines([line])
                else:
                    self._terminal.document(rollout, self._form, is_stream=True)
            return exit_status(rollout) != ON_ITS_WAY

        return await self._follow(look, timeout_s)

    async def _run_live(self, timeout_s: float) -> bool:
        from rich.console import Group
        from rich.live import Live

        with Live(console=self._terminal.output, auto_refresh=False) as live:

            async def look() -> bool:
                rollout = await self._read()
                instances = (await self._cluster.list_instances(self._namespace, self._app))["items"]
                live.update(Group(*rollout_tree(rollout, instances, time.time())), refresh=True)
                return exit_status(rollout) != ON_ITS_WAY

            return await self._follow(look, timeout_s)

    async def _follow(self, look: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
        return await follow(
            self._cluster,
            look,
            namespace=self._namespace,
            app=self._app,
            kinds=("apps", "instances"),
            timeout_s=timeout_s,
        )


def exit_status(rollout: RolloutDocument) -> int:
    """Return 0 for one that is over and well, 1 for one that failed, 3 for one on its way."""
    if rollout["phase"] == "Healthy":
        return 0
    has_failed = rollout["phase"] == "Degraded" or rollout["reason"] == "RolloutFailed"
    return FAILED if has_failed else ON_ITS_WAY
