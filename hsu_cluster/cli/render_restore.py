"""What `doctor accept-restore` says. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from hsu_cluster.cli.text import count, shown
from hsu_cluster.client.restore_documents import NodeForecastDocument, RestoreDocument

NAMED_LIMIT = 20
"""Instances named of one kind on one node; the rest is counted."""


def restore_report(restore: RestoreDocument) -> list[Text]:
    """Return what is held, and what would happen on each node."""
    lines = [Text(f"cluster {shown(restore['incarnation'])}")]
    if restore["held"]:
        lines.append(Text(f"held: {shown(restore['held'])}", style="yellow"))
    if not restore["nodes"]:
        lines.append(Text("no connected node holds the work of another cluster"))
    for node in restore["nodes"]:
        lines += _node_lines(node)
    return lines


def is_pending(restore: RestoreDocument) -> bool:
    """Return whether there is something to accept."""
    return bool(restore["held"] or restore["nodes"])


def _node_lines(node: NodeForecastDocument) -> list[Text]:
    kinds: Sequence[tuple[str, list[str], str]] = (
        ("kept", node["keeps"], ""),
        ("restarted with another version", node["restarts"], "yellow"),
        ("stopped", node["stops"], "red"),
        ("started", node["starts"], "yellow"),
    )
    held_by = shown(node["held_by"])
    lines = [
        Text(f"node {shown(node['node'])} holds {count(_running(node), 'instance')} of cluster {held_by}; if accepted:")
    ]
    for word, names, style in kinds:
        if names:
            more = f" and {len(names) - NAMED_LIMIT} more" if len(names) > NAMED_LIMIT else ""
            listed = ", ".join(map(shown, names[:NAMED_LIMIT])) + more
            lines.append(Text(f"  {len(names)} {word}: {listed}", style=style))
    return lines


def _running(node: NodeForecastDocument) -> int:
    return len(node["keeps"]) + len(node["restarts"]) + len(node["stops"])
