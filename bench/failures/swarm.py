"""Docker Swarm through the same faults: three managers that are workers too, each `dockerd` a host of its own.

Each has its own folder, mounts and process namespace, so that its death is the death of a host: the kernel ends
everything in the namespace. All share a network namespace with nothing in it but its loopback. Containers run `sleep`
of a static busybox. What runs is counted by a mark in the environment of processes, not by what Swarm says.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.failures.figures import Figures
from tests.support.cluster import eventually
from tests.support.etcd import free_ports

WORKERS = 9
PATIENCE_S = 120.0
MARK = "HSU_BENCH_SWARM"
CGROUPS = Path("/sys/fs/cgroup")


def why_no_swarm() -> str:
    """Return why Swarm cannot be measured here; empty when it can."""
    if os.geteuid() != 0:
        return "dockerd needs root"
    missing = [
        each
        for each in ("dockerd", "docker", "busybox", "unshare", "nsenter", "ip", "tar")
        if shutil.which(each) is None
    ]
    return f"there is no {', no '.join(missing)}" if missing else ""


class Host:
    """One `dockerd` in namespaces of its own."""

    def __init__(self, folder: Path, number: int, mark: str, network: int) -> None:
        self.folder = folder / str(number)
        self.number = number
        self.mark = mark
        self._network = f"--net=/proc/{network}/ns/net"
        self.address = f"127.0.0.{number}:{free_ports(1)[0]}"
        self.process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir()

    def start(self) -> None:
        """Start it and wait until it answers."""
        (self.folder / "pid").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "exec-root", ignore_errors=True)
        flags = [f"--{name}={self.folder / name}" for name in ("data-root", "exec-root")]
        flags += [f"--pidfile={self.folder / 'pid'}", f"--host=unix://{self.folder / 'sock'}", "--bridge=none"]
        flags += ["--iptables=false", "--ip6tables=false", f"--cgroup-parent=/{self.mark}"]
        spaces = [
            "nsenter",
            self._network,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*spaces, "dockerd", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually("dockerd answers", lambda: self.docker("version", "-f", "{{.Server.Version}}"), timeout_s=PATIENCE_S)

    def docker(self, *arguments: str) -> str:
        """Return what the command line says; empty when it fails."""
        command = ["docker", "--host", f"unix://{self.folder / 'sock'}", *arguments]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
            )
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    @property
    def pid(self) -> int:
        """Return the process of dockerd: the first one of its namespace."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def processes(self) -> list[int]:
        """Return all processes of this host."""
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        return [
            pid for pid in _pids() if _link(f"/proc/{pid}/ns/pid_for_children") == space or _is_below(pid, self.pid)
        ]

    def workers(self) -> list[int]:
        """Return the containers' first processes on this host."""
        return [pid for pid in self.processes() if self.mark in _environment(pid)]

    def kill(self) -> None:
        """End the host, and with it everything that runs on it."""
        if self.process is not None:
            with contextlib.suppress(OSError, IndexError):
                os.kill(self.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            self.process = None


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _is_below(pid: int, ancestor: int) -> bool:
    """Return whether a process descends from another: a container has a process namespace of its own."""
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


class Swarm:
    """Three hosts, and one service of nine containers on them."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts

    def living(self) -> list[Host]:
        """Return the hosts that run."""
        return [host for host in self.hosts if host.process is not None]

    def leader(self) -> Host:
        """Return the host whose manager leads."""

        def find() -> Host | None:
            for host in self.living():
                if host.docker("node", "inspect", "self", "-f", "{{.ManagerStatus.Leader}}") == "true":
                    return host
            return None

        found: Host = eventually("a manager leads", find, timeout_s=PATIENCE_S)
        return found

    def workers(self, *, but: Host | None = None) -> list[int]:
        """Return the containers' processes, without those of one host."""
        return [pid for host in self.living() if host is not but for pid in host.workers()]

    def settled(self) -> None:
        """Wait until three managers are reachable and nine containers run."""
        states = ["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"]
        eventually(
            "all hosts are ready",
            lambda: sum(
                line in ("Ready Leader", "Ready Reachable") for line in self.leader().docker(*states).splitlines()
            ) == len(self.hosts),
            timeout_s=PATIENCE_S,
        )  # fmt: skip
        eventually("the service runs", lambda: len(self.workers()) == WORKERS, timeout_s=PATIENCE_S)

    def fullest(self, *, but: Host | None = None) -> Host:
        """Return the host with most containers."""
        return max((host for host in self.hosts if host is not but), key=lambda host: len(host.workers()))


def _since(began: float, what: str, look: Callable[[], bool]) -> float:
    eventually(what, look, timeout_s=PATIENCE_S, every_s=0.01)
    return time.monotonic() - began


def worker_kill(swarm: Swarm) -> float:
    """Kill one container's process."""
    before = swarm.workers()
    began = time.monotonic()
    os.kill(before[0], signal.SIGKILL)
    return _since(began, "another runs", lambda: len(set(swarm.workers()) - {before[0]}) == WORKERS)


def agent_hang(swarm: Swarm) -> float:
    """Freeze the daemons of a host that does not lead."""
    host = swarm.fullest(but=swarm.leader())
    daemons = [pid for pid in host.processes() if pid not in host.workers()]
    began = time.monotonic()
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    took_s = _since(began, "its work runs elsewhere", lambda: len(swarm.workers(but=host)) == WORKERS)
    for pid in daemons:
        os.kill(pid, signal.SIGCONT)
    return took_s


def node_kill(swarm: Swarm) -> float:
    """Kill a host that does not lead."""
    return _killed(swarm, swarm.fullest(but=swarm.leader()))


def leader_and_node(swarm: Swarm) -> float:
    """Kill the host that leads; it is a worker too."""
    return _killed(swarm, swarm.leader())


def _killed(swarm: Swarm, host: Host) -> float:
    began = time.monotonic()
    host.kill()
    took_s = _since(began, "its work runs elsewhere", lambda: len(swarm.workers()) == WORKERS)
    host.start()
    return took_s


def leader_kill(swarm: Swarm) -> float:
    """Kill the host that leads; a service made at once is placed on the others."""
    host = swarm.leader()
    other = next(each for each in swarm.hosts if each is not host)
    mark = f"{MARK}_ONE={secrets.token_hex(4)}"
    began = time.monotonic()
    host.kill()

    def made() -> bool:
        arguments = ("--network", "host", "--no-resolve-image", "--detach", "-e", mark, "hsu-bench:1")
        return bool(other.docker("service", "create", "-q", "--name", "one", *arguments))

    _since(began, "a service is accepted", made)
    took_s = _since(began, "it runs", lambda: any(mark in _environment(pid) for pid in _pids()))
    other.docker("service", "rm", "one")
    host.start()
    return took_s


FAULTS: dict[str, Callable[[Swarm], float]] = {
    "worker-kill": worker_kill,
    "agent-hang": agent_hang,
    "node-kill": node_kill,
    "leader-kill": leader_kill,
    "leader-and-node": leader_and_node,
}


def _removed_groups(mark: str) -> bool:
    """Remove the empty cgroups of the hosts; return whether none is left. A process that is ending keeps its own."""
    for group in sorted(CGROUPS.glob(f"**/{mark}/**/"), key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):
            group.rmdir()
    return not list(CGROUPS.glob(f"**/{mark}"))


@contextmanager
def _swarm(folder: Path) -> Iterator[Swarm]:
    mark = f"{MARK.lower()}_{secrets.token_hex(4)}"
    network = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 100000"], stdout=subprocess.PIPE
    )
    assert network.stdout is not None
    assert network.stdout.readline() == b"up\n"
    hosts = [Host(folder, number, mark, network.pid) for number in (1, 2, 3)]
    try:
        (folder / "root" / "bin").mkdir(parents=True)
        shutil.copy(str(shutil.which("busybox")), folder / "root" / "bin" / "busybox")
        (folder / "root" / "bin" / "sleep").symlink_to("busybox")
        subprocess.run(["tar", "-C", folder / "root", "-cf", folder / "image.tar", "."], check=True)
        for host in hosts:
            host.start()
            host.docker("import", "-c", 'CMD ["/bin/sleep", "100000"]', str(folder / "image.tar"), "hsu-bench:1")
        first = hosts[0]
        first.docker("swarm", "init", "--advertise-addr", first.address, "--listen-addr", first.address)
        token = first.docker("swarm", "join-token", "-q", "manager")
        for host in hosts[1:]:
            own = ("--advertise-addr", host.address, "--listen-addr", host.address)
            host.docker("swarm", "join", "--token", token, *own, first.address)
        service = ("--replicas", str(WORKERS), "--network", "host", "--no-resolve-image", "--detach")
        first.docker("service", "create", "-q", "--name", "web", *service, "-e", f"{MARK}={mark}", "hsu-bench:1")
        yield Swarm(hosts)
    finally:
        for host in hosts:
            host.kill()
        network.kill()
        network.wait()
        eventually("the groups of processes are removed", lambda: _removed_groups(mark))


def measure_swarm(repetitions: int) -> tuple[str, dict[str, Figures]]:
    """Return what was measured in words, and the figures by fault."""
    figures: dict[str, Figures] = {name: {"seconds": []} for name in FAULTS}
    with (
        tempfile.TemporaryDirectory(prefix="hsu-bench-", ignore_cleanup_errors=True) as name,
        _swarm(Path(name)) as swarm,
    ):
        version = swarm.hosts[0].docker("version", "-f", "{{.Server.Version}}")
        for fault, happen in FAULTS.items():
            for _ in range(repetitions):
                swarm.settled()
                figures[fault]["seconds"].append(round(happen(swarm), 3))
            print(f"Swarm, {fault}: {figures[fault]['seconds']}", flush=True)
    return f"Docker {version}, three managers that are workers too, defaults", figures
