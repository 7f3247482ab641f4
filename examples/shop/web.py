"""The shop front: `/` says who answers, as JSON; `/healthz` says ok. Ends cleanly on SIGTERM.

`--fail` makes it a bad version: `crash` ends at once, `unready` never says ok, `errors` answers `/` with 500.
"""

import argparse
import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--version", default="")
    parser.add_argument("--fail", choices=["none", "crash", "unready", "errors"], default="none")
    arguments = parser.parse_args()
    if arguments.fail == "crash":
        raise SystemExit(f"version {arguments.version} cannot start")
    settings = json.loads(arguments.settings.read_text()) if arguments.settings else {}
    if arguments.version:
        settings["version"] = arguments.version
    bad_paths = {"errors": "/", "unready": "/healthz"}

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_health = self.path == "/healthz"
            body = b"ok\n" if is_health else json.dumps(settings, indent=2).encode() + b"\n"
            self.send_response(500 if bad_paths.get(arguments.fail) == self.path else 200)
            self.send_header("Content-Type", "text/plain" if is_health else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            if self.path != "/healthz":
                print(format % args, flush=True)

    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Front)
    # shutdown() waits for the loop in the main thread, so it cannot be called from its signal handler
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
