"""The providers of routes as the tests see them: real ones, a way to break each, and what each has taken."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from hsu_cluster.planning.traffic import WantedRoute
from hsu_core.model.routes import (
    Endpoint,
    HaproxyProvider,
    Provider,
    RouteSpec,
    TemplateProvider,
    WebhookProvider,
)
from tests.support.builders import SHOP, slot
from tests.support.haproxy import Haproxy

Taken = dict[str, int]
"""Weight by host:port, of what gets requests."""


class Rig(Protocol):
    """One provider under test."""

    provider: Provider

    def taken(self) -> Taken: ...

    def break_it(self) -> None: ...

    def mend(self) -> None: ...


class HaproxyRig:
    """A real HAProxy; broken is killed."""

    def __init__(self, proxy: Haproxy, address: str) -> None:
        self.proxy = proxy
        self.provider: Provider = HaproxyProvider((address,), "shop", "shop-preview")

    def taken(self) -> Taken:
        rows = self.proxy.servers().values()
        return {address: weight for address, weight, is_ready in rows if is_ready and weight}

    def break_it(self) -> None:
        self.proxy.kill()

    def mend(self) -> None:
        self.proxy.start()


RELOAD = """
import pathlib, shutil, sys
folder = pathlib.Path(sys.argv[1])
if (folder / "broken").exists():
    sys.exit("the syntax is wrong")
shutil.copy(folder / "out.conf", folder / "loaded.conf")
"""


class TemplateRig:
    """A file, and a real command that copies it to where `taken` reads; broken ends with an error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "reload.py").write_text(RELOAD)
        command = (sys.executable, str(folder / "reload.py"), str(folder))
        template = "upstream {\n  server {address} weight={weight};\n  server 127.0.0.1:9 down; {none}\n}\n"
        self.provider: Provider = TemplateProvider(template, str(folder / "out.conf"), command)

    def taken(self) -> Taken:
        lines = (self.folder / "loaded.conf").read_text().splitlines()
        rows = [line.strip(" ;").split() for line in lines if "weight=" in line]
        return {row[1]: int(row[2].removeprefix("weight=")) for row in rows}

    def break_it(self) -> None:
        (self.folder / "broken").touch()

    def mend(self) -> None:
        (self.folder / "broken").unlink()


class WebhookRig:
    """A real server that keeps the last state it took; broken answers 503."""

    def __init__(self, url: str) -> None:
        self.provider: Provider = WebhookProvider(url, 5.0)
        self.posts: list[dict[str, Any]] = []
        self.status = 200

    async def post(self, request: web.Request) -> web.Response:
        """Take a state, or refuse it."""
        document = json.loads(await request.text())
        if self.status == 200:
            self.posts.append(document)
        return web.Response(status=self.status, text="the balancer is restarting")

    def taken(self) -> Taken:
        rows = self.posts[-1]["endpoints"]
        return {f"{row['host']}:{row['port']}": row["weight"] for row in rows if row["weight"]}

    def break_it(self) -> None:
        self.status = 503

    def mend(self) -> None:
        self.status = 200


RIGS = ("haproxy-unix", "haproxy-tcp", "template", "webhook")


@asynccontextmanager
async def running_rig(kind: str, folder: Path) -> AsyncIterator[Rig]:
    """Run a provider until the context ends."""
    if kind.startswith("haproxy"):
        with Haproxy() as proxy:
            yield HaproxyRig(proxy, proxy.socket_path if kind == "haproxy-unix" else proxy.socket_address)
    elif kind == "template":
        yield TemplateRig(folder)
    else:
        app = web.Application()
        runner = web.AppRunner(app)
        rig = WebhookRig("")
        app.router.add_post("/routes", rig.post)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        rig.provider = WebhookProvider(f"http://127.0.0.1:{runner.addresses[0][1]}/routes", 5.0)
        try:
            yield rig
        finally:
            await runner.cleanup()


def endpoint(number: int, port: int | None = None, group: str = "stable", epoch: int = 5) -> Endpoint:
    """Return the endpoint of slot `number` of the shop's web."""
    return Endpoint(slot("web", number), epoch, "127.0.0.1", port or 20000 + number, group)


def wish(
    provider: Provider | None,
    endpoints: Sequence[Endpoint],
    *,
    percent: int | None = None,
    drain_s: float = 10.0,
    name: str = "web",
) -> WantedRoute:
    """Return what a route should be; `percent` of the new set, where there are two."""
    weights = (("stable", 100),) if percent is None else (("stable", 100 - percent), ("canary", percent))
    alive = frozenset(one.instance for one in endpoints)
    return WantedRoute(SHOP, RouteSpec(name, "web", "http", provider, drain_s), tuple(endpoints), weights, alive)
