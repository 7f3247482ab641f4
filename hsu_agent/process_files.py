"""The companion that writes HSU's files about running processes, for programs that look there.

`<id>.pid` holds the number, `<id>.port` that of the first port, `<id>.json` who the process really is: a number alone
is not an identity. They are for others: nothing here is read back, and what cannot be written is told of once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from pathlib import Path

from hsu_agent.host.base import Launch
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.ids import InstanceId
from hsu_core.model.process_files import ProcessFileSpec, Scope

log = logging.getLogger(__name__)

FOLDER = "hsu-master"
"""HSU's own name below /run and the like."""


def folder_of(spec: ProcessFileSpec, runtime_dir: str) -> Path:
    """Return the folder of these files on this host; `runtime_dir` is XDG_RUNTIME_DIR, or empty."""
    if spec.base_directory:
        base = Path(spec.base_directory)
    elif spec.scope is Scope.SYSTEM:
        base = Path("/run", FOLDER)
    elif spec.scope is Scope.DEVELOPMENT or not runtime_dir:
        base = Path(tempfile.gettempdir(), f"{FOLDER}-{os.geteuid()}")
    else:
        base = Path(runtime_dir, FOLDER)
    return base / spec.app_name if spec.app_name else base


class ProcessFiles:
    """Writes the files of a process when it runs, removes them when it has ended."""

    def __init__(self, runtime_dir: str) -> None:
        self._runtime_dir = runtime_dir
        self._written: dict[InstanceId, tuple[Path, ...]] = {}

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Change nothing."""
        return launch

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Write the files of a process, also of one that an earlier agent started."""
        spec = order.spec.worker.process_file
        if spec is None:
            self._remove(instance)
            return
        stem = folder_of(spec, self._runtime_dir) / (
            f"{instance.worker}.{instance.slot}" if instance.slot else instance.worker
        )
        about = {
            "pid": process.pid,
            "start_time": process.start_time,
            "boot_id": process.boot_id,
            "started_at": process.started_at,
            "instance": str(instance),
        }
        texts = {f"{stem}.pid": f"{process.pid}\n", f"{stem}.json": json.dumps(about) + "\n"}
        texts |= {f"{stem}.port": f"{number}\n" for _, number in order.assignment.ports[:1]}
        paths = tuple(Path(path) for path in texts)
        if set(self._written.get(instance, ())) - set(paths):
            self._remove(instance)
        self._written[instance] = paths
        try:
            stem.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            for path, text in texts.items():
                _replace(Path(path), text)
        except OSError as error:
            log.warning("files about the process of %s cannot be written: %s", instance, error)

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Remove the files of a process."""
        self._remove(instance)
        return last_exit

    def forgotten(self, instance: InstanceId) -> None:
        """Remove what is left of an instance."""
        self._remove(instance)

    def _remove(self, instance: InstanceId) -> None:
        for path in self._written.pop(instance, ()):
            with contextlib.suppress(OSError):
                path.unlink()


def _replace(path: Path, text: str) -> None:
    """Replace a file at once, never through a link; readable for all. Not synced: it is written at every start."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o644), "w", encoding="ascii", errors="replace") as stream:
        stream.write(text)
    os.replace(temporary, path)
