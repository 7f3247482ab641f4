"""The error tree: every failure a user can meet, with a stable code and an HTTP status.

    HsuError
    ├── InvalidInput 400          what was given is wrong; nothing was changed
    │   ├── InvalidManifest 400   carries every fault of the file at once
    │   └── InvalidSettings 400   a configuration file, flag or environment variable
    ├── Unauthorized 401 · Forbidden 403 · NotFound 404
    ├── Conflict 409              the state does not allow it now
    │   └── StaleRevision 412     the object has moved on since it was read
    ├── TooLarge 413 · TooMany 429
    ├── NoCapacity 422            no node passes every filter
    ├── StoreError 503            the store did not answer as asked
    │   ├── StoreUnavailable 503  nothing was written, try again
    │   ├── OutcomeUnknown 504    it may or may not have been written
    │   ├── Compacted 410         the revision asked for is gone
    │   ├── LeaseLost 503         the lease is gone or presumed so
    │   └── StoreInUse 409        a second process on the same file
    ├── NoLeader 503 · NodeUnreachable 503
    ├── ProcessError 500          a worker could not be started or signalled
    ├── NotSupported 501          this host or version cannot do it, with the reason
    └── Bug 500                   an internal rule was broken

The text says what failed, why (numbers, names, limits) and what to do; it reads
`cannot <what>: <why>; <fix> [<code>]`. Causes are chained with `from`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where it stands and how to mend it.

    `path` is dotted (`workers.web.replicas`), `line` counts from 1 (0: not known).
    """

    path: str
    text: str
    fix: str = ""
    file: str = ""
    line: int = 0
    code: str = "manifest.invalid"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else ""
        place = place or (f"{self.file}: " if self.file else "")
        where = f"{self.path}: " if self.path else ""
        return f"{place}{where}{self.text}" + (f"; {self.fix}" if self.fix else "")


class HsuError(Exception):
    """Root of all errors of this product; `str()` is the sentence a user reads."""

    code: str = "internal"
    status: int = 500

    def __init__(
        self,
        what: str,
        why: str = "",
        fix: str = "",
        *,
        code: str | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix
        self.faults = tuple(faults)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.sentence} [{self.code}]"

    @property
    def sentence(self) -> str:
        """Return the text without the code, as `cannot WHAT: WHY; FIX`."""
        text = f"cannot {self.what}"
        if self.why:
            text += f": {self.why}"
        if self.fix:
            text += f"; {self.fix}"
        return text


class InvalidInput(HsuError):
    """The input is wrong; nothing was changed."""

    code = "input.invalid"
    status = 400


class InvalidManifest(InvalidInput):
    """A manifest with faults; `faults` lists all of them."""

    code = "manifest.invalid"

    def __str__(self) -> str:
        head = super().__str__()
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)]) if self.faults else head


class InvalidSettings(InvalidManifest):
    """A configuration with faults; `faults` lists all of them."""

    code = "settings.invalid"


class Unauthorized(HsuError):
    """No credential, or one that is not known."""

    code = "auth.unauthorized"
    status = 401


class Forbidden(HsuError):
    """The credential is known and may not do this."""

    code = "auth.forbidden"
    status = 403


class NotFound(HsuError):
    """There is no such object."""

    code = "not-found"
    status = 404


class Conflict(HsuError):
    """The present state does not allow it."""

    code = "conflict"
    status = 409


class StaleRevision(Conflict):
    """The object was changed since the caller read it."""

    code = "conflict.stale-revision"
    status = 412


class TooLarge(HsuError):
    """A body, frame or value above its limit."""

    code = "limit.too-large"
    status = 413


class TooMany(HsuError):
    """More requests, sessions or items than allowed at once."""

    code = "limit.too-many"
    status = 429


class NoCapacity(HsuError):
    """No node passes every filter of the scheduler."""

    code = "schedule.no-capacity"
    status = 422


class StoreError(HsuError):
    """The store did not answer as asked."""

    code = "store.error"
    status = 503


class StoreUnavailable(StoreError):
    """The store cannot be reached; nothing was written."""

    code = "store.unavailable"


class OutcomeUnknown(StoreError):
    """A write got no answer: it may or may not have happened."""

    code = "store.outcome-unknown"
    status = 504


class Compacted(StoreError):
    """The revision asked for is no longer kept."""

    code = "store.compacted"
    status = 410


class LeaseLost(StoreError):
    """The lease has ended, or its deadline passed without an answer."""

    code = "store.lease-lost"


class StoreInUse(StoreError):
    """Another process holds the same store file."""

    code = "store.in-use"
    status = 409


class NoLeader(HsuError):
    """No master leads at this moment."""

    code = "cluster.no-leader"
    status = 503


class NodeUnreachable(HsuError):
    """The node has no session with the leader, or did not answer in time."""

    code = "node.unreachable"
    status = 503


class ProcessError(HsuError):
    """A worker process could not be started, signalled or watched."""

    code = "process.failed"


class NotSupported(HsuError):
    """This host or this version cannot do it; the text says why."""

    code = "not-supported"
    status = 501


class Bug(HsuError):
    """An internal rule was broken; please report it."""

    code = "internal.bug"
