"""The words of a probe: which checks there are, and their rhythm. No meaning yet: that is in `health_convert`."""

from __future__ import annotations

from typing import Annotated, Any

from hsu_core.wire import forms
from hsu_core.wire.fields import Duration, Pairs, Strict, Text, TextList, Threshold, choice, shown, wrong
from hsu_core.wire.forms import Takes
from hsu_core.wire.tree import resolve_scalar


def _port_number(value: Any) -> int:
    if value == "dynamic":
        return 0
    number = resolve_scalar(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
        raise wrong(f"{shown(value)} is not a port", "write `dynamic` or a number from 1 to 65535")
    return int(number)


def _port_reference(value: Any) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return _port_number(value)
    if isinstance(value, str):
        return _port_number(value) if isinstance(resolve_scalar(value), int) else value
    raise wrong(f"{shown(value)} is not a port", "write the name of a port of this worker, or a number")


_NUMBER_FORM: forms.Form = {"type": "integer", "minimum": 1, "maximum": 65535}
_PORT_FORM = forms.one_of({"const": "dynamic"}, _NUMBER_FORM, forms.matching(forms.WHOLE_TEXT), forms.REFERENCE)
_REFERENCE_FORM = forms.one_of({"type": "string", "description": "the name of a port"}, _NUMBER_FORM)

PortNumber = Annotated[int, Takes(_port_number, _PORT_FORM)]
PortReference = Annotated[str | int, Takes(_port_reference, _REFERENCE_FORM)]


class HttpModel(Strict):
    """`http:` of a probe: a port with a path on loopback, or a full url."""

    port: PortReference | None = None
    path: Text | None = None
    method: Annotated[str, choice("GET", "HEAD", "POST", "OPTIONS")] | None = None
    headers: Pairs | None = None
    url: Text | None = None


class TcpModel(Strict):
    """`tcp:` of a probe: the port to connect to."""

    port: PortReference
    host: Text | None = None


class ExecModel(Strict):
    """`exec:` of a probe: program and arguments, run without a shell."""

    command: TextList


class ProcessModel(Strict):
    """Nothing to say: the check is that the process lives."""


class GrpcModel(Strict):
    """`grpc:` of a probe: a service asked for its health (grpc.health.v1), or a method that must answer OK."""

    port: PortReference
    host: Text | None = None
    service: Text | None = None
    method: Text | None = None
    headers: Pairs | None = None


class FileCheckModel(Strict):
    """`file:` of a probe: a file that is there, and not older than said."""

    path: Text
    max_age: Duration | None = None


class NotifyModel(Strict):
    """Nothing to say: the worker tells by itself, as it would tell systemd."""


class CheckModel(Strict):
    """Exactly one check."""

    http: HttpModel | None = None
    tcp: TcpModel | None = None
    exec: ExecModel | None = None
    process: ProcessModel | None = None
    grpc: GrpcModel | None = None
    file: FileCheckModel | None = None


class ProbeModel(CheckModel):
    """One probe: exactly one check, or several under `all` or `any`; and its rhythm."""

    notify: NotifyModel | None = None
    all: list[CheckModel] | None = None
    any: list[CheckModel] | None = None
    period: Duration | None = None
    timeout: Duration | None = None
    initial_delay: Duration | None = None
    success_threshold: Threshold | None = None
    failure_threshold: Threshold | None = None


class HealthModel(Strict):
    """The probes of a worker, in the order in which they matter."""

    startup: ProbeModel | None = None
    readiness: ProbeModel | None = None
    liveness: ProbeModel | None = None
