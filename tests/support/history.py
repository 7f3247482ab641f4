"""What clients were told, and whether it can be true: the checks of histories that are recorded during faults.

Registers are written by concurrent clients, each write with a token of its own. Every answer of the store carries a
revision, so no search for an order is needed: the log of the store, read by somebody else, says what was written in
which order, and each answer is compared with it. All of it is pure: the recording is in `clients.py`.

This module knows nothing of the product.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What a client knows about its operation."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Write:
    """One write. `began`, `ended`: seconds of one clock (an unknown one never ended); `revision` as answered."""

    register: str
    token: str
    began: float
    ended: float
    outcome: Outcome
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """One answered read: the state of `revision`, the newest one unless it said of itself that it is stale."""

    register: str
    began: float
    ended: float
    revision: int
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """One write as the store's log has it."""

    register: str
    token: str
    revision: int


@dataclass(frozen=True, slots=True)
class TermSeen:
    """The term (of leadership) that an answer named."""

    began: float
    ended: float
    term: int


def faults_of_registers(writes: Sequence[Write], reads: Sequence[Read], log: Sequence[Put]) -> list[str]:
    """Return what is wrong: a write that is lost, doubled or refused and there, an order or a read that cannot be."""
    faults: list[str] = []
    applied: Mapping[str, list[int]] = _revisions_by_token(log)
    for write in writes:
        faults += _faults_of_write(write, applied.get(write.token, []))
    known = {write.token for write in writes}
    faults += [
        f"{put.register}: nobody wrote {put.token} (revision {put.revision})" for put in log if put.token not in known
    ]
    for register in sorted({write.register for write in writes} | {read.register for read in reads}):
        mine = [write for write in writes if write.register == register and write.outcome is Outcome.ACKNOWLEDGED]
        own_reads = [read for read in reads if read.register == register]
        in_log = {put.revision for put in log if put.register == register}
        faults += _faults_of_order(register, mine, own_reads, in_log)
    return faults


def _revisions_by_token(log: Iterable[Put]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for put in log:
        found[put.token].append(put.revision)
    return found


def _faults_of_write(write: Write, revisions: list[int]) -> list[str]:
    name = f"{write.register}: write {write.token}"
    if len(revisions) > 1:
        return [f"{name} was applied {len(revisions)} times, at revisions {revisions}"]
    match write.outcome:
        case Outcome.ACKNOWLEDGED if not revisions:
            return [f"{name} was acknowledged at revision {write.revision} and is lost"]
        case Outcome.ACKNOWLEDGED if write.revision < revisions[0]:
            return [f"{name} was acknowledged at revision {write.revision} and is at {revisions[0]}"]
        case Outcome.REFUSED if revisions:
            return [f"{name} was refused and is there, at revision {revisions[0]}"]
    return []


def _faults_of_order(register: str, writes: list[Write], reads: list[Read], in_log: set[int]) -> list[str]:
    """Check that what ended before something began is not newer than it, by one sweep over the ends."""
    faults = [
        f"{register}: a read saw revision {read.revision}, which the store never had"
        for read in reads
        if read.revision not in in_log
    ]
    fresh = [read for read in reads if not read.is_stale]
    begins: list[tuple[float, bool, Write | Read]] = [
        (each.began, isinstance(each, Write), each) for each in writes + fresh
    ]
    ends = sorted([(each.ended, each.revision) for each in writes + fresh], reverse=True)
    newest = 0
    for began, is_write, each in sorted(begins, key=lambda item: item[0]):
        while ends and ends[-1][0] < began:
            newest = max(newest, ends.pop()[1])
        if each.revision < newest or (is_write and each.revision == newest):
            what = f"write {each.token}" if isinstance(each, Write) else "a read"
            faults.append(f"{register}: {what} was answered with revision {each.revision} after {newest} had been seen")
    return faults


def faults_of_terms(seen: Sequence[TermSeen]) -> list[str]:
    """Return where a term was answered that is older than one that had been answered before it was asked for."""
    faults: list[str] = []
    ends = sorted([(each.ended, each.term) for each in seen], reverse=True)
    newest = 0
    for each in sorted(seen, key=lambda item: item.began):
        while ends and ends[-1][0] < each.began:
            newest = max(newest, ends.pop()[1])
        if each.term < newest:
            faults.append(f"term {each.term} was answered after term {newest}")
    return faults


def counted(writes: Sequence[Write]) -> Counter[Outcome]:
    """Return how many writes ended how, for the message of a test and the table of a benchmark."""
    return Counter(write.outcome for write in writes)
