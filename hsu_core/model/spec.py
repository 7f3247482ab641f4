"""What a user asks for: app and worker specifications, already checked and complete. Pure.

The manifest's text form and its checks live in `hsu_core.wire.manifest`. All durations are
seconds, sizes bytes, processor shares milli-cores. Mappings are kept as sorted tuples of pairs,
so that equal content is equal and hashes are stable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hsu_core.model.analysis import AnalysisSpec
from hsu_core.model.attributes import NO_ATTRIBUTES, ProcessAttributes
from hsu_core.model.checks import AllCheck as AllCheck
from hsu_core.model.checks import AnyCheck as AnyCheck
from hsu_core.model.checks import Check as Check
from hsu_core.model.checks import ExecCheck as ExecCheck
from hsu_core.model.checks import FileCheck as FileCheck
from hsu_core.model.checks import GrpcCheck as GrpcCheck
from hsu_core.model.checks import HttpCheck as HttpCheck
from hsu_core.model.checks import NotifyCheck as NotifyCheck
from hsu_core.model.checks import Pairs as Pairs
from hsu_core.model.checks import ProcessCheck as ProcessCheck
from hsu_core.model.checks import TcpCheck as TcpCheck
from hsu_core.model.hooks import NO_HOOKS, HooksSpec
from hsu_core.model.limits import NO_LIMITS, LimitsSpec
from hsu_core.model.logging_rules import NO_RULES, LogRules
from hsu_core.model.process_files import ProcessFileSpec
from hsu_core.model.restarts import DEFAULT_RESTART
from hsu_core.model.restarts import RestartPolicy as RestartPolicy
from hsu_core.model.restarts import RestartSpec as RestartSpec
from hsu_core.model.rollout_spec import DEFAULT_ROLLOUT
from hsu_core.model.rollout_spec import RolloutSpec as RolloutSpec
from hsu_core.model.routes import RouteSpec
from hsu_core.model.schedules import ScheduleSpec
from hsu_core.model.unmanaged import UnmanagedSpec


class WorkerType(StrEnum):
    """Who owns the process: managed (we), unmanaged (somebody else), integrated (we, with HSU's contract)."""

    MANAGED = "managed"
    UNMANAGED = "unmanaged"
    INTEGRATED = "integrated"


class Guarantee(StrEnum):
    """`available`: at least one copy, replaced fast. `strict`: at most one copy, never replaced on a guess."""

    AVAILABLE = "available"
    STRICT = "strict"


class OnReturn(StrEnum):
    """Which copy stays when a lost node comes back with an instance that runs elsewhere by now."""

    KEEP_REPLACEMENT = "keep-replacement"
    KEEP_ORIGINAL = "keep-original"


@dataclass(frozen=True, slots=True)
class Execution:
    """The program. `executable_path` without a slash is looked up in the node's PATH.

    Arguments and environment values may hold `{port.NAME}`, `{slot}`, `{app}`, `{worker}`, `{node}`, `{files}`.
    """

    executable_path: str
    args: tuple[str, ...] = ()
    environment: Pairs = ()
    working_directory: str = ""


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A named port; `number` 0 means: pick a free one for each instance."""

    name: str
    number: int = 0

    @property
    def is_dynamic(self) -> bool:
        """Return whether the number is picked by the cluster."""
        return self.number == 0


@dataclass(frozen=True, slots=True)
class Probe:
    """A check with its rhythm. Defaults are Kubernetes' (see the rollout semantics, health)."""

    check: Check
    period_s: float = 10.0
    timeout_s: float = 1.0
    initial_delay_s: float = 0.0
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class HealthSpec:
    """startup gates the others; liveness restarts; readiness only takes the instance out of work."""

    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None

    @property
    def has_notices(self) -> bool:
        """Return whether a probe waits for what the worker says by itself (sd_notify)."""
        return any(
            probe is not None and isinstance(probe.check, NotifyCheck)
            for probe in (self.startup, self.readiness, self.liveness)
        )

    @property
    def watchdog_s(self) -> float:
        """Return the time in which the worker must say WATCHDOG=1 again, in seconds (0: it need not)."""
        is_watched = self.liveness is not None and isinstance(self.liveness.check, NotifyCheck)
        return self.liveness.period_s if self.liveness is not None and is_watched else 0.0


@dataclass(frozen=True, slots=True)
class StopSpec:
    """How to end it: `signal` to the process group, `grace_s`, then kill of the whole tree. HSU's default is 20 s."""

    signal: str = "SIGTERM"
    grace_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What one instance reserves on its node for placement."""

    cpu_milli: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Constraint:
    """A hard condition on a node: `node.os == linux`, `zone in a,b`. `key` is `node.name`, `node.os`,
    `node.arch`, `node.version` or a label. `operator`: == != < > <= >= =~ in not-in exists."""

    key: str
    operator: str
    operand: str = ""

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {self.operand}".strip()


@dataclass(frozen=True, slots=True)
class Affinity:
    """A wish: nodes where the condition holds score higher (`weight` 1..100; negative: lower)."""

    constraint: Constraint
    weight: int = 50


@dataclass(frozen=True, slots=True)
class PlacementSpec:
    """Where instances may and should run.

    `anti_affinity`: worker ids of the same app that must not share a node with this one.
    `near`: worker ids of the same app that should share a node. `spread`: label keys to spread over.
    `strategy`: `spread` (emptiest node first) or `binpack` (fullest first). `max_per_node` 0: no limit.
    """

    constraints: tuple[Constraint, ...] = ()
    affinity: tuple[Affinity, ...] = ()
    anti_affinity: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()
    max_per_node: int = 0
    strategy: str = "spread"


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A configuration file, part of the revision. `path` is relative to the instance's files folder;
    `content` may hold the same placeholders as arguments. Mode is 0600."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class LogSpec:
    """Size and number of the log segments of each stream. HSU's default keeps 10 of 100 MB; an edge box has less."""

    segment_bytes: int = 10_000_000
    segments: int = 5
    rules: LogRules = NO_RULES
    rate_bytes_s: int = 0
    """Most output of each stream per second that is kept; the rest is dropped and counted. 0: no limit."""
    max_age_s: float = 0.0
    """Output older than this is removed. 0: however old."""
    is_compressed: bool = False
    """Whether full segments are compressed."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker of an app, complete."""

    id: str
    execution: Execution
    type: WorkerType = WorkerType.MANAGED
    profile_type: str = "default"
    is_enabled: bool = True
    replicas: int = 1
    ports: tuple[PortSpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    health: HealthSpec = HealthSpec()
    restart: RestartSpec = DEFAULT_RESTART
    stop: StopSpec = StopSpec()
    resources: Resources = Resources()
    placement: PlacementSpec = PlacementSpec()
    rollout: RolloutSpec = DEFAULT_ROLLOUT
    logs: LogSpec = LogSpec()
    guarantee: Guarantee = Guarantee.AVAILABLE
    depends_on: tuple[str, ...] = ()
    dependency_conditions: Pairs = ()
    """What is waited for, by worker id: started, completed or completed_successfully; else healthy."""
    limits: LimitsSpec = NO_LIMITS
    hooks: HooksSpec = NO_HOOKS
    schedule: ScheduleSpec | None = None
    process: ProcessAttributes = NO_ATTRIBUTES
    unmanaged: UnmanagedSpec | None = None
    """Of a process that somebody else starts; `execution` is empty then."""
    process_file: ProcessFileSpec | None = None
    groups: tuple[str, ...] = ()
    """Names under which people start, stop and look at several workers at once."""
    on_return: OnReturn = OnReturn.KEEP_REPLACEMENT


@dataclass(frozen=True, slots=True)
class AppSpec:
    """One app, complete: what a revision holds. `base_directory` is where relative paths start (may be empty)."""

    namespace: str
    app: str
    workers: tuple[WorkerSpec, ...]
    base_directory: str = ""
    explicit_replicas: tuple[str, ...] = field(default=())
    """Ids of the workers whose file states `replicas`: a deploy takes back an earlier `scale` of these."""
    routes: tuple[RouteSpec, ...] = ()
    analyses: tuple[AnalysisSpec, ...] = ()

    def worker(self, worker_id: str) -> WorkerSpec | None:
        """Return the worker with this id, or None."""
        return next((worker for worker in self.workers if worker.id == worker_id), None)

    def analysis(self, name: str) -> AnalysisSpec | None:
        """Return the analysis with this name, or None."""
        return next((analysis for analysis in self.analyses if analysis.name == name), None)
