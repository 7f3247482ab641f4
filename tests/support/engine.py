"""A Docker engine for tests: found or refused, the images to take, and the image of the product.

`.ci/engine.sh up` starts one where there is none and writes which images it has to `.cache/engine/env`; without that
file the ordinary images of the registries are taken. This module knows nothing of the product but its Dockerfile.
"""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENV_FILE = ROOT / ".cache" / "engine" / "env"
ORDINARY = {
    "BASE": "python:3.12-slim",
    "ETCD_IMAGE": "quay.io/coreos/etcd:v3.5.30",
    "HAPROXY_IMAGE": "haproxy:3.0",
    "PROMETHEUS_IMAGE": "prom/prometheus:v3.5.0",
}
PRODUCT_IMAGE = "hsu-cluster:local"
"""As in docker-compose.yml."""


@functools.cache
def settings() -> Mapping[str, str]:
    """Return the environment for commands of the engine: ours, what `.ci/engine.sh` has written, ordinary images."""
    lines = ENV_FILE.read_text(encoding="utf-8").splitlines() if ENV_FILE.exists() else []
    written = dict(line.split("=", 1) for line in lines if "=" in line)
    return {**ORDINARY, **os.environ, **written, "DOCKER_BUILDKIT": "1"}


def docker(*arguments: str, timeout_s: float = 60.0, is_checked: bool = True) -> str:
    """Run the engine's command line and return its output. Raises AssertionError with what it said."""
    done = subprocess.run(
        ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        env=dict(settings()), cwd=ROOT, check=False,
    )  # fmt: skip
    if is_checked and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@functools.cache
def why_no_engine() -> str:
    """Return why there is no engine; empty when there is one."""
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"docker info: {error}"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["docker info failed"])[-1]


def require_engine() -> None:
    """Go on only where an engine answers: without one fail in CI (`CI=true`), skip elsewhere."""
    if reason := why_no_engine():
        _missing(f"no Docker engine ({reason}); `.ci/engine.sh up` starts one")


def require_compose() -> None:
    """Go on only where `docker compose` exists, as `require_engine` does."""
    require_engine()
    if "version" not in docker("compose", "version", is_checked=False):
        _missing("docker compose is missing; `.ci/engine.sh up` fetches it")


@contextmanager
def alone_with_the_engine() -> Iterator[None]:
    """Wait until no other test of this machine runs a cluster in containers: one fills a small machine."""
    with (Path(tempfile.gettempdir()) / "hsu-test-engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def product_image() -> str:
    """Build the image of deploy/Dockerfile (once in a process) and return its name."""
    known = settings()
    secret = known.get("PIP_CA") or known.get("PIP_CERT") or "/dev/null"
    docker(
        "build", "-q", "-f", "deploy/Dockerfile", "-t", PRODUCT_IMAGE,
        "--build-arg", f"BASE={known['BASE']}", "--secret", f"id=pip_ca,src={secret}", ".",
        timeout_s=600.0,
    )  # fmt: skip
    return PRODUCT_IMAGE
