"""Apps: read, scale, restart, stop, start, remove. How a manifest becomes a revision is in `deploys`."""

from __future__ import annotations

from collections.abc import Callable

from hsu_cluster.api.calls import Answer, Call, list_document, no_such_app, page_request
from hsu_cluster.api.deploys import RevisionFloor, changed_app, encoded, floor_key
from hsu_cluster.api.documents import app_document, revision_documents
from hsu_cluster.api.reading import Scope
from hsu_cluster.api.writing import Change, check_if_match, commit, event, unchanged
from hsu_cluster.client.documents import AppDocument, RemovedDocument, ScaleBody, TargetBody
from hsu_cluster.planning import intents
from hsu_cluster.planning.layout import base_of, index_of
from hsu_core.model.assignment import AppRecord, Revision
from hsu_core.model.errors import Conflict, InvalidInput, NotFound
from hsu_core.model.ids import AppId, TargetName
from hsu_core.model.rollout import Rollout
from hsu_core.model.spec import AppSpec
from hsu_core.store.base import Delete, Operation, Put
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode

# Reading


async def list_apps(call: Call) -> Answer:
    """Return the apps of the namespace in the path, or of all."""
    namespace = call.namespace if "namespace" in call.request.match_info else call.query_name("namespace")
    page = page_request(call)
    reader = call.services.reader
    reading = await reader.read(Scope(namespace), revision=page.revision)
    unplaced = await reader.unplaced(reading)
    now_s = call.services.clock()

    def build(app: AppId) -> AppDocument:
        return app_document(reading, app, unplaced, now_s)

    found = sorted(reading.view.apps)
    return Answer(list_document(found, lambda app: (app.namespace, app.app), page, reading.revision, build))


async def list_workers(call: Call) -> Answer:
    """Return the workers of all apps, of a namespace, or of one app."""
    namespace, app = namespace_and_app(call)
    page = page_request(call)
    reader = call.services.reader
    reading = await reader.read(Scope(namespace, app), revision=page.revision)
    unplaced = await reader.unplaced(reading)
    now_s = call.services.clock()
    items = [
        worker
        for app_id in sorted(reading.view.apps)
        for worker in sorted(app_document(reading, app_id, unplaced, now_s)["workers"], key=lambda item: item["id"])
    ]
    return Answer(
        list_document(items, lambda item: (item["namespace"], item["app"], item["id"]), page, reading.revision)
    )


def namespace_and_app(call: Call) -> tuple[str | None, str | None]:
    """Return the namespace and app that a list is limited to. Raises InvalidInput for an app without namespace."""
    namespace, app = call.query_name("namespace"), call.query_name("app")
    if app is not None and namespace is None:
        raise InvalidInput("use query parameter app", "it needs a namespace", "add namespace=", code="input.query")
    return namespace, app


async def get_app(call: Call) -> Answer:
    """Return one app."""
    app, reader = call.app, call.services.reader
    reading = await reader.read(Scope(app.namespace, app.app))
    if app not in reading.view.apps:
        raise no_such_app(app)
    return Answer(app_document(reading, app, await reader.unplaced(reading), call.services.clock()))


async def list_revisions(call: Call) -> Answer:
    """Return the revisions of an app, oldest first."""
    app, page = call.app, page_request(call)
    reading = await call.services.reader.read(Scope(app.namespace, app.app), revision=page.revision)
    if app not in reading.view.apps:
        raise no_such_app(app)
    items = revision_documents(reading, app)
    return Answer(list_document(items, lambda item: (f"{item['number']:010d}",), page, reading.revision))


# Changes of what people ask


Edit = Callable[[AppRecord, AppSpec], AppRecord]


async def scale(call: Call) -> Answer:
    """Set the number of instances of a worker."""
    app, worker = call.app, call.worker
    body = await call.read_body(ScaleBody)
    text = f"worker {worker} of {app} was scaled to {body['replicas']}"
    return await _edit(
        call, app, lambda record, spec: intents.scale(record, spec, worker, body["replicas"]), "Scaled", text
    )


async def restart(call: Call) -> Answer:
    """Restart an app, a worker or an instance."""
    return await _verb(call, intents.restart, "RestartRequested", "is to be restarted")


async def stop(call: Call) -> Answer:
    """Stop an app, a worker or an instance until it is started again."""
    return await _verb(call, intents.stop, "StopRequested", "is to be stopped")


async def start(call: Call) -> Answer:
    """Start what was stopped."""
    return await _verb(call, intents.start, "StartRequested", "is to be started")


async def _verb(
    call: Call, edit: Callable[[AppRecord, AppSpec, TargetName], AppRecord], code: str, what: str
) -> Answer:
    app = call.app
    body = await call.read_body(TargetBody)
    worker, slot = body.get("worker"), body.get("slot")
    if slot is not None and (worker is None or slot < 0):
        raise InvalidInput(
            "use the body", f"slot {slot} names no instance", "give the worker too, and count from 0", code="input.body"
        )
    named = str(app) + (f"/{worker}" if worker else "") + (f".{slot}" if slot is not None else "")
    index = slot
    if worker is not None and slot is not None:
        entry = await call.services.store.get(keys.rollout(app))
        rollout = decode(Rollout, entry.value) if entry is not None else None
        index = index_of(rollout, worker, slot)
        if base_of(rollout, worker) and index == slot:
            raise _no_such_slot(app, worker, slot, base_of(rollout, worker))
    target = TargetName(app.app, worker, index)
    return await _edit(call, app, lambda record, spec: edit(record, spec, target), code, f"{named} {what}")


def _no_such_slot(app: AppId, worker: str, slot: int, base: int) -> NotFound:
    name = f"{app.app}/{worker}"
    return NotFound(
        f"find {name}.{slot}", f"since its last rollout the instances of {name} are numbered from {base}",
        f"see `hsu-cluster get instances {name}`", code="not-found.instance",
    )  # fmt: skip


async def _edit(call: Call, app: AppId, edit: Edit, code: str, text: str) -> Answer:
    async def compute() -> Change:
        store = call.services.store
        entry = await store.get(keys.app(app))
        check_if_match(call, f"app {app}", entry)
        if entry is None:
            raise no_such_app(app)
        record = decode(AppRecord, entry.value)
        revision = await store.get(keys.revision(app, record.revision))
        if revision is None:
            raise Conflict(
                f"change app {app}", f"its revision {record.revision} is not in the store", "deploy it again",
                code="conflict.revision-missing",
            )  # fmt: skip
        edited = edit(record, decode(Revision, revision.value).spec)
        if edited == record:
            return Change()
        made = event(call, code, str(app), text, namespace=app.namespace, app=app.app)
        return Change([unchanged(entry, keys.app(app))], [Put(keys.app(app), encoded(edited, entry))], made)

    committed = await commit(call, await call.request.read(), compute)
    return Answer(await changed_app(call, app, committed))


async def delete_app(call: Call) -> Answer:
    """Remove an app with its revisions: the leader then stops its instances."""
    app = call.app

    async def compute() -> Change:
        entry = await call.services.store.get(keys.app(app))
        check_if_match(call, f"app {app}", entry)
        if entry is None:
            raise no_such_app(app)
        floor = RevisionFloor(decode(AppRecord, entry.value).revision, call.services.clock())
        operations: list[Operation] = [
            Delete(keys.app(app)),
            Delete(keys.revisions(app), is_prefix=True),
            Put(floor_key(app), encode(floor)),
        ]
        made = event(call, "Removed", str(app), f"app {app} was removed", namespace=app.namespace, app=app.app)
        return Change([unchanged(entry, keys.app(app))], operations, made)

    committed = await commit(call, b"", compute)
    document: RemovedDocument = {"subject": str(app), "done": True, "revision": committed or 0}
    return Answer(document)
