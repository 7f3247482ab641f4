"""A small machine with a kernel of its own that has all of cgroup v2, on this host's files.

Emulated, so that it runs wherever qemu does. The root is this host's, read-only; `results` is the one folder that
the guest can write, and where it leaves the exit code and the output of its command.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

BOOT_S = 60.0
"""It is up after seven seconds on an idle host."""


def find_guest() -> Path | None:
    """Return the folder of kernel and start image that `.ci/fetch-vm.sh` makes, if the machine can run here."""
    folder = ROOT / ".cache" / "vm"
    return folder if (folder / "initrd").exists() and shutil.which("qemu-system-x86_64") else None


def run_in_guest(folder: Path, command: Sequence[str], results: Path, *, within_s: float) -> tuple[int, str]:
    """Run a command in the guest, in the folder of this project; return its exit code and output (-1: no end)."""
    project = shlex.quote(str(ROOT))
    keep, back = "", ""
    if ROOT.is_relative_to("/tmp"):  # the guest has a /tmp of its own, over that of the host
        keep = f"mkdir /run/project; mount --bind {project} /run/project\n"
        back = f"mkdir -p {project}; mount --bind /run/project {project}\n"
    boot_guest(
        folder,
        "#!/bin/sh\nexport PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp\n"
        "mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /run\n"
        "mount -t cgroup2 none /sys/fs/cgroup; ip link set lo up; mkdir /run/results\n"
        "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 results /run/results\n"
        f"{keep}mount -t tmpfs none /tmp\n{back}"
        f"cd {project}; export PYTHONDONTWRITEBYTECODE=1 HSU_TEST_GUEST=1 HSU_TEST_PATIENCE=8\n"
        f"{shlex.join(command)} >/run/results/output 2>&1 </dev/null\n"
        "echo $? >/run/results/code; sync; echo o >/proc/sysrq-trigger; sleep 5\n",
        results,
        within_s=within_s,
    )
    code, output = results / "code", results / "output"
    text = (output if output.exists() else results / "console").read_text(errors="replace")
    return int(code.read_text()) if code.exists() else -1, text


def boot_guest(folder: Path, init: str, results: Path, *, within_s: float) -> None:
    """Boot the guest with the text of a script as its first process; return when it is off, or after this time."""
    script = results / "init"
    script.write_text(init)
    script.chmod(0o755)
    shared = "security_model=none,multidevs=remap"
    qemu = [
        *("qemu-system-x86_64", "-m", "1024", "-smp", "2", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-nographic", "-no-reboot", "-nic", "none", "-kernel", str(folder / "vmlinuz")),
        *("-initrd", str(folder / "initrd"), "-append", f"console=ttyS0 quiet panic=-1 hsu_script={script}"),
        *("-virtfs", f"local,path=/,mount_tag=root,readonly=on,{shared}"),
        *("-virtfs", f"local,path={results},mount_tag=results,{shared}"),
    ]
    with (results / "console").open("wb") as console:
        guest = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
        try:
            guest.wait(BOOT_S + within_s)
        except subprocess.TimeoutExpired:
            guest.kill()
            guest.wait()
