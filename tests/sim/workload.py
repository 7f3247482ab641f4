"""What people do to a simulated cluster, through the API of any master, and what they were told.

Every change has a value of its own (a version, a generation) and an Idempotency-Key, so that each committed change can
be traced to who asked for it, and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from hsu_cluster.api import apps, deploys, nodes
from hsu_core.model.errors import HsuError
from tests.sim.agent import PROGRAM
from tests.sim.checks import idempotency_key
from tests.sim.master import Handler, SimMaster

if TYPE_CHECKING:
    from tests.sim.world import World

PATIENCE_S = 8.0
"""How long a client waits for one answer."""

TRIES = 3


@dataclass(slots=True)
class Told:
    """One request and what the client knows of it: `done`, `refused` with a code, or `unknown`."""

    number: int
    kind: str
    app: str
    key: str
    asked_s: float
    outcome: str = "unknown"
    code: str = ""
    told_s: float = 0.0
    changed: bool = True


def worker(name: str, version: str, replicas: int, *traits: str, **more: Any) -> dict[str, Any]:
    """Return a worker of a manifest; `traits` are what `Behaviour` understands."""
    execution = {"executable_path": PROGRAM, "args": [f"v={version}", *traits]}
    control = {"execution": execution, "graceful_timeout": "3s"}
    unit = {"managed": {"metadata": {"name": name}, "control": control}}
    found = {"id": name, "type": "managed", "replicas": replicas, "unit": unit, "resources": {"cpu": "400m"}}
    return found | more


def manifest(app: str, version: str) -> dict[str, Any]:
    """Return one of the apps of the simulation at a version."""
    workers = {
        "shop": [
            worker("web", version, 4),
            worker("cart", version, 1, "life=45", "code=1", "forks=1"),
            worker("stubborn", version, 1, "stubborn"),
        ],
        "bank": [
            worker("teller", version, 1, guarantee="strict"),
            worker("vault", version, 2, "life=60", "code=1", guarantee="strict"),
        ],
    }[app]
    return {"app": app, "workers": workers}


APPS = ("shop", "bank")
WORKERS = {"shop": ("web", "cart", "stubborn"), "bank": ("teller", "vault")}


class Workload:
    """People with requests; `told` is what they know."""

    def __init__(self, world: World, rng: Random) -> None:
        self.told: list[Told] = []
        self._world = world
        self._rng = rng

    def begin(self) -> None:
        """Deploy every app for the first time."""
        for number, app in enumerate(APPS):
            self._act("deploy", -number, app, deploys.put_app, {}, manifest(app, f"first-{app}"))

    # what decisions name; `seed` is the chance of this one decision

    def deploy(self, number: int, seed: int) -> None:
        """Deploy an app in a new version."""
        app = APPS[seed % 2]
        self._act("deploy", number, app, deploys.put_app, {}, manifest(app, f"{number}-{seed}"))

    def scale(self, number: int, seed: int) -> None:
        """Set a worker's replicas."""
        body = {"replicas": 1 + seed // 2 % 6}
        self._act("scale", number, "shop", apps.scale, {"worker": "web"}, body)

    def restart(self, number: int, seed: int) -> None:
        """Restart a worker."""
        self._target("restart", number, seed, apps.restart)

    def stop(self, number: int, seed: int) -> None:
        """Stop a worker."""
        self._target("stop", number, seed, apps.stop)

    def start(self, number: int, seed: int) -> None:
        """Start every worker of an app."""
        self._act("start", number, APPS[seed % 2], apps.start, {}, {})

    def _target(self, kind: str, number: int, seed: int, handler: Handler) -> None:
        app = APPS[seed % 2]
        names = WORKERS[app]
        self._act(kind, number, app, handler, {}, {"worker": names[seed // 2 % len(names)]})

    def undo(self, number: int, seed: int) -> None:
        """Go back to an earlier revision."""
        self._act("undo", number, APPS[seed % 2], deploys.undo, {}, {})

    def drain(self, number: int, seed: int) -> None:
        """Empty a node."""
        self._node("drain", number, seed, nodes.drain)

    def uncordon(self, number: int, seed: int) -> None:
        """Take a node back."""
        self._node("uncordon", number, seed, nodes.uncordon)

    def _node(self, kind: str, number: int, seed: int, handler: Handler) -> None:
        node = f"node-{seed % len(self._world.nodes) + 1}"
        self._act(kind, number, "", handler, {"node": node}, {})

    def remove(self, number: int, seed: int) -> None:
        """Remove an app."""
        self._act("remove", number, APPS[seed % 2], apps.delete_app, {}, None)

    def uncordon_all(self) -> None:
        """Take every node back, for the end of a run."""
        for number, name in enumerate(self._world.nodes):
            self._act("uncordon", 900 + number, "", nodes.uncordon, {"node": name}, {})

    # asking

    def _act(
        self, kind: str, number: int, app: str, handler: Handler, parts: Mapping[str, str], body: dict[str, Any] | None
    ) -> None:
        told = Told(number, kind, app, f"key-{kind}-{number}", self._world.loop.time())
        self.told.append(told)
        self._world.note(f"asks {kind} {number} {app}{dict(parts)}")
        match = {"namespace": "default", **({"app": app} if app else {}), **parts}
        self._world.loop.start(self._ask(told, handler, match, body), f"client {kind} {number}")

    async def _ask(self, told: Told, handler: Handler, match: dict[str, str], body: dict[str, Any] | None) -> None:
        for attempt in range(TRIES):
            master = self._any_master()
            headers = {"Idempotency-Key": told.key}
            try:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await master.ask("client", handler, match_info=match, body=body, headers=headers)
            except HsuError as error:
                if error.status < 500:
                    self._know(told, "refused", error.code)
                    return
                told.code = error.code
            except (TimeoutError, OSError) as error:
                told.code = type(error).__name__
            else:
                document = answer.document
                told.changed = not (isinstance(document, dict) and document.get("unchanged", False))
                self._know(told, "done", "")
                if attempt and self._world.checks.applied[idempotency_key(told.key)]:
                    self._world.checks.reachable("a request is asked again and was done")
                return
            await asyncio.sleep(self._rng.uniform(0.1, 2.0))
        self._know(told, "unknown", told.code)

    def _any_master(self) -> SimMaster:
        return self._rng.choice(list(self._world.masters.values()))

    def _know(self, told: Told, outcome: str, code: str) -> None:
        told.outcome, told.code, told.told_s = outcome, code, self._world.loop.time()
        self._world.note(f"told {told.kind} {told.number}: {outcome} {code}")
        self._world.checks.on_told(told)
