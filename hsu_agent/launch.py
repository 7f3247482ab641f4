"""From an order to what is executed: placeholders, environment, files, working directory, program.

A worker gets a short list of variables of the agent, never its whole environment: secrets of the agent and
settings of the person who started it stay outside.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hsu_agent.host.attributes import Identity, account_variables, identity_of, open_folder
from hsu_agent.host.base import AGENT_VARIABLE, INSTANCE_VARIABLE, RUN_VARIABLE, Launch, marker
from hsu_agent.planning.observed import Desired
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.files import private_folder

PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "USER")
"""Variables of the agent that workers get too: where programs are, who runs, how time and text are shown."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\|[^/]*\\[^/]*\.exe$")

_PLACEHOLDER = re.compile(r"\{(port\.[A-Za-z0-9_-]+|slot|app|worker|node|files)\}")


@dataclass(frozen=True, slots=True)
class Preparer:
    """Makes launches for the node `node`; `inherited` is the environment of the agent."""

    node: str
    agent: str
    data_dir: Path
    inherited: Mapping[str, str]

    def work_folder(self, instance: InstanceId) -> Path:
        """Return the folder of an instance: its files, and where it runs if nothing else is said."""
        return Path(self._work(instance))

    def _work(self, instance: InstanceId) -> str:
        return f"{self.data_dir}/instances/{instance.namespace}/{instance.app}/{instance.worker}.{instance.slot}"

    def environment(self, order: Desired, run: str = "") -> dict[str, str]:
        """Return the variables of a worker (also of its `exec` probes)."""
        assignment, instance = order.assignment, order.assignment.instance
        found = {name: self.inherited[name] for name in PASSED_ON if name in self.inherited}
        if order.spec.worker.process.user:
            found |= account_variables(identity_of(order.spec.worker.process))
        found.setdefault("PATH", DEFAULT_PATH)
        found |= {name: self.render(order, text) for name, text in order.spec.worker.execution.environment}
        found |= {f"HSU_PORT_{_variable(name)}": str(number) for name, number in assignment.ports}
        return found | {
            "HSU_APP": instance.app,
            "HSU_NAMESPACE": instance.namespace,
            "HSU_WORKER": instance.worker,
            "HSU_SLOT": str(instance.slot),
            "HSU_NODE": self.node,
            "HSU_EPOCH": str(assignment.epoch),
            "HSU_FENCING_TOKEN": str(assignment.epoch),
            "HSU_FILES_DIR": f"{self._work(instance)}/files",
            INSTANCE_VARIABLE: marker(instance),
            AGENT_VARIABLE: self.agent,
            RUN_VARIABLE: run,
        }

    def render(self, order: Desired, text: str) -> str:
        """Return `text` with its placeholders filled in. Raises ProcessError for a port that does not exist."""
        if "{" not in text:
            return text
        instance = order.assignment.instance
        known = {
            "slot": str(instance.slot),
            "app": instance.app,
            "worker": instance.worker,
            "node": self.node,
            "files": f"{self._work(instance)}/files",
        } | {f"port.{name}": str(number) for name, number in order.assignment.ports}

        def fill(match: re.Match[str]) -> str:
            name = match.group(1)
            if name not in known:
                ports = ", ".join(sorted(key for key in known if key.startswith("port."))) or "no ports"
                what = f"fill in {{{name}}} for {instance}"
                raise ProcessError(what, f"the worker has {ports}", "add it to `ports`", code="process.port")
            return known[name]

        return _PLACEHOLDER.sub(fill, text)

    def prepare(self, order: Desired, run: str, stdout: int, stderr: int) -> Launch:
        """Write the files of the instance and return its launch. Raises ProcessError."""
        instance, execution = order.assignment.instance, order.spec.worker.execution
        identity = identity_of(order.spec.worker.process)
        folder = self._folder(order, identity)
        environment = self.environment(order, run)
        base = order.spec.base_directory
        executable = _executable(self.render(order, execution.executable_path), base, environment["PATH"])
        arguments = [self.render(order, text) for text in execution.args]
        directory = self._directory(order, executable, folder)
        argv = (executable, *arguments)
        attributes = order.spec.worker.process
        return Launch(instance, run, argv, executable, environment, directory, stdout, stderr, attributes, identity)

    def _folder(self, order: Desired, identity: Identity | None, *, is_written: bool = True) -> str:
        """Make the instance's folder with its files and return where it runs. Raises ProcessError."""
        folder = self._work(order.assignment.instance)
        try:
            if is_written:
                self._write_files(order, folder)
            os.makedirs(folder, 0o700, exist_ok=True)
            if identity is None or identity.uid == os.geteuid():
                return folder
            return open_folder(folder, str(self.data_dir), identity)
        except OSError as error:
            what = f"write the files of {order.assignment.instance} below {folder}"
            raise ProcessError(what, str(error), "free or unlock the data folder") from error

    def prepare_hook(
        self, order: Desired, run: str, command: tuple[str, ...], stdout: int, stderr: int, *, is_first: bool
    ) -> Launch:
        """Return the launch of a hook of the worker; `is_first`: before its files are there. Raises ProcessError."""
        instance, attributes = order.assignment.instance, order.spec.worker.process
        identity = identity_of(attributes)
        folder = self._folder(order, identity, is_written=is_first)
        environment, base = self.environment(order, run), order.spec.base_directory
        executable = _executable(self.render(order, command[0]), base, environment["PATH"])
        program = self.render(order, order.spec.worker.execution.executable_path)
        worker = os.path.normpath(os.path.join(base or os.getcwd(), program))
        directory = self._directory(order, worker, folder)
        if not os.path.isdir(directory):
            directory = folder  # where the worker's program will be, once this hook has brought it
        argv = (executable, *(self.render(order, text) for text in command[1:]))
        return Launch(instance, run, argv, executable, environment, directory, stdout, stderr, attributes, identity)

    def _write_files(self, order: Desired, folder: str) -> None:
        wanted = {spec.path: self.render(order, spec.content).encode() for spec in order.spec.worker.files}
        if not wanted:
            if os.path.exists(f"{folder}/files"):
                shutil.rmtree(f"{folder}/files")
            return
        files = Path(folder) / "files"
        private_folder(files)
        root = files.resolve()
        for relative, content in wanted.items():
            path = files / relative
            if not path.parent.resolve().is_relative_to(root):
                raise ProcessError(f"write file {relative!r}", "it lies outside of the instance's folder", "")
            private_folder(path.parent)
            _replace(path, content)
        for path in [found for found in files.rglob("*") if not found.is_dir()]:
            if str(path.relative_to(files)) not in {os.path.normpath(name) for name in wanted}:
                path.unlink(missing_ok=True)

    def _directory(self, order: Desired, executable: str, folder: str) -> str:
        explicit, base = order.spec.worker.execution.working_directory, order.spec.base_directory
        if explicit:
            directory = os.path.join(base, self.render(order, explicit)) if base else self.render(order, explicit)
            if not os.path.isdir(directory):
                raise ProcessError(
                    f"start {order.assignment.instance} in {directory}",
                    "this folder does not exist on the node",
                    "make it, or change working_directory",
                    code="process.directory",
                )
            return directory
        if "/" in order.spec.worker.execution.executable_path:
            return os.path.dirname(executable) or "/"
        if base and os.path.isdir(base):
            return base
        return folder

    def forget(self, instance: InstanceId) -> None:
        """Remove the folder of an instance that is gone."""
        shutil.rmtree(self.work_folder(instance), ignore_errors=True)


def _executable(path: str, base: str, search_path: str) -> str:
    """Return the absolute path of the program. Raises ProcessError."""
    if _WINDOWS_PATH.match(path):
        raise ProcessError(
            f"start {path}",
            "this is a path of Windows, and the node runs another system",
            "write the program's path on this node",
            code="process.no-executable",
        )
    if "/" not in path:
        found = shutil.which(path, path=search_path)
        if found is None:
            raise ProcessError(
                f"start {path}",
                f"no such program in PATH ({search_path})",
                "install it on this node, or write its full path",
                code="process.no-executable",
            )
        return found
    absolute = os.path.normpath(os.path.join(base or os.getcwd(), path))
    if not os.path.exists(absolute):
        raise ProcessError(
            f"start {absolute}",
            "there is no such file on this node",
            "install it, or correct executable_path",
            code="process.no-executable",
        )
    if os.path.isdir(absolute) or not os.access(absolute, os.X_OK):
        raise ProcessError(
            f"start {absolute}",
            "it is not a program that this user may execute",
            "chmod +x it, or check the path",
            code="process.no-executable",
        )
    return absolute


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _replace(path: Path, content: bytes) -> None:
    """Replace a file at once (0600). Not synced: it is written anew before every start."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    os.replace(temporary, path)
