"""The systemd unit of an agent. Pure: a service in, the text out, each line with the reason why it is there.

Workers live in the unit's control group and outlive the agent, so whatever the unit does to its processes is done to
them. Two rules follow. Nothing may end or starve them with the agent (`KillMode`, `OOMPolicy`, `TasksMax`). And
nothing may give them a namespace of their own: it would be another one after each start of the service, while older
workers stay in theirs, and what a worker mounts would be seen by nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hsu_agent.install.service import Service
from hsu_core.model.errors import InvalidInput

STATE_FOLDER = Path("/var/lib")
"""Below it systemd makes the data folder for the user of the unit (StateDirectory=)."""

SUPERVISOR_GROUP = "hsu-supervisor"
"""The group in which agents stand where theirs hands controllers down (`hsu_agent.host.cgroup`); a test compares."""

HAND_BACK = "hand-back-groups"
"""Command of the agent for systemd before 254, see `hsu_agent.install.groups`."""

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:@+=,")

FORBIDDEN_CALLS = "~@clock @module @obsolete @raw-io @reboot @swap"
DROPPED_CAPABILITIES = (
    "~CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_BLOCK_SUSPEND CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_SYS_BOOT CAP_SYS_MODULE "
    "CAP_SYS_PACCT CAP_SYS_RAWIO CAP_SYS_TIME CAP_WAKE_ALARM"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One setting and why it is there; settings with an empty `why` go without saying."""

    key: str
    value: str
    why: str = ""


LEFT_OUT = (
    (
        "ProtectSystem, ProtectHome, ProtectHostname, ProtectKernelTunables, PrivateTmp, PrivateDevices",
        "each makes a namespace of its own for the workers of one start of the service (and PrivateTmp empties /tmp "
        "under those that outlive it)",
    ),
    ("ProtectControlGroups", "the agent makes the groups of its workers"),
    ("ProtectProc, ProcSubset", "the agent finds processes that lost their parent in /proc"),
    ("ProtectClock, DeviceAllow", "both close devices, which workers use"),
    ("MemoryDenyWriteExecute, LockPersonality", "programs that translate themselves (Java, Node.js) need these calls"),
    ("RestrictNamespaces, RestrictAddressFamilies", "browsers and containers make namespaces; a worker may speak CAN"),
    ("RestrictRealtime", "control loops and sound run in real time"),
    ("IPAddressDeny, PrivateNetwork", "workers serve the network"),
    ("UMask, LimitCORE", "workers would inherit them"),
)
"""Hardening that systemd offers and that this unit has not, with the reason."""


def unit_text(service: Service) -> str:
    """Return the unit. Raises InvalidInput for a path that no unit can hold."""
    sections = (
        ("Unit", _unit(service)),
        ("Service", _service(service)),
        ("Install", [Line("WantedBy", "default.target" if service.is_users_own else "multi-user.target")]),
    )
    origin = "hsu-agent install --user-unit" if service.is_users_own else "hsu-agent install"
    parts = [f"# Made by `{origin}`; changes belong into a drop-in (systemctl edit {service.name}).\n"]
    for name, lines in sections:
        parts.append(f"[{name}]\n")
        for line in lines:
            parts += [f"# {text}\n" for text in _wrapped(line.why)]
            parts.append(f"{line.key}={line.value}\n")
        if name == "Service":
            parts.append("# Left out, for workers would not bear it:\n")
            parts += [f"#  {text}\n" for what, why in LEFT_OUT for text in _wrapped(f"{what}: {why}.")]
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def _unit(service: Service) -> list[Line]:
    lines = [Line("Description", service.description)]
    if not service.is_users_own:
        lines += [Line("Wants", "network-online.target"), Line("After", "network-online.target")]
    why = "An agent that gives up leaves its workers alone: it is started again for ever."
    return [*lines, Line("StartLimitIntervalSec", "0", why)]


def _service(service: Service) -> list[Line]:
    lines = [
        Line("Type", "notify", "Started is: orders are loaded, living workers are taken over, the agent answers."),
        Line(
            "NotifyAccess",
            "all",
            "The main process is the keeper, the agent is its child and speaks. The socket is not told to workers.",
        ),
        Line("ExecStart", _command_line(service.command)),
        Line("ExecReload", "/bin/kill -HUP $MAINPID", _reload_reason(service)),
        Line("Restart", "always"),
        Line("RestartSec", "2"),
        Line(
            "WatchdogSec",
            "60",
            "An agent that hangs for so long is killed by its keeper and the service starts again; workers run on.",
        ),
        Line(
            "TimeoutStartSec",
            "5min",
            "A host that boots is slow; a start cut off would end the workers of local files.",
        ),
        Line(
            "TimeoutStopSec",
            "5min",
            "Where a stop ends the workers too, their graces must fit; after it the agent goes and they run on.",
        ),
        Line(
            "KillMode",
            "process",
            "A stop signals the keeper alone. `mixed` and `control-group` would end every worker with the agent.",
        ),
        Line(
            "Delegate",
            "yes",
            "The control groups below this unit are the agent's to divide among its workers.",
        ),
        Line(
            "DelegateSubgroup",
            SUPERVISOR_GROUP,
            "From systemd 254 on (older ones pass it over): a group that hands controllers down to workers may hold "
            "no process itself, so the service starts in one beside them.",
        ),
        Line(
            "ExecStopPost",
            f"-{_command_line((*service.program, HAND_BACK))}",
            "Does that for older ones, which could not start again beside workers with limits; else it does nothing.",
        ),
        Line("OOMPolicy", "continue", "A worker that the kernel kills for its memory is the agent's to restart."),
    ]
    if not service.is_users_own:
        lines.append(
            Line("OOMScoreAdjust", "-500", "The agent is the last to be killed for memory; it starts workers at 0.")
        )
    lines += [
        Line("TasksMax", "infinity", "It would be one limit for all workers; each has its own (limits.process)."),
        Line(
            "LimitNOFILE",
            "65536:524288",
            "The agent takes the higher one, for up to five descriptors a worker; workers get the lower one.",
        ),
    ]
    return lines + ([] if service.is_users_own else _rights(service))


def _reload_reason(service: Service) -> str:
    if service.config is not None:
        return "The keeper starts the agent anew, with new settings or a new version; workers run on."
    return "The files are read again; what does not differ runs on."


def _rights(service: Service) -> list[Line]:
    lines: list[Line] = []
    if service.user:
        lines.append(Line("User", service.user))
    if service.data_dir.is_relative_to(STATE_FOLDER) and service.data_dir != STATE_FOLDER:
        lines += [
            Line("StateDirectory", quoted(str(service.data_dir.relative_to(STATE_FOLDER)))),
            Line("StateDirectoryMode", "0700"),
        ]
    if service.user:
        lines += [
            Line("NoNewPrivileges", "yes", "Nothing of this user becomes root: sudo and setuid programs do not work."),
            Line("CapabilityBoundingSet", "", "Nor does it get a part of root's rights."),
            Line("RestrictSUIDSGID", "yes", "Nor does it leave a program to others that becomes this user."),
        ]
    else:
        lines.append(
            Line(
                "CapabilityBoundingSet",
                DROPPED_CAPABILITIES,
                "Rights over the kernel, the clock and the machine, which are not for workers. Not the other ones: "
                "workers of root may need them. With `install --user` they have none.",
            )
        )
    return [
        *lines,
        Line("SystemCallFilter", FORBIDDEN_CALLS, "The same as system calls; they fail and end nobody."),
        Line("SystemCallErrorNumber", "EPERM"),
    ]


def _command_line(words: tuple[str, ...]) -> str:
    if set(words[0]) & set("\"'\\"):
        fix = "install it at a plain path, or say where with --program"
        raise InvalidInput("write a systemd unit", f"systemd runs no program whose path has quotes: {words[0]}", fix)
    program, *arguments = map(quoted, words)
    return " ".join([program, *(argument.replace("$", "$$") for argument in arguments)])  # variables: arguments alone


def quoted(word: str) -> str:
    """Return a word as a unit has it. Raises InvalidInput for what no unit can hold."""
    if not word or any(ord(letter) < 32 or ord(letter) == 127 for letter in word):
        raise InvalidInput("write a systemd unit", f"{word!r} is empty or has a control character", "rename the file")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if set(word) <= _PLAIN else f'"{escaped}"'


def _wrapped(text: str, width: int = 116) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
