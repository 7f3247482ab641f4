"""Where a command finds its master and token: flags, environment, context file, this machine's own master.

The first that says something wins, for each of the three values alone:

    --server / --token        flags
    HSU_SERVER / HSU_TOKEN / HSU_CA_FILE
    the context file          `~/.config/hsu/context.yaml`: server, token or token_file, ca_file
    this machine              http://127.0.0.1:7070, and for a loopback server the token of the local
                              master's data folder, if this user may read it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarl import URL

from hsu_core.model.errors import InvalidInput
from hsu_core.runtime.settings import DEFAULT_MASTER_PORT, HostDefaults
from hsu_core.wire.yaml_text import load_document

DEFAULT_SERVER = f"http://127.0.0.1:{DEFAULT_MASTER_PORT}"

_KNOWN = frozenset({"server", "token", "token_file", "ca_file"})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a cluster. `origin` says where the server came from, for messages."""

    server: str
    token: str
    ca_file: Path | None
    origin: str


def context_file(home: Path, environment: Mapping[str, str]) -> Path:
    """Return where the context file is: HSU_CONTEXT, else `hsu/context.yaml` below the configuration folder."""
    if environment.get("HSU_CONTEXT"):
        return Path(environment["HSU_CONTEXT"])
    folder = environment.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else home / ".config") / "hsu" / "context.yaml"


def find_connection(
    environment: Mapping[str, str],
    host: HostDefaults,
    *,
    server: str | None = None,
    token: str | None = None,
    ca_file: Path | None = None,
) -> Connection:
    """Return the connection by the order above. Raises InvalidInput for a context file that is wrong."""
    context = _read_context(context_file(host.home, environment))
    found, origin = next(
        (value, name)
        for value, name in (
            (server, "--server"),
            (environment.get("HSU_SERVER"), "HSU_SERVER"),
            (context.get("server"), "the context file"),
            (DEFAULT_SERVER, "the default"),
        )
        if value
    )
    secret = token or environment.get("HSU_TOKEN") or _context_token(context) or _local_token(found, environment, host)
    authority = ca_file or environment.get("HSU_CA_FILE") or context.get("ca_file")
    return Connection(found, secret, Path(authority) if authority else None, origin)


def _read_context(path: Path) -> dict[str, str]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _wrong(path, error.strerror or str(error), "make it readable for you") from error
    data: Any = load_document(text, str(path)).data
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise _wrong(path, "it is not a map of texts", "write for example `server: http://127.0.0.1:7070`")
    if unknown := sorted(data.keys() - _KNOWN):
        raise _wrong(path, f"it has unknown keys: {', '.join(unknown)}", f"known are {', '.join(sorted(_KNOWN))}")
    return data


def _wrong(path: Path, why: str, fix: str) -> InvalidInput:
    return InvalidInput(f"use the context file {path}", why, fix, code="client.context")


def _context_token(context: Mapping[str, str]) -> str:
    if context.get("token"):
        return context["token"]
    if not context.get("token_file"):
        return ""
    path = Path(context["token_file"]).expanduser()
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"read the token file {path}", str(error), "correct `token_file` in the context file", code="client.context"
        ) from error


def _local_token(server: str, environment: Mapping[str, str], host: HostDefaults) -> str:
    """Return the token of the local master, or "": only a loopback server is ever given it."""
    try:
        hosts = {URL(part if "://" in part else f"http://{part}").host for part in server.split(",")}
    except ValueError:
        return ""
    if not hosts <= _LOOPBACK:
        return ""
    folder = environment.get("HSU_DATA_DIR")
    path = (Path(folder) if folder else host.data_dir("hsu-cluster")) / "admin.token"
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
