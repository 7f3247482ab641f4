"""What the control socket can be asked: reading for every agent, steering for one without a cluster."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hsu_agent.local.control import Groups, Verb, matching
from hsu_agent.local.orders import LocalOrders
from hsu_agent.loop import Supervisor
from hsu_agent.planning.local import LocalWorker, changed_keys
from hsu_agent.version import program_version
from hsu_core.model.assignment import InstanceStatus
from hsu_core.model.errors import InvalidManifest, NotSupported
from hsu_core.model.ids import InstanceId

READ_FILES_S = 60.0
"""Longest that a child may take to read the files of a reload."""

Usage = Callable[[InstanceId], Mapping[str, float]]


def reading_verbs(
    supervisor: Supervisor, held: Callable[[], Mapping[InstanceId, str]], usage: Usage, groups: Groups
) -> dict[str, Verb]:
    """Return the verbs that change nothing."""

    async def status(request: Mapping[str, Any]) -> Any:
        waiting = held()
        known = {found.instance: found for found in supervisor.statuses()}
        chosen = matching(_names(request), {*known, *waiting}, groups)
        is_used = bool(request.get("usage"))
        return {
            "pid": os.getpid(),
            "version": program_version(),
            "node": supervisor.table.node,
            "now": time.time(),
            "instances": [
                _document(each, known.get(each), waiting.get(each, ""), usage(each) if is_used else {})
                for each in chosen
            ],
        }

    async def send_signal(request: Mapping[str, Any]) -> Any:
        chosen = matching(_names(request), supervisor.observed, groups)
        for instance in chosen:
            supervisor.send_signal(instance, str(request.get("signal", "")))
        return [each.short for each in chosen]

    return {"status": status, "signal": send_signal}


def steering_verbs(
    orders: LocalOrders,
    files: Sequence[Path],
    end: Callable[[bool], None],
    keep: Callable[[tuple[LocalWorker, ...]], None],
    reloading: Callable[[], AbstractContextManager[None]],
) -> dict[str, Verb]:
    """Return the verbs that change what runs.

    `end(keep_workers)` ends the agent; `keep` remembers the workers that are in force; a reload is in a `reloading`.
    """

    def asked(act: Callable[[Sequence[InstanceId]], None]) -> Verb:
        async def verb(request: Mapping[str, Any]) -> Any:
            chosen = matching(_names(request), orders.instances, orders.groups_of)
            act(chosen)
            return [each.short for each in chosen]

        return verb

    async def events(request: Mapping[str, Any]) -> Any:
        names = _names(request)
        chosen = set(matching(names, orders.instances, orders.groups_of)) if names else None
        return [
            {"at": at, "instance": instance.short, "code": found.code, "text": found.text}
            for at, instance, found in orders.events
            if chosen is None or instance in chosen
        ]

    async def reload(request: Mapping[str, Any]) -> Any:
        is_dry = bool(request.get("dry_run"))
        with nullcontext() if is_dry else reloading():
            workers, warnings = await read_in_child(files)
            changes = differences(orders.workers, workers)
            if not is_dry:
                orders.use(workers)
                keep(workers)
        return {"changes": changes, "warnings": warnings}

    async def shutdown(request: Mapping[str, Any]) -> Any:
        end(bool(request.get("keep_workers")))
        return "the agent ends"

    return {
        "start": asked(orders.start),
        "stop": asked(orders.stop),
        "restart": asked(orders.restart),
        "events": events,
        "reload": reload,
        "shutdown": shutdown,
    }


def refusing_verbs() -> dict[str, Verb]:
    """Return the same verbs for an agent that obeys a cluster: they say who is to be asked instead."""

    def refused(name: str) -> Verb:
        async def verb(request: Mapping[str, Any]) -> Any:
            raise NotSupported(
                f"{name} workers here", "this agent obeys a cluster", f"use hsu-cluster {name}", code="agent.in-cluster"
            )

        return verb

    return {name: refused(name) for name in ("start", "stop", "restart", "events", "reload", "shutdown")}


async def read_in_child(files: Sequence[Path]) -> tuple[tuple[LocalWorker, ...], list[str]]:
    """Return the workers of the files and warnings, read by a child: the agent itself has no YAML in memory.

    Raises InvalidManifest with every fault; everything runs on.
    """
    command = [sys.executable, "-P", "-m", "hsu_agent.local.reader", *map(str, files)]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(READ_FILES_S):
            output, told = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise InvalidManifest("read the files", f"it took more than {READ_FILES_S:g} s", "shorten them") from None
    if child.returncode != 0:
        lines = told.decode("utf-8", "replace").strip() or f"the reader ended with {child.returncode}"
        raise InvalidManifest("reload; everything runs on", lines)
    workers, warnings, _ = pickle.loads(output)
    return workers, warnings


def differences(before: Sequence[LocalWorker], after: Sequence[LocalWorker]) -> list[dict[str, Any]]:
    """Return what a reload changes: a document per worker, with `is_restart` where its processes are restarted."""
    old = {(each.spec.app, each.spec.worker.id): each for each in before}
    new = {(each.spec.app, each.spec.worker.id): each for each in after}
    found: list[dict[str, Any]] = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{key[0].app}/{key[1]}"
        was, becomes = old.get(key), new.get(key)
        if was is None or becomes is None:
            found.append({"worker": name, "change": "added" if was is None else "removed", "keys": []})
        elif was != becomes:
            keys = changed_keys(was.spec.worker, becomes.spec.worker)
            is_restart = was.spec_hash != becomes.spec_hash
            found.append({"worker": name, "change": "changed", "keys": list(keys), "is_restart": is_restart})
    return found


def _names(request: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in request.get("names", ())]


def _document(
    instance: InstanceId, status: InstanceStatus | None, waits: str, usage: Mapping[str, float]
) -> dict[str, Any]:
    """Return what is told of an instance; its fields are those of the cluster's `get instances`."""
    document: dict[str, Any] = {
        "id": instance.short,
        "namespace": instance.namespace,
        "app": instance.app,
        "worker": instance.worker,
        "slot": instance.slot,
        "state": str(status.state) if status else "registered",
        "ready": status.is_ready if status else False,
        "pid": status.pid if status else None,
        "restarts": status.restarts if status else 0,
        "breaker": (status.breaker if status else "") or "closed",
        "last_exit": None,
        "ports": dict(status.ports) if status else {},
        "started_at": status.started_at if status else None,
        "reason": (status.reason if status else "") or waits,
    }
    if status is not None and status.last_exit is not None:
        last = status.last_exit
        document["last_exit"] = asdict(last)
    if usage:
        document["usage"] = dict(usage)
    return document
