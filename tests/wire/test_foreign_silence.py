"""Nothing is dropped in silence: a line of a foreign file changes the manifest, or there is a warning at that line."""

from __future__ import annotations

import json

import pytest

from hsu_core.wire.foreign_pm2_keys import ALIASES, KNOWN
from hsu_core.wire.foreign_pm2_keys import NOT_CARRIED as PM2_NOT_CARRIED
from hsu_core.wire.foreign_supervisord import PROGRAM_KEYS
from hsu_core.wire.foreign_systemd import SERVICE_KEYS
from hsu_core.wire.foreign_systemd_keys import NOT_CARRIED, NOT_CARRIED_UNIT
from tests.wire.foreign_builders import converted, host

PROGRAM = {
    "command": "/bin/other", "numprocs": "2", "autostart": "false", "autorestart": "true", "startretries": "7",
    "startsecs": "7", "exitcodes": "0,7", "stopsignal": "INT", "stopwaitsecs": "7", "stopasgroup": "false",
    "killasgroup": "false", "directory": "/srv", "environment": "A=1", "user": "shop", "umask": "077",
    "redirect_stderr": "true", "stdout_logfile_maxbytes": "7MB", "stdout_logfile_backups": "7",
    "stderr_logfile_maxbytes": "7MB", "stderr_logfile_backups": "7", "no_such_key": "1",
}  # fmt: skip
"""Values that differ from supervisord's defaults; other keys have the value `true`."""

SERVICE = {
    "Type": "notify", "ExecStart": "/bin/other", "ExecStartPre": "/bin/a", "ExecStartPost": "/bin/a",
    "ExecStop": "/bin/a", "ExecStopPost": "/bin/a", "Environment": "A=1", "EnvironmentFile": "/etc/a",
    "PassEnvironment": "A", "WorkingDirectory": "/srv", "Restart": "always", "RestartSec": "7", "RestartSteps": "7",
    "RestartMaxDelaySec": "7", "SuccessExitStatus": "7", "RestartPreventExitStatus": "7", "TimeoutSec": "7",
    "TimeoutStartSec": "7", "TimeoutStopSec": "7", "KillSignal": "SIGINT", "KillMode": "mixed", "SendSIGKILL": "no",
    "SendSIGHUP": "yes", "WatchdogSec": "7", "MemoryMax": "7M", "MemoryLimit": "7M", "MemorySwapMax": "7M",
    "CPUQuota": "7%", "CPUWeight": "7", "CPUShares": "7", "TasksMax": "7", "IOWeight": "7", "User": "shop",
    "Group": "shop", "SupplementaryGroups": "shop", "UMask": "077", "Nice": "7", "IOSchedulingClass": "idle",
    "IOSchedulingPriority": "7", "CPUAffinity": "0", "OOMScoreAdjust": "7", "NoNewPrivileges": "yes",
    "AmbientCapabilities": "CAP_KILL", "StartLimitBurst": "7",
}  # fmt: skip

APP = {
    "name": "other", "script": "other.js", "args": "a", "interpreter": "deno", "interpreter_args": "a", "cwd": "/other",
    "env": {"A": 1}, "instances": 2, "exec_mode": "cluster", "autorestart": False, "max_restarts": 7,
    "min_uptime": 7000, "restart_delay": 7000, "exp_backoff_restart_delay": 7, "stop_exit_codes": [7],
    "max_memory_restart": "7M", "kill_timeout": 7000, "treekill": False, "instance_var": "A", "uid": "shop",
    "gid": "shop", "autostart": False, "port": 7, "env_production": {"A": 1}, "no_such_key": 1,
}  # fmt: skip


@pytest.mark.parametrize("key", sorted({*PROGRAM_KEYS, *PROGRAM} - {"numprocs_start"}))
def test_no_key_of_a_program_is_dropped_in_silence(key: str) -> None:
    lines = ["[program:web]", "command=/bin/web"]
    before = converted("supervisord", "\n".join(lines))
    after = converted("supervisord", "\n".join([*lines, f"{key}={PROGRAM.get(key, 'true')}"]))
    told = [warning for warning in after.warnings if warning.line in (2, 3)]
    assert after.manifest != before.manifest or told


@pytest.mark.parametrize("restart", ["no", "on-failure"])
@pytest.mark.parametrize("key", sorted({*SERVICE_KEYS, *NOT_CARRIED, *SERVICE, "NoSuchKey", "ProtectHome"}))
def test_no_key_of_a_service_is_dropped_in_silence(key: str, restart: str) -> None:
    lines = ["[Service]", f"Restart={restart}"] + ([] if key == "ExecStart" else ["ExecStart=/bin/web"])
    around = host({"/etc/a": b"A=1"})
    before = converted("systemd", "\n".join([*lines, "ExecStart=/bin/web"][:3]), around=around)
    after = converted("systemd", "\n".join([*lines, f"{key}={SERVICE.get(key, '7')}"]), around=around)
    assert after.manifest != before.manifest or [found for found in after.warnings if f"] {key}" in found.path]


@pytest.mark.parametrize(
    "key", sorted(NOT_CARRIED_UNIT.keys() | {"After", "Requires", "Wants", "BindsTo", "NoSuchKey"})
)
def test_no_key_of_a_unit_is_dropped_in_silence(key: str) -> None:
    found = converted("systemd", f"[Unit]\n{key}=other.service\n[Service]\nExecStart=/bin/web")
    assert [warning for warning in found.warnings if warning.line == 2]


@pytest.mark.parametrize("key", sorted({*KNOWN, *APP, *PM2_NOT_CARRIED}))
def test_no_key_of_an_app_is_dropped_in_silence(key: str) -> None:
    least = {"script": "web.js", "cwd": "/srv"}
    before = converted("pm2", json.dumps(least))
    after = converted("pm2", json.dumps(least | {key: APP.get(key, True)}))
    assert after.manifest != before.manifest or after.warnings


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_other_words_for_a_key_say_the_same(alias: str) -> None:
    key = ALIASES[alias]
    least = {"script": "web.js", "cwd": "/srv"} if key != "script" else {"cwd": "/srv"}
    value = APP.get(key, True)
    assert (
        converted("pm2", json.dumps(least | {alias: value})).manifest
        == converted("pm2", json.dumps(least | {key: value})).manifest
    )
