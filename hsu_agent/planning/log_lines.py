"""Pure rules for single lines of output: parse JSON and logfmt, leave out, format. Bytes in, bytes out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hsu_core.model.logging_rules import LEVELS, LineFormat, LogRules, LogTarget

SEARCHED_CHARACTERS = 1024
"""Patterns look at so much of a line: with what `hsu_core.wire.log_convert` lets pass, a search stays short."""

PARSED_CHARACTERS = 65_536
"""Longer lines are not parsed."""

_LOGFMT = re.compile(r'([A-Za-z_][\w.-]*)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s+|$)')
_LEVEL = re.compile(r"\b(trace|debug|info|notice|warn|warning|error|err|fatal|critical|panic)\b", re.IGNORECASE)
_NAMES = {"warning": "warn", "err": "error", "critical": "fatal", "panic": "fatal", "notice": "info"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: when (seconds since 1970 and as text), whose, its text, what was parsed of it, its level or ""."""

    at: float
    timestamp: str
    worker: str
    stream: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    level: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def parse_fields(text: str) -> dict[str, Any]:
    """Return the fields of a line that is a JSON object or all logfmt; empty if it is neither."""
    text = text.strip()
    if len(text) > PARSED_CHARACTERS:
        return {}
    if text.startswith("{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        return parsed if isinstance(parsed, dict) else {}
    found: dict[str, Any] = {}
    place = 0
    while place < len(text):
        match = _LOGFMT.match(text, place)
        if match is None:
            return {}
        found[match[1]] = re.sub(r"\\(.)", r"\1", match[2][1:-1]) if match[2].startswith('"') else match[2]
        place = match.end()
    return found


def level_of(text: str, fields: Mapping[str, Any]) -> str:
    """Return the level that the fields name, else the first level word near the start of the line, else ""."""
    for key in ("level", "severity", "lvl", "log_level"):
        named = str(fields.get(key, "")).lower()
        named = _NAMES.get(named, named)
        if named in LEVELS:
            return named
    match = _LEVEL.search(text[:100])
    return _NAMES.get(match[1].lower(), match[1].lower()) if match else ""


def is_wanted(rules: LogRules, text: str, level: str) -> bool:
    """Return whether a line passes the filters; one without a level passes that of the level."""
    if rules.level and level and LEVELS.index(level) < LEVELS.index(rules.level):
        return False
    searched = text[:SEARCHED_CHARACTERS]
    if any(re.search(pattern, searched) for pattern in rules.exclude):
        return False
    return not rules.include or any(re.search(pattern, searched) for pattern in rules.include)


def format_line(target: LogTarget, line: LogLine) -> bytes:
    """Return a line as the target wants it, without a line end."""
    prefix = target.prefix.replace("{worker_id}", line.worker)
    if target.format in (LineFormat.JSON, LineFormat.STRUCTURED_JSON):
        body: dict[str, Any] = {"timestamp": line.timestamp, "worker_id": line.worker, "stream": line.stream}
        if line.level:
            body["level"] = line.level
        body["message"] = line.text
        if prefix:
            body["prefix"] = prefix
        body.update({key: value for key, value in line.metadata.items() if key not in body})
        if line.fields:
            body["fields"] = dict(line.fields)
        try:
            text = json.dumps(body, ensure_ascii=False)
        except RecursionError:  # it could just be read
            del body["fields"]
            text = json.dumps(body, ensure_ascii=False)
        return text.encode("utf-8", "replace")
    text = line.text
    if target.format is LineFormat.ENHANCED_PLAIN:
        extra = "".join(f" {key}={value}" for key, value in line.metadata.items() if key != "timestamp")
        text = f"[{line.timestamp}][{line.worker}][{line.stream}]{extra} {text}"
    return (f"{prefix} {text}" if prefix else text).encode("utf-8", "replace")


def syslog_frame(line: LogLine, body: bytes, hostname: str) -> bytes:
    """Return an RFC 5424 message of facility user; lines of stderr without a level are errors."""
    severities = {"trace": 7, "debug": 7, "info": 6, "warn": 4, "error": 3, "fatal": 2}
    severity = severities.get(line.level, 3 if line.stream == "stderr" else 6)
    app = re.sub(r"[^\x21-\x7e]", "_", line.worker)[:48] or "-"
    host = re.sub(r"[^\x21-\x7e]", "_", hostname)[:255] or "-"
    return f"<{8 + severity}>1 {line.timestamp} {host} {app} - {line.stream} - ".encode() + body
