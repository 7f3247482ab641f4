"""The launchd property list of an agent. Pure: a service in, the text out."""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

from hsu_agent.install.service import Service

LABEL_PREFIX = "net.hsu-core."


def label(service: Service) -> str:
    """Return the name by which launchd knows the service."""
    return f"{LABEL_PREFIX}{service.name}"


def plist_text(service: Service, log: Path) -> str:
    """Return the property list (XML); what the agent says of itself goes to the file `log`.

    `AbandonProcessGroup` is what KillMode=process is to systemd: workers outlive the agent. launchd has no readiness
    and no watchdog; `KeepAlive` starts the agent again whenever it ends.
    """
    document: dict[str, Any] = {
        "Label": label(service),
        "ProgramArguments": list(service.command),
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": 2,
        "ExitTimeOut": 300,
        "AbandonProcessGroup": True,
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": 65536},
        "StandardErrorPath": str(log),
    }
    if service.user:
        document["UserName"] = service.user
    return plistlib.dumps(document, sort_keys=False).decode()
