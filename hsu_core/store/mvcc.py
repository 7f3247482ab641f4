"""The state of a local store: every key in its versions, one commit per revision; no I/O, no clock.

`Mvcc` is what has been committed. A `Stage` lies over it and collects commits that are not durable
yet: the memory backend publishes them at once, the SQLite backend after its transaction, and a
stage that could not be made durable is just dropped. Revisions start at 1, as in etcd, and every
later revision is exactly one commit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from hsu_core.model.errors import Compacted, LeaseLost
from hsu_core.store.base import (
    Compare,
    Delete,
    Entry,
    Event,
    Get,
    Operation,
    Page,
    Put,
    TxnResult,
    WatchBatch,
)
from hsu_core.store.rules import check_revision_exists, does_hold, prefix_end

FIRST_REVISION = 1
"""The revision of an empty store."""

BATCH_EVENTS = 500
"""A watch batch ends at the first whole revision that reaches this, so that others get their turn."""

TRIM_COMMITS = 1024
"""Forgotten commits are cut off the list in pieces of this size: a cut moves all that remain."""


@dataclass(frozen=True, slots=True)
class Commit:
    """All changes of one revision, in the order they were made."""

    revision: int
    events: tuple[Event, ...]


class Version(NamedTuple):
    """Names one stored version of a key, for the one who keeps it on disk."""

    key: str
    revision: int
    size_bytes: int


class Mvcc:
    """The committed state; `revision` is the newest, `compacted` the oldest that can be read."""

    def __init__(self) -> None:
        self.revision = FIRST_REVISION
        self.compacted = FIRST_REVISION - 1
        self._versions: dict[str, list[Event]] = {}
        self._keys: list[str] = []
        self._commits: list[Commit] = []
        self._first_commit = FIRST_REVISION + 1
        self._lease_keys: dict[int, set[str]] = {}

    @classmethod
    def load(cls, events: Iterable[Event], revision: int, compacted: int) -> tuple[Self, list[Version]]:
        """Return the state made of stored versions (sorted by revision), and the versions no longer needed."""
        state = cls()
        state.revision, state.compacted = revision, compacted
        superseded: list[Version] = []
        by_revision: dict[int, list[Event]] = {}
        for event in events:
            entry = event.entry
            versions = state._versions.setdefault(entry.key, [])
            if entry.mod_revision <= compacted:
                superseded += (_version(old) for old in versions)
                versions.clear()
            else:
                by_revision.setdefault(entry.mod_revision, []).append(event)
            versions.append(event)
        for key, versions in list(state._versions.items()):
            if versions[0].is_delete and versions[0].entry.mod_revision <= compacted:
                superseded.append(_version(versions.pop(0)))
            if not versions:
                del state._versions[key]
            elif not versions[-1].is_delete and versions[-1].entry.lease:
                state._lease_keys.setdefault(versions[-1].entry.lease, set()).add(key)
        state._keys = sorted(state._versions)
        state._first_commit = max(compacted, FIRST_REVISION) + 1
        state._commits = [
            Commit(number, tuple(by_revision.get(number, ()))) for number in range(state._first_commit, revision + 1)
        ]
        return state, superseded

    def entry(self, key: str) -> Entry | None:
        """Return the key as it stands, or None."""
        versions = self._versions.get(key)
        return None if versions is None or versions[-1].is_delete else versions[-1].entry

    def entry_at(self, key: str, revision: int) -> Entry | None:
        """Return the key as it stood at `revision`, which must not be compacted."""
        for event in reversed(self._versions.get(key, ())):
            if event.entry.mod_revision <= revision:
                return None if event.is_delete else event.entry
        return None

    def keys(self, prefix: str, start_key: str | None = None) -> Iterator[str]:
        """Yield every key under `prefix` that has a version, deleted ones too, sorted."""
        end = prefix_end(prefix)
        index = bisect_left(self._keys, start_key or prefix)
        while index < len(self._keys) and (end is None or self._keys[index] < end):
            yield self._keys[index]
            index += 1

    def lease_keys(self, lease: int) -> frozenset[str]:
        """Return the keys attached to `lease`."""
        return frozenset(self._lease_keys.get(lease, ()))

    def range(self, prefix: str, start_key: str | None, limit: int, revision: int | None) -> Page:
        """Return a page at `revision` (None: the present). Raises Compacted or InvalidInput."""
        at = self.revision if revision is None else revision
        check_revision_exists(f"list {prefix!a} at revision {at}", at, self.revision)
        if at < self.compacted:
            raise compacted_error(f"list {prefix!a} at revision {at}", self.compacted)
        entries: list[Entry] = []
        for key in self.keys(prefix, start_key):
            entry = self.entry_at(key, at)
            if entry is None:
                continue
            if len(entries) == limit:
                return Page(tuple(entries), at, entry.key)
            entries.append(entry)
        return Page(tuple(entries), at)

    def changes(self, prefix: str, after_revision: int) -> WatchBatch:
        """Return the changes under `prefix` later than `after_revision`, in whole revisions.

        `after_revision` must not be below `compacted`. About BATCH_EVENTS at most: the batch's
        `revision` says how far it reaches.
        """
        events: list[Event] = []
        reached = max(after_revision, self.revision)
        for commit in self._commits[max(0, after_revision + 1 - self._first_commit) :]:
            events += (event for event in commit.events if event.entry.key.startswith(prefix))
            if len(events) >= BATCH_EVENTS:
                reached = commit.revision
                break
        return WatchBatch(reached, tuple(events))

    def publish(self, commits: Sequence[Commit]) -> None:
        """Take over the commits of a stage."""
        for commit in commits:
            for event in commit.events:
                self._append(event)
            self._commits.append(commit)
            self.revision = commit.revision

    def compact(self, revision: int) -> list[Version]:
        """Forget what is only needed below `revision`; return the versions dropped."""
        if revision <= self.compacted:
            return []
        dropped: list[Version] = []
        start = max(0, self.compacted + 1 - self._first_commit)
        stop = max(0, revision + 1 - self._first_commit)
        self.compacted = revision
        changed = (event.entry.key for commit in self._commits[start:stop] for event in commit.events)
        for key in dict.fromkeys(changed):
            dropped += self._drop_superseded(key, revision)
        if stop >= TRIM_COMMITS:
            del self._commits[:stop]
            self._first_commit += stop
        return dropped

    def _append(self, event: Event) -> None:
        entry = event.entry
        versions = self._versions.get(entry.key)
        if versions is None:
            versions = self._versions[entry.key] = []
            insort(self._keys, entry.key)
        elif versions[-1].entry.lease:
            self._detach(versions[-1].entry)
        versions.append(event)
        if entry.lease and not event.is_delete:
            self._lease_keys.setdefault(entry.lease, set()).add(entry.key)

    def _detach(self, entry: Entry) -> None:
        keys = self._lease_keys.get(entry.lease)
        if keys is not None:
            keys.discard(entry.key)
            if not keys:
                del self._lease_keys[entry.lease]

    def _drop_superseded(self, key: str, revision: int) -> list[Version]:
        versions = self._versions[key]
        count = bisect_right(versions, revision, key=_revision_of)
        if count and not versions[count - 1].is_delete:
            count -= 1
        dropped = [_version(event) for event in versions[:count]]
        del versions[:count]
        if dropped and not versions:
            del self._versions[key]
            del self._keys[bisect_left(self._keys, key)]
        return dropped


class Stage:
    """Commits that lie over the committed state and are not published yet."""

    def __init__(self, base: Mvcc) -> None:
        self._base = base
        self._overlay: dict[str, Entry | None] = {}
        self.revision = base.revision
        self.commits: list[Commit] = []

    def entry(self, key: str) -> Entry | None:
        """Return the key as it stands with the staged commits."""
        return self._overlay[key] if key in self._overlay else self._base.entry(key)

    def keys(self, prefix: str) -> list[str]:
        """Return the live keys under `prefix`, sorted."""
        keys = set(self._base.keys(prefix)) | {key for key in self._overlay if key.startswith(prefix)}
        return sorted(key for key in keys if self.entry(key) is not None)

    def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation],
        is_lease_alive: Callable[[int], bool],
    ) -> TxnResult:
        """Run a checked transaction and stage its commit. Raises LeaseLost; then nothing is staged."""
        succeeded = all(does_hold(compare, self.entry(compare.key)) for compare in compares)
        branch = success if succeeded else failure
        for operation in branch:
            if isinstance(operation, Put) and operation.lease and not is_lease_alive(operation.lease):
                raise lease_lost_error(f"store {operation.key!a}", operation.lease)
        events: list[Event] = []
        answers: list[Entry | int | None] = []
        for operation in branch:
            match operation:
                case Get(key):
                    answers.append(self.entry(key))
                case Put():
                    events.append(self._put(operation))
                    answers.append(None)
                case Delete(key, is_prefix):
                    deleted = self._delete(self.keys(key) if is_prefix else [key])
                    events += deleted
                    answers.append(len(deleted))
        self._commit(events)
        return TxnResult(succeeded, self.revision, tuple(answers))

    def end_lease(self, lease: int) -> None:
        """Delete the keys of a lease, all at one revision."""
        keys = set(self._base.lease_keys(lease)) | set(self._overlay)
        attached = []
        for key in sorted(keys):
            entry = self.entry(key)
            if entry is not None and entry.lease == lease:
                attached.append(key)
        self._commit(self._delete(attached))

    def _put(self, put: Put) -> Event:
        revision = self.revision + 1
        old = self.entry(put.key)
        create_revision = revision if old is None else old.create_revision
        version = 1 if old is None else old.version + 1
        entry = Entry(put.key, put.value, create_revision, revision, version, put.lease)
        self._overlay[put.key] = entry
        return Event(entry)

    def _delete(self, keys: Sequence[str]) -> list[Event]:
        events: list[Event] = []
        for key in keys:
            if self.entry(key) is None:
                continue
            self._overlay[key] = None
            events.append(Event(Entry(key, b"", 0, self.revision + 1, 0), is_delete=True))
        return events

    def _commit(self, events: Sequence[Event]) -> None:
        if events:
            self.revision += 1
            self.commits.append(Commit(self.revision, tuple(events)))


def _revision_of(event: Event) -> int:
    return event.entry.mod_revision


def _version(event: Event) -> Version:
    return Version(event.entry.key, event.entry.mod_revision, len(event.entry.value))


def compacted_error(what: str, compacted: int) -> Compacted:
    """Return the error for a revision that is no longer kept."""
    return Compacted(what, f"history before revision {compacted} was compacted", "list the present and go on there")


def lease_lost_error(what: str, lease: int) -> LeaseLost:
    """Return the error for a lease that does not exist."""
    return LeaseLost(what, f"lease {lease:x} has ended or never existed", "grant a new lease and write its keys anew")
