"""HSU's part of a worker: the `unit` block, nested exactly as HSU nests it. No meaning yet.

Keys that are "not carried out" are accepted, so that an old file stays valid; `unit_convert` warns of each.
"""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.wire.fields import (
    Boolean,
    Count,
    Duration,
    Pairs,
    Port,
    Signal,
    Strict,
    Text,
    TextList,
    choice,
)
from hsu_core.wire.limit_models import Limits
from hsu_core.wire.log_models import WorkerLogModel
from hsu_core.wire.restart_models import ContextAwareRestart, LegacyRestart, Policy


class Metadata(Strict):
    """For people; carried, never interpreted."""

    name: Text | None = None
    description: Text | None = None
    version: Text | None = None
    tags: TextList | None = None


class ExecutionModel(Strict):
    """The program. `wait_delay` is accepted; it never had an effect."""

    executable_path: Text
    args: TextList | None = None
    environment: Pairs | None = None
    working_directory: Text | None = None
    wait_delay: Duration | None = None


class ProcessFileModel(Strict):
    """Where `<id>.pid` and its sisters are written; HSU's own keys have no `_`."""

    base_directory: Text | None = None
    basedirectory: Text | None = None
    service_context: Text | None = None
    servicecontext: Text | None = None
    app_name: Text | None = None
    appname: Text | None = None
    use_subdirectory: Boolean | None = None
    usesubdirectory: Boolean | None = None
    scenario: Text | None = None


class Control(Strict):
    """How to run, restart, limit and stop the process."""

    execution: ExecutionModel
    process_file: ProcessFileModel | None = None
    restart_policy: Policy | None = None
    restart: LegacyRestart | None = None
    context_aware_restart: ContextAwareRestart | None = None
    limits: Limits | None = None
    graceful_timeout: Duration | None = None
    stop_signal: Signal | None = None
    log_collection: WorkerLogModel | None = None


class HsuHttp(Strict):
    """HSU's `http` check: a full url."""

    url: Text
    method: Text | None = None
    headers: Pairs | None = None


class HsuGrpc(Strict):
    """HSU's `grpc` check (HSU itself only ever opened the connection)."""

    address: Text
    service: Text | None = None
    method: Text | None = None
    headers: Pairs | None = None


class HsuTcp(Strict):
    """HSU's `tcp` check."""

    address: Text
    port: Port


class HsuExec(Strict):
    """HSU's `exec` check: a program with arguments."""

    command: Text
    args: TextList | None = None


class RunOptions(Strict):
    """Rhythm of HSU's check; `retries` is the failure threshold."""

    enabled: Boolean | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    initial_delay: Duration | None = None
    retries: Count | None = None


class HealthCheck(Strict):
    """HSU's one check, used for readiness and liveness."""

    type: Annotated[str, choice("http", "grpc", "tcp", "exec", "process")]
    http: HsuHttp | None = None
    grpc: HsuGrpc | None = None
    tcp: HsuTcp | None = None
    exec: HsuExec | None = None
    run_options: RunOptions | None = None


class Managed(Strict):
    """A process that the cluster owns."""

    metadata: Metadata | None = None
    control: Control
    health_check: HealthCheck | None = None


class DiscoveryModel(Strict):
    """How a process that somebody else starts is found."""

    method: Annotated[str, choice("pid-file", "process-name", "port", "service-name")]
    pid_file: Text | None = None
    process_name: Text | None = None
    process_args: TextList | None = None
    port: Port | None = None
    protocol: Annotated[str, choice("tcp", "udp")] | None = None
    service_name: Text | None = None
    check_interval: Duration | None = None


class UnmanagedControl(Strict):
    """What may be done to it; nothing, where nothing is said."""

    can_terminate: Boolean | None = None
    can_restart: Boolean | None = None
    service_manager: Text | None = None
    service_name: Text | None = None
    allowed_signals: list[Signal] | None = None
    graceful_timeout: Duration | None = None


class Unmanaged(Strict):
    """A process that somebody else starts."""

    metadata: Metadata | None = None
    discovery: DiscoveryModel
    control: UnmanagedControl | None = None
    health_check: HealthCheck | None = None


class Unit(Strict):
    """One block per kind of unit; integrated ones are read as managed before they come here."""

    managed: Managed | None = None
    unmanaged: Unmanaged | None = None
    integrated: Any = None
