"""What `get` can list: the words for it and how each list is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsu_cluster.cli.text import close_to
from hsu_cluster.cli.waiting import matches
from hsu_core.model.errors import HsuError, InvalidInput
from hsu_core.model.ids import TargetName, parse_target

if TYPE_CHECKING:
    from hsu_cluster.client.client import ClusterClient

EVENTS_LIMIT = 100

KINDS = ("apps", "workers", "instances", "rollouts", "endpoints", "routes", "nodes", "events", "revisions")

WATCHED: Mapping[str, tuple[str, ...]] = {
    "apps": ("apps", "instances"),
    "workers": ("apps", "instances"),
    "instances": ("apps", "instances"),
    "endpoints": ("apps", "instances", "routes", "nodes"),
    "routes": ("apps", "routes"),
    "nodes": ("nodes", "instances"),
    "events": ("events",),
    "revisions": ("apps",),
    "rollouts": ("apps", "instances"),
}
"""Kinds of notices after which a list is read again."""


@dataclass(frozen=True, slots=True)
class Query:
    """One list to read: what, of which namespace (None: all), of which app, worker, slot or node."""

    kind: str
    namespace: str | None = None
    target: TargetName | None = None
    node: str = ""


def parse_query(kind: str, name: str | None, namespace: str | None, default_namespace: str) -> Query:
    """Return the query of `get KIND [NAME]`. Raises InvalidInput, with a suggestion for a mistyped kind."""
    known = _kind(kind)
    if known == "nodes":
        return Query(known, node=name or "")
    if name is None:
        if known == "revisions":
            raise InvalidInput(
                "list revisions", "they belong to an app", "write: get revisions APP", code="input.target"
            )
        return Query(known, namespace)
    return Query(known, namespace or default_namespace, parse_target(name))


def _kind(word: str) -> str:
    lowered = word.lower()
    for kind in KINDS:
        if lowered in (kind, kind.removesuffix("s")):
            return kind
    near = close_to(lowered, KINDS)
    hint = f"did you mean {near}?" if near else f"it lists {', '.join(KINDS)}"
    raise InvalidInput(f"list {word[:80]!r}", "there is no such kind", hint, code="input.kind")


async def read(cluster: ClusterClient, query: Query) -> tuple[Any, list[Any]]:
    """Return the API's document and the items in it (one for a named object). Raises HsuError."""
    namespace, target = query.namespace, query.target
    if query.kind == "nodes":
        if query.node:
            node = await cluster.get_node(query.node)
            return node, [node]
        return _list(await cluster.list_nodes())
    if query.kind == "apps":
        if target is not None:
            _only(target, "apps", "APP")
            app = await cluster.get_app(str(namespace), target.app)
            return app, [app]
        return _list(await cluster.list_apps(namespace))
    if query.kind == "rollouts":
        if target is not None:
            _only(target, "rollouts", "APP")
            rollout = await cluster.get_rollout(str(namespace), target.app)
            return rollout, [rollout]
        return _list(await cluster.list_rollouts(namespace))
    if query.kind == "revisions" and target is not None:
        return _list(await cluster.list_revisions(str(namespace), target.app))
    app_name = target.app if target else None
    if query.kind == "events":
        return _list(await cluster.events(namespace, app_name, limit=EVENTS_LIMIT))
    if query.kind == "workers":
        return _filtered(await cluster.list_workers(namespace, app_name), target, "id")
    if query.kind == "endpoints":
        return _filtered(await cluster.list_endpoints(namespace, app_name), target, "worker")
    if query.kind == "routes":
        if target is not None:
            _only(target, "routes", "[APP]")
        return _list(await cluster.list_routes(namespace, app_name))
    return _filtered(await cluster.list_instances(namespace, app_name), target, "worker")


def _only(target: TargetName, kind: str, form: str) -> None:
    if target.worker is not None:
        raise InvalidInput(f"list {kind} of a worker", "", f"write: get {kind} {form}", code="input.target")


def _list(document: Any) -> tuple[Any, list[Any]]:
    return document, document["items"]


def _filtered(document: Any, target: TargetName | None, field: str) -> tuple[Any, list[Any]]:
    """Keep the items of a worker or slot; naming one that is not there is an error."""
    if target is None or target.worker is None:
        return _list(document)
    is_instance = field == "worker"
    kept = [
        item
        for item in document["items"]
        if (matches(item, target) if is_instance else item["id"] == target.worker and target.slot is None)
    ]
    if not kept:
        known = sorted({str(item[field]) for item in document["items"]})
        raise no_such(target, known)
    return _list({**document, "items": kept})


def no_such(target: TargetName, known: list[str]) -> HsuError:
    """Return the error for a worker or slot that an app does not have, with the nearest name."""
    name = f"{target.app}/{target.worker}" + ("" if target.slot is None else f".{target.slot}")
    near = close_to(str(target.worker), known)
    hint = f"did you mean {target.app}/{near}?" if near and near != target.worker else ""
    hint = hint or (f"it has {', '.join(known)}" if known else f"see get apps {target.app}")
    return HsuError(f"find {name}", "there is no such instance or worker", hint, code="not-found")
