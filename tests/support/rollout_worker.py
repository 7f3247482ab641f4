"""A worker of the tests of rollouts: an HTTP server that finishes its requests at SIGTERM and then exits.

rollout_worker.py PORT VERSION MODE, where MODE is what is wrong with the version: good (nothing), crash (exits with 3
at once), bad (500 to every request, but its probe passes) or unready (its probe never passes).
"""

from __future__ import annotations

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Waits for the requests it has begun when it is closed."""

    daemon_threads = False
    request_queue_size = 128
    version = ""
    mode = "good"
    work = threading.Event()
    """Never set: a request waits for it for as long as its work takes."""


class Handler(BaseHTTPRequestHandler):
    """Answers with the version; `/healthz` is the probe."""

    server: Server

    def do_GET(self) -> None:
        is_probe = self.path == "/healthz"
        if not is_probe:
            self.server.work.wait(0.02)
        is_good = self.server.mode != ("unready" if is_probe else "bad")
        body = self.server.version.encode()
        self.send_response(200 if is_good else 503 if is_probe else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(port: int, version: str, mode: str) -> int:
    """Serve until SIGTERM."""
    if mode == "crash":
        return 3
    with Server(("127.0.0.1", port), Handler) as server:
        server.version, server.mode = version, mode
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(poll_interval=0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
