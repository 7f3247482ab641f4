"""supervisord's programs: what each key becomes, what is told of, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

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


def program(*lines: str, name: str = "web", command: str = "/bin/web") -> str:
    return "\n".join([f"[program:{name}]", f"command={command}", *lines])


def worker(*lines: str, **keys: str) -> dict[str, Any]:
    return worker_of("supervisord", program(*lines, **keys))


@pytest.mark.parametrize(
    ("line", "policy"),
    [("", "on-failure"), ("autorestart=unexpected", "on-failure"), ("autorestart=true", "always"),
     ("autorestart=false", "never")],
)  # fmt: skip
def test_autorestart_is_the_policy(line: str, policy: str) -> None:
    assert worker(line)["restart"]["policy"] == policy


def test_supervisords_own_defaults_are_written_out() -> None:
    found = worker()
    assert found["restart"] == {
        "policy": "on-failure",
        "backoff": {"base": "1s", "reset_after": "1s"},
        "max_retries": 3,
    }
    assert found["stop"] == {"grace": "10s"}
    assert execution_of(found)["working_directory"] == "/"


def test_a_program_counts_as_running_after_its_startsecs() -> None:
    found = worker("startsecs=7", "startretries=2", "autorestart=true")
    assert found["restart"]["backoff"]["reset_after"] == "7s"
    assert found["restart"]["max_retries"] == 2
    assert found["health"] == {"readiness": {"process": {}, "initial_delay": "7s"}}


def test_without_startsecs_it_is_never_given_up() -> None:
    assert "max_retries" not in worker("startsecs=0")["restart"]
    assert "never gives up" in warnings_of("supervisord", program("startsecs=0", "startretries=5"))[0]


def test_exit_codes_are_successes() -> None:
    assert worker("exitcodes=0,2,1")["restart"]["exit_codes"] == {"success": [1, 2]}
    assert "0 always counts as success" in warnings_of("supervisord", program("exitcodes=2"))[0]


def test_numprocs_are_replicas_with_their_slot() -> None:
    found = worker("numprocs=3", "process_name=%(program_name)s_%(process_num)d", command="/bin/web 80%(process_num)d")
    assert found["replicas"] == 3
    assert execution_of(found)["args"] == ["80{slot}"]
    assert execution_of(worker(command="/bin/web %(process_num)02d"))["args"] == ["00"]
    texts = warnings_of("supervisord", program("numprocs=2", "numprocs_start=5", command="/bin/web %(process_num)02d"))
    assert "counted from 0, not from 5" in texts[1]
    assert "without leading zeros" in texts[0]


def test_expansions() -> None:
    text = "/bin/web %(program_name)s %(here)s %(ENV_A)s %(host_node_name)s 100%% '${b} %(ENV_A)s'"
    found = converted("supervisord", program(command=text), around=host({}, {"A": "x-y"}))
    assert found.warnings == ()
    (spec,) = read_strictly(found, {"A": "x-y"}).spec.workers
    assert spec.execution.args == ("web", FOLDER, "x-y", "{node}", "100%", "${b} x-y")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (program(command="/bin/web 50%"), "stands alone"),
        (program(command="/bin/web %(nothing)s"), "%(nothing)s is not known"),
        (program(command="/bin/web %(program_name)d"), "is not a number"),
        (program(command="/bin/web 'open"), "no closing quotation"),
        (program(command=""), "the command is empty"),
        ("[program:web]\nautostart=true", "has no `command`"),
        (program(name=""), "has no name"),
        (program("numprocs=many"), "needs a whole number, found 'many'"),
        (program("numprocs=0"), "0 is outside 1 to 1000"),
        (program("autorestart=perhaps"), "needs true or false"),
        (program("exitcodes=0,300"), "300 is outside 0 to 255"),
        (program("stopsignal=SIGNOTHING"), "is not a signal to stop a program with"),
        (program("stopwaitsecs=9999999999"), "is outside"),
        (program("umask=999"), "is not a umask"),
        (program("stdout_logfile_maxbytes=1.5MB"), "is not a size"),
        (program("environment=A=1,B"), "'B' is not KEY=value"),
        (program("directory=~/web"), "a folder of `~`"),
        ("command=/bin/web", "stands before the first [section]"),
        (program("nothing"), "is not `key = value`"),
        (program() + "\n[include]\n", "has no `files`"),
    ],
)
def test_what_is_broken_is_refused_at_its_line(text: str, part: str) -> None:
    (fault,) = faults_of("supervisord", text)
    assert part in fault
    assert fault.startswith("shop.conf:")


def test_every_fault_is_told_at_once() -> None:
    assert len(faults_of("supervisord", program("numprocs=x", "startsecs=y", "umask=z"))) == 3


def test_variables_of_the_file_are_known_in_commands() -> None:
    text = '[supervisord]\nenvironment=A="one two",B=x\n' + program(
        "environment=C='%(ENV_B)s y'", command="/bin/web %(ENV_A)s '%(ENV_A)s' %(ENV_C)s"
    )
    assert execution_of(worker_of("supervisord", text))["args"] == ["one", "two", "one two", "x", "y"]
    assert warnings_of("supervisord", text) == []


def test_a_number_from_a_variable_is_read_now() -> None:
    around = host({}, {"WORKERS": "4"})
    found = converted("supervisord", program("numprocs=%(ENV_WORKERS)s"), around=around)
    assert found.manifest["workers"][0]["replicas"] == 4
    assert "the value of WORKERS is read now" in str(found.warnings[0])
    (fault,) = faults_of("supervisord", program("startsecs=%(ENV_WORKERS)s"))[:1]
    assert "variable WORKERS is not set here" in fault


def test_a_program_of_a_group_knows_its_group() -> None:
    text = "[group:all]\nprograms=web, other\n" + program(command="/bin/web %(group_name)s")
    assert execution_of(worker_of("supervisord", text))["args"] == ["all"]


def test_environment_of_all_programs_is_under_that_of_each() -> None:
    text = '[supervisord]\nenvironment=A="one",B="x,y=z"\n' + program("environment=A=two,C='%(ENV_A)s'")
    found = converted("supervisord", text, around=host({}, {"A": "v"}))
    assert execution_of(found.manifest["workers"][0])["environment"] == {"A": "two", "B": "x,y=z", "C": "one"}


def test_a_variable_that_is_not_set_is_told_of() -> None:
    text = program(command="/bin/web %(ENV_A)s")
    (warning,) = converted("supervisord", text, around=host({}, {"A": "two words"})).warnings
    assert "the value of A is not split into words" in str(warning)
    assert "variable A is not set here" in warnings_of("supervisord", program(command="/bin/web %(ENV_A)s"))[0]


def test_indented_keys_are_keys_and_deeper_ones_go_on() -> None:
    text = "[program:web]\n  command = /bin/web\n     --port 80 ; comment\n  autorestart = true\n"
    found = worker_of("supervisord", text)
    assert execution_of(found)["args"] == ["--port", "80"]
    assert found["restart"]["policy"] == "always"


def test_stops_and_logs() -> None:
    found = worker("stopsignal=QUIT", "stopwaitsecs=5", "stdout_logfile_maxbytes=10MB", "stdout_logfile_backups=2")
    assert found["stop"] == {"signal": "SIGQUIT", "grace": "5s"}
    assert found["logs"] == {"segment_size": "10MiB", "segments": 3}
    assert worker("stderr_logfile_backups=1")["logs"] == {"segment_size": "50MiB", "segments": 2}
    assert worker("stdout_logfile_maxbytes=1KB")["logs"]["segment_size"] == "64KiB"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("priority=5", "depends_on"),
        ("stdout_logfile=/var/log/web.log", "log_collection"),
        ("redirect_stderr=true", "kept apart"),
        ("stopasgroup=false", "process group"),
        ("autostart=false", "enabled: false"),
        ("autosatrt=true", "did you mean autostart?"),
        ("serverurl=AUTO", "SUPERVISOR_SERVER_URL"),
        ("stdout_syslog=true", "syslog"),
    ],
)
def test_what_is_not_carried_over_is_told_of(line: str, part: str) -> None:
    (warning,) = warnings_of("supervisord", program(line))
    key = line.partition("=")[0]
    assert warning.startswith(f"shop.conf:3: [program:web] {key}: ")
    assert part in warning


@pytest.mark.parametrize("line", ["stdout_syslog=false", "redirect_stderr=false", "stopasgroup=true", "autostart=true"])
def test_what_asks_for_nothing_is_not_told_of(line: str) -> None:
    assert warnings_of("supervisord", program(line)) == []


@pytest.mark.parametrize("section", ["group:a", "fcgi-program:a", "eventlistener:a", "inet_http_server", "other"])
def test_other_sections_are_told_of(section: str) -> None:
    (warning,) = warnings_of("supervisord", f"{program()}\n[{section}]\n")
    assert warning.startswith(f"shop.conf:3: [{section}]: ")


def test_included_files_are_read_once_and_bounded() -> None:
    files = {f"{FOLDER}/conf.d/{number}.conf": program(name=f"web{number}").encode() for number in range(3)}
    text = "[include]\nfiles=conf.d/*.conf conf.d/1.conf"
    found = converted("supervisord", text, around=host(files))
    assert [each["id"] for each in found.manifest["workers"]] == ["web0", "web1", "web2"]
    many = {f"{FOLDER}/conf.d/{number}.conf": b"" for number in range(201)}
    with pytest.raises(Exception, match="201 files are included, the limit is 200"):
        converted("supervisord", text, around=host(many))


def test_a_file_that_includes_itself_ends() -> None:
    files = {f"{FOLDER}/a.conf": b"[include]\nfiles=a.conf\n" + program().encode()}
    found = converted("supervisord", "[include]\nfiles=a.conf", around=host(files))
    assert len(found.manifest["workers"]) == 1
    assert "includes no others" in str(found.warnings[0])


def test_a_key_that_stands_twice_is_told_of_and_the_last_counts() -> None:
    text = program("autorestart=true", "autorestart=false")
    assert worker_of("supervisord", text)["restart"]["policy"] == "never"
    assert "shop.conf:4 says another value, which counts" in warnings_of("supervisord", text)[0]


def test_relative_programs_start_in_the_folder() -> None:
    assert execution_of(worker("directory=/srv/web", command="./bin/web"))["executable_path"] == "/srv/web/bin/web"
    assert execution_of(worker("directory=/srv/web", command="web"))["executable_path"] == "web"
    assert "has a relative path and no `directory`" in warnings_of("supervisord", program(command="php bin/web.php"))[0]


def test_sizes_are_bounded() -> None:
    assert "the limit is 20000" in faults_of("supervisord", program() + "\n" * 20_000)[0]
    large = {f"{FOLDER}/conf.d/{number}.conf": b";" * 600_000 for number in range(2)}
    with pytest.raises(Exception, match="all files have more than 1048576 bytes"):
        converted("supervisord", "[include]\nfiles=conf.d/*.conf", around=host(large))


def test_only_the_first_unknown_words_get_a_suggestion() -> None:
    found = warnings_of("supervisord", program(*(f"autostrat{number}=1" for number in range(200))))
    assert [("did you mean autostart?" in warning) for warning in found] == [True] * 100 + [False] * 100
