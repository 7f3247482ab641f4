"""One object or the whole cluster in full: `describe`, `status`, `plan`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from hsu_cluster.cli.layout import Cell, cell, columns, pairs, row
from hsu_cluster.cli.render import (
    NODE_STYLES,
    exit_text,
    load_text,
    node_state,
    phase_cell,
    ports_text,
    state_cell,
    table,
    time_text,
    yes,
)
from hsu_cluster.cli.render_drain import drain_lines
from hsu_cluster.cli.text import age, count, shown
from hsu_cluster.client.documents import (
    AppDocument,
    ClusterDocument,
    EventDocument,
    InstanceDocument,
    NodeDocument,
    PlanDocument,
    UnenforcedDocument,
    WorkerDocument,
)
from hsu_core.model.quantity import format_duration

FIELDS_SHOWN = 8
"""Changed fields of a plan, and instances on one line of it; the rest is counted."""

NODES_SHOWN = 5
"""Names of nodes in one sentence; the rest is counted."""

EVENTS_SHOWN = 10
"""Events below a described object: the newest ones, oldest first."""

_ACTION_SIGNS = {
    "create": ("+", "green"),
    "restart": ("~", "yellow"),
    "update": ("~", "yellow"),
    "scale": ("~", "yellow"),
    "remove": ("-", "red"),
    "none": (" ", "dim"),
}


def _section(title: str, lines: Sequence[Text]) -> list[Text]:
    return [Text(), Text(title, style="bold"), *(Text.assemble("  ", line) for line in lines)] if lines else []


def _when(at: float | None, now: float) -> str:
    return f"{time_text(at)} ({age(at, now)} ago)" if at else ""


def app_details(
    app: AppDocument, instances: Sequence[InstanceDocument], events: Sequence[EventDocument], now: float
) -> list[Text]:
    """Return an app with its workers, instances and last events."""
    head = pairs(
        [
            ("App", app["app"]),
            ("Namespace", app["namespace"]),
            ("Phase", phase_cell(app["phase"])),
            ("Reason", app["reason"]),
            ("Summary", app["text"]),
            ("Revision", app["app_revision"]),
            ("Deployed", _when(app["deployed_at"], now)),
            ("By", app["deployed_by"]),
        ]
    )
    return [
        *head,
        *_section("Workers", table("workers", app["workers"], now)),
        *_section("Instances", table("instances", instances, now)),
        *_events(events, now),
    ]


def worker_details(
    worker: WorkerDocument, instances: Sequence[InstanceDocument], events: Sequence[EventDocument], now: float
) -> list[Text]:
    """Return a worker with its instances and their last events."""
    head = pairs(
        [
            ("Worker", f"{worker['app']}/{worker['id']}"),
            ("Namespace", worker["namespace"]),
            ("Type", worker["type"]),
            ("Phase", phase_cell(worker["phase"])),
            ("Reason", worker["reason"]),
            ("Replicas", worker["replicas"]),
            ("Ready", worker["ready"]),
            ("Available", worker["available"]),
            ("Updated", worker["updated"]),
            ("Stopped", worker["stopped"] or ""),
            ("Restarts", worker["restarts"]),
        ]
    )
    return [
        *head,
        *_section("Limits", list(map(unenforced_line, worker.get("unenforced", ())))),
        *_section("Instances", table("instances", instances, now)),
        *_events(events, now),
    ]


def unenforced_line(unenforced: UnenforcedDocument) -> Text:
    """Return the sentence about a limit that nodes do not hold."""
    nodes = unenforced["nodes"]
    more = f" and {len(nodes) - NODES_SHOWN} more" if len(nodes) > NODES_SHOWN else ""
    where = f"{', '.join(nodes[:NODES_SHOWN])}{more}"
    return _not_held(unenforced["limit"], unenforced["how"], f" on {where}: {unenforced['reason']}")


def _not_held(limit: str, how: str, rest: str) -> Text:
    told = "only sampled" if how == "sampling" else "not held"
    return Text(shown(f"{limit} is {told}{rest}"), style="yellow")


def limit_lines(node: NodeDocument) -> list[Text]:
    """Return a sentence for each limit that a node does not hold, and for those that it only samples in place of it."""
    return [
        _not_held(each["limit"], each["how"], f": {each['reason']}")
        for each in node.get("limits", ())
        if each["reason"] and each["how"] in ("unsupported", "sampling")
    ]


def instance_details(instance: InstanceDocument, events: Sequence[EventDocument], now: float) -> list[Text]:
    """Return an instance with everything its node told of it."""
    head = pairs(
        [
            ("Instance", instance["id"]),
            ("Namespace", instance["namespace"]),
            ("Node", instance["node"]),
            ("State", state_cell(instance)),
            ("Ready", yes(instance["ready"])),
            ("Reason", instance["reason"]),
            ("Process", instance["pid"]),
            ("Ports", ports_text(instance["ports"])),
            ("Started", _when(instance["started_at"], now)),
            ("Restarts", instance["restarts"]),
            *([("Breaker", instance["breaker"])] if instance["breaker"] != "closed" else []),
            ("Last exit", exit_text(instance["last_exit"], now)),
            ("Revision", instance["app_revision"]),
            ("Epoch", instance["epoch"]),
        ]
    )
    return [*head, *_events(events, now)]


def node_details(
    node: NodeDocument, instances: Sequence[InstanceDocument], events: Sequence[EventDocument], now: float
) -> list[Text]:
    """Return a node with what runs on it."""
    labels = ", ".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))
    head = pairs(
        [
            ("Node", node["name"]),
            ("State", cell(node_state(node), NODE_STYLES.get(node["state"], ""))),
            ("Reason", node["reason"]),
            ("Address", node["address"]),
            ("System", f"{node['os']}/{node['arch']}".strip("/")),
            ("Version", node["version"]),
            ("Labels", labels),
            ("Processors", f"{load_text(node['used'], node['capacity'], 'cpu')} reserved"),
            ("Memory", f"{load_text(node['used'], node['capacity'], 'memory')} reserved"),
            ("Strict", f"no: {node['fence']}" if node["fence"] else "can run here"),
            ("Last seen", _when(node["last_seen"], now)),
            *(
                [
                    (
                        "Cooling down",
                        f"nothing new is placed here for {format_duration(round(node['cooling_until'] - now))}",
                    )
                ]
                if node["cooling_until"] is not None
                else []
            ),
        ]
    )
    return [
        *head,
        *_section("Limits", limit_lines(node)),
        *_section("Drain", drain_lines(node, now)),
        *_section("Instances", table("instances", instances, now)),
        *_events(events, now),
    ]


def _events(events: Sequence[EventDocument], now: float) -> list[Text]:
    return _section("Events", table("events", events[:EVENTS_SHOWN], now)) if events else []


def cluster_status(
    cluster: ClusterDocument, nodes: Sequence[NodeDocument], apps: Sequence[AppDocument], now: float
) -> list[Text]:
    """Return who leads, how the nodes are and how every app is."""
    leader = cluster["leader"]
    store = cluster["store"]
    states = [node["state"] for node in nodes]
    told = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none has joined"
    head = pairs(
        [
            ("Leader", cell(f"{leader['name']} ({leader['url']})") if leader else Cell("none is elected now", "red")),
            ("Term", cluster["term"]),
            ("Masters", ", ".join(f"{master['name']} {master['version']}" for master in cluster["masters"])),
            ("Store", f"{store['backend']} {store['version']}, revision {cluster['revision']}"),
            ("Nodes", cell(told, "" if set(states) == {"ready"} else "yellow")),
            ("Apps", count(len(apps), "app") if apps else "none is deployed"),
        ]
    )
    warnings = [Text(f"alarm: {shown(alarm)}", style="bold red") for alarm in cluster["alarms"]]
    warnings += [Text(f"warning: {shown(warning)}", style="yellow") for warning in store["warnings"]]
    return [
        *head,
        *warnings,
        *([Text(), *table("apps", apps, now)] if apps else []),
        *([Text(), *table("nodes", nodes, now)] if nodes else []),
    ]


def plan_lines(plan: PlanDocument) -> list[Text]:
    """Return what a deploy would change: each worker, field by field, then what would find no node; and the pin."""
    if plan["unchanged"]:
        return [Text(f"{shown(plan['app'])}: no change, revision {plan['app_revision']} has this content already")]
    rows = []
    for change in plan["changes"]:
        sign, style = _ACTION_SIGNS.get(change["action"], ("?", ""))
        told = ": ".join(part for part in (change["text"], change["why"]) if part)
        rows.append(row(Cell(f"{sign} {shown(change['worker'])}", style), cell(change["action"], style), told))
    before = f"revision {plan['app_revision']}" if plan["app_revision"] else "nothing: a new app"
    changing = sum(change["action"] != "none" for change in plan["changes"])
    head = Text(f"{shown(plan['app'])}: {count(changing, 'change')} from {before}")
    body = columns(("WORKER", "ACTION", "CHANGE"), rows)[1:] if rows else []
    unplaced = [
        Text(f"! {shown(slot)} would find no node: {shown(why)}", style="red")
        for slot, why in sorted(plan["unplaced"].items())
    ]
    unplaced += [
        Text(f"! worker {shown(worker)} could not be rolled out: {shown(why)}", style="red")
        for worker, why in sorted(plan["no_room"].items())
    ]
    pin = Text(f"deploy exactly this with --pin {plan['pin']}", style="dim")
    return [
        *(head, *(Text.assemble("  ", line) for line in body)),
        *(*_field_lines(plan), *_placement_lines(plan), *unplaced, pin),
    ]


def _placement_lines(plan: PlanDocument) -> list[Text]:
    """Return where instances would be placed, one line for each node."""
    nodes: dict[str, list[str]] = {}
    for slot, node in plan["placements"].items():
        nodes.setdefault(node, []).append(slot)
    lines = []
    for node, slots in sorted(nodes.items()):
        more = f" and {len(slots) - FIELDS_SHOWN} more" if len(slots) > FIELDS_SHOWN else ""
        lines.append(
            Text.assemble(("    on " + shown(node), "dim"), f": {shown(', '.join(slots[:FIELDS_SHOWN]))}{more}")
        )
    return lines


def _field_lines(plan: PlanDocument) -> list[Text]:
    """Return the fields that differ, but for those of workers that come or go whole."""
    whole = {change["worker"] for change in plan["changes"] if change["action"] in ("create", "remove")}
    fields = [each for each in plan["fields"] if each["path"].removeprefix("workers.").partition(".")[0] not in whole]
    lines = []
    for each in fields[:FIELDS_SHOWN]:
        before = "-" if each["before"] is None else shown(each["before"])
        after = "-" if each["after"] is None else shown(each["after"])
        lines.append(Text.assemble(("    " + shown(each["path"]), "dim"), f": {before} → {after}"))
    if len(fields) > FIELDS_SHOWN:
        lines.append(Text(f"    and {count(len(fields) - FIELDS_SHOWN, 'more field')}", style="dim"))
    return lines
