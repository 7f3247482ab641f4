"""Lists of API documents as tables. Pure: documents and `now` in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from hsu_cluster.cli.layout import Cell, Row, cell, columns, row
from hsu_cluster.cli.text import age
from hsu_cluster.client.documents import (
    AppDocument,
    CapacityDocument,
    EventDocument,
    InstanceDocument,
    LastExitDocument,
    NodeDocument,
    RevisionDocument,
    WorkerDocument,
)
from hsu_cluster.client.rollout_documents import RolloutDocument, RolloutWorkerDocument
from hsu_cluster.client.route_documents import EndpointDocument, RouteDocument
from hsu_core.model.ids import DEFAULT_NAMESPACE
from hsu_core.model.lifecycle import State
from hsu_core.model.quantity import format_cpu, format_size

_GOOD, _BUSY, _BAD, _QUIET = "green", "yellow", "red", "dim"

PHASE_STYLES: Mapping[str, str] = {
    "healthy": _GOOD,
    "progressing": _BUSY,
    "paused": _BUSY,
    "rollingback": _BUSY,
    "degraded": _BAD,
    "failed": _BAD,
    "stopped": _QUIET,
}

STATE_STYLES: Mapping[str, str] = {
    State.RUNNING: _GOOD,
    State.STARTING: _BUSY,
    State.RESTARTING: _BUSY,
    State.STOPPING: _BUSY,
    State.REGISTERED: _BUSY,
    State.STOPPED: _QUIET,
    State.FAILED: _BAD,
    State.UNKNOWN: _BAD,
}

NODE_STYLES: Mapping[str, str] = {"ready": _GOOD, "suspect": _BUSY, "left": _QUIET, "lost": _BAD}


def phase_cell(phase: str) -> Cell:
    """Return the phase of an app or worker in its colour."""
    return cell(phase, PHASE_STYLES.get(phase.lower(), ""))


def state_cell(instance: InstanceDocument) -> Cell:
    """Return the state of an instance in its colour; running and not ready is yellow."""
    state = instance["state"]
    is_waiting = state == State.RUNNING and not instance["ready"]
    return cell(state, _BUSY if is_waiting else STATE_STYLES.get(state, ""))


def node_state(node: NodeDocument) -> str:
    """Return the state of a node with what was asked of it, or why it takes nothing: `ready, draining`."""
    asked = "draining" if node["draining"] else "cordoned" if node["cordoned"] else ""
    asked = asked or ("cooling down" if node["cooling_until"] is not None else "")
    drain = node.get("drain")
    if drain is not None and not drain["assigned"]:
        asked = "stopping the last" if drain["stopping"] else "drained"
    return f"{node['state']}, {asked}" if asked else node["state"]


def yes(value: bool) -> Cell:
    """Return a green yes or a yellow no."""
    return Cell("yes", _GOOD) if value else Cell("no", _BUSY)


def ports_text(ports: Mapping[str, int]) -> str:
    """Return `http:20001, admin:20002`."""
    return ", ".join(f"{name}:{number}" for name, number in sorted(ports.items()))


def exit_text(last: LastExitDocument | None, now: float) -> str:
    """Return how a process ended last: `exit code 1, 5s ago (reason)`."""
    if last is None:
        return ""
    how = f"signal {last['signal']}" if last["signal"] else f"exit code {last['code']}"
    how = "nobody saw how" if last["signal"] is None and last["code"] is None else how
    used = ""
    if last.get("cpu_s") is not None and last.get("max_rss_bytes") is not None:  # an older master does not tell
        used = f", used {last['cpu_s']:.2f} s of processor time and at most {format_size(last['max_rss_bytes'] or 0)}"
    return f"{how}, {age(last['at'], now)} ago{used}" + (f" ({last['reason']})" if last["reason"] else "")


def time_text(at: float) -> str:
    """Return seconds since 1970 as `2026-01-31 12:00:00Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def load_text(used: CapacityDocument, capacity: CapacityDocument, what: str) -> str:
    """Return `250m/4` or `64MiB/8GiB`: reserved of offered."""
    if what == "cpu":
        return f"{format_cpu(used['cpu_milli'])}/{format_cpu(capacity['cpu_milli'])}"
    return f"{format_size(used['memory_bytes'])}/{format_size(capacity['memory_bytes'])}"


def _app_row(app: AppDocument, now: float) -> Row:
    wanted = sum(worker["replicas"] for worker in app["workers"])
    ready = sum(worker["ready"] for worker in app["workers"])
    return row(
        app["app"],
        app["namespace"],
        app["app_revision"],
        phase_cell(app["phase"]),
        f"{ready}/{wanted}",
        len(app["workers"]),
        age(app["deployed_at"], now),
        app["reason"] if app["phase"].lower() != "healthy" else "",
    )


def _worker_row(worker: WorkerDocument, now: float) -> Row:
    return row(
        f"{worker['app']}/{worker['id']}",
        worker["namespace"],
        phase_cell(worker["phase"]),
        f"{worker['ready']}/{worker['replicas']}",
        worker["updated"],
        worker["stopped"] or "",
        worker["restarts"],
        worker["type"],
        worker["reason"] if worker["phase"].lower() != "healthy" else "",
    )


def _instance_row(instance: InstanceDocument, now: float) -> Row:
    return row(
        instance["id"],
        instance["namespace"],
        instance["node"],
        state_cell(instance),
        yes(instance["ready"]) if instance["state"] != State.STOPPED else Cell("no", _QUIET),
        instance["pid"],
        instance["app_revision"],
        instance["restarts"],
        age(instance["started_at"], now),
        ports_text(instance["ports"]),
        instance["reason"],
    )


def _endpoint_row(endpoint: EndpointDocument, now: float) -> Row:
    host = f"[{endpoint['host']}]" if ":" in endpoint["host"] else endpoint["host"]
    places = [f"{name} {host}:{number}" for name, number in sorted(endpoint["ports"].items())]
    return row(
        endpoint["instance"],
        endpoint["namespace"],
        endpoint["node"],
        ", ".join(places),
        endpoint["group"],
        endpoint["weight"],
        endpoint["app_revision"],
    )


def _route_row(route: RouteDocument, now: float) -> Row:
    joining = len(route["joining"])
    return row(
        f"{route['app']}/{route['name']}",
        route["namespace"],
        f"{route['worker']}:{route['port']}",
        route["provider"],
        f"{len(route['members']) - joining}" + (f" (+{joining})" if joining else ""),
        ", ".join(f"{group} {percent}%" for group, percent in route["weights"].items()),
        len(route["leaving"]) or "",
        age(route["changed_at"], now),
        cell(route["trouble"], _BAD),
    )


def _drain_wait(node: NodeDocument) -> str:
    """Return the first thing that a drain of the node waits for."""
    drain = node.get("drain")
    return drain["waits"][0] if drain is not None and drain["waits"] else ""


def _node_row(node: NodeDocument, now: float) -> Row:
    return row(
        node["name"],
        cell(node_state(node), NODE_STYLES.get(node["state"], "")),
        node["used"]["instances"],
        load_text(node["used"], node["capacity"], "cpu"),
        load_text(node["used"], node["capacity"], "memory"),
        age(node["last_seen"], now),
        f"{node['os']}/{node['arch']}".strip("/"),
        node["version"],
        ",".join(f"{key}={value}" for key, value in sorted(node["labels"].items())),
        node["reason"] or _drain_wait(node),
    )


def _event_row(event: EventDocument, now: float) -> Row:
    return row(
        f"{age(event['at'], now)} ago",
        event["code"],
        event["subject"],
        event["node"] if event["node"] != event["subject"] else "",
        event["actor"],
        event["text"],
    )


def _revision_state(revision: RevisionDocument) -> Cell:
    """Return what has become of a revision; which one the app is at is marked."""
    state = revision.get("state", "")
    words = ["current"] if revision["is_current"] else []
    words += [state] if state and (state != "stable" or not words) else []
    style = _BAD if state in ("failed", "aborted") else _GOOD if revision["is_current"] else ""
    return cell(", ".join(words), style)


def _revision_row(revision: RevisionDocument, now: float) -> Row:
    return row(
        revision["number"],
        _revision_state(revision),
        f"{age(revision['created_at'], now)} ago",
        revision["created_by"],
        revision["content_hash"][:12],
        ", ".join(revision["workers"]),
    )


def _rollout_row(rollout: RolloutDocument, now: float) -> Row:
    places = [f"{worker['worker']} {place_text(worker)}" for worker in rollout["workers"]]
    return row(
        rollout["app"],
        rollout["namespace"],
        rollout["app_revision"],
        rollout["stable_revision"] or "",
        phase_cell(rollout["phase"]),
        f"{age(rollout['started_at'], now)} ago",
        ", ".join(places) if rollout["ended_at"] is None else "",
        rollout["text"],
    )


def place_text(worker: RolloutWorkerDocument) -> str:
    """Return where a worker is: `step 2/5 pause 30s`, or its stage."""
    total = len(worker["steps"])
    if worker["stage"] == "steps" and worker["step"] < total:
        return f"step {worker['step'] + 1}/{total} {worker['steps'][worker['step']]}"
    return worker["stage"]


_Table = tuple[tuple[str, ...], Callable[[Any, float], Row]]

TABLES: Mapping[str, _Table] = {
    "apps": (("APP", "NAMESPACE", "REVISION", "PHASE", "READY", "WORKERS", "DEPLOYED", "REASON"), _app_row),
    "workers": (
        ("WORKER", "NAMESPACE", "PHASE", "READY", "UPDATED", "STOPPED", "RESTARTS", "TYPE", "REASON"),
        _worker_row,
    ),
    "instances": (
        (
            *("INSTANCE", "NAMESPACE", "NODE", "STATE", "READY", "PID", "REVISION", "RESTARTS", "AGE", "PORTS"),
            "REASON",
        ),
        _instance_row,
    ),
    "endpoints": (("INSTANCE", "NAMESPACE", "NODE", "PORTS", "GROUP", "WEIGHT", "REVISION"), _endpoint_row),
    "routes": (
        ("ROUTE", "NAMESPACE", "TO", "PROVIDER", "MEMBERS", "SHARES", "LEAVING", "CHANGED", "TROUBLE"),
        _route_row,
    ),
    "nodes": (
        ("NODE", "STATE", "INSTANCES", "CPU", "MEMORY", "SEEN", "SYSTEM", "VERSION", "LABELS", "REASON"),
        _node_row,
    ),
    "events": (("WHEN", "WHAT", "SUBJECT", "NODE", "BY", "TEXT"), _event_row),
    "rollouts": (
        ("APP", "NAMESPACE", "REVISION", "FROM", "PHASE", "STARTED", "AT", "TEXT"),
        _rollout_row,
    ),
    "revisions": (("REVISION", "STATE", "CREATED", "BY", "CONTENT", "WORKERS"), _revision_row),
}
"""For each kind of `get`: the titles and how a document becomes a row."""


def ordered(kind: str, items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the items as people read them: events oldest first, the rest as the API sorts them."""
    return list(reversed(list(items))) if kind == "events" else list(items)


def table(kind: str, items: Sequence[Mapping[str, Any]], now: float) -> list[Text]:
    """Return the table of a list; one sentence when there is nothing."""
    titles, as_row = TABLES[kind]
    if not items:
        return [Text(f"no {kind}", style=_QUIET)]
    rows = [as_row(item, now) for item in ordered(kind, items)]
    if "NAMESPACE" in titles and all(item["namespace"] == DEFAULT_NAMESPACE for item in items):
        place = titles.index("NAMESPACE")
        rows = [(*entry[:place], cell(None), *entry[place + 1 :]) for entry in rows]
    return columns(titles, rows)
