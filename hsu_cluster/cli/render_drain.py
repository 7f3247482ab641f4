"""Drains and rebalances in words: how far one is, what it waits for, what one would do. Pure."""

from __future__ import annotations

from rich.text import Text

from hsu_cluster.cli.text import count, shown
from hsu_cluster.client.documents import NodeDocument
from hsu_cluster.client.node_documents import (
    DrainDocument,
    DrainPlanDocument,
    MoveDocument,
    RebalanceDocument,
    RebalancePlanDocument,
)
from hsu_core.model.quantity import format_duration


def drain_text(drain: DrainDocument) -> str:
    """Return how far a drain is: `3 instances left, 1 instance still stopping`."""
    parts = [f"{count(drain['assigned'], 'instance')} left"] if drain["assigned"] else []
    parts += [f"{count(drain['stopping'], 'instance')} still stopping"] if drain["stopping"] else []
    return ", ".join(parts) or "nothing is left"


def drain_lines(node: NodeDocument, now: float) -> list[Text]:
    """Return how far the drain of a node is, by when, and what it waits for; nothing if nobody drains it."""
    drain = node.get("drain")
    if drain is None:
        return []
    lines = [drain_text(drain)]
    if drain["assigned"] and not drain["forced"] and drain["deadline_at"] is not None:
        left_s = max(0.0, float(int(drain["deadline_at"] - now)))
        lines.append(f"what is left is taken off in {format_duration(left_s)}")
    return [Text(line) for line in [*lines, *map(shown, drain["waits"])]]


def progress_line(drain: DrainDocument) -> str:
    """Return one line of a wait: how far it is, and the first thing that it waits for."""
    more = f" (and {len(drain['waits']) - 1} more)" if len(drain["waits"]) > 1 else ""
    waits = f": {shown(drain['waits'][0])}{more}" if drain["waits"] else ""
    return drain_text(drain) + waits


def drain_plan_lines(plan: DrainPlanDocument) -> list[Text]:
    """Return what a drain would do: where each instance goes, why others stay, and how few stay ready meanwhile."""
    found = plan["instances"]
    if not found:
        return [Text(f"nothing runs on node {shown(plan['node'])}")]
    leaving = sum(one["leaves"] for one in found)
    lines = [Text(f"{leaving} of {count(len(found), 'instance')} would leave node {shown(plan['node'])}")]
    for one in found:
        where = f"to {one['node']}" if one["leaves"] and one["node"] else "is stopped" if one["leaves"] else "stays"
        why = f": {shown(one['reason'])}" if one["reason"] else ""
        is_told = one["reason"].startswith(f"{one['id']} ")
        lines.append(Text(f"  {shown(one['reason'])}" if is_told else f"  {shown(one['id'])} {shown(where)}{why}"))
    for worker in plan["workers"]:
        lowest, ready = worker["lowest_ready"], worker["ready"]
        kept = f"all {ready} stay ready" if lowest >= ready else f"at least {lowest} of {ready} stay ready"
        lines.append(Text(f"{shown(worker['id'])}: {kept}"))
    return lines


def move_text(move: MoveDocument) -> str:
    """Return `shop/web.2 from node-a to node-c: 3 copies on node-a, 0 on node-c`."""
    why = f": {shown(move['reason'])}" if move["reason"] else ""
    return f"{shown(move['id'])} from {shown(move['source'])} to {shown(move['target'])}{why}"


def rebalance_plan_lines(plan: RebalancePlanDocument) -> list[Text]:
    """Return the moves of a plan, and how many instances the nodes have before and after them."""
    if not plan["moves"]:
        return [Text("no move would make it better by a clear margin")]
    lines = [Text(f"{count(len(plan['moves']), 'instance')} would move")]
    lines += [Text(f"  {move_text(move)}") for move in plan["moves"]]
    for node in plan["nodes"]:
        lines.append(Text(f"{shown(node['node'])}: {count(node['before'], 'instance')}, then {node['after']}"))
    return lines


def rebalance_lines(found: RebalanceDocument) -> list[Text]:
    """Return how far a rebalance is, with its moves on the way."""
    kind = " (automatic)" if found["automatic"] else ""
    lines = [Text(f"{found['phase'].lower()}{kind}: {shown(found['text'])}")]
    lines += [Text(f"  {move_text(move)} ({move['state']})") for move in found["moves"]]
    return lines
