"""The words of a manifest: which keys stand where and what each value may be. No meaning yet.

The meaning is in `manifest_convert`, the rules between keys in `manifest_checks`. Keys marked "not carried
out" are HSU's and are accepted, so that an old file stays valid; `manifest_convert` warns of each.
"""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.wire import forms
from hsu_core.wire.analysis_models import AnalysisModel
from hsu_core.wire.attribute_models import ProcessModel
from hsu_core.wire.fields import (
    Boolean,
    Cpu,
    Duration,
    Name,
    Replicas,
    Signal,
    Size,
    Strict,
    Text,
    TextList,
    Threshold,
    Weight,
    choice,
    shown,
    wrong,
)
from hsu_core.wire.forms import Takes, beside
from hsu_core.wire.health_models import HealthModel, PortNumber
from hsu_core.wire.hook_models import HooksModel
from hsu_core.wire.limit_models import Limits
from hsu_core.wire.log_models import LogCollectionModel
from hsu_core.wire.restart_models import RestartModel
from hsu_core.wire.rollout_models import RolloutModel
from hsu_core.wire.route_models import RouteModel
from hsu_core.wire.unit_models import Unit


def _depends_on(value: Any) -> Any:
    """Return a map of worker id to condition from a map, or from a list of ids."""
    if isinstance(value, dict):
        return {name: {} if condition is None else condition for name, condition in value.items()}
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise wrong(f"needs a list of worker ids, found {shown(value)}", "write for example [db, cache]")
    return {name: {} for name in names}


def _depends_on_form(conditions: forms.Form) -> forms.Form:
    """Return the form of a worker id, a list of them, or a map in which a condition may be left out."""
    name: forms.Form = {"type": "string"}
    long = {**conditions, "additionalProperties": forms.one_of(conditions["additionalProperties"], {"type": "null"})}
    return forms.one_of(name, {"type": "array", "items": name}, long)


class FileModel(Strict):
    """One configuration file: its text, or the template that a client reads it from."""

    content: Text | None = None
    template: Text | None = None


class AffinityModel(Strict):
    """A wish for placement; a bare condition is one with weight 50."""

    constraint: Text
    weight: Weight | None = None


def _affinity(value: Any) -> Any:
    return {"constraint": value} if isinstance(value, str) else value


class PlacementModel(Strict):
    """Where instances may (`constraints`) and should (the rest) run."""

    constraints: TextList | None = None
    affinity: list[Annotated[AffinityModel, Takes(_affinity, beside({"type": "string"}))]] | None = None
    anti_affinity: TextList | None = None
    near: TextList | None = None
    spread: TextList | None = None
    max_per_node: Replicas | None = None
    strategy: Annotated[str, choice("spread", "binpack")] | None = None


class ResourcesModel(Strict):
    """What each instance reserves on its node."""

    cpu: Cpu | None = None
    memory: Size | None = None


class StopModel(Strict):
    """The cluster's own stop block, instead of the keys in the unit."""

    signal: Signal | None = None
    grace: Duration | None = None


class LogsModel(Strict):
    """How much of each output stream is kept."""

    segment_size: Size | None = None
    segments: Threshold | None = None
    rate_limit: Size | None = None
    max_age: Duration | None = None
    compress: Boolean | None = None


class DependencyModel(Strict):
    """What is waited for before the first start: that it runs, takes work, or has ended (well)."""

    condition: Annotated[str, choice("healthy", "started", "completed", "completed-successfully")] | None = None


class WorkerModel(Strict):
    """One worker: HSU's keys first, then what the cluster adds."""

    id: Name
    type: Annotated[str, choice("managed", "unmanaged", "integrated")] | None = None
    profile_type: Text | None = None
    enabled: Boolean | None = None
    groups: TextList | None = None
    replicas: Replicas | None = None
    unit: Unit
    process: ProcessModel | None = None
    ports: dict[Name, PortNumber] | None = None
    files: dict[str, FileModel] | None = None
    health: HealthModel | None = None
    placement: PlacementModel | None = None
    resources: ResourcesModel | None = None
    limits: Limits | None = None
    restart: RestartModel | None = None
    stop: StopModel | None = None
    hooks: HooksModel | None = None
    schedule: Text | None = None
    timezone: Text | None = None
    catch_up: Boolean | None = None
    logs: LogsModel | None = None
    guarantee: Annotated[str, choice("available", "strict")] | None = None
    on_return: Annotated[str, choice("keep-replacement", "keep-original")] | None = None
    rollout: RolloutModel | None = None
    depends_on: Annotated[dict[str, DependencyModel], Takes(_depends_on, _depends_on_form)] | None = None


class MasterBlock(Strict):
    """HSU's master settings: not carried out, a cluster has its own settings file."""

    port: Any = None
    log_level: Any = None
    force_shutdown_timeout: Any = None
    base_directory: Any = None


class ManifestModel(Strict):
    """A whole file after `vars`, `extends` and `templates` are resolved; each worker is then a `WorkerModel`."""

    app: Name | None = None
    namespace: Name | None = None
    base_directory: Text | None = None
    vars: dict[str, Any] | None = None
    templates: dict[str, Any] | None = None
    workers: list[Any]
    analyses: dict[Name, AnalysisModel] | None = None
    routes: dict[Name, RouteModel] | None = None
    master: MasterBlock | None = None
    log_collection: LogCollectionModel | None = None
