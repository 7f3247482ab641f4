"""Hands the controllers of a service's control group back when the service has ended: for systemd before 254.

On cgroup v2 a group that hands controllers down to others may hold no process, and systemd before 254 starts a service
in the very group of its unit. Workers with limits run on below that group, so the next start would fail for ever
(219/CGROUP). This runs as `ExecStopPost=`, which systemd puts into a group beside them. Without their controllers the
limits of workers are off until the next agent has taken them over and sets them again. From 254 on `DelegateSubgroup=`
makes all of this needless, and nothing is done.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hsu_agent.host.cgroup import find_mount, own_path

CONTROL_GROUP = ".control"
"""Where systemd puts what it runs beside the main process of a unit that divides its own group."""

FIRST_WITH_SUBGROUP = 254
"""Version of systemd that starts a service in a group of its own below that of its unit."""


def systemd_version() -> int:
    """Return the version of systemd on this host; 0 where it does not tell."""
    try:
        done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else 0


def hand_back(folder: Path) -> list[str]:
    """Take all controllers from the groups below that of a unit; return what was taken. Raises OSError."""
    taken: list[str] = []
    inner = sorted(child for child in folder.glob("hsu-*") if child.is_dir())
    for group in (*inner, folder):  # a controller goes only when nobody below hands it down
        file = group / "cgroup.subtree_control"
        for name in file.read_text().split():
            file.write_text(f"-{name}")
            taken.append(f"{name} of {group.name}")
    return taken


def perform(version: int | None = None) -> int:
    """Hand back the controllers of the unit that has run us, if its systemd needs that; return the exit code."""
    path = own_path(Path("/proc/self/cgroup").read_text())
    mount = find_mount(Path("/proc/self/mountinfo").read_text())
    if mount is None or not path.endswith(f"/{CONTROL_GROUP}"):
        return 0
    if (systemd_version() if version is None else version) >= FIRST_WITH_SUBGROUP:
        return 0
    taken = hand_back(mount / path.removesuffix(f"/{CONTROL_GROUP}").strip("/"))
    if taken:
        print(f"hsu-agent: limits of workers that run on are off until the next agent: {', '.join(taken)}")
    return 0
