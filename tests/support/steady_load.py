"""A steady load of HTTP requests in threads, and what became of each of them.

This module knows nothing of the product.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PACE_S = 0.03
"""Between two requests of one client."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent, its status (0: none came), and the text or what went wrong."""

    at: float
    status: int
    text: str


@dataclass(slots=True)
class SteadyLoad:
    """Requests of some clients, one after the other each, over kept connections and new ones alike."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def failures(self) -> list[Answer]:
        """Return what was not answered with 200."""
        return [one for one in list(self.answers) if one.status != 200]

    def since(self, at: float) -> list[Answer]:
        """Return the requests that were sent at this time (seconds since 1970) or later."""
        return [one for one in list(self.answers) if one.at >= at]

    def versions(self, at: float = 0.0) -> Counter[str]:
        """Return who answered the requests that were sent at this time or later."""
        return Counter(one.text for one in self.since(at))

    def share_of_errors(self, at: float) -> float:
        """Return the share of failures among the requests since then."""
        found = self.since(at)
        return sum(one.status != 200 for one in found) / len(found) if found else 0.0


@contextmanager
def steady_load(url: str, clients: int = 4) -> Iterator[SteadyLoad]:
    """Send requests until the context ends."""
    load, is_over = SteadyLoad(), threading.Event()
    host = urllib.parse.urlsplit(url).netloc

    def send(is_closing: bool) -> None:
        connection = http.client.HTTPConnection(host, timeout=20)
        headers = {"Connection": "close"} if is_closing else {}
        while not is_over.wait(PACE_S):
            at = time.time()
            try:
                connection.request("GET", "/", headers=headers)
                answer = connection.getresponse()
                load.answers.append(Answer(at, answer.status, answer.read().decode()))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                load.answers.append(Answer(at, 0, repr(error)))
        connection.close()

    threads = [threading.Thread(target=send, args=(number % 2 == 1,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@contextmanager
def statistics_of(load: SteadyLoad, window_s: float = 1.0) -> Iterator[str]:
    """Serve the share of errors that a load had of late as `{"errors": 0.2}`; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"errors": load.share_of_errors(time.time() - window_s)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
