"""What systemd's keys are to us: those that are carried over, those that are not with what to do, and their values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from hsu_core.wire.fields import shown
from hsu_core.wire.foreign import Notes, Place
from hsu_core.wire.foreign_values import duration_text, size_text, whole

_SPAN = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-zμµ]*)\s*")
_UNITS_S: Mapping[str, float] = {
    "": 1, **dict.fromkeys(("us", "usec", "μs", "µs"), 1e-6), **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1), **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600), **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 604800), **dict.fromkeys(("M", "month", "months"), 2629800),
    **dict.fromkeys(("y", "year", "years"), 31557600),
}  # fmt: skip
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}

CPUS_LIMIT = 4096
"""Highest number of a processor that is written out."""

EXIT_CODES: Mapping[str, int] = {
    "SUCCESS": 0, "FAILURE": 1, "INVALIDARGUMENT": 2, "NOTIMPLEMENTED": 3, "NOPERMISSION": 4, "NOTINSTALLED": 5,
    "NOTCONFIGURED": 6, "NOTRUNNING": 7, "USAGE": 64, "DATAERR": 65, "NOINPUT": 66, "NOUSER": 67, "NOHOST": 68,
    "UNAVAILABLE": 69, "SOFTWARE": 70, "OSERR": 71, "OSFILE": 72, "CANTCREAT": 73, "IOERR": 74, "TEMPFAIL": 75,
    "PROTOCOL": 76, "NOPERM": 77, "CONFIG": 78,
}  # fmt: skip
"""Names of exit codes in systemd.exec(5)."""

_FOLDER = ("the agent makes no folders for workers", "make it once, or with a pre_start hook")
_OUTPUT = ("output is kept by the agent", "read it with `hsu-agent logs`; forward it with log_collection")
_ORDER = ("units that are not given are not known", "give their files too, or write depends_on by hand")

NOT_CARRIED: Mapping[str, tuple[str, str]] = {
    "PIDFile": ("the agent knows its processes", "let the program stay in the foreground"),
    "BusName": ("the agent does not look at D-Bus", "write a readiness probe"),
    "GuessMainPID": ("the agent knows its processes", "remove it"),
    "RemainAfterExit": ("a worker that has ended is stopped, and as good as healthy", "remove it"),
    "ExecCondition": ("there are no conditions", "let a pre_start hook fail instead"),
    "ExecReload": ("there is no reload of one worker", "send its signal with `hsu-agent signal NAME -s SIGHUP`"),
    "TimeoutAbortSec": ("a failed watchdog stops the worker with its usual grace", "remove it"),
    "TimeoutStartFailureMode": ("a failed start is stopped with its usual grace", "remove it"),
    "TimeoutStopFailureMode": ("what is left after the grace is killed", "remove it"),
    "RuntimeMaxSec": ("no worker is ended for its age", "let the program end by itself"),
    "RestartForceExitStatus": ("exit codes do not force a restart", "use the restart policy always"),
    "RestartMode": ("a restart has one form", "remove it"),
    "FinalKillSignal": ("what is left is killed with SIGKILL", "remove it"),
    "RestartKillSignal": ("a restart stops with the stop signal", "remove it"),
    "WatchdogSignal": ("a failed watchdog stops the worker with its stop signal", "change `stop`"),
    "NotifyAccess": ("notices of all processes of the worker are taken", "remove it"),
    "FileDescriptorStoreMax": ("descriptors are not kept over restarts", "remove it"),
    "Sockets": ("the agent opens no sockets", "let the program open its own"),
    "Slice": ("each worker has a group of its own below the agent's", "remove it"),
    "Delegate": ("the group of a worker is not handed to it", "remove it"),
    "MemoryHigh": ("one limit of memory is kept", "write limits.memory with policy: throttle"),
    "MemoryLow": ("memory is not reserved", "remove it"),
    "MemoryMin": ("memory is not reserved", "remove it"),
    "CPUQuotaPeriodSec": ("the kernel's usual period is used", "remove it"),
    "StandardOutput": _OUTPUT,
    "StandardError": _OUTPUT,
    "StandardInput": ("workers read from /dev/null", "let the program read a file"),
    "SyslogIdentifier": _OUTPUT,
    "SyslogFacility": _OUTPUT,
    "SyslogLevel": _OUTPUT,
    "LogRateLimitIntervalSec": _OUTPUT,
    "LogRateLimitBurst": _OUTPUT,
    "RuntimeDirectory": _FOLDER,
    "StateDirectory": _FOLDER,
    "CacheDirectory": _FOLDER,
    "LogsDirectory": _FOLDER,
    "ConfigurationDirectory": _FOLDER,
    "DynamicUser": ("users are not made", "make one, and write it as process.user"),
    "UnsetEnvironment": ("a worker gets PATH, HOME, LANG, TZ and USER only", "remove it"),
    "RootDirectory": ("the root of a worker is the host's", "remove it"),
    "CapabilityBoundingSet": ("capabilities are added only", "write process.capabilities"),
    "OOMPolicy": ("a worker that the kernel killed is restarted by its policy", "remove it"),
    "CPUSchedulingPolicy": ("the scheduler is the kernel's usual one", "use process.nice"),
    "CPUSchedulingPriority": ("the scheduler is the kernel's usual one", "use process.nice"),
}
"""Keys of [Service] that are not carried over: why, and what to do."""

_SANDBOX = ("Protect", "Private", "Restrict", "ReadWrite", "ReadOnly", "Inaccessible", "SystemCall", "Lock", "Bind",
            "Memory", "IPAddress", "Device", "TemporaryFileSystem", "NoExec", "ExecPaths", "Keyring", "Remove", "Proc",
            "Mount", "Socket")  # fmt: skip

NOT_CARRIED_UNIT: Mapping[str, tuple[str, str]] = {
    "Conflicts": ("units do not shut each other out", "give only the file that should run"),
    "OnFailure": ("nothing is started after a failure", "look at `hsu-agent events`"),
    "OnSuccess": ("nothing is started after a success", "use depends_on with completed_successfully"),
    "DefaultDependencies": ("it is about the boot", "remove it"),
    "RefuseManualStop": ("any worker can be stopped", "remove it"),
    "RefuseManualStart": ("any worker can be started", "remove it"),
    "StopWhenUnneeded": ("a worker runs until it is stopped", "remove it"),
    "StartLimitAction": ("the host is never rebooted", "remove it"),
    "FailureAction": ("the host is never rebooted", "remove it"),
    "PartOf": ("a restart of one worker restarts no other", "restart both by name"),
    "RequiresMountsFor": ("mounts are not waited for", "let a pre_start hook look for them"),
}

ORDER = _ORDER


def why_not(key: str) -> tuple[str, str]:
    """Return why a key of [Service] is not carried over, and what to do."""
    if key in NOT_CARRIED:
        why, fix = NOT_CARRIED[key]
        return f"is not carried over: {why}", fix
    if key.startswith(_SANDBOX):
        return "is not carried over: there is no sandbox", "keep the unit if you need it, or start the program in one"
    return "is not carried over: it is not known here", "see docs/migrate.md for what is"


def seconds_of(text: str, place: Place, notes: Notes) -> float | None:
    """Return the seconds of a time span such as `5min 20s`; infinity is `math.inf`; a fault and None if it is wrong."""
    if text.strip() == "infinity":
        return math.inf
    total, at = 0.0, 0
    text = text.strip()[:100]
    while at < len(text):
        match = _SPAN.match(text, at)
        if match is None or match[2] not in _UNITS_S:
            break
        total, at = total + float(match[1]) * _UNITS_S[match[2]], match.end()
    if not text or at < len(text):
        notes.fault(place, f"{shown(text)} is not a time", "write for example 90, 90s or 1min 30s")
        return None
    return total


def span_text(text: str, endless: str, place: Place, notes: Notes) -> str:
    """Return a time span as a manifest says it; `endless` stands for infinity and for 0 where that means no end."""
    seconds = seconds_of(text, place, notes)
    if seconds is None:
        return ""
    if math.isinf(seconds):
        notes.warn(place, f"there is no endless time here, {endless} is written", "write how long it may take")
        return endless
    return duration_text(seconds, place, notes)


def size_of(text: str, place: Place, notes: Notes) -> str | int | None:
    """Return a size; None for infinity, and for a share of the host's memory, which is warned of."""
    word = text.strip()
    if word == "infinity":
        return None
    if re.fullmatch(r"[0-9.]{1,10}%", word):
        notes.warn(place, "is not carried over: a share of the host's memory cannot be said", "write the size")
        return None
    match = re.fullmatch(r"([0-9]{1,18})([KMGTPE]?)B?", word)
    if match is None:
        notes.fault(place, f"{shown(text)} is not a size", "write for example 512M")
        return None
    return size_text(int(match[1]) * _SIZES[match[2]], place, notes)


def processors_of(text: str, place: Place, notes: Notes) -> list[int]:
    """Return the processors of a list such as `0 2-3`."""
    found: set[int] = set()
    for part in re.split(r"[\s,]+", text.strip()):
        low, dash, high = part.partition("-")
        first = whole(low, 0, CPUS_LIMIT, place, notes)
        last = whole(high, 0, CPUS_LIMIT, place, notes) if dash else first
        if first is None or last is None:
            return []
        if last < first:
            notes.fault(place, f"{part[:40]!r} ends before it begins", "write the lower number first")
            return []
        found |= set(range(first, last + 1))
    return sorted(found)


def limit_of(text: str, place: Place, notes: Notes) -> int | str | None:
    """Return a resource limit: a number, `unlimited`, or two of them as `soft:hard`."""
    soft, colon, hard = text.strip().partition(":")
    low = _one_limit(soft, text, place, notes)
    high = _one_limit(hard, text, place, notes) if colon else low
    if low is None or high is None:
        return None
    if high != "unlimited" and (low == "unlimited" or int(low) > int(high)):
        notes.fault(place, f"{shown(text)} has a soft limit above the hard one", "write the smaller one first")
        return None
    return low if low == high else f"{low}:{high}"


def _one_limit(text: str, whole_text: str, place: Place, notes: Notes) -> int | str | None:
    if text == "infinity":
        return "unlimited"
    match = re.fullmatch(r"([0-9]{1,18})([KMGTPE]?)", text)
    if match is None or int(match[1]) * _SIZES[match[2]] > 2**53:
        notes.fault(place, f"{shown(whole_text)} is not a limit", "write a number, or infinity")
        return None
    return int(match[1]) * _SIZES[match[2]]
