"""The typed client of the API, for the command line, tests and scripts. Returns plain documents.

Every method returns a document of `hsu_cluster.client.documents` and raises HsuError: ApiProblem with the
server's own code, status and faults, or Unreachable. A write carries an idempotency key (one is made up
where none is given), so that a try on the next master after a lost answer is applied once.
"""

from __future__ import annotations

import codecs
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from hsu_cluster.client.analysis_documents import AnalysisRunList
from hsu_cluster.client.documents import (
    AppDocument,
    AppList,
    ClusterDocument,
    DeployDocument,
    EventList,
    InstanceList,
    NodeDocument,
    NodeList,
    NoticeDocument,
    PlanDocument,
    RemovedDocument,
    RevisionList,
    WorkerList,
)
from hsu_cluster.client.node_documents import DrainPlanDocument, RebalanceDocument, RebalancePlanDocument
from hsu_cluster.client.restore_documents import RestoreDocument
from hsu_cluster.client.rollout_documents import RolloutDocument, RolloutList
from hsu_cluster.client.route_documents import EndpointList, RouteList, TargetGroupDocument
from hsu_cluster.client.transport import Answer, Transport
from hsu_core.model.log_query import LogQuery

D = TypeVar("D")

LAST_LINES = LogQuery(100)

PAGE_LIMIT = 500
"""Most items a list answers at once (the server's limit)."""


class ClusterClient:
    """A connection to the masters of one cluster; use as `async with ClusterClient(url, token) as cluster:`.

    `server` is one URL or several separated by commas: the next one is tried when one cannot be reached.
    """

    def __init__(self, server: str, token: str = "", ca_file: Path | None = None, *, timeout_s: float = 30.0) -> None:
        self._transport = Transport(server, token, ca_file, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    @property
    def stale_s(self) -> float | None:
        """Return how old the last answer was, in seconds, if a master gave it without its store; else None."""
        return self._transport.stale_s

    # Apps

    async def deploy(
        self,
        namespace: str,
        app: str,
        document: str | Mapping[str, Any],
        *,
        if_match: int | None = None,
        idempotency_key: str | None = None,
        pin: str | None = None,
    ) -> DeployDocument:
        """Deploy a manifest (YAML text, or plain data with every file already in it) and return the app.

        `if_match` is the store `revision` of the app as it was read (0: it must not exist yet). `pin` is that of a
        plan: the deploy is refused if app or manifest have changed since.
        """
        query = {} if pin is None else {"pin": pin}
        answer = await self._put(namespace, app, document, query, if_match, idempotency_key or secrets.token_hex(16))
        return cast(DeployDocument, answer.document)

    async def plan(self, namespace: str, app: str, document: str | Mapping[str, Any]) -> PlanDocument:
        """Return what `deploy` would do; nothing is changed (the API's `dry_run`)."""
        answer = await self._put(namespace, app, document, {"dry_run": "true"}, None, None)
        return cast(PlanDocument, answer.document)

    async def _put(
        self,
        namespace: str,
        app: str,
        document: str | Mapping[str, Any],
        query: Mapping[str, str],
        if_match: int | None,
        key: str | None,
    ) -> Answer:
        headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
        path = f"/v1/namespaces/{namespace}/apps/{app}"
        if isinstance(document, str):
            return await self._transport.send("PUT", path, query=query, text=document, headers=headers, key=key)
        return await self._transport.send("PUT", path, query=query, body=dict(document), headers=headers, key=key)

    async def get_app(self, namespace: str, app: str) -> AppDocument:
        """Return one app with its workers. Raises ApiProblem `not-found`."""
        return cast(AppDocument, await self._get(f"/v1/namespaces/{namespace}/apps/{app}"))

    async def list_apps(self, namespace: str | None = None) -> AppList:
        """Return all apps, of one namespace or of all."""
        path = "/v1/apps" if namespace is None else f"/v1/namespaces/{namespace}/apps"
        return cast(AppList, await self._list(path))

    async def list_workers(self, namespace: str | None = None, app: str | None = None) -> WorkerList:
        """Return the workers over all apps, of a namespace, or of one app."""
        return cast(WorkerList, await self._list("/v1/workers", {"namespace": namespace, "app": app}))

    async def list_instances(self, namespace: str | None = None, app: str | None = None) -> InstanceList:
        """Return the instances of one app, of a namespace, or of all."""
        return cast(InstanceList, await self._list("/v1/instances", {"namespace": namespace, "app": app}))

    async def list_revisions(self, namespace: str, app: str) -> RevisionList:
        """Return the revisions of an app, oldest first."""
        return cast(RevisionList, await self._list(f"/v1/namespaces/{namespace}/apps/{app}/revisions"))

    async def list_analysis_runs(self, namespace: str, app: str) -> AnalysisRunList:
        """Return the analysis runs of an app, oldest first. Raises ApiProblem `not-found`."""
        return cast(AnalysisRunList, await self._list(f"/v1/namespaces/{namespace}/apps/{app}/analysis-runs"))

    async def remove(self, namespace: str, app: str, *, if_match: int | None = None) -> RemovedDocument:
        """Remove an app: its instances are stopped. Raises ApiProblem `not-found`."""
        headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
        path = f"/v1/namespaces/{namespace}/apps/{app}"
        answer = await self._transport.send("DELETE", path, headers=headers, key=secrets.token_hex(16))
        return cast(RemovedDocument, answer.document)

    async def undo(self, namespace: str, app: str, to: int | None = None) -> DeployDocument:
        """Deploy an earlier revision again. Raises ApiProblem `not-found`, `conflict.no-earlier-revision`."""
        body = {} if to is None else {"to": to}
        return cast(DeployDocument, await self._post(f"/v1/namespaces/{namespace}/apps/{app}/undo", body))

    async def get_rollout(self, namespace: str, app: str) -> RolloutDocument:
        """Return how far the rollout of an app's present revision is. Raises ApiProblem `not-found`."""
        return cast(RolloutDocument, await self._get(f"/v1/namespaces/{namespace}/apps/{app}/rollout"))

    async def list_rollouts(self, namespace: str | None = None) -> RolloutList:
        """Return the last rollout of every app, of one namespace or of all."""
        return cast(RolloutList, await self._list("/v1/rollouts", {"namespace": namespace}))

    async def rollout_verb(
        self, namespace: str, app: str, verb: str, body: Mapping[str, Any] | None = None
    ) -> AppDocument:
        """Promote, pause, resume, abort or retry the rollout. Raises ApiProblem `conflict.…` where it means nothing."""
        return cast(AppDocument, await self._post(f"/v1/namespaces/{namespace}/apps/{app}/rollout/{verb}", body or {}))

    async def scale(self, namespace: str, app: str, worker: str, replicas: int) -> AppDocument:
        """Ask for `replicas` instances of a worker and return the app."""
        path = f"/v1/namespaces/{namespace}/apps/{app}/workers/{worker}/scale"
        return cast(AppDocument, await self._post(path, {"replicas": replicas}))

    async def restart(
        self, namespace: str, app: str, worker: str | None = None, slot: int | None = None
    ) -> AppDocument:
        """Restart an app, one worker or one instance, and return the app."""
        return await self._verb(namespace, app, "restart", worker, slot)

    async def stop(self, namespace: str, app: str, worker: str | None = None, slot: int | None = None) -> AppDocument:
        """Stop an app, one worker or one instance, until `start`."""
        return await self._verb(namespace, app, "stop", worker, slot)

    async def start(self, namespace: str, app: str, worker: str | None = None, slot: int | None = None) -> AppDocument:
        """Start again what `stop` stopped."""
        return await self._verb(namespace, app, "start", worker, slot)

    async def _verb(self, namespace: str, app: str, verb: str, worker: str | None, slot: int | None) -> AppDocument:
        body = {name: part for name, part in (("worker", worker), ("slot", slot)) if part is not None}
        return cast(AppDocument, await self._post(f"/v1/namespaces/{namespace}/apps/{app}/{verb}", body))

    # Instances

    async def signal(self, namespace: str, app: str, worker: str, slot: int, name: str) -> RemovedDocument:
        """Send a signal (SIGHUP) to an instance's process group."""
        path = f"/v1/namespaces/{namespace}/apps/{app}/instances/{worker}.{slot}/signal"
        return cast(RemovedDocument, await self._post(path, {"signal": name}))

    async def logs(
        self,
        namespace: str,
        app: str,
        worker: str,
        slot: int,
        wanted: LogQuery = LAST_LINES,
    ) -> AsyncGenerator[str, None]:
        """Yield the log of an instance as chunks of text.

        With `is_timed` each line begins with its time in UTC and a space: `2026-01-31T12:00:00.123Z `.
        """
        path = f"/v1/namespaces/{namespace}/apps/{app}/instances/{worker}.{slot}/logs"
        query = {"tail": str(wanted.tail), "follow": "true" if wanted.is_followed else "false"}
        if wanted.since_at is not None:
            query["since"] = f"{wanted.since_at:.3f}"
        if wanted.until_at is not None:
            query["until"] = f"{wanted.until_at:.3f}"
        if wanted.is_timed:
            query["timestamps"] = "true"
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        async with self._transport.stream(path, query) as chunks:
            async for chunk in chunks:
                if text := decoder.decode(chunk):
                    yield text
        if text := decoder.decode(b"", final=True):
            yield text

    # Traffic

    async def list_endpoints(self, namespace: str | None = None, app: str | None = None) -> EndpointList:
        """Return the ready instances with ports of one app, of a namespace, or of all."""
        return cast(EndpointList, await self._list("/v1/endpoints", {"namespace": namespace, "app": app}))

    async def list_routes(self, namespace: str | None = None, app: str | None = None) -> RouteList:
        """Return the routes of one app, of a namespace, or of all, with what their providers have confirmed."""
        return cast(RouteList, await self._list("/v1/routes", {"namespace": namespace, "app": app}))

    async def prometheus_targets(
        self,
        namespace: str | None = None,
        app: str | None = None,
        worker: str | None = None,
        port: str | None = None,
    ) -> list[TargetGroupDocument]:
        """Return what runs as Prometheus' HTTP service discovery reads it."""
        query = {"namespace": namespace, "app": app, "worker": worker, "port": port}
        return cast(list[TargetGroupDocument], await self._get("/v1/prometheus/targets", query))

    # Nodes

    async def list_nodes(self) -> NodeList:
        """Return all nodes."""
        return cast(NodeList, await self._list("/v1/nodes"))

    async def get_node(self, node: str) -> NodeDocument:
        """Return one node. Raises ApiProblem `not-found`."""
        return cast(NodeDocument, await self._get(f"/v1/nodes/{node}"))

    async def drain(
        self, node: str, *, deadline_s: float | None = None, force: bool = False, cancel: bool = False
    ) -> NodeDocument:
        """Place nothing more on a node and move its instances off.

        `deadline_s`: when the rest is taken off whatever stays ready; `force`: at once; `cancel`: move no more.
        """
        body = {"deadline": deadline_s, "force": force or None, "cancel": cancel or None}
        given = {name: value for name, value in body.items() if value is not None}
        return cast(NodeDocument, await self._post(f"/v1/nodes/{node}/drain", given))

    async def drain_plan(self, node: str, *, force: bool = False) -> DrainPlanDocument:
        """Return what a drain would do."""
        query = {"force": "true" if force else None}
        return cast(DrainPlanDocument, await self._get(f"/v1/nodes/{node}/drain-plan", query))

    async def cordon(self, node: str) -> NodeDocument:
        """Place nothing more on a node."""
        return cast(NodeDocument, await self._post(f"/v1/nodes/{node}/cordon", {}))

    async def uncordon(self, node: str) -> NodeDocument:
        """Take a node back after `cordon` or `drain`."""
        return cast(NodeDocument, await self._post(f"/v1/nodes/{node}/uncordon", {}))

    async def remove_node(self, node: str) -> RemovedDocument:
        """Forget a node that is lost or has left. Raises ApiProblem `node.present` for a ready one."""
        return cast(RemovedDocument, await self._post(f"/v1/nodes/{node}/remove", {}))

    async def rebalance_plan(self, *, max_moves: int | None = None) -> RebalancePlanDocument:
        """Return what a rebalance would do now."""
        query = {"max_moves": None if max_moves is None else str(max_moves)}
        return cast(RebalancePlanDocument, await self._get("/v1/rebalance/plan", query))

    async def get_rebalance(self) -> RebalanceDocument:
        """Return how far the last rebalance is."""
        return cast(RebalanceDocument, await self._get("/v1/rebalance"))

    async def rebalance(self, *, max_moves: int | None = None) -> RebalanceDocument:
        """Ask for a rebalance. Raises ApiProblem `conflict.rebalancing` while one is on its way."""
        body = {} if max_moves is None else {"max_moves": max_moves}
        return cast(RebalanceDocument, await self._post("/v1/rebalance", body))

    async def cancel_rebalance(self) -> RebalanceDocument:
        """Move no more."""
        return cast(RebalanceDocument, await self._post("/v1/rebalance/cancel", {}))

    # Cluster

    async def cluster(self) -> ClusterDocument:
        """Return leader, term, masters, store and revision."""
        return cast(ClusterDocument, await self._get("/v1/cluster"))

    async def restore(self) -> RestoreDocument:
        """Return what is held after a restore of the store, and what accepting it would do."""
        return cast(RestoreDocument, await self._get("/v1/cluster/restore"))

    async def accept_restore(self) -> RestoreDocument:
        """Order the nodes that hold their work. Raises ApiProblem `conflict.not-held` where nothing waits."""
        return cast(RestoreDocument, await self._post("/v1/cluster/restore/accept", {}))

    async def events(self, namespace: str | None = None, app: str | None = None, *, limit: int = 100) -> EventList:
        """Return the last `limit` events (at most 500), newest first."""
        query = {"namespace": namespace, "app": app, "limit": str(limit)}
        return cast(EventList, await self._get("/v1/events", query))

    async def watch(
        self, namespace: str | None = None, app: str | None = None, kinds: Sequence[str] = ()
    ) -> AsyncGenerator[NoticeDocument, None]:
        """Yield a notice at once and then for each change (kinds: apps, instances, routes, nodes, events; none: all).

        Read again whatever the notice names. Ends when the master stops; raises ApiProblem when refused.
        """
        query = {"namespace": namespace, "app": app, "kinds": ",".join(kinds) or None}
        async with self._transport.notices("/v1/watch", query) as notices:
            async for notice in notices:
                yield cast(NoticeDocument, notice)

    async def _get(self, path: str, query: Mapping[str, str | None] | None = None) -> Any:
        return (await self._transport.send("GET", path, query=query or {})).document

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return (await self._transport.send("POST", path, body=dict(body), key=secrets.token_hex(16))).document

    async def _list(self, path: str, query: Mapping[str, str | None] | None = None) -> Any:
        """Return a list with the items of all its pages, read at the revision of the first."""
        asked = {**(query or {}), "limit": str(PAGE_LIMIT)}
        document = await self._get(path, asked)
        page = document["next"]
        while page is not None:
            following = await self._get(path, {**asked, "page": page})
            document["items"] += following["items"]
            page = following["next"]
        document["next"] = None
        return document
