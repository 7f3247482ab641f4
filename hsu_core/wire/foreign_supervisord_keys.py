"""What the keys of one supervisord program say about its restarts, its stop and its output."""

from __future__ import annotations

import re

from hsu_core.wire.fields import shown
from hsu_core.wire.foreign import Notes
from hsu_core.wire.foreign_ini import Section
from hsu_core.wire.foreign_values import SEGMENTS_LIMIT, boolean, duration_text, segment_text, signal_name, whole

_DEFAULT_STOP_S = 10
_DEFAULT_RETRIES = 3
_DEFAULT_START_S = 1
_DEFAULT_BYTES = 50 * 2**20
_DEFAULT_BACKUPS = 10
"""supervisord's own defaults, written out where ours differ."""

_UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30}


def whole_of(section: Section, key: str, low: int, high: int, default: int, notes: Notes) -> int:
    """Return the number of a key, or the default."""
    entry = section.last(key)
    found = whole(entry.value, low, high, entry.place, notes) if entry is not None else None
    return default if found is None else found


def flag_of(section: Section, key: str, default: bool, notes: Notes) -> bool:
    """Return what a key of true or false says, or the default."""
    entry = section.last(key)
    found = boolean(entry.value, entry.place, notes) if entry is not None else None
    return default if found is None else found


def restart_blocks(section: Section, notes: Notes) -> tuple[dict[str, object], dict[str, object]]:
    """Return the blocks `restart` and `health` (a program counts as running after its startsecs)."""
    entry = section.last("autorestart")
    word = entry.value.strip().lower() if entry is not None else "unexpected"
    if word == "unexpected" or entry is None:
        policy = "on-failure"
    else:
        policy = "always" if boolean(word, entry.place, notes) else "never"
    restart: dict[str, object] = {"policy": policy}
    seconds = whole_of(section, "startsecs", 0, 10**8, _DEFAULT_START_S, notes)
    retries = whole_of(section, "startretries", 0, 10**6, _DEFAULT_RETRIES, notes)
    said = section.last("startretries")
    if policy == "never":
        if said is not None:
            notes.warn(
                said.place, "is not carried over: nothing is tried again with the policy never", "use on-failure"
            )
    else:
        restart["backoff"] = {"base": "1s", "reset_after": f"{max(seconds, 1)}s"}
        if seconds:
            restart["max_retries"] = retries
        elif said is not None:
            notes.warn(said.place, "is not carried over: with startsecs=0 supervisord never gives up", "remove it")
    codes = _exit_codes(section, policy, notes)
    if codes:
        restart["exit_codes"] = {"success": codes}
    probe: dict[str, object] = {}
    if section.last("startsecs") is not None and seconds:
        probe = {"readiness": {"process": {}, "initial_delay": f"{seconds}s"}}
    return restart, probe


def _exit_codes(section: Section, policy: str, notes: Notes) -> list[int]:
    entry = section.last("exitcodes")
    if entry is None:
        return []
    codes = [whole(part, 0, 255, entry.place, notes) for part in entry.value.split(",") if part.strip()]
    if 0 not in codes and policy == "on-failure":
        notes.warn(entry.place, "0 always counts as success here", "end with another code for a failure")
    return sorted({code for code in codes if code})


def stop_block(section: Section, notes: Notes) -> dict[str, object]:
    """Return the block `stop`."""
    stop: dict[str, object] = {}
    signal = section.last("stopsignal")
    if signal is not None and (name := signal_name(signal.value, signal.place, notes)):
        stop["signal"] = name
    wait = section.last("stopwaitsecs")
    seconds = whole_of(section, "stopwaitsecs", 0, 10**8, _DEFAULT_STOP_S, notes)
    stop["grace"] = duration_text(seconds, wait.place if wait else section.place, notes)
    for key in ("stopasgroup", "killasgroup"):
        entry = section.last(key)
        if entry is not None and boolean(entry.value, entry.place, notes) is False:
            text = "is not carried over: the signal goes to the process group, and what is left is killed"
            notes.warn(entry.place, text, "let the children ignore the signal if they must")
    return stop


def logs_block(section: Section, notes: Notes) -> dict[str, object]:
    """Return the block `logs`."""
    redirect = section.last("redirect_stderr")
    if redirect is not None and boolean(redirect.value, redirect.place, notes):
        notes.warn(redirect.place, "is not carried over: the two streams are kept apart", "`hsu-agent logs` shows both")
    sizes = [_log_size(section, stream, notes) for stream in ("stdout", "stderr")]
    given = [found for found in sizes if found is not None]
    if not given:
        return {}
    if len(given) == 2 and given[0] != given[1]:
        place = next(entry.place for entry in section.entries if entry.key.startswith("stderr_logfile_"))
        notes.warn(place, "both streams have one size and number here: those of stdout are written", "change `logs`")
    return given[0]


def _log_size(section: Section, stream: str, notes: Notes) -> dict[str, object] | None:
    """Return the `logs` block of a stream; None if nothing is said, or if its file has no bound."""
    size, backups = section.last(f"{stream}_logfile_maxbytes"), section.last(f"{stream}_logfile_backups")
    if size is None and backups is None:
        return None
    kept = whole_of(section, f"{stream}_logfile_backups", 0, SEGMENTS_LIMIT - 1, _DEFAULT_BACKUPS, notes)
    size_bytes = _DEFAULT_BYTES
    if size is not None:
        match = re.fullmatch(r"\s*(\d{1,15})\s*(kb|mb|gb|)\s*", size.value.lower())
        if match is None:
            notes.fault(size.place, f"{shown(size.value)} is not a size", "write for example 50MB")
            return None
        size_bytes = int(match[1]) * _UNITS.get(match[2], 1)
        if size_bytes == 0:
            notes.warn(size.place, "is not carried over: output is always kept within bounds", "set `logs`")
            return None
    place = size.place if size is not None else section.place
    return {"segment_size": segment_text(size_bytes, place, notes), "segments": kept + 1}
