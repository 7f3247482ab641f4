"""docs/strict.md and examples/strict: the commands are typed, the manifest is deployed, stale tokens are refused."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hsu_core.model.spec import Guarantee
from hsu_core.wire.manifest import parse_manifest
from tests.e2e.pages import blocks, commands, read_page, standalone_in
from tests.support.cluster import ROOT, eventually

PAGE = read_page("strict.md")
EXAMPLE = ROOT / "examples" / "strict"


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def call(url: str, body: dict[str, int] | None = None, token: int = 0) -> tuple[int, dict[str, Any]]:
    """Return status and document of an answer of the bank."""
    payload = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, payload, {"Fencing-Token": str(token)}, method="PUT" if body else "GET")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[str]:
    """Run the bank of the example; give its URL."""
    port = free_port()
    command = [sys.executable, str(EXAMPLE / "bank.py"), "--port", str(port), "--file", str(tmp_path / "bank.sqlite")]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}/balance"
    try:
        eventually("the bank answers", lambda: call(url)[0] == 200)
        yield url
    finally:
        process.kill()
        process.wait()


def test_the_bank_refuses_a_token_that_is_older_than_one_it_has_seen(bank: str) -> None:
    assert call(bank, {"balance": 1}, token=7) == (200, {})
    assert call(bank, {"balance": 2}, token=9) == (200, {})
    assert call(bank, {"balance": 3}, token=7) == (409, {"error": "token 7 is stale: 9 has written"})
    assert call(bank)[1] == {"balance": 2, "token": 9}


def test_a_teller_that_was_replaced_ends(bank: str) -> None:
    teller = [sys.executable, str(EXAMPLE / "teller.py"), bank]
    assert call(bank, {"balance": 5}, token=9) == (200, {})
    ended = subprocess.run(teller, env={"HSU_FENCING_TOKEN": "8"}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3
    assert "token 8 is stale: 9 has written" in ended.stderr
    assert call(bank)[1] == {"balance": 5, "token": 9}


def test_the_manifest_of_the_page_is_one() -> None:
    parsed = parse_manifest(blocks(PAGE, "yaml")[0], file="strict.yaml", environment={}, read_file=Path.read_bytes)
    assert parsed.spec.workers[0].guarantee is Guarantee.STRICT


@pytest.mark.slow
def test_the_commands_of_the_page_run_the_example_on_a_standalone_cluster(tmp_path: Path) -> None:
    port = free_port()
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "strict")
    manifest = tmp_path / "examples" / "strict" / "strict.yaml"
    manifest.write_text(manifest.read_text().replace("18090", str(port)))
    with standalone_in(tmp_path) as run:
        for command in commands(PAGE):
            program, *words = shlex.split(command)
            assert program == "hsu-cluster"
            done = run(*words)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        url = f"http://127.0.0.1:{port}/balance"
        eventually("the teller writes", lambda: call(url)[1]["balance"] > 1)
        token = call(url)[1]["token"]
        run("restart", "strict/teller", "--wait")
        eventually("the next teller has a higher token", lambda: call(url)[1]["token"] > token)
