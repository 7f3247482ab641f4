"""Follows a drain or a rebalance to its end: a line whenever something changes, and how it ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hsu_cluster.cli.follow import follow
from hsu_cluster.cli.render_drain import drain_text, move_text, progress_line
from hsu_cluster.cli.session import Terminal
from hsu_cluster.cli.text import count, shown
from hsu_cluster.client.documents import NodeDocument
from hsu_cluster.client.node_documents import RebalanceDocument
from hsu_core.model.errors import HsuError
from hsu_core.model.quantity import format_duration

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

EVENTS_READ = 500
"""The last events, in which those of force are looked for."""


class DrainWait:
    """Waits until nothing is left on a node; `begun`: the answer to the drain."""

    def __init__(self, terminal: Terminal, cluster: ClusterClient, begun: NodeDocument) -> None:
        self._terminal = terminal
        self._cluster = cluster
        self._node = begun["name"]
        self._since = begun["revision"]
        self._last: NodeDocument = begun
        self._last_line = ""

    async def run(self, timeout_s: float) -> int:
        """Wait and return the exit status. Raises HsuError when the time is over or somebody cancelled the drain."""
        try:
            in_time = await follow(self._cluster, self._look, kinds=("nodes", "instances"), timeout_s=timeout_s)
        except asyncio.CancelledError:
            self._terminal.warn(
                [
                    f"the drain of node {shown(self._node)} goes on; stop it with "
                    f"`hsu-cluster node drain {shown(self._node)} --cancel`"
                ]
            )
            raise
        drain = self._last["drain"]
        if drain is None:
            raise HsuError(
                f"drain {self._node}", "somebody has cancelled it", "drain it again", code="wait.drain-cancelled"
            )
        if not in_time:
            waits = f": {drain['waits'][0]}" if drain["waits"] else ""
            raise HsuError(
                f"drain {self._node}",
                f"{drain_text(drain)} after {format_duration(timeout_s)}{waits}",
                f"it goes on; see hsu-cluster describe node/{self._node}, or give it a --deadline",
                code="wait.timeout",
            )
        self._terminal.lines([await self._outcome()])
        return 0

    async def _look(self) -> bool:
        self._last = await self._cluster.get_node(self._node)
        drain = self._last["drain"]
        if drain is None:
            return True
        is_over = not drain["assigned"] and not drain["stopping"]
        line = progress_line(drain)
        if not is_over and line != self._last_line:
            self._last_line = line
            self._terminal.lines([line])
        return is_over

    async def _outcome(self) -> str:
        events = (await self._cluster.events(limit=EVENTS_READ))["items"]
        forced = [
            event
            for event in events
            if event["code"] == "DrainForced" and event["node"] == self._node and event["revision"] > self._since
        ]
        if not forced:
            return "done"
        return f"done: {count(len(forced), 'instance')} taken off by force; see hsu-cluster describe node/{self._node}"


class RebalanceWait:
    """Waits until a rebalance is over; each move is shown when it begins."""

    def __init__(self, terminal: Terminal, cluster: ClusterClient, name: str) -> None:
        self._terminal = terminal
        self._cluster = cluster
        self._name = name
        self._last: RebalanceDocument | None = None
        self._shown: set[str] = set()

    async def run(self, timeout_s: float) -> int:
        """Wait and return the exit status: 0 when it is done. Raises HsuError when it was ended or takes too long."""
        what = "rebalance"
        try:
            in_time = await follow(self._cluster, self._look, kinds=("nodes",), timeout_s=timeout_s)
        except asyncio.CancelledError:
            self._terminal.warn(["the rebalance goes on; stop it with `hsu-cluster node rebalance --cancel`"])
            raise
        found = self._last
        if not in_time or found is None:
            told = found["text"] if found is not None else "no master answered"
            why = f"it is not over after {format_duration(timeout_s)}: {told}"
            fix = "it goes on; see hsu-cluster node rebalance --status"
            raise HsuError(what, why, fix, code="wait.timeout")
        if found["id"] != self._name or found["phase"] == "Cancelled":
            told = found["text"] if found["id"] == self._name else "another one has begun"
            raise HsuError(what, told, "ask for it again", code="wait.rebalance-cancelled")
        self._terminal.lines([shown(found["text"])])
        return 0

    async def _look(self) -> bool:
        self._last = found = await self._cluster.get_rebalance()
        if found["id"] != self._name:
            return True
        for move in found["moves"]:
            if move["id"] not in self._shown:
                self._shown.add(move["id"])
                self._terminal.lines([move_text(move)])
        return found["phase"] in ("Done", "Cancelled")
