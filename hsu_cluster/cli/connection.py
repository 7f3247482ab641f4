"""Which cluster to talk to: flags, then environment, then a context, then a standalone cluster of this machine.

A context file (`~/.config/hsu-cluster/contexts.yaml`, or the one named by HSU_CONTEXTS) looks like this:

    current: plant
    contexts:
      plant: {server: "https://m1:7070,https://m2:7070", token_file: plant.token, ca_file: plant.crt, namespace: line-1}

A token is only shown to the server it belongs to: that of a context to the context's server, that of the
standalone cluster to this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hsu_cluster.cli.text import close_to
from hsu_core.model.errors import InvalidInput, InvalidSettings
from hsu_core.model.ids import DEFAULT_NAMESPACE
from hsu_core.runtime.settings import DEFAULT_MASTER_PORT, HostDefaults

DEFAULT_SERVER = f"http://127.0.0.1:{DEFAULT_MASTER_PORT}"
ADMIN_TOKEN_FILE = "admin.token"
ENDPOINT_FILE = "endpoint"
"""Files in a standalone cluster's data folder: what to show it, and the URL of its API."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CONTEXT_KEYS = ("server", "token_file", "ca_file", "namespace")


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given on the command line; empty: not given."""

    server: str = ""
    token_file: str = ""
    ca_file: str = ""
    context: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the masters are and what to show them. `token` empty: none was found."""

    server: str
    token: str = ""
    ca_file: Path | None = None
    namespace: str = DEFAULT_NAMESPACE


def data_dir(environment: Mapping[str, str], host: HostDefaults) -> Path:
    """Return where the standalone cluster of this machine keeps its data: HSU_DATA_DIR or the default folder."""
    given = environment.get("HSU_DATA_DIR", "")
    return Path(given).expanduser() if given else host.data_dir("hsu-cluster")


def resolve(flags: Flags, environment: Mapping[str, str], host: HostDefaults) -> Connection:
    """Return the connection. Raises InvalidInput or InvalidSettings when something named cannot be used."""
    server = flags.server or environment.get("HSU_SERVER", "")
    context: Mapping[str, str] = {}
    if flags.context or not server:
        context = _context(flags.context or environment.get("HSU_CONTEXT", ""), environment, host)
    found = server or context.get("server", "") or _standalone_server(data_dir(environment, host))
    if server and context.get("server", server) != server:
        context = {}  # another server: the context's token is not for it
    ca_file = flags.ca_file or environment.get("HSU_CA_FILE", "") or context.get("ca_file", "")
    return Connection(
        server=found,
        token=_token(flags, environment, context, found, host),
        ca_file=Path(ca_file).expanduser() if ca_file else None,
        namespace=environment.get("HSU_NAMESPACE", "") or context.get("namespace", "") or DEFAULT_NAMESPACE,
    )


def _standalone_server(folder: Path) -> str:
    try:
        return (folder / ENDPOINT_FILE).read_text(encoding="utf-8").strip() or DEFAULT_SERVER
    except (OSError, UnicodeDecodeError):
        return DEFAULT_SERVER


def _token(
    flags: Flags, environment: Mapping[str, str], context: Mapping[str, str], server: str, host: HostDefaults
) -> str:
    if flags.token_file:
        return _read_token(Path(flags.token_file), "give a readable file with --token-file")
    if token := environment.get("HSU_TOKEN", "").strip():
        return token
    if named := environment.get("HSU_TOKEN_FILE", ""):
        return _read_token(Path(named), "HSU_TOKEN_FILE names it")
    if named := context.get("token_file", ""):
        return _read_token(Path(named), "the context names it as token_file")
    if all((urlsplit(part.strip()).hostname or "") in _LOOPBACK for part in server.split(",")):
        try:
            return (data_dir(environment, host) / ADMIN_TOKEN_FILE).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""
    return ""


def _read_token(path: Path, fix: str) -> str:
    try:
        token = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput(f"read the token file {path}", reason.lower(), fix, code="input.token-file") from error
    if not token or not token.isprintable():
        raise InvalidInput(f"use the token file {path}", "it holds no token", fix, code="input.token-file")
    return token


def _context(name: str, environment: Mapping[str, str], host: HostDefaults) -> Mapping[str, str]:
    """Return the named (or current) context with its paths made absolute; empty where there is none."""
    from hsu_core.wire.yaml_text import load_document

    given = environment.get("HSU_CONTEXTS", "")
    path = Path(given).expanduser() if given else host.home / ".config" / "hsu-cluster" / "contexts.yaml"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if name or given:
            missing = f"there is no file {path}"
            raise InvalidInput(f"use context {name or 'current'}", missing, "write it", code="input.context") from None
        return {}
    except OSError as error:
        raise InvalidInput(f"read {path}", str(error.strerror).lower(), "make it readable") from error
    data = load_document(text, str(path)).data
    contexts = data.get("contexts") if isinstance(data, dict) else None
    if not isinstance(contexts, dict):
        raise InvalidSettings(f"use {path}", "it has no map `contexts`", "write contexts: {NAME: {server: URL}}")
    chosen = name or str(data.get("current") or "")
    if not chosen:
        return {}
    if chosen not in contexts:
        near = close_to(chosen, contexts)
        hint = f"did you mean {near}?" if near else f"it has {', '.join(sorted(contexts)) or 'none'}"
        raise InvalidInput(f"use context {chosen}", f"{path} has no such context", hint, code="input.context")
    return _checked(contexts[chosen], chosen, path)


def _checked(entry: Any, name: str, path: Path) -> Mapping[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise InvalidSettings(f"use context {name} of {path}", "it is not a map of texts", "write {server: URL}")
    unknown = sorted(entry.keys() - set(_CONTEXT_KEYS))
    if unknown:
        near = close_to(unknown[0], _CONTEXT_KEYS)
        raise InvalidSettings(
            f"use context {name} of {path}",
            f"it has an unknown key {unknown[0]}",
            f"did you mean {near}?" if near else "",
        )
    return {
        key: str(path.parent / Path(value).expanduser()) if key.endswith("_file") else value
        for key, value in entry.items()
    }
