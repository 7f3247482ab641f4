"""What a process is given before its program runs: user, priorities, limits of the kernel, privileges. Pure."""

from __future__ import annotations

from dataclasses import dataclass

UNLIMITED = -1
"""A kernel limit without end (RLIM_INFINITY)."""

RLIMITS = (
    "as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
    "sigpending", "stack",
)  # fmt: skip
"""Names of RLIMIT_* on Linux, in lower case (setrlimit(2))."""

IO_CLASSES = ("realtime", "best-effort", "idle")
"""Classes of ioprio_set(2), from 1 on."""

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""Names of capabilities(7) without CAP_, at the place of their numbers."""


@dataclass(frozen=True, slots=True)
class Rlimit:
    """One limit of the kernel, in its own unit (bytes, seconds or a count); UNLIMITED: none."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class ProcessAttributes:
    """What differs from the agent's own process. Empty texts and None: as the agent has it.

    `user` and `group` are names or numbers; without `groups` a user has those of the system's database.
    `io_priority` 0 (first) to 7. `oom_score_adj` -1000 (never killed) to 1000 (killed first). `capabilities`: those
    that are kept, the others are gone for good; None: nothing is changed.
    """

    user: str = ""
    group: str = ""
    groups: tuple[str, ...] = ()
    umask: int | None = None
    nice: int | None = None
    io_class: str = ""
    io_priority: int | None = None
    cpu_affinity: tuple[int, ...] = ()
    oom_score_adj: int | None = None
    has_no_new_privileges: bool = False
    capabilities: tuple[str, ...] | None = None
    rlimits: tuple[Rlimit, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether the process is started as the agent itself runs."""
        return self == NO_ATTRIBUTES


NO_ATTRIBUTES = ProcessAttributes()
