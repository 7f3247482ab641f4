"""What the keys of one PM2 app say about restarts, stops and limits, and which keys are not carried over."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hsu_core.wire.fields import shown
from hsu_core.wire.foreign import Notes, Place
from hsu_core.wire.foreign_values import boolean, duration_text, size_text, whole
from hsu_core.wire.tree import text_of

_LOGS = ("the agent keeps output below its data folder", "add log_collection with a file target to have it there too")
_WATCH = ("the agent does not watch files", "run `hsu-agent restart NAME` from what changes them")
_NODE = ("it is about PM2's own hooks in node", "remove it")
_IPC = ("there is no IPC channel to the program", "write a readiness probe")

NOT_CARRIED: Mapping[str, tuple[str, str]] = {
    "watch": _WATCH,
    "ignore_watch": _WATCH,
    "watch_options": _WATCH,
    "watch_delay": _WATCH,
    "out_file": _LOGS,
    "error_file": _LOGS,
    "log_file": _LOGS,
    "merge_logs": ("each instance has files of its own", "`hsu-agent logs NAME` shows all of them together"),
    "log_date_format": ("lines are kept as they are written", "add log_collection with metadata"),
    "time": ("lines are kept as they are written", "add log_collection with metadata"),
    "log_type": ("lines are kept as they are written", "add log_collection with format: json"),
    "disable_logs": ("output is always kept within bounds", "make `logs` small"),
    "cron_restart": ("a schedule starts what has ended, it restarts nothing", "run `hsu-agent restart NAME` from cron"),
    "wait_ready": _IPC,
    "listen_timeout": _IPC,
    "shutdown_with_message": ("there is no IPC channel to the program", "let it end on the stop signal"),
    "kill_retry_time": ("what is left after the grace is killed at once", "remove it"),
    "increment_var": ("no variable is counted up", "write '{slot}' or '{port.NAME}' as its value"),
    "pid_file": ("no pid files are written", "ask `hsu-agent status -o json`"),
    "namespace": ("apps have no namespace within a host", "convert each namespace with --app"),
    "filter_env": ("the agent passes on PATH, HOME, LANG, TZ and USER only", "remove it"),
    "post_update": ("nothing is pulled", "run it yourself"),
    "vizion": ("the agent asks no version control", "remove it"),
    "automation": _NODE,
    "pmx": _NODE,
    "trace": _NODE,
    "disable_trace": _NODE,
    "deep_monitoring": _NODE,
    "source_map_support": ("it is node's", "add --enable-source-maps as an argument of node"),
    "disable_source_map_support": _NODE,
    "instance_id": _NODE,
    "force": ("an id stands once", "remove it"),
    "append_env_to_name": ("there is one environment", "remove it"),
    "version": ("it is for people", "remove it"),
    "name_prefix": ("names stand as they are", "write the whole name"),
    "install_url": ("nothing is installed", "install it yourself"),
    "execute_command": ("each instance is a process of its own", "remove it"),
    "v8": _NODE,
    "event_loop_inspector": _NODE,
    "windowsHide": ("it is about Windows", "remove it"),
    "write": ("no file is written", "remove it"),
    "io": _NODE,
    "username": ("it is for people", "write `uid`"),
}

KNOWN = frozenset(
    {
        "name", "script", "args", "interpreter", "interpreter_args", "cwd", "env", "instances", "exec_mode",
        "autorestart", "max_restarts", "min_uptime", "restart_delay", "exp_backoff_restart_delay", "stop_exit_codes",
        "max_memory_restart", "kill_timeout", "treekill", "instance_var", "uid", "gid", "autostart", "port",
        *NOT_CARRIED,
    }
)  # fmt: skip

ALIASES: Mapping[str, str] = {
    "exec_interpreter": "interpreter",
    "node_args": "interpreter_args",
    "interpreterArgs": "interpreter_args",
    "exec": "script",
    "cmd": "script",
    "command": "script",
    "out_log": "out_file",
    "err_log": "error_file",
    "output": "out_file",
    "out": "out_file",
    "error": "error_file",
    "err_file": "error_file",
    "err": "error_file",
    "log": "log_file",
    "combine_logs": "merge_logs",
    "cron": "cron_restart",
    "user": "uid",
    "pid": "pid_file",
    "stop_exit_code": "stop_exit_codes",
}
"""PM2's other words for keys."""

_MAX_RESTARTS = 16
_MIN_UPTIME_MS = 1000
_KILL_TIMEOUT_MS = 1600
_EXPONENTIAL_CEILING = "15s"
_EXPONENTIAL_FACTOR = 1.5
_EXPONENTIAL_RESET = "30s"
"""PM2's own defaults and constants, written out where ours differ."""

_TIME = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d|)\s*")
_SIZE = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMG]?)B?\s*")
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_TIMES_MS = {"": 1, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

Keys = Mapping[str, Any]
At = Callable[[str], Place]


def _milliseconds(keys: Keys, key: str, at: At, notes: Notes) -> int | None:
    """Return a time that is a number of milliseconds, or a text such as 60s."""
    if key not in keys:
        return None
    match = _TIME.fullmatch(text_of(keys[key])) if _is_scalar(keys[key]) else None
    if match is None:
        notes.fault(at(key), f"{shown(keys[key])} is not a time", "write milliseconds, or for example 60s")
        return None
    return round(float(match[1]) * _TIMES_MS[match[2]])


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def restart_block(keys: Keys, at: At, notes: Notes) -> dict[str, Any]:
    """Return the block `restart` of an app: PM2 restarts after every end until it is unstable too often."""
    codes = _stop_codes(keys, at, notes)
    is_restarted = "autorestart" not in keys or boolean(text_of(keys["autorestart"]), at("autorestart"), notes)
    restart: dict[str, Any] = {"policy": "always" if is_restarted else "never"}
    if is_restarted and 0 in codes:
        restart["policy"] = "on-failure"
    backoff = _backoff(keys, at, notes)
    if is_restarted:
        restart["backoff"] = backoff
        if "max_restarts" in keys or "factor" not in backoff or backoff["factor"] == 1:
            said = keys.get("max_restarts", _MAX_RESTARTS)
            limit = whole(text_of(said) if _is_scalar(said) else said, 0, 10**6, at("max_restarts"), notes)
            restart["max_retries"] = _MAX_RESTARTS if limit is None else limit
    if is_restarted and (others := sorted(codes - {0})):
        restart["exit_codes"] = {"success" if 0 in codes else "final": others}
    return restart


def _backoff(keys: Keys, at: At, notes: Notes) -> dict[str, Any]:
    uptime = _milliseconds(keys, "min_uptime", at, notes)
    exponential = _milliseconds(keys, "exp_backoff_restart_delay", at, notes)
    fixed = _milliseconds(keys, "restart_delay", at, notes)
    backoff: dict[str, Any] = {}
    if exponential:
        key, base = "exp_backoff_restart_delay", exponential
        backoff = {"base": duration_text(base / 1000, at(key), notes), "factor": _EXPONENTIAL_FACTOR}
        backoff["ceiling"] = _EXPONENTIAL_CEILING if base <= 15_000 else backoff["base"]
        if fixed is not None:
            notes.warn(at("restart_delay"), "is not carried over: the delay grows", "keep one of the two")
    elif fixed:
        text = duration_text(fixed / 1000, at("restart_delay"), notes)
        backoff = {"base": text, "factor": 1, "ceiling": text}
    place = at("min_uptime")
    if uptime is None and exponential:
        backoff["reset_after"] = _EXPONENTIAL_RESET
    else:
        backoff["reset_after"] = duration_text((uptime or _MIN_UPTIME_MS) / 1000, place, notes)
    return backoff


def _stop_codes(keys: Keys, at: At, notes: Notes) -> set[int]:
    value = keys.get("stop_exit_codes", [])
    place = at("stop_exit_codes")
    found = [
        whole(text_of(item) if _is_scalar(item) else item, 0, 255, place, notes)
        for item in (value if isinstance(value, list) else [value])
    ]
    return {code for code in found if code is not None}


def stop_block(keys: Keys, at: At, notes: Notes) -> dict[str, Any]:
    """Return the block `stop`: PM2 sends SIGINT and kills after 1.6 s."""
    grace = _milliseconds(keys, "kill_timeout", at, notes)
    if "treekill" in keys and boolean(text_of(keys["treekill"]), at("treekill"), notes) is False:
        text = "is not carried over: the signal goes to the process group, and what is left is killed"
        notes.warn(at("treekill"), text, "let the children ignore the signal if they must")
    grace = _KILL_TIMEOUT_MS if grace is None else grace
    return {"signal": "SIGINT", "grace": duration_text(grace / 1000, at("kill_timeout"), notes)}


def limits_block(keys: Keys, at: At, notes: Notes) -> dict[str, Any]:
    """Return the block `limits`: what max_memory_restart says."""
    key = "max_memory_restart"
    if key not in keys:
        return {}
    match = _SIZE.fullmatch(text_of(keys[key]).upper()) if _is_scalar(keys[key]) else None
    if match is None or not float(match[1]):
        notes.fault(at(key), f"{shown(keys[key])} is not a size", "write for example 300M")
        return {}
    size = size_text(round(float(match[1]) * _SIZES[match[2]]), at(key), notes)
    return {"memory": {"max_rss": size, "policy": "restart"}}
