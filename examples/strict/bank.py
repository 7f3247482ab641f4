"""A resource that takes writes of one writer at a time: an older fencing token than it has seen is refused.

    bank.py --port 18090 --file bank.sqlite

    PUT /balance   {"balance": 7}   with the header `Fencing-Token: 41`   -> 200, or 409 for a stale token
    GET /balance                                                          -> {"balance": 7, "token": 41}

Token and value are compared and written in one transaction. That is the whole trick; any store that can do so will do.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TABLE = "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER, token INTEGER)"


class StaleToken(Exception):
    """The writer has been replaced."""


def write(file: str, balance: int, token: int) -> None:
    """Write the balance. Raises StaleToken if a writer with a higher token has written before."""
    with sqlite3.connect(file, timeout=5, isolation_level=None) as store:
        store.execute("BEGIN IMMEDIATE")
        seen = read(store)["token"]
        if token < seen:
            store.execute("ROLLBACK")
            raise StaleToken(f"token {token} is stale: {seen} has written")
        store.execute("INSERT OR REPLACE INTO account VALUES (1, ?, ?)", (balance, token))
        store.execute("COMMIT")


def read(store: sqlite3.Connection) -> dict[str, int]:
    """Return balance and token; zero before the first write."""
    row = store.execute("SELECT balance, token FROM account WHERE id = 1").fetchone() or (0, 0)
    return {"balance": row[0], "token": row[1]}


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", required=True)
    options = parser.parse_args()
    with sqlite3.connect(options.file) as store:
        store.execute(TABLE)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with sqlite3.connect(options.file, timeout=5) as store:
                self.answer(200, read(store))

        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            try:
                write(options.file, int(body["balance"]), int(self.headers["Fencing-Token"]))
                self.answer(200, {})
            except StaleToken as error:
                self.answer(409, {"error": str(error)})

        def answer(self, status: int, document: dict[str, object]) -> None:
            text = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
