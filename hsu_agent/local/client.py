"""Asks a running agent over its control socket. Standard library alone: a status must be there at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONNECT_S = 5.0
ANSWER_S = 130.0
"""Longest waits for the connection and for an answer (a reload reads files)."""


class NotRunning(Exception):
    """No agent listens on the socket; the text says what to do."""


class Refused(Exception):
    """The agent refuses; `code` is stable."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def ask(data_dir: Path, verb: str, **arguments: Any) -> Any:
    """Return what the agent of a data folder answers. Raises NotRunning, Refused."""
    path = data_dir / "control.sock"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(str(path))
            connection.settimeout(ANSWER_S)
            connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            line = _read_line(connection)
        except PermissionError as error:
            text = f"cannot ask the agent: {path} may not be opened by this user; use the agent's own, or root"
            raise Refused("forbidden", text) from error
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NotRunning(
                f"no agent answers at {path} ({why.lower()}); start one with `hsu-agent run --local FILE`, "
                "or name its folder with --data-dir"
            ) from error
    answer: Mapping[str, Any] = json.loads(line)
    if answer.get("ok"):
        return answer["result"]
    raise Refused(str(answer.get("code")), "\n".join([str(answer.get("text")), *answer.get("faults", ())]))


def _read_line(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            raise ValueError("it closed the connection without an answer")
        parts.append(part)
    return b"".join(parts)
