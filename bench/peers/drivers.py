"""How each supervisor is given N workers, started, stopped, and where its output lands."""

from __future__ import annotations

import abc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.peers.workers import processes

ROOT = Path(__file__).resolve().parents[2]


class Driver(abc.ABC):
    """One supervisor with its workers in a folder of its own."""

    name = ""
    program = ""
    hint = ""

    def __init__(self, folder: Path, mark: str, command: list[str], count: int, search: str) -> None:
        self.folder, self.mark, self.command, self.count = folder, mark, command, count
        self.environment = os.environ | {"BENCH_RUN": mark, "PATH": search}
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def why_not(cls, search: str) -> str:
        """Return why it cannot be measured here, or an empty text."""
        return "" if shutil.which(cls.program, path=search) else f"{cls.program} is not installed: {cls.hint}"

    def path_of(self, program: str) -> str:
        """Return the full path of a program."""
        return shutil.which(program, path=self.environment["PATH"]) or program

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file of its configuration."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def run(self, *command: str) -> None:
        """Start the supervisor in the foreground."""
        with open(self.folder / "said.txt", "ab") as said:
            self.process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def call(self, *command: str) -> None:
        """Run a command of it."""
        with open(self.folder / "said.txt", "ab") as said:
            subprocess.run(command, env=self.environment, cwd=self.folder, stdout=said, stderr=said, timeout=300)

    @abc.abstractmethod
    def set_up(self) -> None:
        """Write its configuration."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start it and its workers."""

    def main_pid(self) -> int:
        """Return the process whose death is the supervisor's."""
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        """Ask it to end with all workers."""
        os.kill(self.main_pid(), signal.SIGTERM)

    def outputs(self) -> list[Path]:
        """Return the files with the output of the workers."""
        return []


class Hsu(Driver):
    """Our own: keeper and agent, without a cluster."""

    name = "hsu-agent"

    @classmethod
    def why_not(cls, search: str) -> str:
        """It is always here."""
        return ""

    def set_up(self) -> None:
        """Write a manifest of one worker with `count` replicas."""
        execution = json.dumps({"executable_path": self.command[0], "args": self.command[1:]})
        unit = f"{{managed: {{control: {{execution: {execution}}}}}}}"
        more = "logs: {segment_size: 64MB, segments: 100}, restart: {policy: always, backoff: {reset_after: 2s}}"
        text = f"{{id: w, replicas: {self.count}, {more}, unit: {unit}}}"
        self.write("bench.yaml", f"app: bench\nworkers:\n- {text}\n")
        self.environment["PYTHONPATH"] = str(ROOT)
        self.data = Path(tempfile.mkdtemp(prefix="hsu-bench-", dir="/tmp"))  # a socket's path is short

    def start(self) -> None:
        """Run the keeper."""
        file, data = str(self.folder / "bench.yaml"), str(self.data)
        self.run(sys.executable, "-m", "hsu_agent.keeper", "run", "--local", file, "--data-dir", data)

    def agent_pid(self) -> int:
        """Return the agent: the keeper's only child that is no worker."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"hsu_agent" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def stop(self) -> None:
        """End the keeper, which ends the agent and its workers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGTERM)

    def main_pid(self) -> int:
        """Return the agent."""
        return self.agent_pid()

    def outputs(self) -> list[Path]:
        """Return the raw segments of stdout."""
        return [path for path in self.data.glob("logs/*/*/*/stdout*") if path.suffix != ".index"]

    def clean(self) -> None:
        """Remove its data folder."""
        shutil.rmtree(self.data, ignore_errors=True)


class Supervisord(Driver):
    """Python, one process, captures output through pipes."""

    name, program, hint = "supervisord", "supervisord", "pip install supervisor"

    def set_up(self) -> None:
        """Write one program with `numprocs`."""
        folder = self.folder
        (folder / "logs").mkdir()
        self.write(
            "s.conf",
            f"""[supervisord]
nodaemon=true
minfds={max(1024, 3 * self.count + 200)}
logfile={folder}/sup.log
pidfile={folder}/sup.pid
childlogdir={folder}/logs
[program:w]
command={" ".join(self.command)}
process_name=%(program_name)s_%(process_num)05d
numprocs={self.count}
autorestart=true
startsecs=0
stdout_logfile={folder}/logs/%(program_name)s_%(process_num)05d.log
redirect_stderr=true
""",
        )

    def start(self) -> None:
        """Run it in the foreground."""
        self.run(self.path_of("supervisord"), "-n", "-c", str(self.folder / "s.conf"))

    def outputs(self) -> list[Path]:
        """Return its log files."""
        return list((self.folder / "logs").glob("w_*"))


class Circus(Driver):
    """Python, one process; output goes to one file."""

    name, program, hint = "circus", "circusd", "pip install circus"

    def set_up(self) -> None:
        """Write one watcher, looked after ten times a second (its default is every 5 s)."""
        folder = self.folder
        target = f"{folder}/out.log" if len(self.command) > 2 else "/dev/null"
        self.write(
            "c.ini",
            f"""[circus]
check_delay = 0.1
endpoint = ipc://{folder}/e
pubsub_endpoint = ipc://{folder}/p
statsd = False
[watcher:w]
cmd = {" ".join(self.command)}
numprocesses = {self.count}
warmup_delay = 0
copy_env = True
max_retry = -1
stdout_stream.class = FileStream
stdout_stream.filename = {target}
""",
        )

    def start(self) -> None:
        """Run it in the foreground."""
        self.run(self.path_of("circusd"), "--log-level", "ERROR", str(self.folder / "c.ini"))

    def outputs(self) -> list[Path]:
        """Return its one file."""
        return [self.folder / "out.log"]


class Pm2(Driver):
    """Node, one daemon, captures output through pipes."""

    name, program, hint = "pm2", "pm2", "npm install -g pm2"

    def set_up(self) -> None:
        """Write an ecosystem file."""
        self.environment |= {"PM2_HOME": str(self.folder / "pm2"), "PM2_DISCRETE_MODE": "true"}
        app = {
            "name": "w",
            "script": self.command[0],
            "args": self.command[1:],
            "interpreter": "none",
            "exec_mode": "fork",
            "instances": self.count,
            "autorestart": True,
            "max_restarts": 1_000_000,
            "min_uptime": 0,
        }
        self.write("eco.config.js", f"module.exports = {{apps: [{json.dumps(app)}]}}")

    def start(self) -> None:
        """Have its daemon start them."""
        self.run(self.path_of("pm2"), "start", str(self.folder / "eco.config.js"))

    def main_pid(self) -> int:
        """Return the daemon."""
        return int((self.folder / "pm2" / "pm2.pid").read_text())

    def stop(self) -> None:
        """End daemon and workers."""
        self.run(self.path_of("pm2"), "kill")

    def outputs(self) -> list[Path]:
        """Return its files of stdout."""
        return list((self.folder / "pm2" / "logs").glob("*out*"))


class Runit(Driver):
    """C, one helper per worker; output needs one svlogd more per worker."""

    name, program, hint = "runit", "runsvdir", "apt-get install --no-install-recommends runit"

    def set_up(self) -> None:
        """Write a folder for each service."""
        run = "#!/bin/sh\nexec 2>&1\nexec " + " ".join(self.command) + "\n"
        for index in range(self.count):
            self.write(f"svc/s{index}/run", run, 0o755)
            if len(self.command) > 2:
                self.write(f"svc/s{index}/log/main/config", "s16000000\nn100\n")
                self.write(f"svc/s{index}/log/run", "#!/bin/sh\nexec svlogd -b 65536 ./main\n", 0o755)

    def start(self) -> None:
        """Run it over the folder."""
        self.run(self.path_of("runsvdir"), str(self.folder / "svc"))

    def stop(self) -> None:
        """SIGHUP ends it and every runsv."""
        os.kill(self.main_pid(), signal.SIGHUP)

    def outputs(self) -> list[Path]:
        """Return the files of svlogd."""
        folder = self.folder / "svc" / "s0" / "log" / "main"
        return [path for path in folder.glob("*") if path.name == "current" or path.name.startswith("@")]


class S6(Driver):
    """C, one helper per worker; output needs one s6-log more per worker."""

    name, program, hint = "s6", "s6-svscan", "apt-get install --no-install-recommends s6"

    def set_up(self) -> None:
        """Write a folder for each service; it says that it is ready, so that its restarts are at once."""
        run = "#!/bin/sh\necho >&3\nexec 3>&-\nexec " + " ".join(self.command) + "\n"
        for index in range(self.count):
            self.write(f"svc/s{index}/run", run, 0o755)
            self.write(f"svc/s{index}/notification-fd", "3\n")
            if len(self.command) > 2:
                log = f"#!/bin/sh\nexec s6-log n200 s16000000 {self.folder}/log{index}\n"
                self.write(f"svc/s{index}/log/run", log, 0o755)

    def start(self) -> None:
        """Run it over the folder."""
        self.run(self.path_of("s6-svscan"), "-c", "4000", str(self.folder / "svc"))

    def stop(self) -> None:
        """Have it end everything."""
        self.call(self.path_of("s6-svscanctl"), "-t", str(self.folder / "svc"))

    def outputs(self) -> list[Path]:
        """Return the files of s6-log."""
        return [path for path in (self.folder / "log0").glob("*") if path.name == "current" or path.name[0] == "@"]


class Systemd(Driver):
    """C; `systemd --user` in namespaces of its own, so nothing outside of them moves. Needs root and cgroup v2."""

    name, program, hint = "systemd", "/lib/systemd/systemd", "apt-get install systemd"

    @classmethod
    def why_not(cls, search: str) -> str:
        """It needs root for its namespaces."""
        if not Path(cls.program).exists():
            return f"it is not installed: {cls.hint}"
        if os.geteuid() != 0:
            return "only root can give it namespaces of its own"
        return "" if cls.groups() is not None else "there is no writable cgroup v2"

    @staticmethod
    def groups() -> Path | None:
        """Return where cgroup v2 is mounted."""
        places = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
        return next((place for place in places if (place / "cgroup.procs").exists()), None)

    def set_up(self) -> None:
        """Write a template unit, a target that wants N of it, and a script that enters the namespaces."""
        output = f"append:{self.folder}/out.log" if len(self.command) > 2 else "null"
        units = "home/.config/systemd/user"
        self.write(
            f"{units}/bench@.service",
            f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={' '.join(self.command)}\nRestart=always\n"
            f"RestartSec=0\nStandardOutput={output}\nStandardError=inherit\n",
        )
        wants = " ".join(f"bench@{index}.service" for index in range(self.count))
        self.write(f"{units}/bench.target", f"[Unit]\nWants={wants}\n")
        self.write(
            "enter.sh",
            f"""#!/bin/bash
mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system /run/user/0; chmod 700 /run/user/0
mount -t cgroup2 none /sys/fs/cgroup || exit 9
mount -t tmpfs tmpfs /etc/systemd/user
export XDG_RUNTIME_DIR=/run/user/0 HOME={self.folder}/home SYSTEMD_LOG_LEVEL=err
/lib/systemd/systemd --user --unit=bench.target &
trap '' TERM
wait
""",
            0o755,
        )

    def start(self) -> None:
        """Run it in a group and namespaces of its own."""
        groups = self.groups()
        assert groups is not None
        group = groups / "hsu-bench-systemd"
        group.mkdir(exist_ok=True)
        join = f"echo $$ > {group}/cgroup.procs; exec unshare -p -f -m -C --mount-proc --propagation private ./enter.sh"
        self.run("/bin/bash", "-c", join)

    def main_pid(self) -> int:
        """Return the systemd in the namespaces."""
        for pid in processes(self.mark, Path(self.command[0]))[0]:
            try:
                if b"--unit=bench.target" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
            except OSError:
                continue
        raise ProcessLookupError("systemd is not there")

    def outputs(self) -> list[Path]:
        """Return the file that units append to."""
        return [self.folder / "out.log"]


DRIVERS: Mapping[str, type[Driver]] = {
    driver.name: driver for driver in (Hsu, Supervisord, Circus, Pm2, Runit, S6, Systemd)
}
