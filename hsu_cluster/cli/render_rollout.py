"""A rollout as a tree: revision, workers with step and weight, sets, instances; and what is waited for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from hsu_cluster.cli.render import phase_cell, place_text, state_cell
from hsu_cluster.cli.text import count, shown
from hsu_cluster.client.documents import InstanceDocument
from hsu_cluster.client.rollout_documents import RolloutDocument, RolloutSetDocument, RolloutWorkerDocument
from hsu_core.model.quantity import format_duration

INSTANCES_SHOWN = 12
"""Instances listed below one set; the rest is counted."""


def rollout_line(rollout: RolloutDocument) -> str:
    """Return a rollout in one line; it changes only when something happened."""
    parts = [f"{worker['worker']} {_progress(worker)}" for worker in rollout["workers"]]
    told = f"{rollout['app']} revision {rollout['app_revision']}: {rollout['phase']}, {', '.join(parts)}"
    return shown(told + (f"; {rollout['text']}" if rollout["text"] else ""))


def rollout_tree(rollout: RolloutDocument, instances: Sequence[InstanceDocument], now: float) -> list[Text]:
    """Return the rollout as a tree; times are counted from `now` (seconds since 1970)."""
    phase = phase_cell(rollout["phase"])
    stable = rollout["stable_revision"]
    lines = [
        Text.assemble(
            (shown(rollout["app"]), "bold"),
            f"  revision {rollout['app_revision']}" + (f" (from {stable})" if stable else "") + "  ",
            (phase.text, phase.style),
        )
    ]
    if rollout["text"]:
        lines.append(Text(f"   {shown(rollout['text'])}", style="dim"))
    deadline_at = rollout["deadline_at"]
    if deadline_at is not None:
        lines.append(Text(f"   fails without progress in {_in(deadline_at, now)}", style="dim"))
    known = {instance["id"]: instance for instance in instances}
    for index, worker in enumerate(rollout["workers"]):
        is_last = index == len(rollout["workers"]) - 1
        until = f", {_in(worker['until'], now)} left" if worker["until"] is not None else ""
        waits = f"  waits for {worker['waits_for']}{until}" if worker["waits_for"] else until.lstrip(",")
        lines.append(
            Text.assemble(
                "└─ " if is_last else "├─ ",
                (shown(worker["worker"]), "bold"),
                f"  {worker['strategy']}  {shown(_progress(worker))}",
                (shown(waits), "dim"),
            )
        )
        indent = "   " if is_last else "│  "
        for place, one in enumerate(worker["sets"]):
            is_last_set = place == len(worker["sets"]) - 1
            lines += _set(one, rollout, known, indent, is_last_set)
    return lines


def _progress(worker: RolloutWorkerDocument) -> str:
    weight = f"{worker['actual_weight']} % of {worker['weight']} %"
    return f"{place_text(worker)}, {weight}"


def _in(at: float, now: float) -> str:
    return format_duration(float(max(0, int(at - now))))


def _set(
    one: RolloutSetDocument,
    rollout: RolloutDocument,
    known: Mapping[str, InstanceDocument],
    indent: str,
    is_last: bool,
) -> list[Text]:
    number = one["app_revision"]
    role = (
        " (new)" if number == rollout["app_revision"] else " (stable)" if number == rollout["stable_revision"] else ""
    )
    total = len(one["instances"])
    head = f"{indent}{'└─' if is_last else '├─'} revision {number}{role}  {one['available']}/{total} available"
    lines = [Text(head)]
    below = indent + ("   " if is_last else "│  ")
    for name in one["instances"][:INSTANCES_SHOWN]:
        instance = known.get(name)
        if instance is None:
            lines.append(Text(f"{below}   {shown(name)}"))
            continue
        state = state_cell(instance)
        reason = f"  {instance['reason']}" if instance["reason"] and not instance["ready"] else ""
        node = f"  on {instance['node']}" if instance["node"] else ""
        lines.append(
            Text.assemble(f"{below}   {shown(name)}  ", (state.text, state.style), (shown(node + reason), "dim"))
        )
    if total > INSTANCES_SHOWN:
        lines.append(Text(f"{below}   and {count(total - INSTANCES_SHOWN, 'more instance')}", style="dim"))
    return lines
