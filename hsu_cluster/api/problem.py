"""Failures as `application/problem+json` (RFC 9457): one shape, a stable code, never a traceback.

    {"type": "about:blank", "title": "Not Found", "status": 404, "code": "not-found",
     "detail": "cannot find app shop: ...; ...", "what": ..., "why": ..., "fix": ..., "errors": [...]}

Must not decide what is a failure: it only writes down an HsuError, an answer of aiohttp, or a bug.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web

from hsu_cluster.client.documents import FaultDocument, ProblemDocument
from hsu_core.model.errors import Conflict, Fault, Forbidden, HsuError, InvalidInput, NotFound, TooLarge

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"

ERRORS_LIMIT = 100
"""Most faults in one answer: a hostile file must not make a large one."""


class MethodNotAllowed(HsuError):
    """The path exists, this method on it does not."""

    code = "request.method"
    status = 405


class UnsupportedMedia(HsuError):
    """The body is of a kind that is not read here."""

    code = "request.media-type"
    status = 415


class TooSlow(HsuError):
    """The body did not arrive in time."""

    code = "limit.too-slow"
    status = 408


class HeadersTooLarge(HsuError):
    """The request line or the headers are above their limit."""

    code = "limit.headers"
    status = 431


def fault_document(fault: Fault) -> FaultDocument:
    """Return one fault as the API shows it."""
    return {
        "path": fault.path,
        "line": fault.line,
        "detail": fault.text,
        "fix": fault.fix,
        "code": fault.code,
        "file": fault.file,
    }


def problem_document(error: HsuError) -> ProblemDocument:
    """Return the document of an error."""
    return {
        "type": "about:blank",
        "title": _title(error.status),
        "status": error.status,
        "code": error.code,
        "detail": error.sentence,
        "what": error.what,
        "why": error.why,
        "fix": error.fix,
        "errors": fault_documents(error.faults),
    }


def fault_documents(faults: Sequence[Fault]) -> list[FaultDocument]:
    """Return the first faults as documents."""
    return [fault_document(fault) for fault in faults[:ERRORS_LIMIT]]


def problem_response(error: HsuError, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the answer for an error; 401 says how to authenticate, 429 and 503 when to try again."""
    sent = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **(headers or {})}
    if error.status == 401:
        sent.setdefault("WWW-Authenticate", 'Bearer realm="hsu"')
    if error.status in (429, 503):
        sent.setdefault("Retry-After", "1")
    body = json.dumps(problem_document(error), ensure_ascii=True).encode()
    return web.Response(body=body, status=error.status, content_type=PROBLEM_TYPE, headers=sent)


def from_http(error: web.HTTPException, method: str, path: str) -> HsuError:
    """Return the error for what aiohttp refused by itself."""
    shown = path[:200]
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"find {shown}", "the API has no such path", "see /openapi.json for the paths")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"{method} {shown}", f"the path answers {allowed}", "see /openapi.json")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return too_large_body()
    refused = InvalidInput("read the request", error.reason or "it is malformed", "see /openapi.json")
    refused.status = error.status
    return refused


def too_large_body(limit_bytes: int = 2**20) -> TooLarge:
    """Return the error for a body above the limit."""
    return TooLarge("read the body", f"it has more than {limit_bytes} bytes", "split the manifest", code="limit.body")


def from_bug(error: BaseException | None, method: str, path: str) -> HsuError:
    """Log an unexpected exception under an id and return what the caller may know of it: the id."""
    number = secrets.token_hex(4)
    log.error("request failed with a bug, id %s: %s %s", number, method, path, exc_info=error)
    return HsuError(
        "finish the request",
        f"an internal rule was broken (id {number})",
        f"report it with the lines around `{number}` in the log of this master",
        code="internal",
    )


def conflict(what: str, why: str, fix: str, code: str = "conflict") -> Conflict:
    """Return the error for a state that does not allow it now."""
    return Conflict(what, why, fix, code=code)


def forbidden_host(host: str) -> Forbidden:
    """Return the error for a Host header that does not name this master (a page in a browser may have set it)."""
    return Forbidden(
        "answer this request", f"host {host[:100]!r} is not a name of this master", "use its own address",
        code="auth.host",
    )  # fmt: skip


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
