"""How long from an accepted deploy to a running process: one instance, and 100 on one host.

A standalone cluster of real processes on this machine; each worker writes its own start time, so the figure
does not depend on how often anybody looks. Anchors are figures of Nomad 1.1.2 on a host of the same
class (2 cores, loopback), measured before and not in this run.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

NOMAD_ONE_MS = 263.0
NOMAD_HUNDRED_S = 6.5
TIMEOUT_S = 60.0


class Solo:
    """A standalone cluster in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "hsu_cluster.cli.main", "standalone"]
        command += ["--data-dir", str(folder / "data"), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = str(_until(lambda: (folder / "data" / "endpoint").read_text().strip()))
        self.token = (folder / "data" / "admin.token").read_text().strip()
        _until(lambda: any(node["state"] == "ready" for node in self.call("GET", "/v1/nodes")["items"]))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API and return the document."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, method=method, data=content, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def deploy(self, app: str, replicas: int) -> tuple[float, list[float]]:
        """Deploy `replicas` instances that write their start time; return (accepted, starts), seconds since 1970."""
        stamps = self.folder / app
        stamps.mkdir()
        script = f"date +%s.%N > {stamps}/$HSU_SLOT; exec sleep 3600"
        execution = {"executable_path": "/bin/sh", "args": ["-c", script]}
        unit = {"managed": {"metadata": {"name": "w"}, "control": {"execution": execution}}}
        worker = {"id": "w", "type": "managed", "replicas": replicas, "unit": unit}
        self.call("PUT", f"/v1/namespaces/default/apps/{app}", {"app": app, "workers": [worker]})
        accepted_s = time.time()
        _until(lambda: sum(path.stat().st_size > 0 for path in stamps.iterdir()) == replicas)
        return accepted_s, [float(path.read_text()) for path in stamps.iterdir()]

    def remove(self, app: str) -> None:
        """Remove an app and wait until no instance is left."""
        self.call("DELETE", f"/v1/namespaces/default/apps/{app}")
        _until(lambda: not self.call("GET", "/v1/instances")["items"])

    def close(self) -> None:
        """End the cluster."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT_S)


def _until(look: Any) -> Any:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            if answer := look():
                return answer
        except (OSError, ValueError):
            pass
        if time.monotonic() > deadline_s:
            raise TimeoutError("the cluster did not get there")
        time.sleep(0.005)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=20, help="single deploys to measure")
    parser.add_argument("--replicas", type=int, default=100, help="instances of the large deploy")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hsu-bench-") as name:
        solo = Solo(Path(name))
        try:
            single_ms = []
            for number in range(options.deploys):
                accepted_s, starts = solo.deploy(f"one-{number}", 1)
                single_ms.append((starts[0] - accepted_s) * 1000)
                solo.remove(f"one-{number}")
            many_s = []
            for number in range(3):
                accepted_s, starts = solo.deploy(f"many-{number}", options.replicas)
                many_s.append(max(starts) - accepted_s)
                solo.remove(f"many-{number}")
        finally:
            solo.close()
    median_ms, most_ms = statistics.median(single_ms), max(single_ms)
    print(f"deploy accepted -> process running: median {median_ms:.0f} ms, max {most_ms:.0f} ms, n={len(single_ms)}")
    print(f"  anchor: Nomad {NOMAD_ONE_MS:.0f} ms ({NOMAD_ONE_MS / max(median_ms, 1):.1f} x); to reach: 50 ms")
    many_median_s = statistics.median(many_s)
    print(f"{options.replicas} instances on one host, accepted -> all run: median {many_median_s:.2f} s, n=3")
    print(f"  anchor: Nomad {NOMAD_HUNDRED_S} s for 100 ({NOMAD_HUNDRED_S / many_median_s:.1f} x); to reach: 0.5 s")


if __name__ == "__main__":
    main()
