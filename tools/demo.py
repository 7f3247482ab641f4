"""A walk through a cluster on this machine, with the commands a user would type and nothing else.

Starts `hsu-cluster standalone` in a temporary folder on a free port, deploys examples/shop.yaml, asks the web
worker for a page, kills one of its processes, scales it, and takes everything down again: no process and no
folder is left behind, also after an error or Ctrl-C. `--keep` leaves the cluster up and says how to reach it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(sys.executable).with_name("hsu-cluster")
MANIFEST = "examples/shop.yaml"
GATEWAY_PORT = 18080
"""The one fixed port of the example; where it is taken, the walk deploys a copy with a free one."""

PATIENCE_S = 60.0
PR_SET_CHILD_SUBREAPER = 36


class DemoError(Exception):
    """Something did not go as the walk promises."""


def say(text: str) -> None:
    """Print a sentence of the walk."""
    colour, end = ("\033[1;36m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    print(f"\n{colour}== {text}{end}", flush=True)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends, so that none can be left behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Demo:
    """One walk: its folder, its programs and the commands it types."""

    def __init__(self, folder: Path, gateway_port: int) -> None:
        self.folder = folder
        self.gateway_port = gateway_port
        self.data_dir = folder / "data"
        self.environment = {**os.environ, "HSU_DATA_DIR": str(self.data_dir)}
        for name in ("HSU_SERVER", "HSU_TOKEN", "HSU_TOKEN_FILE", "HSU_CONTEXT", "HSU_CA_FILE", "HSU_NAMESPACE"):
            self.environment.pop(name, None)
        self.program: subprocess.Popen[bytes] | None = None

    # What a user would type

    def type(self, *arguments: str, expect: int = 0) -> None:
        """Show a command, run it, show its output."""
        print(f"\n$ hsu-cluster {' '.join(arguments)}", flush=True)
        status = subprocess.run([PROGRAM, *arguments], env=self.environment, cwd=ROOT, check=False).returncode
        if status != expect:
            raise DemoError(f"hsu-cluster {' '.join(arguments)} ended with {status}, expected {expect}")

    def read(self, *arguments: str) -> Any:
        """Return the document of a command without showing it."""
        command = [PROGRAM, *arguments, "-o", "json"]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def instances(self, worker: str) -> list[dict[str, Any]]:
        """Return the instances of one worker of the shop."""
        return list((self.read("get", "instances", f"shop/{worker}") or {"items": []})["items"])

    # The steps

    def start(self) -> None:
        """Start the standalone cluster and wait for its node."""
        listen = f"127.0.0.1:{free_port()}"
        say("One command starts a cluster on this machine")
        print(f"\n$ hsu-cluster standalone --data-dir {self.data_dir} --listen {listen} &", flush=True)
        with (self.folder / "standalone.log").open("wb") as log:
            self.program = subprocess.Popen(
                [PROGRAM, "standalone", "--data-dir", str(self.data_dir), "--listen", listen],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until("the node is ready", self._is_node_ready)
        self.type("status")

    def _is_node_ready(self) -> bool:
        assert self.program is not None
        if self.program.poll() is not None:
            raise DemoError(f"the standalone cluster ended with {self.program.returncode}")
        nodes = self.read("get", "nodes") if (self.data_dir / "endpoint").exists() else None
        return bool(nodes) and any(node["state"] == "ready" for node in nodes["items"])

    def deploy(self) -> None:
        """Deploy the shop and look at it."""
        say("Deploy a file: the command ends when every instance is ready")
        manifest = MANIFEST
        if self.gateway_port != GATEWAY_PORT or not is_free(GATEWAY_PORT):
            port = self.gateway_port if self.gateway_port not in (0, GATEWAY_PORT) else free_port()
            print(f"(the gateway gets port {port} instead of {GATEWAY_PORT})")
            manifest = str(self.folder / "shop.yaml")
            text = (ROOT / MANIFEST).read_text().replace(str(GATEWAY_PORT), str(port))
            Path(manifest).write_text(f"{text}\nbase_directory: {ROOT / 'examples'}\n")
            shutil.copytree(ROOT / "examples" / "shop", self.folder / "shop")
        self.type("deploy", manifest, "--timeout", "90s")
        self.type("get", "instances", "shop")

    def ask_web(self) -> None:
        """Show that the web worker answers."""
        instance = self.instances("web")[0]
        url = f"http://127.0.0.1:{instance['ports']['http']}/"
        say(f"{instance['id']} is an ordinary process ({instance['pid']}) that answers at {url}")
        with urllib.request.urlopen(url, timeout=5) as answer:
            print(f"\n$ curl {url}\n{answer.read().decode(errors='replace')[:500].rstrip()}", flush=True)
        self.type("logs", "shop/clock", "--tail", "3")

    def kill_one(self) -> None:
        """Kill a process and measure until its successor is ready."""
        victim = self.instances("web")[1]
        say(f"Kill {victim['id']} the hard way")
        print(f"\n$ kill -9 {victim['pid']}", flush=True)
        os.kill(victim["pid"], signal.SIGKILL)
        began = time.monotonic()

        def is_back() -> bool:
            now = next((each for each in self.instances("web") if each["id"] == victim["id"]), None)
            return now is not None and now["ready"] and now["pid"] != victim["pid"]

        self.until(f"{victim['id']} is back", is_back)
        print(f"back and ready after {time.monotonic() - began:.1f} s (as seen from outside)")
        self.type("describe", str(victim["id"]))

    def scale(self) -> None:
        """Scale the web worker up."""
        say("Scale it")
        self.type("scale", "shop/web=5")
        self.type("get", "instances", "shop/web")
        self.type("get", "apps")

    def remove(self) -> None:
        """Remove the app and stop the cluster."""
        say("Take it down: nothing is left")
        self.type("remove", "shop")

    def until(self, what: str, is_true: Callable[[], bool]) -> None:
        """Wait for a condition, at most PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_true():
            if time.monotonic() > deadline:
                raise DemoError(f"{what}: not within {PATIENCE_S:g} s")
            time.sleep(0.1)

    # The end

    def log_tail(self) -> str:
        """Return the end of the cluster's own log."""
        try:
            return (self.folder / "standalone.log").read_text(errors="replace")[-3000:]
        except OSError:
            return ""

    def processes(self) -> list[psutil.Process]:
        """Return what this walk started and is still alive, workers included."""
        found = psutil.Process().children(recursive=True)
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def end(self) -> None:
        """Stop the cluster, then whatever is left, and delete the folder."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.program is not None and self.program.poll() is None:
            self.program.terminate()
            try:
                self.program.wait(20)
            except subprocess.TimeoutExpired:
                self.program.kill()
        for process in self.processes():
            process.kill()
        psutil.wait_procs(psutil.Process().children(recursive=True), timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def tell_how_to_go_on(self) -> None:
        """Say where the cluster is that stays up."""
        assert self.program is not None
        url = (self.data_dir / "endpoint").read_text().strip()
        short = os.path.relpath(PROGRAM)
        say("The cluster stays up")
        print(
            f"\n  server      {url}\n  token file  {self.data_dir / 'admin.token'}\n"
            f"  log         {self.folder / 'standalone.log'}\n\n"
            f"  export HSU_DATA_DIR={self.data_dir}\n"
            f"  {short} status\n  {short} get instances -w\n  {short} logs shop/clock -f\n"
            f"  {short} events\n\nTo take it down:\n"
            f"  {short} remove shop && kill {self.program.pid} && tail --pid {self.program.pid} -f /dev/null"
            f" && rm -r {self.folder}\n"
        )


def main() -> int:
    """Walk, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up at the end")
    parser.add_argument("--gateway-port", type=int, default=GATEWAY_PORT, help="port of the gateway; 0 picks one")
    options = parser.parse_args()
    keep = options.keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    adopt_orphans()
    demo = Demo(Path(tempfile.mkdtemp(prefix="hsu-demo-")), options.gateway_port)
    is_kept = False
    try:
        demo.start()
        demo.deploy()
        demo.ask_web()
        demo.kill_one()
        demo.scale()
        if keep:
            demo.tell_how_to_go_on()
            is_kept = True
        else:
            demo.remove()
    except DemoError as error:
        print(f"demo: {error}\n{demo.log_tail()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped", file=sys.stderr)
        return 130
    finally:
        if not is_kept:
            demo.end()
    left = demo.processes() if not is_kept else []
    if left or (demo.folder.exists() and not is_kept):
        print(f"demo: left behind: {left} {demo.folder}", file=sys.stderr)
        return 1
    if not is_kept:
        print("\nno process and no folder is left", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
