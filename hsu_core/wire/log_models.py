"""The words of HSU's `log_collection`, at the top of a file and in `control`. No meaning yet: see `log_convert`."""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.wire.fields import Boolean, Count, Duration, Size, Strict, Text, TextList, Threshold, choice

Format = Annotated[str, choice("plain", "enhanced-plain", "json", "structured-json")]
Level = Annotated[str, choice("trace", "debug", "info", "warn", "error", "fatal")]


class RotationModel(Strict):
    """When a file is given up for a new one, and how many are kept."""

    max_size: Size | None = None
    max_files: Threshold | None = None
    max_age: Duration | None = None


class AuthenticationModel(Strict):
    """How we show who we are to an HTTP target."""

    type: Annotated[str, choice("basic", "token", "certificate")]
    username: Text | None = None
    password: Text | None = None
    token: Text | None = None
    cert_file: Text | None = None
    key_file: Text | None = None


class TargetModel(Strict):
    """One receiver of lines."""

    type: Text
    path: Text | None = None
    url: Text | None = None
    address: Text | None = None
    format: Format | None = None
    prefix: Text | None = None
    rotation: RotationModel | None = None
    authentication: AuthenticationModel | None = None
    config: dict[str, Any] | None = None


class AggregationModel(Strict):
    """Targets of the lines of all workers."""

    enabled: Boolean | None = None
    targets: list[TargetModel] | None = None


class MetadataModel(Strict):
    """What is said with each line."""

    add_master_id: Boolean | None = None
    add_process_manager_id: Boolean | None = None
    add_hostname: Boolean | None = None
    add_timestamp: Boolean | None = None
    add_sequence: Boolean | None = None
    add_line_number: Boolean | None = None


class EnhancementModel(Strict):
    """Metadata and parsing for all workers."""

    enabled: Boolean | None = None
    parsers: Any = None
    metadata: MetadataModel | None = None
    enrichers: Any = None


class BufferingModel(Strict):
    """HSU's buffers; ours is the raw file."""

    size: Size | None = None
    flush_interval: Duration | None = None
    max_lines: Count | None = None


class FiltersModel(Strict):
    """Which lines are left out."""

    exclude_patterns: TextList | None = None
    include_patterns: TextList | None = None
    level_filter: Level | None = None


class ProcessingModel(Strict):
    """What is done with each line."""

    parse_structured: Boolean | None = None
    add_metadata: Boolean | None = None
    filters: FiltersModel | None = None
    parsers: Any = None


class SeparateModel(Strict):
    """Targets of each stream."""

    stdout: list[TargetModel] | None = None
    stderr: list[TargetModel] | None = None


class OutputsModel(Strict):
    """Where the lines of a worker go."""

    separate: SeparateModel | None = None
    forwarding: list[TargetModel] | None = None


class WorkerLogModel(Strict):
    """`control.log_collection`, and `default_worker` of the top."""

    enabled: Boolean | None = None
    capture_stdout: Boolean | None = None
    capture_stderr: Boolean | None = None
    buffering: BufferingModel | None = None
    processing: ProcessingModel | None = None
    outputs: OutputsModel | None = None


class LogCollectionModel(Strict):
    """`log_collection` at the top of a file."""

    enabled: Boolean | None = None
    global_aggregation: AggregationModel | None = None
    enhancement: EnhancementModel | None = None
    default_worker: WorkerLogModel | None = None
    system: Any = None
