"""Builds API documents for the tests of the command line: good defaults, any field can be given."""

from __future__ import annotations

from typing import Any

NOW = 1_800_000_000.0
"""The time of all renderings, seconds since 1970."""


def instance(name: str = "shop/web.0", **fields: Any) -> Any:
    """Return an instance document; it is ready on node-a."""
    app, _, rest = name.partition("/")
    worker, _, slot = rest.partition(".")
    return {
        "id": name,
        "namespace": "default",
        "app": app,
        "worker": worker,
        "slot": int(slot),
        "node": "node-a",
        "state": "running",
        "ready": True,
        "pid": 4000 + int(slot),
        "app_revision": 3,
        "epoch": 17,
        "restarts": 0,
        "breaker": "closed",
        "last_exit": None,
        "ports": {"http": 20000 + int(slot)},
        "started_at": NOW - 95,
        "reason": "",
        "revision": 41,
        **fields,
    }


def worker(name: str = "shop/web", **fields: Any) -> Any:
    """Return a worker document; it is healthy with two instances."""
    app, _, own = name.partition("/")
    return {
        "id": own,
        "namespace": "default",
        "app": app,
        "type": "managed",
        "replicas": 2,
        "ready": 2,
        "updated": 2,
        "available": 2,
        "stopped": 0,
        "restarts": 0,
        "phase": "Healthy",
        "reason": "AllAvailable",
        "unenforced": [],
        "revision": 41,
        **fields,
    }


DRAIN: Any = {
    "assigned": 2,
    "stopping": 1,
    "deadline_at": NOW + 90,
    "forced": False,
    "waits": [
        "1 instance of shop/web is still to leave node-c, at least 2 stay ready; waits for web.3 on node-a: starting",
        "shop/db.0 stays on node-c, no other node can take it: 2 of 3 nodes lack 1GiB of free memory",
    ],
}
"""How far a drain is."""

DRAIN_PLAN: Any = {
    "node": "node-c",
    "instances": [
        {"id": "shop/db.0", "namespace": "default", "leaves": False, "node": "node-c", "reason": DRAIN["waits"][1]},
        {"id": "shop/web.0", "namespace": "default", "leaves": True, "node": "node-a", "reason": ""},
        {"id": "shop/web.1", "namespace": "default", "leaves": True, "node": None, "reason": "no node is open"},
    ],
    "workers": [
        {"id": "shop/db", "namespace": "default", "ready": 1, "lowest_ready": 1},
        {"id": "shop/web", "namespace": "default", "ready": 3, "lowest_ready": 2},
    ],
    "revision": 50,
}
"""What a drain would do."""


REBALANCE: Any = {
    "id": "5f1e",
    "phase": "Moving",
    "text": "2 moves done, 1 on the way",
    "automatic": True,
    "max_moves": 0,
    "moved": 2,
    "skipped": 0,
    "moves": [
        {
            "id": "shop/web.3",
            "namespace": "default",
            "source": "node-a",
            "target": "node-c",
            "reason": "node-a is 80 % full, node-c 10 %",
            "state": "pending",
        }
    ],
    "started_at": NOW - 60,
    "ended_at": None,
    "revision": 50,
}
"""How far a rebalance is."""


def app(name: str = "shop", **fields: Any) -> Any:
    """Return an app document; it is healthy with one worker."""
    return {
        "namespace": "default",
        "app": name,
        "app_revision": 3,
        "phase": "Healthy",
        "reason": "AllAvailable",
        "text": "all 2 instances are available",
        "workers": [worker(f"{name}/web")],
        "deployed_at": NOW - 3700,
        "deployed_by": "admin",
        "revision": 41,
        **fields,
    }


def node(name: str = "node-a", **fields: Any) -> Any:
    """Return a node document; it is ready and has two instances."""
    return {
        "name": name,
        "state": "ready",
        "labels": {"zone": "a"},
        "capacity": {"cpu_milli": 4000, "memory_bytes": 8 * 2**30, "instances": 0},
        "used": {"cpu_milli": 250, "memory_bytes": 64 * 2**20, "instances": 2},
        "last_seen": NOW - 1,
        "cordoned": False,
        "draining": False,
        "fence": "",
        "cooling_until": None,
        "drain": None,
        "os": "linux",
        "arch": "x86_64",
        "version": "0.1.0",
        "address": "10.0.0.1",
        "reason": "",
        "limits": [],
        "revision": 12,
        **fields,
    }


def event(number: int = 1, **fields: Any) -> Any:
    """Return an event document, `number` seconds ago."""
    return {
        "id": f"{1_800_000_000_000 - 1000 * number:015d}-0",
        "at": NOW - number,
        "code": "AppDeployed",
        "subject": "shop",
        "text": "revision 3 was deployed",
        "namespace": "default",
        "app": "shop",
        "node": "",
        "actor": "admin",
        "revision": 40,
        **fields,
    }


def revision(number: int = 3, **fields: Any) -> Any:
    """Return a revision document."""
    return {
        "namespace": "default",
        "app": "shop",
        "number": number,
        "content_hash": f"{number}f8e" * 16,
        "created_at": NOW - 7200 / number,
        "created_by": "admin",
        "is_current": False,
        "state": "proven",
        "workers": ["web", "db"],
        "revision": 30 + number,
        **fields,
    }


def cluster(**fields: Any) -> Any:
    """Return a cluster document; master-1 leads."""
    masters = [
        {"name": f"master-{number}", "url": f"https://master-{number}:7070", "version": "0.1.0", "since": NOW - 9000}
        for number in (1, 2, 3)
    ]
    return {
        "leader": masters[0],
        "term": 7,
        "masters": masters,
        "revision": 4711,
        "store": {"backend": "etcd", "version": "3.5.16", "warnings": []},
        "alarms": [],
        "incarnation": "0123456789abcdef",
        "version": "0.1.0",
        **fields,
    }


def listed(*items: Any) -> Any:
    """Return a list document."""
    return {"items": list(items), "revision": 4711, "next": None}


def endpoint(slot: int = 0, **fields: Any) -> Any:
    """Return an endpoint document of shop/web."""
    return {
        "namespace": "default",
        "app": "shop",
        "worker": "web",
        "instance": f"shop/web.{slot}",
        "slot": slot,
        "node": "node-a",
        "host": "10.0.0.1",
        "ports": {"http": 20000 + slot},
        "group": "stable",
        "weight": 100,
        "app_revision": 3,
        **fields,
    }


def route(name: str = "web", **fields: Any) -> Any:
    """Return a route document of the shop; HAProxy has confirmed two members."""
    member = {"instance": "shop/web.0", "host": "10.0.0.1", "port": 20000, "group": "stable", "weight": 100}
    return {
        "namespace": "default",
        "app": "shop",
        "name": name,
        "worker": "web",
        "port": "http",
        "provider": "haproxy",
        "members": [member, {**member, "instance": "shop/web.1"}],
        "weights": {"stable": 100},
        "joining": [],
        "leaving": [],
        "trouble": "",
        "changed_at": NOW - 12,
        "revision": 41,
        **fields,
    }
