"""Concurrent clients of the API that write down what they were told, for the checks in `history.py`.

Each register is an app without instances; a write deploys it with a token in its environment. A write whose answer does
not come is sent again with the same idempotency key for a while; if it stays without one its outcome is unknown.
"""

from __future__ import annotations

import http.client
import json
import math
import ssl
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.cluster import eventually
from tests.support.history import Outcome, Put, Read, TermSeen, Write, counted, faults_of_registers, faults_of_terms

REQUEST_TIMEOUT_S = 4.0
ATTEMPTS = 4
"""Of one write, all with one idempotency key, each at the next master."""
PACE_S = 0.05
APPS = "/v1/namespaces/default/apps"
REVISIONS = "/hsu/revisions/default/"
TOKEN = "HISTORY_TOKEN"


@dataclass(frozen=True, slots=True)
class Api:
    """How clients reach the masters: their addresses (asked again for each request), a token, whom to trust."""

    urls: Callable[[], Sequence[str]]
    token: str
    trust: ssl.SSLContext | None = None

    def ask(self, url: str, method: str, path: str, body: Any = None, key: str = "") -> Any:
        """Return the document of one answer. Raises OSError, HTTPException, and HTTPError for other than 2xx."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, method=method, data=content, headers=headers)
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S, context=self.trust) as answer:
            return json.load(answer)


@dataclass(slots=True)
class History:
    """What the clients of one test have recorded."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    terms: list[TermSeen] = field(default_factory=list)

    def faults(self, log: Sequence[Put]) -> list[str]:
        """Return all that cannot be true, given what the store has seen."""
        return faults_of_registers(self.writes, self.reads, log) + faults_of_terms(self.terms)


def register_of(token: str) -> dict[str, Any]:
    """Return the manifest (without `app`) of a register that holds `token`."""
    execution = {"executable_path": "/bin/true", "environment": {TOKEN: token}}
    unit = {"managed": {"metadata": {"name": "none"}, "control": {"execution": execution}}}
    return {"workers": [{"id": "none", "type": "managed", "replicas": 0, "unit": unit}]}


def puts_of(revisions: Sequence[tuple[str, bytes, int]]) -> list[Put]:
    """Return the writes among (key, value, mod revision) of a store's log: each deploy creates one revision record."""
    found = []
    for key, value, revision in revisions:
        if not key.startswith(REVISIONS + "register-") or not value:
            continue
        start = value.find(b"token-")
        found.append(Put(key.removeprefix(REVISIONS).split("/")[0], value[start : start + 38].decode(), revision))
    return found


class _Client:
    def __init__(self, api: Api, register: str, history: History, number: int) -> None:
        self._api = api
        self._register = register
        self._history = history
        self._turn = number

    def _url(self) -> str:
        self._turn += 1
        urls = self._api.urls()
        return urls[self._turn % len(urls)]

    def write(self) -> None:
        token = f"token-{uuid.uuid4().hex}"
        body = {"app": self._register, **register_of(token)}
        began, outcome = time.monotonic(), Outcome.REFUSED
        for _ in range(ATTEMPTS):
            try:
                answer = self._api.ask(self._url(), "PUT", f"{APPS}/{self._register}", body, key=token)
            except urllib.error.HTTPError as error:
                if error.code < 500:  # the last word, unless an earlier attempt is still on its way
                    break
                outcome = Outcome.UNKNOWN
            except (OSError, http.client.HTTPException, ValueError):
                outcome = Outcome.UNKNOWN
            else:
                ended = time.monotonic()
                self._history.writes.append(
                    Write(self._register, token, began, ended, Outcome.ACKNOWLEDGED, answer["revision"])
                )
                return
        self._history.writes.append(Write(self._register, token, began, math.inf, outcome))

    def read(self) -> None:
        began = time.monotonic()
        try:
            answer = self._api.ask(self._url(), "GET", f"{APPS}/{self._register}")
            ended, cluster_began = time.monotonic(), time.monotonic()
            is_stale = bool(answer.get("stale"))
            self._history.reads.append(Read(self._register, began, ended, answer["revision"], is_stale))
            cluster = self._api.ask(self._url(), "GET", "/v1/cluster")
            if not cluster.get("stale"):
                self._history.terms.append(TermSeen(cluster_began, time.monotonic(), cluster["term"]))
        except (OSError, http.client.HTTPException, ValueError):
            return


def acknowledged_since(history: History, count: int = 6) -> None:
    """Wait until so many further writes are acknowledged: the cluster serves (again)."""
    before = counted(history.writes)[Outcome.ACKNOWLEDGED]
    eventually("writes are acknowledged", lambda: counted(history.writes)[Outcome.ACKNOWLEDGED] >= before + count)


@contextmanager
def clients(api: Api, history: History | None = None, registers: int = 2, per_register: int = 2) -> Iterator[History]:
    """Let clients write and read until the context ends; yields what they record (after what `history` has already)."""
    history, is_over = history or History(), threading.Event()

    def work(client: _Client) -> None:
        while not is_over.wait(PACE_S):
            client.write()
            client.read()

    threads = [
        threading.Thread(target=work, args=(_Client(api, f"register-{number % registers}", history, number),))
        for number in range(registers * per_register)
    ]
    for thread in threads:
        thread.start()
    try:
        yield history
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
