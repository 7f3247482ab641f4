"""Rollouts: how far they are, and what people ask of them."""

from __future__ import annotations

from hsu_cluster.api.calls import Answer, Call, list_document, no_such_app, page_request
from hsu_cluster.api.deploys import changed_app, encoded
from hsu_cluster.api.reading import Scope
from hsu_cluster.api.rollout_documents import rollout_document
from hsu_cluster.api.writing import Change, check_if_match, commit, event, unchanged
from hsu_cluster.client.rollout_documents import PromoteBody
from hsu_cluster.planning import rollout_intents
from hsu_cluster.planning.rollout_begin import rollout_of
from hsu_core.model.assignment import AppRecord
from hsu_core.model.errors import Conflict
from hsu_core.model.ids import AppId
from hsu_core.store.base import Put
from hsu_core.wire import keys


async def list_rollouts(call: Call) -> Answer:
    """Return the last rollout of every app, of a namespace or of all."""
    namespace, page = call.query_name("namespace"), page_request(call)
    reading = await call.services.reader.read(Scope(namespace), revision=page.revision)
    now_s = call.services.clock()
    found = sorted(app for app, record in reading.view.apps.items() if (app, record.revision) in reading.view.revisions)
    return Answer(
        list_document(
            found, lambda app: (app.namespace, app.app), page, reading.revision,
            lambda app: rollout_document(reading, app, now_s),
        )
    )  # fmt: skip


async def get_rollout(call: Call) -> Answer:
    """Return how far the rollout of an app's present revision is."""
    app = call.app
    reading = await call.services.reader.read(Scope(app.namespace, app.app))
    record = reading.view.apps.get(app)
    if record is None:
        raise no_such_app(app)
    _check_revision(app, record, (app, record.revision) in reading.view.revisions)
    return Answer(rollout_document(reading, app, call.services.clock()))


async def promote(call: Call) -> Answer:
    """End what is waited for now; with `full` all that would be waited for."""
    body = await call.read_body(PromoteBody)
    worker = body.get("worker")
    if body.get("full"):
        return await _verb(call, rollout_intents.promote_full, "PromoteRequested", "is promoted fully")
    named = f"worker {worker} " if worker else ""
    return await _verb(
        call, lambda record, rollout: rollout_intents.promote(record, rollout, worker), "PromoteRequested",
        f"{named}is promoted",
    )  # fmt: skip


async def pause(call: Call) -> Answer:
    """Let the rollout go no further."""
    return await _verb(call, rollout_intents.pause, "PauseRequested", "is paused")


async def resume(call: Call) -> Answer:
    """Let a paused rollout go on."""
    return await _verb(call, rollout_intents.resume, "ResumeRequested", "is resumed")


async def abort(call: Call) -> Answer:
    """Go back to the stable revision."""
    return await _verb(call, rollout_intents.abort, "AbortRequested", "is aborted")


async def retry(call: Call) -> Answer:
    """Begin again after an abort or a rollback."""
    return await _verb(call, rollout_intents.retry, "RetryRequested", "begins again")


async def _verb(call: Call, edit: rollout_intents.Edit, code: str, what: str) -> Answer:
    app = call.app
    reader = call.services.reader

    async def compute() -> Change:
        reading = await reader.read(Scope(app.namespace, app.app))
        entry = await call.services.store.get(keys.app(app))
        check_if_match(call, f"app {app}", entry)
        record = reading.view.apps.get(app)
        if entry is None or record is None:
            raise no_such_app(app)
        if entry.mod_revision != reading.changed.get(keys.app(app)):
            return await compute()  # deployed or edited between the two reads
        _check_revision(app, record, (app, record.revision) in reading.view.revisions)
        edited = edit(record, rollout_of(reading.view, record, call.services.clock()))
        if edited == record:
            return Change()
        text = f"the rollout of {app} to revision {record.revision} {what}"
        made = event(call, code, str(app), text, namespace=app.namespace, app=app.app)
        return Change([unchanged(entry, keys.app(app))], [Put(keys.app(app), encoded(edited, entry))], made)

    committed = await commit(call, await call.request.read(), compute)
    return Answer(await changed_app(call, app, committed))


def _check_revision(app: AppId, record: AppRecord, is_there: bool) -> None:
    if not is_there:
        raise Conflict(
            f"look at the rollout of {app}", f"its revision {record.revision} is not in the store", "deploy it again",
            code="conflict.revision-missing",
        )  # fmt: skip
