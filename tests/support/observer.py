"""An etcd client that is not the product's: it reads the whole log of a store, through the JSON gateway.

This module knows nothing of the product.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key. `value` is empty and `is_delete` true when it was deleted."""

    key: str
    value: bytes
    revision: int
    create_revision: int
    is_delete: bool


def _encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def _ask(endpoint: str, path: str, body: object) -> urllib.request.Request:
    return urllib.request.Request(endpoint + path, data=json.dumps(body).encode(), method="POST")


def revision_now(endpoints: Sequence[str]) -> int:
    """Return the newest revision (a linearizable answer of the first member that gives one)."""
    last: Exception | None = None
    for endpoint in endpoints:
        try:
            request = _ask(endpoint, "/v3/kv/range", {"key": _encoded(b"/"), "count_only": True})
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return int(json.load(answer)["header"]["revision"])
        except (OSError, ValueError, KeyError) as error:
            last = error
    raise AssertionError(f"no etcd member answers: {last!r}")


def changes(endpoints: Sequence[str], prefix: str, start: int = 1) -> list[Change]:
    """Return every change below `prefix` from revision `start` until now, in order. Fails when it was compacted."""
    until = revision_now(endpoints)
    body = {"create_request": {"key": _encoded(b"\0"), "range_end": _encoded(b"\0"), "start_revision": str(start)}}
    last: Exception | None = None
    for endpoint in endpoints:
        found: list[Change] = []
        try:
            with urllib.request.urlopen(_ask(endpoint, "/v3/watch", body), timeout=TIMEOUT_S) as stream:
                _put_mark(endpoints)  # the end: a watch says nothing while nothing happens
                for change in _read(stream):
                    if change.revision > until:
                        return found
                    if change.key.startswith(prefix):
                        found.append(change)
        except (OSError, ValueError, KeyError) as error:
            last = error
    raise AssertionError(f"no etcd member shows its log: {last!r}")


def _read(stream: Iterable[bytes]) -> Iterator[Change]:
    for line in stream:
        result = json.loads(line)["result"]
        if int(result.get("compact_revision", 0)):
            raise AssertionError(f"the log before revision {result['compact_revision']} was compacted away")
        yield from (_change(event) for event in result.get("events", ()))


def _put_mark(endpoints: Sequence[str]) -> None:
    for endpoint in endpoints:
        try:
            with urllib.request.urlopen(_ask(endpoint, "/v3/kv/put", {"key": _encoded(b"/mark")}), timeout=TIMEOUT_S):
                return
        except OSError:
            continue


def _change(event: dict[str, object]) -> Change:
    pair = event["kv"]
    assert isinstance(pair, dict)
    return Change(
        base64.b64decode(pair["key"]).decode(),
        base64.b64decode(pair.get("value", "")),
        int(pair["mod_revision"]),
        int(pair.get("create_revision", 0)),
        event.get("type") == "DELETE",
    )
