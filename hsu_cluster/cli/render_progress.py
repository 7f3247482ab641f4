"""A deploy while it goes on: a tree for a terminal, one line for a pipe. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from hsu_cluster.cli.render import phase_cell, ports_text, state_cell
from hsu_cluster.cli.text import count, shown
from hsu_cluster.client.documents import AppDocument, InstanceDocument
from hsu_core.model.lifecycle import State
from hsu_core.model.quantity import format_duration

INSTANCES_SHOWN = 12
"""Instances listed below one worker; the rest is counted."""


def progress_line(app: AppDocument) -> str:
    """Return the state of a deploy in one line; it changes only when something happened."""
    parts = [f"{worker['id']} {worker['ready']}/{worker['replicas']}" for worker in app["workers"]]
    told = f"{app['app']} revision {app['app_revision']}: {app['phase']}, ready: {', '.join(parts) or 'nothing to run'}"
    return shown(told)


def progress_tree(app: AppDocument, instances: Sequence[InstanceDocument], elapsed_s: float) -> list[Text]:
    """Return the app, its workers and their instances as a tree."""
    phase = phase_cell(app["phase"])
    head = Text.assemble(
        (shown(app["app"]), "bold"),
        f"  revision {app['app_revision']}  ",
        (phase.text, phase.style),
        (f"  {format_duration(float(int(elapsed_s)))}" if elapsed_s >= 1 else "", "dim"),
    )
    lines = [head]
    for index, worker in enumerate(app["workers"]):
        is_last = index == len(app["workers"]) - 1
        worker_phase = phase_cell(worker["phase"])
        lines.append(
            Text.assemble(
                "└─ " if is_last else "├─ ",
                (shown(worker["id"]), "bold"),
                f"  {worker['ready']}/{worker['replicas']} ready  ",
                (worker_phase.text, worker_phase.style),
                (f"  {shown(worker['reason'])}" if worker["phase"].lower() != "healthy" else "", "dim"),
            )
        )
        own = [instance for instance in instances if instance["worker"] == worker["id"]]
        lines += _branches(own, "   " if is_last else "│  ")
    return lines


def _branches(instances: Sequence[InstanceDocument], indent: str) -> list[Text]:
    # those that need a look come first, so that a long list does not hide them
    ranked = sorted(instances, key=lambda each: (each["ready"], each["slot"]))
    listed = sorted(ranked[:INSTANCES_SHOWN], key=lambda each: each["slot"])
    hidden = len(instances) - len(listed)
    lines = []
    for index, instance in enumerate(listed):
        is_last = index == len(listed) - 1 and not hidden
        state = state_cell(instance)
        facts = [
            f"on {instance['node']}" if instance["node"] else "",
            ports_text(instance["ports"]),
            f"restarts {instance['restarts']}" if instance["restarts"] else "",
            instance["reason"] if not instance["ready"] else "",
        ]
        is_settled = instance["ready"] or instance["state"] != State.RUNNING
        lines.append(
            Text.assemble(
                f"{indent}{'└─' if is_last else '├─'} .{instance['slot']}  ",
                (state.text if is_settled else f"{state.text}, not ready", state.style),
                (shown("".join(f"  {fact}" for fact in facts if fact)), "dim"),
            )
        )
    if hidden:
        lines.append(Text(f"{indent}└─ and {count(hidden, 'more instance')}", style="dim"))
    return lines
