"""Where the lines of a worker go beside their raw files: targets, filters, metadata. Pure.

Texts of the manifest are in `hsu_core.wire.log_models`; the agent carries it out in `hsu_agent.logs.collector`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LEVELS = ("trace", "debug", "info", "warn", "error", "fatal")
"""Levels of lines, least urgent first."""


class TargetKind(StrEnum):
    """What receives lines; stdout and stderr are the agent's own."""

    FILE = "file"
    STDOUT = "stdout"
    STDERR = "stderr"
    SYSLOG = "syslog"
    HTTP = "http"


class LineFormat(StrEnum):
    """`plain`: as written; `enhanced_plain`: time, worker and stream before it; JSON, with what was parsed beside."""

    PLAIN = "plain"
    ENHANCED_PLAIN = "enhanced_plain"
    JSON = "json"
    STRUCTURED_JSON = "structured_json"


@dataclass(frozen=True, slots=True)
class LogTarget:
    """One receiver. `place`: path of a file, `unix:/dev/log`, `udp://H:P`, `tcp://H:P` of syslog, or a URL.

    Paths and prefixes may hold `{worker_id}`. `authorization` is the value of the HTTP header of that name.
    A file is rotated at `max_bytes` into at most `max_files` files; those older than `max_age_s` are removed.
    """

    kind: TargetKind
    place: str = ""
    format: LineFormat = LineFormat.PLAIN
    prefix: str = ""
    streams: tuple[str, ...] = ("stdout", "stderr")
    max_bytes: int = 100_000_000
    max_files: int = 10
    max_age_s: float = 604_800.0
    authorization: str = ""


@dataclass(frozen=True, slots=True)
class LogRules:
    """What happens to each line: left out (patterns, level below `level`), parsed, enriched, sent to targets.

    `metadata`: any of hostname, timestamp, sequence, line_number, master_id.
    """

    targets: tuple[LogTarget, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    level: str = ""
    is_parsed: bool = False
    metadata: tuple[str, ...] = ()


NO_RULES = LogRules()
