"""The unit under a real systemd, in a small machine with cgroup v2: workers with limits outlive the service."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.guest import ROOT, boot_guest, find_guest

SYSTEMD = Path("/lib/systemd/systemd")

INIT = f"""#!/bin/sh
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/run PYTHONDONTWRITEBYTECODE=1
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup; ip link set lo up
units=/run/systemd/system; mkdir -p /run/results /run/hsu /run/none $units/hsu-agent-local.service.d
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 results /run/results
cd {shlex.quote(str(ROOT))}
{shlex.quote(sys.executable)} -m hsu_agent.commands install --local /run/results/shop.yaml --data-dir /run/hsu/data \
    >$units/hsu-agent-local.service
cat >$units/hsu-agent-local.service.d/test.conf <<END
[Service]
WatchdogSec=15min
Environment=PYTHONDONTWRITEBYTECODE=1
StandardOutput=append:/run/results/agent.log
StandardError=append:/run/results/agent.log
END
for name in sysinit basic shutdown multi-user network-online umount final local-fs; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >$units/$name.target
done
cat >$units/walk.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec=infinity
StandardOutput=append:/run/results/output
StandardError=append:/run/results/output
ExecStart=/bin/sh /run/results/walk.sh
ExecStopPost=/bin/sh -c "sync; echo o >/proc/sysrq-trigger"
END
printf '[Unit]\\nDefaultDependencies=no\\nWants=walk.service\\n' >$units/boot.target
export SYSTEMD_UNIT_PATH=$units SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none
exec {SYSTEMD} --unit=boot.target --log-target=console --show-status=0
"""

WALK = r"""
unit=hsu-agent-local.service
group=/sys/fs/cgroup/system.slice/$unit
status() { systemctl show -p StatusText --value $unit; }
tell() {
    state=$(systemctl show -p ActiveState --value $unit)
    echo "$1: $state; $(status); worker $(pgrep -x sleep); $(cat $group/hsu-*/*web*/memory.max)"
}
until_ready() {
    for try in $(seq 120); do
        [ "$(systemctl show -p MainPID --value $unit)" != "$1" ] && systemctl is-active -q $unit && return
        sleep 1
    done
    echo "it has not come back"
}
systemctl start $unit; echo "start: $?"
for try in $(seq 60); do [ "$(status)" = "1 of 1 instances run" ] && break; sleep 1; done
tell started
keeper=$(systemctl show -p MainPID --value $unit)
systemctl kill -s KILL --kill-who=main $unit
until_ready "$keeper"
for try in $(seq 60); do grep -q 64000000 $group/hsu-*/*web*/memory.max 2>/dev/null && break; sleep 1; done
tell restarted
systemctl stop $unit; echo "stop: $?; workers left: $(pgrep -xc sleep)"
"""

SHOP = """
app: shop
workers:
  - id: web
    unit: {managed: {control: {execution: {executable_path: /bin/sleep, args: ["100000"]}}}}
    limits: {memory: 64MB}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif("HSU_TEST_GUEST" in os.environ, reason="runs outside of the guest")
@pytest.mark.skipif(not SYSTEMD.exists() or shutil.which("pgrep") is None, reason="needs systemd and pgrep")
def test_workers_with_limits_outlive_a_service_that_starts_again(tmp_path: Path) -> None:
    guest = find_guest()
    if guest is None:
        pytest.skip("there is no machine with cgroup v2 here: install qemu-system-x86 and run .ci/fetch-vm.sh")
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "walk.sh").write_text(WALK)
    boot_guest(guest, INIT, tmp_path, within_s=600)
    output = tmp_path / "output"
    told = output.read_text() if output.exists() else (tmp_path / "console").read_text(errors="replace")[-4000:]
    lines = dict(line.partition(": ")[::2] for line in told.splitlines())
    assert lines.get("start") == "0", told
    assert lines["started"].startswith("active; 1 of 1 instances run; worker "), told
    assert lines["started"].endswith("; 64000000"), told
    assert lines["restarted"] == lines["started"], told
    assert lines["stop"] == "0; workers left: 0", told
