"""The `process` block of a worker."""

from __future__ import annotations

import pytest

from hsu_core.model.attributes import UNLIMITED, ProcessAttributes, Rlimit
from hsu_core.model.errors import InvalidManifest
from hsu_core.model.spec import WorkerSpec
from hsu_core.wire.hashes import spec_hash
from hsu_core.wire.manifest import parse_manifest
from tests.support.cluster import ROOT


def parsed(process: str) -> WorkerSpec:
    text = (
        "app: shop\nworkers:\n- id: web\n  unit: {managed: {control: {execution: {executable_path: /bin/true}}}}\n"
        f"  process: {process}\n"
    )
    return parse_manifest(text.encode(), file="shop.yaml", environment={}, read_file=lambda name: b"").spec.workers[0]


def test_every_key_has_its_meaning() -> None:
    found = parsed(
        "{user: www-data, group: adm, groups: [audio, 4], umask: 022, nice: -5, io_class: best_effort, io_priority: 0, "
        'cpu_affinity: "0-2,5", oom_score_adj: -900, no_new_privileges: true, capabilities: [cap_net_raw, CHOWN], '
        "rlimits: {NOFILE: 64, core: unlimited, RLIMIT_STACK: '1MiB:8MiB'}}"
    ).process
    assert found == ProcessAttributes(
        user="www-data",
        group="adm",
        groups=("audio", "4"),
        umask=0o022,
        nice=-5,
        io_class="best-effort",
        io_priority=0,
        cpu_affinity=(0, 1, 2, 5),
        oom_score_adj=-900,
        has_no_new_privileges=True,
        capabilities=("CHOWN", "NET_RAW"),
        rlimits=(
            Rlimit("core", UNLIMITED, UNLIMITED),
            Rlimit("nofile", 64, 64),
            Rlimit("stack", 2**20, 8 * 2**20),
        ),
    )


@pytest.mark.parametrize(
    ("process", "text"),
    [
        ("{umask: 18}", "octal digits"),
        ('{umask: "099"}', "octal digits"),
        ("{nice: 20}", "outside -20 to 19"),
        ("{cpu_affinity: 3-1}", "no range"),
        ("{cpu_affinity: [a]}", "names no processors"),
        ("{cpu_affinity: 0-99999999999}", "no range"),
        ("{oom_score_adj: -1001}", "outside -1000 to 1000"),
        ("{io_class: high}", "'high' is not known here"),
        ("{io_class: idle, io_priority: 3}", "only best-effort and realtime have one"),
        ("{capabilities: [NET_BIND_SERV]}", "did you mean NET_BIND_SERVICE?"),
        ("{rlimits: {nofiles: 3}}", "did you mean nofile?"),
        ("{rlimits: {nofile: '9:3'}}", "above the hard one"),
        ("{rlimits: {nofile: 'unlimited:3'}}", "above the hard one"),
        ("{rlimits: {nofile: many}}", "no amount"),
        ("{rlimits: [nofile]}", "needs a map"),
        ("{user: 'a:b'}", "no name of a user"),
        ("{usr: x}", "usr"),
    ],
)
def test_faults_are_named(process: str, text: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parsed(process)
    assert text in "\n".join(map(str, caught.value.faults))


def test_the_page_is_a_valid_block() -> None:
    page = (ROOT / "docs" / "process.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n")[1].split("```")[0]
    process = "".join(f"  {line}\n" for line in block.splitlines())
    text = (
        "app: shop\nworkers:\n- id: web\n  unit: {managed: {control: {execution: {executable_path: /bin/true}}}}\n"
        f"{process}"
    )
    found = parse_manifest(text.encode(), file="shop.yaml", environment={}, read_file=lambda name: b"")
    attributes = found.spec.workers[0].process
    unset = [name for name in ProcessAttributes.__slots__ if getattr(attributes, name) in ("", (), None, False)]
    assert unset == []


def test_a_change_restarts_and_an_empty_block_changes_nothing() -> None:
    assert spec_hash(parsed("{nice: 3}"), "") != spec_hash(parsed("{nice: 4}"), "")
    assert parsed("{}").process.is_empty
