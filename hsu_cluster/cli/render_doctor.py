"""What `doctor` says. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from hsu_cluster.cli.render_details import limit_lines, unenforced_line
from hsu_cluster.cli.text import count, shown
from hsu_cluster.client.documents import AppDocument, NodeDocument


def limit_report(nodes: Sequence[NodeDocument], apps: Sequence[AppDocument]) -> list[Text]:
    """Return which limits each node does not hold, then the workers that state one of those of their nodes."""
    lines: list[Text] = []
    for node in nodes:
        short = limit_lines(node)
        told = node.get("limits", [])
        name = shown(node["name"])
        if not told:
            lines.append(
                Text(f"node {name}: its agent does not tell which limits it holds; upgrade it", style="yellow")
            )
        elif not short:
            lines.append(Text(f"node {name}: all {len(told)} limits are held"))
        else:
            lines.append(Text(f"node {name}: {len(short)} of {len(told)} limits are not held"))
        lines += [Text.assemble("  ", line) for line in short]
    touched = [worker for app in apps for worker in app["workers"] if worker.get("unenforced")]
    lines.append(Text(f"{count(len(touched), 'worker')} with a limit that is not held" if touched else NO_WORKER))
    for worker in touched:
        lines.append(Text(f"worker {shown(worker['app'])}/{shown(worker['id'])} ({shown(worker['namespace'])}):"))
        lines += [Text.assemble("  ", unenforced_line(each)) for each in worker["unenforced"]]
    return lines


NO_WORKER = "no worker states a limit that is not held"
