"""systemd's services: what each key becomes, what is told of, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from hsu_core.wire.foreign import ForeignFile
from hsu_core.wire.foreign_kinds import convert_files
from tests.wire.foreign_builders import (
    FOLDER,
    converted,
    execution_of,
    faults_of,
    host,
    read_strictly,
    warnings_of,
    worker_of,
)


def unit(*lines: str, start: str = "/bin/web") -> str:
    return "\n".join(["[Service]", f"ExecStart={start}", *lines])


def worker(*lines: str, start: str = "/bin/web") -> dict[str, Any]:
    return worker_of("systemd", unit(*lines, start=start))


def args(start: str, *lines: str) -> tuple[str, ...]:
    """Return the arguments as the agent would read them."""
    (found,) = read_strictly(converted("systemd", unit(*lines, start=start)), {"HOME": "/home/a"}).spec.workers
    return found.execution.args


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("/bin/web a 'b c' \"d e\" f\\x20g", ("a", "b c", "d e", "f g")),
        ("/bin/web 'it''s' \"\\\"\" \\t|", ("its", '"', "\t|")),
        ("/bin/web 100%% 5$$ $ a$", ("100%", "5$", "$", "a$")),
        ("/bin/web ${A}/x $B \"$B\" '${C}'", ("one two/x", "three", "four", "three", "four", "")),
        ("/bin/web ${HOME} $HOME", ("/home/a", "/home/a")),
        (":/bin/web ${A} $$", ("${A}", "$$")),
        ("@/bin/web name a", ("a",)),
        ("-/bin/web a", ("a",)),
        ("/bin/web %n %N %p %i %t", ("shop.service", "shop", "shop", "", "/run")),
        ("/bin/web %S %C %L %E", ("/var/lib", "/var/cache", "/var/log", "/etc")),
        ("/bin/web \\\n   a \\\n# comment\n  b", ("a", "b")),
    ],
)  # fmt: skip
def test_command_lines_are_read_as_systemd_reads_them(start: str, words: tuple[str, ...]) -> None:
    assert args(start, 'Environment="A=one two" "B=three four"') == words


def test_systemds_own_defaults_are_written_out() -> None:
    found = worker()
    assert found["restart"] == {"policy": "never"}
    assert found["stop"] == {"grace": "90s"}
    assert execution_of(found)["working_directory"] == "/"


@pytest.mark.parametrize(
    ("word", "policy", "is_told"),
    [("no", "never", False), ("always", "always", False), ("on-failure", "on-failure", False),
     ("on-abnormal", "on-failure", True), ("on-success", "always", True)],
)  # fmt: skip
def test_restart_is_the_policy(word: str, policy: str, is_told: bool) -> None:
    assert worker(f"Restart={word}")["restart"]["policy"] == policy
    assert bool(warnings_of("systemd", unit(f"Restart={word}"))) == is_told


def test_waits_between_restarts() -> None:
    assert worker("Restart=always", "RestartSec=1min 30s")["restart"]["backoff"] == {
        "base": "90s",
        "factor": 1,
        "ceiling": "90s",
    }
    grown = worker("Restart=always", "RestartSec=1", "RestartSteps=3", "RestartMaxDelaySec=8")["restart"]["backoff"]
    assert grown == {"base": "1s", "factor": 2.0, "ceiling": "8s"}
    assert "backoff" not in worker("Restart=always")["restart"]


def test_start_limits_are_a_breaker() -> None:
    text = "[Unit]\nStartLimitIntervalSec=30\nStartLimitBurst=4\n" + unit("Restart=always")
    assert worker_of("systemd", text)["restart"]["breaker"] == {"retries": 3, "window": "30s"}
    assert "no end for good" in warnings_of("systemd", text)[0]
    off = "[Unit]\nStartLimitIntervalSec=0\n" + unit("Restart=always")
    assert "breaker" not in worker_of("systemd", off)["restart"]


def test_exit_codes() -> None:
    found = worker("Restart=always", "SuccessExitStatus=0 3 TEMPFAIL", "RestartPreventExitStatus=3 64")
    assert found["restart"]["exit_codes"] == {"success": [75], "final": [3, 64]}


def test_notices_are_probes() -> None:
    found = worker("Type=notify", "WatchdogSec=20s")
    assert found["health"] == {
        "startup": {"notify": {}, "period": "900ms", "failure_threshold": 101},
        "readiness": {"notify": {}},
        "liveness": {"notify": {}, "period": "20s"},
    }
    assert "health" not in worker("WatchdogSec=0")
    quick = worker("Type=notify", "TimeoutStartSec=500ms")["health"]["startup"]
    assert quick == {"notify": {}, "period": "100ms", "failure_threshold": 6}
    assert worker("Type=notify", "TimeoutStartSec=0")["health"]["startup"]["period"] == "36s"


def test_limits() -> None:
    found = worker("MemoryMax=512M", "MemorySwapMax=0", "CPUQuota=150%", "TasksMax=20", "CPUWeight=100", "IOWeight=50")
    assert found["limits"] == {
        "memory": {"max_rss": "512MiB", "max_swap": 0},
        "cpu": {"max_cores": "1500m"},
        "process": {"max_processes": 20},
        "cpu_shares": 1024,
        "io": {"weight": 50},
    }
    assert "limits" not in worker("MemoryMax=infinity", "TasksMax=infinity")


def test_commands_around_a_start_are_hooks() -> None:
    found = worker("ExecStartPre=/bin/a 'x y'", "ExecStop=/bin/b", "TimeoutStartSec=5", "TimeoutStopSec=7")["hooks"]
    assert found == {
        "pre_start": {"command": ["/bin/a", "x y"], "timeout": "5s"},
        "pre_stop": {"command": ["/bin/b"], "timeout": "7s"},
    }
    several = worker("ExecStartPre=-/bin/a 'x y'", "ExecStartPre=/bin/b")["hooks"]["pre_start"]["command"]
    assert several == ["/bin/sh", "-c", "set -e\n/bin/a 'x y' || :\n/bin/b"]


@pytest.mark.parametrize(
    ("line", "signal"),
    [("/bin/kill -s QUIT $MAINPID", "SIGQUIT"), ("-/usr/bin/kill -INT ${MAINPID}", "SIGINT"),
     ("/bin/kill $MAINPID", "SIGTERM")],
)  # fmt: skip
def test_a_stop_by_kill_is_the_stop_signal(line: str, signal: str) -> None:
    found = worker(f"ExecStop={line}")
    assert found["stop"]["signal"] == signal
    assert "hooks" not in found


def test_several_commands_of_a_oneshot_are_one_shell() -> None:
    found = execution_of(worker("Type=oneshot", "ExecStart=-/bin/b", start="/bin/a 'x y' ; /bin/c \\;"))
    assert found["args"] == ["-c", "set -e\n/bin/a 'x y'\n/bin/c ';'\n/bin/b || :"]
    assert (
        "3 commands are written as one"
        in warnings_of("systemd", unit("Type=oneshot", start="/bin/a ; /bin/b ; /bin/c"))[0]
    )


def test_variables_of_files_are_read_now() -> None:
    content = b'# comment\nA=1\nB="two \\"words\\""\nC=\'$x\'\nD=a \\\nb\n'
    text = unit("Environment=A=0", "EnvironmentFile=/etc/web.env", "EnvironmentFile=-/etc/none", start="/bin/web ${B}")
    found = converted("systemd", text, around=host({"/etc/web.env": content}))
    assert execution_of(found.manifest["workers"][0])["environment"] == {
        "A": "1",
        "B": 'two "words"',
        "C": "$x",
        "D": "a b",
    }
    (warning,) = found.warnings
    assert "3 variables of it are written" in str(warning)
    assert "cannot be read here" in warnings_of("systemd", unit("EnvironmentFile=/etc/none"))[0]


def test_a_variable_of_the_agent_is_passed_on() -> None:
    found = execution_of(worker("PassEnvironment=TOKEN"))
    assert found["environment"] == {"TOKEN": "${env:TOKEN:-}"}


def test_an_empty_value_takes_back_what_was_said() -> None:
    found = worker("ExecStartPre=/bin/a", "ExecStartPre=", "Environment=A=1", "Environment=")
    assert "hooks" not in found
    assert "environment" not in execution_of(found)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("Type=forking", "foreground"),
        ("Type=dbus", "taken for simple"),
        ("KillMode=process", "process group"),
        ("SendSIGKILL=no", "then SIGKILL"),
        ("ExecReload=/bin/kill -HUP $MAINPID", "hsu-agent signal"),
        ("PIDFile=/run/web.pid", "knows its processes"),
        ("ProtectSystem=strict", "no sandbox"),
        ("StateDirectory=web", "pre_start"),
        ("StandardOutput=journal", "hsu-agent logs"),
        ("RestartSec=5", "nothing is restarted"),
        ("MemoryMax=20%", "share of the host's memory"),
        ("TimeoutStopSec=infinity", "1h is written"),
        ("WorkingDirectory=-/srv", "must be there"),
        ("WorkingDirectory=~", "/ is written"),
        ("ExecStop=/bin/stop $MAINPID", "does not know $MAINPID"),
        ("Environment=A=%m", "%m is not carried over"),
        ("Environment=A=%h", "taken for /root"),
        ("Nonsense=1", "not known here"),
        ("TimeoutStartSec=5", "no start is ended"),
    ],
)
def test_what_is_not_carried_over_is_told_of(line: str, part: str) -> None:
    (warning,) = warnings_of("systemd", unit(line))
    assert warning.startswith(f"shop.service:3: [Service] {line.partition('=')[0]}: ")
    assert part in warning


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[Service]\n", "has no ExecStart"),
        (unit(start="'/bin/web"), "a ' is not closed"),
        (unit(start='""'), "the command is empty"),
        (unit("ExecStart=/bin/b"), "only a oneshot has several commands"),
        (unit("Type=fancy"), "is not a type"),
        (unit("Restart=sometimes"), "is not a restart policy"),
        (unit("Type=oneshot", "Restart=always"), "is not restarted after a success"),
        (unit("Restart=always", "RestartSec=soon"), "is not a time"),
        (unit("KillSignal=SIGNOTHING"), "is not a signal"),
        (unit("MemoryMax=much"), "is not a size"),
        (unit("CPUQuota=half"), "is not a share"),
        (unit("TasksMax=0"), "is outside"),
        (unit("Environment=A"), "is not NAME=value"),
        (unit("WorkingDirectory=srv"), "is not an absolute path"),
        (unit("WatchdogSec=1ms"), "is too often"),
        (unit(start="/bin/web \\x00"), "no program can be given"),
        ("ExecStart=/bin/web", "stands before the first [Section]"),
        (unit("nothing"), "is not `Key=value`"),
    ],
)
def test_what_is_broken_is_refused_at_its_line(text: str, part: str) -> None:
    found = faults_of("systemd", text)
    assert any(part in fault and fault.startswith("shop.service:") for fault in found), found


def test_units_of_another_kind_are_refused() -> None:
    (fault,) = faults_of("systemd", "[Timer]\nOnCalendar=daily\n", "shop.timer")
    assert "`schedule:`" in fault


def _together(**texts: str) -> list[dict[str, Any]]:
    files = [ForeignFile(f"{name}.service", text.encode(), FOLDER) for name, text in texts.items()]
    return list(convert_files("systemd", files, host({})).manifest["workers"])


def test_order_among_the_given_units_is_depends_on() -> None:
    after = "[Unit]\nAfter=db.service once.service ready.service network.target\nRequires=once.service\n"
    found = _together(
        web=after + unit(),
        db="[Unit]\nBefore=late.service\n" + unit(),
        once=unit("Type=oneshot"),
        ready=unit("Type=notify"),
        late=unit(),
    )
    assert found[0]["depends_on"] == {
        "db": {"condition": "started"},
        "once": {"condition": "completed_successfully"},
        "ready": {"condition": "healthy"},
    }
    assert found[4]["depends_on"] == {"db": {"condition": "started"}}


def test_units_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(Exception, match="workers wait for each other: a -> b -> a"):
        _together(a="[Unit]\nAfter=b.service\n" + unit(), b="[Unit]\nAfter=a.service\n" + unit())


def test_a_template_is_told_of_and_an_instance_is_filled_in() -> None:
    found = converted("systemd", unit(start="/bin/web %i"), "web@.service")
    assert any("%i is empty in a template" in str(warning) for warning in found.warnings)
    (worker,) = converted("systemd", unit(start="/bin/web %i"), "web@one.service").manifest["workers"]
    assert worker["id"] == "web-one"
    assert execution_of(worker)["args"] == ["one"]
