"""Asks for the value of a metric: Prometheus, a URL, a program, a figure of the view. An answer, or why there is none.

What a value means is in `planning.analysis`. Everything that comes from outside is bounded: time, size, redirects.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import aiohttp
from yarl import URL

from hsu_cluster.leader.programs import run_program
from hsu_cluster.planning.analysis import placeholders
from hsu_cluster.planning.figures import figure
from hsu_core.model.analysis import AnalysisRun, BuiltinFigure, ExecQuery, PrometheusQuery, Query, WebQuery
from hsu_core.model.errors import HsuError
from hsu_core.model.expressions import Value, parse_path
from hsu_core.model.view import ClusterView

BODY_LIMIT_BYTES = 64 * 1024
"""Most that is read of an answer."""

REDIRECTS_LIMIT = 5
"""Most redirects that are followed, all on one host and port."""

CONNECTIONS_LIMIT = 32
"""Most connections of all measurements together."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of a program; of the master's own environment it gets nothing, since that may hold secrets."""

_USER = re.compile(r"//[^/@]*@")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "hsu-cluster"}


class Unanswered(HsuError):
    """A measurement that has no value; the metric counts it as an error and tries again."""

    code = "analysis.unanswered"
    status = 502


def new_session() -> aiohttp.ClientSession:
    """Return the session for the questions; it keeps no cookies and follows nothing by itself. The caller closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_LIMIT),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        headers=_HEADERS,
        auto_decompress=False,
    )


async def ask(
    query: Query, run: AnalysisRun, view: ClusterView, session: aiohttp.ClientSession, *, can_execute: bool
) -> Value:
    """Return the value of a query whose placeholders are filled in. Raises Unanswered with the reason.

    `view` is looked at before the first await. `can_execute`: whether programs may be run here.
    """
    if isinstance(query, BuiltinFigure):
        return _figure(query, view, run)
    if isinstance(query, ExecQuery) and not can_execute:
        raise Unanswered(
            f"run {query.command[0]}",
            "this master runs no programs of analyses",
            "set `analysis: {allow_exec: true}` in the settings of every master, or measure with web or prometheus",
        )
    what = _what(query)
    try:
        async with asyncio.timeout(query.timeout_s):
            if isinstance(query, PrometheusQuery):
                return await _prometheus(query, session)
            if isinstance(query, WebQuery):
                return await _web(query, session)
            return await _program(query, run)
    except TimeoutError:
        raise Unanswered(what, f"no answer within {query.timeout_s:g} s", "raise `timeout`, or mend it") from None
    except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
        raise Unanswered(what, str(error)[:300] or type(error).__name__) from error


def shown(value: Value) -> str:
    """Return a value as people read it: JSON without blanks at the ends."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError) as error:
        return f"({error})"


def _figure(query: BuiltinFigure, view: ClusterView, run: AnalysisRun) -> float:
    try:
        found, why = figure(query.figure, view, run)
    except KeyError:
        raise Unanswered(f"tell {query.figure}", "this version knows no such figure", "update all masters") from None
    if found is None:
        raise Unanswered(f"tell {query.figure}", why)
    return found


def _what(query: PrometheusQuery | WebQuery | ExecQuery) -> str:
    if isinstance(query, ExecQuery):
        return f"run {query.command[0][:100]}"
    url = query.address if isinstance(query, PrometheusQuery) else query.url
    return f"ask {_USER.sub('//', url.partition('?')[0], count=1)[:100]}"  # no secret of a URL in a message


async def _prometheus(query: PrometheusQuery, session: aiohttp.ClientSession) -> Value:
    url = URL(f"{query.address}/api/v1/query").update_query({"query": query.query})
    status, body = await _fetch(url, session)
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("status") != "success":
        said = str(document.get("error", ""))[:200] if isinstance(document, dict) else ""
        raise Unanswered(_what(query), f"status {status}" + (f", {said}" if said else ", no answer of Prometheus"))
    try:
        return _prometheus_value(document["data"])
    except (KeyError, IndexError, TypeError) as error:
        raise Unanswered(_what(query), f"an answer of an unknown form ({error!r})"[:200]) from error


def _prometheus_value(found: Mapping[str, Any]) -> Value:
    """Return a number for a scalar, a list of numbers for a vector (as Argo Rollouts), a text for a string."""
    kind, result = found["resultType"], found["result"]
    if kind == "vector":
        return [float(sample["value"][1]) for sample in result]
    if kind == "scalar":
        return float(result[1])
    if kind == "string":
        return str(result[1])
    raise ValueError(f"the query gives a {str(kind)[:20]}; it has to give numbers of one moment: remove the last [...]")


async def _web(query: WebQuery, session: aiohttp.ClientSession) -> Value:
    status, body = await _fetch(URL(query.url), session)
    if not 200 <= status < 300:
        raise Unanswered(_what(query), f"status {status}", "it has to answer with 200 and JSON")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise Unanswered(_what(query), f"the answer is no JSON ({error})"[:200]) from error
    try:
        return parse_path(query.json_path).value(document)
    except HsuError as error:
        raise Unanswered(_what(query), f"{query.json_path[:100]}: {error.why}", "mend json_path") from error


async def _fetch(url: URL, session: aiohttp.ClientSession) -> tuple[int, bytes]:
    """Return status and body; follows redirects on the same host and port only."""
    origin = url.origin()
    for _ in range(REDIRECTS_LIMIT + 1):
        async with session.get(url, allow_redirects=False) as answer:
            target = answer.headers.get("Location")
            if answer.status in _REDIRECTS and target is not None:
                url = url.join(URL(target))
                if not url.is_absolute() or url.origin() != origin:
                    raise ValueError(f"it leads to another server ({str(url)[:100]}): write that address")
                continue
            body = bytearray()
            async for chunk in answer.content.iter_chunked(8192):
                body += chunk
                if len(body) > BODY_LIMIT_BYTES:
                    raise ValueError(f"the answer has more than {BODY_LIMIT_BYTES // 1024} KiB: ask for less")
            return answer.status, bytes(body)
    raise ValueError(f"more than {REDIRECTS_LIMIT} redirects")


async def _program(query: ExecQuery, run: AnalysisRun) -> Value:
    """Return a map of `exit_code` and `output`."""
    own = {f"HSU_{name.upper()}": text for name, text in placeholders(run).items()}
    code, printed = await run_program(query.command, {"PATH": SEARCH_PATH, **own}, BODY_LIMIT_BYTES)
    text = printed.decode("utf-8", "replace").strip()
    try:
        output = json.loads(text)
    except (ValueError, RecursionError):
        output = text
    if isinstance(output, float) and not math.isfinite(output):
        output = text  # NaN and Infinity are no JSON, though Python's reader takes them
    return {"exit_code": code, "output": output}
