"""How a manifest becomes a revision: deploy, plan, undo. A revision and its app are one transaction."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hsu_cluster.api.calls import JSON_TYPE, YAML_TYPES, Answer, Call, no_such_app
from hsu_cluster.api.documents import app_document, plan_document
from hsu_cluster.api.problem import fault_documents
from hsu_cluster.api.reading import EVERYTHING, Scope
from hsu_cluster.api.writing import Change, check_if_match, commit, event, unchanged
from hsu_cluster.client.documents import AppDocument, DeployDocument, UndoBody
from hsu_cluster.planning import intents
from hsu_cluster.planning.explain import plan_deploy
from hsu_cluster.planning.rollout_begin import proven_revisions
from hsu_core.model.assignment import AppRecord, Assignment, Revision
from hsu_core.model.errors import Compacted, Conflict, InvalidInput, NotFound, StaleRevision, TooLarge
from hsu_core.model.ids import AppId
from hsu_core.model.rollout import Rollout
from hsu_core.model.spec import AppSpec
from hsu_core.store.base import VALUE_LIMIT_BYTES, Delete, Entry, Operation, Put, range_all
from hsu_core.wire import keys
from hsu_core.wire.codec import decode, encode
from hsu_core.wire.manifest import ParsedManifest, content_hash, parse_manifest, spec_hash

REVISIONS_KEPT = 20
"""Revisions of an app that stay to be read and gone back to; those that instances still run stay too."""

PARSE_TIMEOUT_S = 5.0
"""The largest manifest takes about 2 s; the parser's own limits keep a hostile one below that."""

TRIMMED_AT_ONCE = 100
"""Most revisions trimmed in one deploy: they share the transaction's 128 operations."""


async def changed_app(call: Call, app: AppId, revision: int | None) -> AppDocument:
    """Return the app as it is after a change at `revision` (None, or not kept any more: as of now).

    Why slots have no node is left out: the leader has had no time yet, and finding out reads everything.
    """
    reader = call.services.reader
    scope = Scope(app.namespace, app.app)
    try:
        reading = await reader.read(scope, revision=revision)
    except Compacted:
        reading = await reader.read(scope)
    if app not in reading.view.apps:
        raise no_such_app(app)
    return app_document(reading, app, {}, call.services.clock())


@dataclass(frozen=True, slots=True)
class RevisionFloor:
    """The last revision number of a removed app.

    A number is never used twice, also not by an app of the same name: agents keep specifications by it.
    """

    number: int
    at: float


def floor_key(app: AppId) -> str:
    """Return the key of an app's revision floor."""
    return f"{keys.REMOVED}{app.namespace}/{app.app}"


@dataclass(frozen=True, slots=True)
class _Present:
    """What the store has of an app: head, floor, revisions, and the numbers that assignments refer to."""

    entry: Entry | None
    record: AppRecord | None
    floor: Entry | None
    revisions: Sequence[Entry]
    referenced: frozenset[int]

    @property
    def current(self) -> Revision | None:
        """Return the current revision."""
        if self.record is None:
            return None
        key = keys.revision(self.record.id, self.record.revision)
        return next((decode(Revision, entry.value) for entry in self.revisions if entry.key == key), None)

    @property
    def next_number(self) -> int:
        """Return the number of the next revision."""
        taken = [_number(entry) for entry in self.revisions]
        if self.floor is not None:
            taken.append(decode(RevisionFloor, self.floor.value).number)
        return max(taken, default=0) + 1

    def superseded(self) -> list[str]:
        """Return the keys of revisions that may go when one is added."""
        current = self.record.revision if self.record else 0
        old = sorted(self.revisions, key=_number)[: -(REVISIONS_KEPT - 1)]
        return [entry.key for entry in old if _number(entry) != current and _number(entry) not in self.referenced][
            :TRIMMED_AT_ONCE
        ]


async def put_app(call: Call) -> Answer:
    """Deploy the manifest in the body; with `dry_run` return what that would do."""
    app = call.app
    is_dry_run = call.query_flag("dry_run")
    body = await call.read_text(YAML_TYPES | {JSON_TYPE})
    parsed = await _parse(call, app, body)
    if is_dry_run:
        return await _plan(call, app, parsed)
    committed = await commit(call, body, lambda: _deploy(call, app, parsed))
    document: Any = await changed_app(call, app, committed)
    document["unchanged"] = committed is None
    document["warnings"] = fault_documents(parsed.warnings)
    return Answer(cast(DeployDocument, document))


async def _parse(call: Call, app: AppId, body: bytes) -> ParsedManifest:
    file = "manifest.json" if call.request.content_type == JSON_TYPE else "manifest.yaml"
    if not body.strip():
        raise InvalidInput("deploy", "the body is empty", "send the manifest, YAML or JSON", code="input.body")

    def parse() -> ParsedManifest:
        return parse_manifest(body, file=file, namespace=app.namespace, app=app.app, environment=None, read_file=None)

    try:
        async with asyncio.timeout(PARSE_TIMEOUT_S):
            return await asyncio.to_thread(parse)
    except TimeoutError:
        raise TooLarge(
            "read the manifest", f"that took more than {PARSE_TIMEOUT_S:g} s", "make it smaller", code="limit.manifest"
        ) from None


async def _plan(call: Call, app: AppId, parsed: ParsedManifest) -> Answer:
    reading = await call.services.reader.read(EVERYTHING)
    record = reading.view.apps.get(app)
    revision = _revision(app, parsed.spec, (record.revision if record else 0) + 1, 0.0, "")
    plan = await asyncio.to_thread(plan_deploy, reading.view, revision)
    pin = pin_of(reading.changed.get(keys.app(app), 0), revision)
    return Answer(plan_document(reading, app, plan, parsed.warnings, pin))


def pin_of(app_revision: int, revision: Revision) -> str:
    """Return what a plan is known by: the app as it was (its store revision, 0: not there) and the new content."""
    return f"{app_revision}-{revision.content_hash}"


def _revision(app: AppId, spec: AppSpec, number: int, at_s: float, by: str) -> Revision:
    hashes = tuple((worker.id, spec_hash(worker, spec.base_directory)) for worker in spec.workers)
    return Revision(app, number, content_hash(spec), spec, hashes, at_s, by)


async def _deploy(call: Call, app: AppId, parsed: ParsedManifest) -> Change:
    """Return the change of a deploy: a new revision unless the content is the current one."""
    present = await _read_present(call, app)
    check_if_match(call, f"app {app}", present.entry)
    asked = call.request.query.get("pin")
    if asked is not None:
        _check_pin(app, asked, present.entry, _revision(app, parsed.spec, 0, 0.0, ""))
    return _change(call, app, present, parsed.spec)


def _check_pin(app: AppId, asked: str, entry: Entry | None, revision: Revision) -> None:
    """Raise StaleRevision unless the pin is that of a plan of this content for the app as it is now."""
    head, _, content = asked.partition("-")
    present = entry.mod_revision if entry is not None else 0
    what, fix = f"deploy {app} as it was planned", "plan it again, and look at the plan"
    if not head.isdigit() or re.fullmatch(r"[0-9a-f]+", content) is None or len(content) != len(revision.content_hash):
        raise InvalidInput(
            what, f"{asked[:80]!r} is no pin of a plan", "give the one that `hsu-cluster plan FILE` prints",
            code="input.pin",
        )  # fmt: skip
    if content != revision.content_hash:
        raise StaleRevision(
            what, "the pin is not of this manifest: it was planned with other content or variables, or never", fix
        )
    if int(head) != present:
        raise StaleRevision(what, "the app has changed since", fix)


def _change(call: Call, app: AppId, present: _Present, spec: AppSpec, again: int = 0) -> Change:
    """Return what makes a specification the current one; `again`: the revision that it is taken from."""
    now_s = call.services.clock()
    current = present.current
    revision = _revision(app, spec, present.next_number, now_s, call.principal.id)
    is_new = current is None or current.content_hash != revision.content_hash
    if current is not None and not is_new:
        revision = current
    known = [worker.id for worker in current.spec.workers] if current is not None else []
    record = intents.deploy(
        present.record, revision, deployed_at=now_s, deployed_by=call.principal.id, still_known=known
    )
    if not is_new and present.record is not None and record.intents == present.record.intents:
        return Change()
    operations: list[Operation] = [Put(keys.app(app), encoded(record, present.entry))]
    compares = [unchanged(present.entry, keys.app(app))]
    if is_new:
        key = keys.revision(app, revision.number)
        payload = encode(revision)
        if len(payload) > VALUE_LIMIT_BYTES:
            raise TooLarge(
                f"deploy {app}", f"the revision has {len(payload)} bytes, the limit is {VALUE_LIMIT_BYTES}",
                "shorten the files in the manifest", code="limit.revision",
            )  # fmt: skip
        compares += [unchanged(None, key), unchanged(present.floor, floor_key(app))]
        operations.append(Put(key, payload))
        if present.floor is not None:
            operations.append(Delete(floor_key(app)))
        operations += [Delete(old) for old in present.superseded()]
        text = f"revision {revision.number} of {app} was deployed"
        text += f": revision {again} again" if again else ""
    else:
        text = f"revision {revision.number} of {app} was deployed again: earlier scaling is taken back"
    code = "Undone" if again else "Deployed"
    made = event(call, code, str(app), text, namespace=app.namespace, app=app.app)
    return Change(compares, operations, made)


async def undo(call: Call) -> Answer:
    """Deploy an earlier revision again: the one named by `to`, else the latest before the current with other content.

    It becomes a new revision: history is only ever added to.
    """
    app = call.app
    body = await call.read_body(UndoBody)

    async def compute() -> Change:
        present = await _read_present(call, app)
        check_if_match(call, f"app {app}", present.entry)
        if present.record is None:
            raise no_such_app(app)
        held = await call.services.store.get(keys.rollout(app))
        proven = proven_revisions(decode(Rollout, held.value)) if held is not None else ()
        chosen = _chosen(app, present, body.get("to"), proven)
        return _change(call, app, present, chosen.spec, chosen.number)

    committed = await commit(call, await call.request.read(), compute)
    document: Any = await changed_app(call, app, committed)
    document["unchanged"] = committed is None
    document["warnings"] = []
    return Answer(cast(DeployDocument, document))


def _chosen(app: AppId, present: _Present, to: int | None, proven: Collection[int]) -> Revision:
    """Return the revision to go back to: the latest other one that was rolled out well. Raises NotFound, Conflict."""
    kept = {revision.number: revision for revision in (decode(Revision, entry.value) for entry in present.revisions)}
    numbers = ", ".join(map(str, sorted(kept))) or "none"
    if to is not None:
        if to not in kept:
            raise NotFound(f"find revision {to} of {app}", f"the kept ones are {numbers}", "choose one of them")
        return kept[to]
    current = present.current
    other = [
        revision
        for number, revision in sorted(kept.items())
        if current is not None
        and number < current.number
        and revision.content_hash != current.content_hash
        and (not proven or number in proven)
    ]
    if not other:
        why = f"no kept revision before it has other content (there are {numbers})"
        raise Conflict(f"undo the deploy of {app}", why, "deploy a manifest", code="conflict.no-earlier-revision")
    return other[-1]


async def _read_present(call: Call, app: AppId) -> _Present:
    store = call.services.store
    entry = await store.get(keys.app(app))
    revisions = (await range_all(store, keys.revisions(app))).entries
    referenced: frozenset[int] = frozenset()
    if len(revisions) >= REVISIONS_KEPT:
        assignments = await range_all(store, keys.assignments(app))
        referenced = frozenset(decode(Assignment, item.value).revision for item in assignments.entries)
    floor = await store.get(floor_key(app)) if entry is None else None
    record = decode(AppRecord, entry.value) if entry is not None else None
    return _Present(entry, record, floor, revisions, referenced)


def _number(entry: Entry) -> int:
    return int(keys.parts(entry.key)[-1])


def encoded(record: AppRecord, previous: Entry | None) -> bytes:
    """Return the bytes of the head of an app, with the fields of newer releases that were there."""
    return encode(record, over=previous.value if previous is not None else None)
