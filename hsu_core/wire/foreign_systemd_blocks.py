"""What the keys of one [Service] say about restarts, stops, probes, limits and the attributes of its process."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from hsu_core.wire.fields import shown
from hsu_core.wire.foreign import Notes, Place, process_block
from hsu_core.wire.foreign_ini import Entry
from hsu_core.wire.foreign_systemd_keys import EXIT_CODES, limit_of, processors_of, seconds_of, size_of, span_text
from hsu_core.wire.foreign_values import boolean, duration_text, octal_mask, signal_name, whole

Keys = Mapping[str, list[Entry]]

_ENDLESS = "1h"
"""Written where systemd waits without an end: long enough for any start or stop that a person waits for."""

_ENDLESS_S = 3600.0

_DEFAULT_TIMEOUT = "90s"
_DEFAULT_TIMEOUT_S = 90.0
_DEFAULT_BURST = 5
_DEFAULT_INTERVAL_S = 10.0
_DEFAULT_RESTART_S = 0.1
"""systemd's own defaults, written out where ours differ."""

_SHORTEST_S = 0.1
"""Probes more often than this cost more than they tell (the manifest refuses them)."""

_LOOKS = 100
"""Looks of a startup probe before it gives up."""

_POLICIES: Mapping[str, tuple[str, str]] = {
    "no": ("never", ""),
    "always": ("always", ""),
    "on-failure": ("on-failure", ""),
    "on-success": ("always", "is written as always: failures are followed by a restart too"),
    "on-abnormal": ("on-failure", "is written as on-failure: exit codes are followed by a restart too"),
    "on-abort": ("on-failure", "is written as on-failure: exit codes are followed by a restart too"),
    "on-watchdog": ("on-failure", "is written as on-failure: every failure is followed by a restart"),
}
_IO_CLASSES: Mapping[str, str] = {
    "0": "", "none": "", "1": "realtime", "realtime": "realtime", "2": "best-effort", "best-effort": "best-effort",
    "3": "idle", "idle": "idle",
}  # fmt: skip

BLOCK_KEYS = frozenset(
    {
        "Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec", "SuccessExitStatus", "RestartPreventExitStatus",
        "TimeoutSec", "TimeoutStartSec", "TimeoutStopSec", "KillSignal", "KillMode", "SendSIGKILL", "SendSIGHUP",
        "WatchdogSec", "MemoryMax", "MemoryLimit", "MemorySwapMax", "CPUQuota", "CPUWeight", "CPUShares", "TasksMax",
        "IOWeight", "User", "Group", "SupplementaryGroups", "UMask", "Nice", "IOSchedulingClass",
        "IOSchedulingPriority", "CPUAffinity", "OOMScoreAdjust", "NoNewPrivileges", "AmbientCapabilities",
        *(
            f"Limit{name}"
            for name in (
                "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NOFILE", "AS", "NPROC", "MEMLOCK",
                "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
            )
        ),
    }
)  # fmt: skip
"""Keys of [Service] that are read here."""


def _last(keys: Keys, *names: str) -> Entry | None:
    return next((keys[name][-1] for name in names if keys.get(name)), None)


def timeout_text(keys: Keys, is_start: bool, notes: Notes) -> str:
    """Return the longest time of a start or a stop."""
    entry = _last(keys, "TimeoutStartSec" if is_start else "TimeoutStopSec", "TimeoutSec")
    if entry is None:
        return _DEFAULT_TIMEOUT
    if seconds_of(entry.value, entry.place, notes) == 0:
        return span_text("infinity", _ENDLESS, entry.place, notes)
    return span_text(entry.value, _ENDLESS, entry.place, notes) or _DEFAULT_TIMEOUT


def health_block(keys: Keys, kind: str, notes: Notes) -> dict[str, Any]:
    """Return the probes: what a program of the type notify says by itself, and its watchdog."""
    health: dict[str, Any] = {}
    start = _last(keys, "TimeoutStartSec", "TimeoutSec")
    if kind in ("notify", "notify-reload"):
        health["startup"] = _startup(start, notes)
        health["readiness"] = {"notify": {}}
    elif start is not None and not any(keys.get(key) for key in ("ExecStartPre", "ExecStartPost")):
        notes.warn(start.place, "is not carried over: no start is ended for its time", "write a startup probe")
    watchdog = _last(keys, "WatchdogSec")
    if watchdog is None:
        return health
    seconds = seconds_of(watchdog.value, watchdog.place, notes)
    if seconds is None or seconds == 0 or math.isinf(seconds):
        return health
    if seconds < _SHORTEST_S:
        notes.fault(watchdog.place, f"{seconds:g} s is too often", "write 100ms or more")
        return health
    health["liveness"] = {"notify": {}, "period": duration_text(seconds, watchdog.place, notes)}
    return health


def _startup(entry: Entry | None, notes: Notes) -> dict[str, Any]:
    """Return the probe that ends a program which is not ready in time. Its watchdog counts from then on.

    A look is made whenever the program says anything, and each that is in vain counts: so there are many.
    """
    seconds = seconds_of(entry.value, entry.place, notes) if entry is not None else _DEFAULT_TIMEOUT_S
    place = entry.place if entry is not None else Place("", "")
    if seconds is not None and (seconds == 0 or math.isinf(seconds)):
        notes.warn(place, f"there is no endless time here, {_ENDLESS} is written", "write a longer startup probe")
        seconds = _ENDLESS_S
    looks = min(_LOOKS, max(1, int((seconds or 1.0) / _SHORTEST_S)))
    period = duration_text(max((seconds or 1.0) / looks, _SHORTEST_S), place, notes)
    return {"notify": {}, "period": period, "failure_threshold": looks + 1}


def restart_block(keys: Keys, unit_keys: Keys, kind: str, notes: Notes) -> dict[str, Any]:
    """Return the block `restart`."""
    said = _last(keys, "Restart")
    word = said.value if said is not None else "no"
    policy, text = _POLICIES.get(word, ("", ""))
    if said is not None and not policy:
        notes.fault(said.place, f"{shown(word)} is not a restart policy", f"write one of {', '.join(_POLICIES)}")
    if said is not None and text:
        notes.warn(said.place, text, "change restart.policy if that is not what you want")
    if said is not None and kind == "oneshot" and policy == "always":
        notes.fault(said.place, "a oneshot is not restarted after a success", "write on-failure")
    restart: dict[str, Any] = {"policy": policy}
    codes = {
        "success": _exit_codes(keys, "SuccessExitStatus", notes),
        "final": _exit_codes(keys, "RestartPreventExitStatus", notes),
    }
    codes["success"] = [code for code in codes["success"] if code not in (0, *codes["final"])]
    if any(codes.values()):
        restart["exit_codes"] = {name: found for name, found in codes.items() if found}
    limits = [
        _last(unit_keys, key) or _last(keys, key)
        for key in ("StartLimitIntervalSec", "StartLimitInterval", "StartLimitBurst")
    ]
    if policy == "never":
        delays = [_last(keys, key) for key in ("RestartSec", "RestartSteps", "RestartMaxDelaySec")]
        for entry in (*delays, *limits):
            if entry is not None:
                notes.warn(entry.place, "is not carried over: nothing is restarted", "set Restart= first")
        return restart
    backoff = _backoff(keys, notes)
    if backoff:
        restart["backoff"] = backoff
    breaker = _breaker(limits[0] or limits[1], limits[2], notes)
    if breaker:
        restart["breaker"] = breaker
    return restart


def _backoff(keys: Keys, notes: Notes) -> dict[str, Any]:
    entry, steps, most = _last(keys, "RestartSec"), _last(keys, "RestartSteps"), _last(keys, "RestartMaxDelaySec")
    seconds = seconds_of(entry.value, entry.place, notes) if entry is not None else _DEFAULT_RESTART_S
    if seconds is None or (entry is None and most is None):
        if steps is not None:
            notes.warn(steps.place, "is not carried over without RestartMaxDelaySec", "write restart.backoff")
        return {}
    place = entry.place if entry is not None else (most.place if most is not None else Place("", ""))
    base = duration_text(seconds, place, notes)
    ceiling_s = seconds_of(most.value, most.place, notes) if most is not None else None
    if most is None or ceiling_s is None or steps is None or seconds <= 0 or ceiling_s <= seconds:
        for unused in (steps, most):
            if unused is not None:
                notes.warn(unused.place, "is not carried over: the wait stays the same", "write restart.backoff")
        return {"base": base, "factor": 1, "ceiling": base}
    count = whole(steps.value, 1, 1000, steps.place, notes) or 1
    factor = min(100.0, (ceiling_s / seconds) ** (1 / count)) if not math.isinf(ceiling_s) else 100.0
    return {"base": base, "factor": round(factor, 3), "ceiling": duration_text(ceiling_s, most.place, notes)}


def _breaker(interval: Entry | None, burst: Entry | None, notes: Notes) -> dict[str, Any]:
    if interval is None and burst is None:
        return {}
    window_s = seconds_of(interval.value, interval.place, notes) if interval is not None else _DEFAULT_INTERVAL_S
    starts = whole(burst.value, 0, 1000, burst.place, notes) if burst is not None else _DEFAULT_BURST
    place = (interval or burst or Entry("", "", Place("", ""), "")).place
    if not window_s or not starts:
        return {}
    if math.isinf(window_s):
        notes.warn(place, "is written as 1d: there is no endless window", "change restart.breaker")
        window_s = 86400.0
    text = "is written as a breaker: after its cool-down there is one start on trial, and no end for good"
    notes.warn(place, text, "write restart.max_retries to give up for good")
    return {"retries": max(1, starts - 1), "window": duration_text(window_s, place, notes)}


def _exit_codes(keys: Keys, key: str, notes: Notes) -> list[int]:
    found: set[int] = set()
    for entry in keys.get(key, []):
        for word in entry.value.split():
            if word in EXIT_CODES:
                found.add(EXIT_CODES[word])
            elif re.fullmatch(r"(SIG)?[A-Z][A-Z0-9]{1,10}", word):
                notes.warn(entry.place, f"{word} is not carried over: only exit codes can be said", "remove it")
            elif (code := whole(word, 0, 255, entry.place, notes)) is not None:
                found.add(code)
    return sorted(found)


def stop_block(keys: Keys, place: Place, notes: Notes) -> dict[str, Any]:
    """Return the block `stop`."""
    stop: dict[str, Any] = {}
    signal, mode = _last(keys, "KillSignal"), _last(keys, "KillMode")
    if signal is not None and (name := signal_name(signal.value, signal.place, notes)):
        stop["signal"] = name
    stop["grace"] = timeout_text(keys, False, notes)
    if mode is not None and mode.value != "control-group":
        text = (
            f"{mode.value[:40]} is not carried over: the signal goes to the process group, and what is left is killed"
        )
        notes.warn(mode.place, text, "let the children ignore the signal if they must")
    for key, usual in (("SendSIGKILL", True), ("SendSIGHUP", False)):
        entry = _last(keys, key)
        if entry is not None and boolean(entry.value, entry.place, notes) is (not usual):
            notes.warn(entry.place, "is not carried over: there is one signal, and then SIGKILL", "change `stop`")
    return stop


def limits_block(keys: Keys, notes: Notes) -> dict[str, Any]:
    """Return the block `limits`."""
    limits: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    for name, key in (("max_rss", ("MemoryMax", "MemoryLimit")), ("max_swap", ("MemorySwapMax",))):
        entry = _last(keys, *key)
        if entry is not None and (size := size_of(entry.value, entry.place, notes)) is not None:
            memory[name] = size
    if memory:
        limits["memory"] = memory
    quota, tasks, weight = _last(keys, "CPUQuota"), _last(keys, "TasksMax"), _last(keys, "CPUWeight")
    if quota is not None:
        match = re.fullmatch(r"([0-9]{1,7})(?:\.[0-9]{1,3})?%", quota.value)
        if match is None or not 0 < int(match[1]) <= 100_000:
            notes.fault(quota.place, f"{shown(quota.value)} is not a share of a processor", "write for example 50%")
        else:
            limits["cpu"] = {"max_cores": f"{int(match[1]) * 10}m"}
    if tasks is not None and tasks.value.endswith("%"):
        notes.warn(tasks.place, "is not carried over: a share cannot be said", "write the number")
    elif tasks is not None and tasks.value != "infinity":
        limits["process"] = {"max_processes": whole(tasks.value, 1, 1_000_000, tasks.place, notes)}
    shares = _last(keys, "CPUShares")
    if weight is not None and weight.value == "idle":
        notes.warn(weight.place, "idle is not carried over", "write cpu_shares: 2")
    elif weight is not None and (number := whole(weight.value, 1, 10_000, weight.place, notes)):
        limits["cpu_shares"] = max(2, number * 1024 // 100)
    elif shares is not None:
        limits["cpu_shares"] = whole(shares.value, 2, 262_144, shares.place, notes)
    io = _last(keys, "IOWeight")
    if io is not None:
        limits["io"] = {"weight": whole(io.value, 1, 1000, io.place, notes)}
    return limits


def process_keys(keys: Keys, text: Callable[[Entry], str], notes: Notes) -> dict[str, Any]:
    """Return the block `process`; `text` gives the native text of an entry."""

    def word(key: str) -> str:
        entry = _last(keys, key)
        return text(entry) if entry is not None else ""

    def number(key: str, low: int, high: int) -> int | None:
        entry = _last(keys, key)
        return whole(entry.value, low, high, entry.place, notes) if entry is not None else None

    io, mask, privileges = _last(keys, "IOSchedulingClass"), _last(keys, "UMask"), _last(keys, "NoNewPrivileges")
    if io is not None and io.value not in _IO_CLASSES:
        notes.fault(io.place, f"{shown(io.value)} is not a class", "write idle, best-effort or realtime")
    rlimits = {
        key.removeprefix("Limit").lower(): found
        for key in sorted(BLOCK_KEYS)
        if key.startswith("Limit")
        and (entry := _last(keys, key)) is not None
        and (found := limit_of(entry.value, entry.place, notes)) is not None
    }
    return process_block(
        user=word("User"),
        group=word("Group"),
        groups=[name for entry in keys.get("SupplementaryGroups", []) for name in text(entry).split()],
        umask=octal_mask(mask.value, mask.place, notes) if mask is not None else "",
        nice=number("Nice", -20, 19),
        io_class=_IO_CLASSES.get(io.value, "") if io is not None else "",
        io_priority=number("IOSchedulingPriority", 0, 7),
        cpu_affinity=_affinity(keys, notes),
        oom_score_adj=number("OOMScoreAdjust", -1000, 1000),
        no_new_privileges=boolean(privileges.value, privileges.place, notes) if privileges is not None else None,
        capabilities=_capabilities(keys, notes),
        rlimits=rlimits,
    )


def _affinity(keys: Keys, notes: Notes) -> list[int]:
    found: set[int] = set()
    for entry in keys.get("CPUAffinity", []):
        if entry.value == "numa":
            notes.warn(entry.place, "numa is not carried over", "write the numbers of the processors")
        else:
            found |= set(processors_of(entry.value, entry.place, notes))
    return sorted(found)


def _capabilities(keys: Keys, notes: Notes) -> list[str]:
    found: dict[str, None] = {}
    for entry in keys.get("AmbientCapabilities", []):
        for name in entry.value.split():
            if re.fullmatch(r"CAP_[A-Z0-9_]{1,40}", name):
                found[name.removeprefix("CAP_")] = None
            else:
                notes.warn(entry.place, f"{name[:60]} is not carried over", "write the capabilities that it needs")
    return list(found)
