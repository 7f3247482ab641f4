"""The documents of the API: what it answers, what the client returns, what `get -o json` prints.

One definition for all: `hsu_cluster.api` builds these, its OpenAPI text is generated from them. Fields are
added, never renamed or removed. Times are seconds since 1970 (a float), null where nothing happened yet.
`revision` of an object is the store revision of its last change; of a list, the one it was read at.
"""

from __future__ import annotations

from typing import Any, TypedDict

from hsu_cluster.client.node_documents import DrainDocument


class FaultDocument(TypedDict):
    """One thing wrong with an input, or a warning about it. `line` counts from 1 (0: not known)."""

    path: str
    line: int
    detail: str
    fix: str
    code: str
    file: str


class ProblemDocument(TypedDict):
    """A failure (RFC 9457). `code` is stable; `detail` is the sentence: what failed, why, what to do."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    what: str
    why: str
    fix: str
    errors: list[FaultDocument]


class LastExitDocument(TypedDict):
    """How a process ended last; `code` or `signal` (SIGKILL), both null when nobody saw it.

    `cpu_s` (seconds of processor time) and `max_rss_bytes` (no more memory than this at once; not below
    that of the agent): null where nobody told.
    """

    code: int | None
    signal: str | None
    at: float
    reason: str
    cpu_s: float | None
    max_rss_bytes: int | None


class InstanceDocument(TypedDict):
    """One slot of a worker. `node` null and `state` "registered": not placed, `reason` says why.

    `breaker`: where the breaker of its restarts stands (closed, open, half-open).
    `operations`: what can be asked of it in this state (start, stop, restart, remove, signal).
    """

    id: str
    namespace: str
    app: str
    worker: str
    slot: int
    node: str | None
    state: str
    ready: bool
    pid: int | None
    app_revision: int
    epoch: int
    restarts: int
    breaker: str
    last_exit: LastExitDocument | None
    ports: dict[str, int]
    started_at: float | None
    reason: str
    operations: list[str]
    revision: int


class LimitSupportDocument(TypedDict):
    """How a host holds a limit such as `memory.max_rss`; `reason` says why not better.

    `how`: cgroup-v2, cgroup-v1, rlimit, scheduler, sampling or unsupported.
    """

    limit: str
    how: str
    reason: str


class UnenforcedDocument(TypedDict):
    """A limit of a worker that nodes of its instances cannot hold (or only by samples), with the reason."""

    limit: str
    how: str
    reason: str
    nodes: list[str]


class WorkerDocument(TypedDict):
    """A worker of an app: how many instances are wanted, ready, of the current revision, stopped on request."""

    id: str
    namespace: str
    app: str
    type: str
    replicas: int
    ready: int
    updated: int
    available: int
    stopped: int
    restarts: int
    phase: str
    reason: str
    text: str
    unenforced: list[UnenforcedDocument]
    revision: int


class AppDocument(TypedDict):
    """An app. `phase`: Healthy, Progressing, Degraded, Paused or Stopped; `text` is the sentence for people."""

    namespace: str
    app: str
    app_revision: int
    phase: str
    reason: str
    text: str
    workers: list[WorkerDocument]
    deployed_at: float
    deployed_by: str
    revision: int


class DeployDocument(AppDocument):
    """Answer of a deploy. `unchanged`: the content was the current revision already, nothing was written."""

    unchanged: bool
    warnings: list[FaultDocument]


class ChangeDocument(TypedDict):
    """What a deploy would do to one worker. `action`: none, create, update (in place), restart, remove.

    `text` counts instances ("3 to restart"), `fields` names what differs, as `execution.args`, `why` says how it is
    carried out and for which fields.
    """

    worker: str
    action: str
    text: str
    why: str
    fields: list[str]


class FieldDocument(TypedDict):
    """One field that differs; null: not there."""

    path: str
    before: str | None
    after: str | None


class PlanDocument(TypedDict):
    """What a deploy would do (`dry_run`). `unchanged`: nothing. `app_revision`: the present one (0: none).

    `placements`: instances that would get a node, and which; `unplaced`: those that would find none, and why.
    `no_room`: workers whose rollout could not begin, and why. A deploy with this `pin` is refused if the app or the
    manifest has changed since.
    """

    namespace: str
    app: str
    app_revision: int
    unchanged: bool
    changes: list[ChangeDocument]
    fields: list[FieldDocument]
    placements: dict[str, str]
    unplaced: dict[str, str]
    no_room: dict[str, str]
    pin: str
    warnings: list[FaultDocument]
    revision: int


class RevisionDocument(TypedDict):
    """One version of an app; `is_current`: the app runs it (or moves to it).

    `state`: rolling-out, stable, failed, aborted, proven (was rolled out well once) or unproven; "" if nobody knows.
    """

    namespace: str
    app: str
    number: int
    content_hash: str
    created_at: float
    created_by: str
    is_current: bool
    state: str
    workers: list[str]
    revision: int


class CapacityDocument(TypedDict):
    """Processor share in thousandths of a core, memory in bytes, number of instances (0 in a capacity)."""

    cpu_milli: int
    memory_bytes: int
    instances: int


class NodeDocument(TypedDict):
    """A host. `state`: ready, suspect, lost or left. `used` is what its assignments reserve.

    Only the leader knows `last_seen` and who is suspect: from another master they are null and ready. Nothing new is
    placed before `cooling_until` on a node that was lost and came back; null: it never was. `fence`: why no worker with
    `guarantee: strict` can run here; empty: it can.
    `limits`: how it holds each limit; empty if its agent does not tell. `drain`: how far it is, null: nobody drains it.
    """

    name: str
    state: str
    labels: dict[str, str]
    capacity: CapacityDocument
    used: CapacityDocument
    last_seen: float | None
    cordoned: bool
    draining: bool
    drain: DrainDocument | None
    os: str
    arch: str
    version: str
    address: str
    reason: str
    fence: str
    cooling_until: float | None
    limits: list[LimitSupportDocument]
    revision: int


class EventDocument(TypedDict):
    """Something that happened. `code` is a CamelCase word, `text` a sentence, `id` its place in the order."""

    id: str
    at: float
    code: str
    subject: str
    text: str
    namespace: str
    app: str
    node: str
    actor: str
    revision: int


class MasterDocument(TypedDict):
    """A master and the URL of its API."""

    name: str
    url: str
    version: str
    since: float


class StoreDocument(TypedDict):
    """Who keeps the state: memory, sqlite or etcd, its version, and warnings for people."""

    backend: str
    version: str
    warnings: list[str]


class ClusterDocument(TypedDict):
    """The cluster as this master sees it. `leader` null: nobody leads. `term` 0: nobody led yet.

    `alarms`: sentences about what a person has to look at now.
    """

    leader: MasterDocument | None
    term: int
    masters: list[MasterDocument]
    revision: int
    store: StoreDocument
    incarnation: str
    version: str
    alarms: list[str]


class RemovedDocument(TypedDict):
    """Answer of a removal or of a signal: `done` is true; `subject` names what it was about."""

    subject: str
    done: bool
    revision: int


class NoticeDocument(TypedDict):
    """Something changed up to `revision`: read it again. `kinds`: apps, instances, routes, nodes, events, cluster.

    `apps` has "namespace/app" of the apps concerned (empty: any); the first notice of a watch has no kinds.
    """

    revision: int
    kinds: list[str]
    apps: list[str]


class HealthDocument(TypedDict):
    """Answer of /healthz and /readyz."""

    status: str


class InstanceList(TypedDict):
    """A page of instances; `next` is the `page` of the next one."""

    items: list[InstanceDocument]
    revision: int
    next: str | None


class WorkerList(TypedDict):
    """A page of workers."""

    items: list[WorkerDocument]
    revision: int
    next: str | None


class AppList(TypedDict):
    """A page of apps."""

    items: list[AppDocument]
    revision: int
    next: str | None


class RevisionList(TypedDict):
    """A page of revisions, oldest first."""

    items: list[RevisionDocument]
    revision: int
    next: str | None


class NodeList(TypedDict):
    """A page of nodes."""

    items: list[NodeDocument]
    revision: int
    next: str | None


class EventList(TypedDict):
    """A page of events, newest first."""

    items: list[EventDocument]
    revision: int
    next: str | None


class ScaleBody(TypedDict):
    """Body of scale: how many instances (0 to 10,000)."""

    replicas: int


class TargetBody(TypedDict, total=False):
    """Body of restart, stop and start: the whole app, one `worker` of it, or one `slot` of that worker."""

    worker: str
    slot: int


class UndoBody(TypedDict, total=False):
    """Body of undo: the number of a kept revision; without it the latest earlier one with other content."""

    to: int


class SignalBody(TypedDict):
    """Body of signal: a name such as SIGHUP."""

    signal: str


class EmptyBody(TypedDict):
    """Body of a verb that needs nothing: none, or an empty object."""


Manifest = dict[str, Any]
"""A manifest as plain data."""
