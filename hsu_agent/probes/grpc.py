"""A check over gRPC: the standard health protocol, or a method that answers OK.

Speaks HTTP/2 through `h2`, in clear text, one call per connection. Loaded only when the first gRPC check is made:
an agent without one does not carry HTTP/2 in its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from hpack.exceptions import HPACKError

from hsu_agent.planning.health import Outcome
from hsu_core.model.spec import Pairs

HEALTH_METHOD = "grpc.health.v1.Health/Check"

READ_LIMIT_BYTES = 64 * 1024
"""Most that is read of an answer in all its frames; a health answer has 2 bytes of content."""

SERVING = 1
STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
"""`grpc.health.v1.HealthCheckResponse.ServingStatus`, by number."""

OK, NOT_FOUND, UNIMPLEMENTED = 0, 5, 12
CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""Status codes of gRPC, by number."""


@dataclass(slots=True)
class _Answer:
    """What has come in so far; `fields` are headers and trailers together."""

    fields: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    has_ended: bool = False
    broken: str = ""


async def check_grpc(host: str, port: int, service: str = "", method: str = "", headers: Pairs = ()) -> Outcome:
    """Return whether `service` says SERVING, or (with `method`) whether that method answers OK.

    The caller limits the time.
    """
    where = f"grpc {host}:{port}"
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return Outcome(False, f"{where}: {error.strerror or error}")
    try:
        answer = await _call(reader, writer, f"{host}:{port}", service, method, headers)
    except (H2Error, HPACKError, UnicodeError) as error:
        return Outcome(False, f"{where}: does not speak gRPC (HTTP/2): {str(error)[:100] or type(error).__name__}")
    except OSError as error:
        return Outcome(False, f"{where}: {error.strerror or error}")
    finally:
        writer.transport.abort()
    return judge(where, service, method, answer.fields, answer.content, answer.broken)


async def _call(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    authority: str,
    service: str,
    method: str,
    headers: Pairs,
) -> _Answer:
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    given = {name.lower(): value for name, value in headers}
    fixed = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{method or HEALTH_METHOD}",
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "hsu-agent",
    }
    connection.send_headers(stream, list((fixed | {name: given[name] for name in given.keys() - fixed.keys()}).items()))
    name = service.encode() if not method else b""
    message = b"\n" + bytes([len(name)]) + name if name else b""  # field 1, a text shorter than 128 bytes
    connection.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    writer.write(connection.data_to_send())
    answer, count = _Answer(), 0
    while not answer.has_ended:
        payload = await reader.read(16384)
        count += len(payload)
        if not payload or count > READ_LIMIT_BYTES:
            answer.broken = f"answers with more than {READ_LIMIT_BYTES} bytes" if payload else "closed the connection"
            return answer
        if payload.startswith(b"HTTP/1"):
            answer.broken = "does not speak gRPC (HTTP/2): it answers in HTTP/1"
            return answer
        for event in connection.receive_data(payload):
            _note(event, answer)
        writer.write(connection.data_to_send())  # acknowledges its settings and pings
    return answer


def _note(event: Event, answer: _Answer) -> None:
    found: Any = event
    if isinstance(event, ResponseReceived | TrailersReceived):
        answer.fields |= {str(name): str(value) for name, value in found.headers}
    elif isinstance(event, DataReceived):
        answer.content += found.data
    elif isinstance(event, StreamEnded):
        answer.has_ended = True
    elif isinstance(event, StreamReset | ConnectionTerminated):
        answer.broken = f"refused the call (HTTP/2 error {int(found.error_code or 0)})"
        answer.has_ended = True


def judge(where: str, service: str, method: str, fields: dict[str, str], content: bytes, broken: str = "") -> Outcome:
    """Return the outcome of an answer: headers and trailers, messages as they were framed."""
    status = fields.get("grpc-status", "")
    if not status.isascii() or not status.isdigit():
        http = fields.get(":status", "")
        why = broken or (f"no gRPC answer, HTTP status {http}" if http else "no answer")
        return Outcome(False, f"{where}: {why}")
    code, text = int(status[:4]), unquote(fields.get("grpc-message", ""))[:200]
    if code == UNIMPLEMENTED:
        fix = "" if method else "; register the gRPC health service in the worker, or use a tcp check"
        return Outcome(False, f"{where}: UNIMPLEMENTED: the server does not offer {method or HEALTH_METHOD}{fix}")
    if code == NOT_FOUND and not method:
        return Outcome(False, f"{where}: NOT_FOUND: the server knows no service {service!r}; check `service`")
    if code != OK:
        name = CODES[code] if code < len(CODES) else f"status {code}"
        return Outcome(False, f"{where}: {name}" + (f": {text}" if text else ""))
    if method:
        return Outcome(True, f"{where}: {method} answers OK")
    state = 0
    with contextlib.suppress(IndexError):
        message = content[5:]
        state = message[1] if message and message[0] == 0x08 else 0  # field 1, a number; absent means 0
    what = f"service {service}" if service else "the server"
    return Outcome(state == SERVING, f"{where}: {what} is {STATES[state] if state < len(STATES) else state}")
