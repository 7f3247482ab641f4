"""From the attributes of a worker to a start that sets them: who its user is here, and the way over the launcher.

A worker without attributes is started directly. One with attributes is started as `launcher.py`, which turns into
its program within some milliseconds: the same process, the same session.
"""

from __future__ import annotations

import grp
import marshal
import os
import platform
import pwd
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsu_core.model.attributes import CAPABILITIES, IO_CLASSES, UNLIMITED, ProcessAttributes
from hsu_core.model.errors import ProcessError

LAUNCHER = str(Path(__file__).with_name("launcher.py"))

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "i686": 289, "ppc64le": 273, "s390x": 282}
"""Numbers of the system call, which the C library has no function for (the kernel's tables of system calls)."""

DEFAULT_IO_PRIORITY = 4
"""The kernel's own default within a class (ioprio_set(2))."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of this host: numbers, name and home folder as the system's database has them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str = ""
    home: str = ""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """What is executed instead of the program, and the instructions that it finds behind descriptor 0."""

    argv: tuple[str, ...]
    executable: str
    environment: Mapping[str, str]
    instructions: bytes


def identity_of(attributes: ProcessAttributes) -> Identity | None:
    """Return who a worker runs as, None for the agent's own user. Raises ProcessError if this host has no such one."""
    if not (attributes.user or attributes.group or attributes.groups):
        return None
    uid, gid, name, home = os.geteuid(), os.getegid(), "", ""
    if attributes.user:
        found = _passwd(attributes.user)
        if found is not None:
            uid, gid, name, home = found.pw_uid, found.pw_gid, found.pw_name, found.pw_dir
        elif attributes.user.isdecimal():
            uid = gid = int(attributes.user)
        else:
            raise _unknown("user", attributes.user, "useradd --system")
    if attributes.group:
        gid = _group(attributes.group)
    if attributes.groups:
        groups = tuple(sorted({gid, *(_group(text) for text in attributes.groups)}))
    else:
        groups = tuple(sorted(os.getgrouplist(name, gid))) if name else (gid,)
    is_other = (uid, gid) != (os.geteuid(), os.getegid()) or bool(attributes.groups)
    if is_other and os.geteuid() != 0:
        what = f"start a worker as user {attributes.user or uid} and group {attributes.group or gid}"
        why = f"the agent runs as user {os.geteuid()}, and only root may become another"
        raise ProcessError(what, why, "run the agent as root, or remove process.user and process.group", code=_CODE)
    return Identity(uid, gid, groups, name, home) if is_other or os.geteuid() == 0 else None


_CODE = "process.attributes"


def _passwd(text: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError):
        return None


def _group(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise _unknown("group", text, "groupadd --system") from None


def _unknown(kind: str, name: str, command: str) -> ProcessError:
    what = f"start a worker as {kind} {name}"
    return ProcessError(what, f"this node has no such {kind}", f"make it ({command} {name})", code=_CODE)


def wrap(
    argv: Sequence[str],
    executable: str,
    environment: Mapping[str, str],
    attributes: ProcessAttributes,
    identity: Identity | None,
    guarded_by: tuple[str, float] | None = None,
) -> Wrapped:
    """Return the start over the launcher; it carries the environment, so that ours can be recognised at once."""
    plan = {
        "executable": executable,
        "argv": list(argv),
        "environment": dict(environment),
        **_settings(attributes, identity),
        **({"guarded_by": guarded_by} if guarded_by is not None else {}),
    }
    command = (sys.executable, "-I", "-S", "-E", LAUNCHER)
    return Wrapped(command, sys.executable, _marks(environment), marshal.dumps(plan))


def _marks(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what recognises a worker; a variable such as LD_PRELOAD is for its program, not for us."""
    return {name: value for name, value in environment.items() if name.startswith("HSU_")}


def _settings(attributes: ProcessAttributes, identity: Identity | None) -> dict[str, Any]:
    """Return the settings by the names that the launcher knows."""
    found: dict[str, Any] = {
        "umask": attributes.umask,
        "nice": attributes.nice,
        "cpu_affinity": list(attributes.cpu_affinity) or None,
        "oom_score_adj": attributes.oom_score_adj,
        "no_new_privileges": attributes.has_no_new_privileges or None,
        "capabilities": None
        if attributes.capabilities is None
        else [CAPABILITIES.index(name) for name in attributes.capabilities],
        "identity": None if identity is None else (identity.uid, identity.gid, list(identity.groups)),
        "io": _io(attributes),
        "rlimits": [(_rlimit(each.name), _infinite(each.soft), _infinite(each.hard)) for each in attributes.rlimits]
        or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _io(attributes: ProcessAttributes) -> tuple[int, int, int] | None:
    if not attributes.io_class:
        return None
    call = _IOPRIO_SET.get(platform.machine())
    if call is None:
        what = f"give a worker the I/O class {attributes.io_class}"
        raise ProcessError(what, f"it is not supported on {platform.machine()}", "remove process.io_class", code=_CODE)
    level = 0 if attributes.io_class == "idle" else attributes.io_priority
    return call, IO_CLASSES.index(attributes.io_class) + 1, DEFAULT_IO_PRIORITY if level is None else level


def _rlimit(name: str) -> int:
    number: int | None = getattr(resource, f"RLIMIT_{name.upper()}", None)
    if number is None:
        raise ProcessError(f"set the rlimit {name}", "this host has none of that name", "remove it", code=_CODE)
    return number


def _infinite(amount: int) -> int:
    return resource.RLIM_INFINITY if amount == UNLIMITED else amount


def account_variables(identity: Identity | None) -> dict[str, str]:
    """Return what a program asks its environment of its user."""
    if identity is None or not identity.name:
        return {}
    return {"HOME": identity.home, "USER": identity.name, "LOGNAME": identity.name}


WORK_FOLDER = "own"


def open_folder(folder: str, top: str, identity: Identity) -> str:
    """Let another user run in an instance's folder below `top`; return where. Raises OSError, ProcessError.

    The folder and the files that were written into it stay ours, readable for the user's group: what we write there
    later can never be led elsewhere by a link. The user's own is the folder `own` in it.
    """
    path = folder
    while True:
        _pass_through(path)
        if path == top:
            break
        path = os.path.dirname(path)
    for above in Path(top).parents:
        if not _may_pass(above.stat(), identity):
            why = f"user {identity.uid} may not pass through {above}"
            fix = "use a data folder in a place such as /var/lib, or remove process.user"
            raise ProcessError(f"run a worker below {top}", why, fix, code=_CODE)
    files = f"{folder}/files"
    if os.path.isdir(files):
        for found, _, names in os.walk(files):
            os.chown(found, -1, identity.gid)
            os.chmod(found, 0o750)
            for name in names:
                os.chown(f"{found}/{name}", -1, identity.gid, follow_symlinks=False)
                os.chmod(f"{found}/{name}", 0o640)
    work = f"{folder}/{WORK_FOLDER}"
    os.makedirs(work, 0o700, exist_ok=True)
    os.chown(work, identity.uid, identity.gid, follow_symlinks=False)
    return work


def _pass_through(path: str) -> None:
    mode = os.stat(path).st_mode & 0o777
    if mode & 0o011 != 0o011:
        os.chmod(path, mode | 0o011)


def _may_pass(found: os.stat_result, identity: Identity) -> bool:
    if identity.uid == found.st_uid:
        return bool(found.st_mode & 0o100)
    return bool(found.st_mode & (0o010 if found.st_gid in identity.groups else 0o001))
