"""The socket on which workers tell of themselves: READY=1, STATUS=, WATCHDOG=1, STOPPING=1 (sd_notify of systemd).

One socket per agent, opened when the first worker needs it, at the same place after a restart of the agent: the
workers of the earlier agent know it. Who speaks is told by the kernel (SCM_CREDENTIALS), never by the message: it is
the first process of an instance, or one of its session. Everybody else is passed over. What follows from a message
is a rule of `planning.notices`.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import struct
import time
from dataclasses import replace
from pathlib import Path

from hsu_agent.host.base import Launch
from hsu_agent.planning import notices as rules
from hsu_agent.planning.health import Outcome, ProbeKind
from hsu_agent.planning.notices import Notices
from hsu_agent.planning.observed import Desired, Process
from hsu_core.model.assignment import LastExit
from hsu_core.model.errors import ProcessError
from hsu_core.model.ids import InstanceId

log = logging.getLogger(__name__)

SOCKET_NAME = "notify.sock"

PATH_LIMIT_BYTES = 107
"""Longest path of a socket on Linux (108 bytes with the NUL); below a longer data folder an abstract name serves."""

MESSAGE_LIMIT_BYTES = 4096
"""Longest message that is read, as in systemd; longer ones are passed over."""

MESSAGES_AT_ONCE = 64
"""Most messages read before the loop goes on with other work: a worker may send without end."""

DESCRIPTORS_LIMIT = 253
"""Most descriptors that Linux lets one message carry; they are closed (`systemd-notify` waits for that)."""

_CREDENTIALS = struct.Struct("3i")


class NotifySocket:
    """A companion of processes that hears their notices, and answers for the probes what they said."""

    def __init__(self, data_dir: Path, agent: str) -> None:
        path = str(data_dir.absolute() / SOCKET_NAME)
        self._is_abstract = len(os.fsencode(path)) > PATH_LIMIT_BYTES
        self._address = f"\0hsu-agent-{agent}" if self._is_abstract else path
        self._socket: socket.socket | None = None
        self._notices: dict[InstanceId, Notices] = {}
        self._instances: dict[int, InstanceId] = {}
        self._pids: dict[InstanceId, int] = {}
        self._waiting: dict[InstanceId, list[asyncio.Future[None]]] = {}

    @property
    def address(self) -> str:
        """Return the value of NOTIFY_SOCKET."""
        return self._address.replace("\0", "@", 1)

    # -- as a companion ---------------------------------------------------------------------------

    def launch(self, order: Desired, launch: Launch) -> Launch:
        """Tell a worker with `notify` probes where to speak. Raises ProcessError if the socket cannot be opened."""
        health = order.spec.worker.health
        if not health.has_notices:
            return launch
        try:
            self._open()
        except OSError as error:
            what = f"listen for notices of {launch.instance} at {self.address}"
            raise ProcessError(what, error.strerror or str(error), "mend the data folder of the agent") from error
        self._notices[launch.instance] = Notices(launch.run, time.monotonic())
        told = {"NOTIFY_SOCKET": self.address}
        if health.watchdog_s:
            told["WATCHDOG_USEC"] = str(int(health.watchdog_s * 1_000_000))
        return replace(launch, environment={**launch.environment, **told})

    def started(self, instance: InstanceId, order: Desired, process: Process) -> None:
        """Know the process by its number; of an adopted one nothing is known yet."""
        if not order.spec.worker.health.has_notices:
            return
        try:
            self._open()
        except OSError as error:
            log.error("notices of %s are not heard: %s", instance, error)
        known = self._notices.get(instance)
        if known is None or known.run != process.run:
            self._notices[instance] = Notices(process.run, time.monotonic(), is_adopted=True)
        self._instances[process.pid] = instance
        self._pids[instance] = process.pid

    def ended(self, instance: InstanceId, last_exit: LastExit) -> LastExit:
        """Listen to this process no more: its number may soon be another's."""
        self.forgotten(instance)
        return last_exit

    def forgotten(self, instance: InstanceId) -> None:
        """Drop what an instance said."""
        self._notices.pop(instance, None)
        pid = self._pids.pop(instance, 0)
        if self._instances.get(pid) == instance:
            del self._instances[pid]

    # -- for the probes ---------------------------------------------------------------------------

    def outcome(self, instance: InstanceId, kind: ProbeKind, period_s: float, since_s: float) -> Outcome | None:
        """Return what its notices say of an instance now; None where nothing can be said."""
        found = self._notices.get(instance)
        if found is None:
            return Outcome(False, "notify: nobody listens for this process; restart the worker")
        return rules.outcome(found, kind, period_s, since_s, time.monotonic())

    async def wait(self, instance: InstanceId, kind: ProbeKind, period_s: float, since_s: float) -> None:
        """Wait until the outcome may be another one: something was said, or a time has come."""
        found = self._notices.get(instance)
        wait_s = rules.next_look_s(found, kind, period_s, since_s, time.monotonic()) if found else period_s
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(instance, [])
        waiting.append(changed)
        try:
            async with asyncio.timeout(wait_s):
                await changed
        except TimeoutError:
            pass
        finally:
            waiting.remove(changed)
            if not waiting and self._waiting.get(instance) is waiting:
                del self._waiting[instance]

    # -- the socket -------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._socket is not None:
            return
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            if not self._is_abstract:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._address)
            opened.bind(self._address)
            if not self._is_abstract:
                os.chmod(self._address, 0o622)  # a worker may be of another user; who speaks the kernel tells
        except OSError:
            opened.close()
            raise
        asyncio.get_running_loop().add_reader(opened, self._read)
        self._socket = opened

    def _read(self) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            if self._socket is None:
                return
            try:
                self._take(self._socket)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("a notice could not be read: %s", error)
                return

    def _take(self, source: socket.socket) -> None:
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * DESCRIPTORS_LIMIT)
        payload, ancillary, flags, _ = source.recvmsg(MESSAGE_LIMIT_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        pid, descriptors = 0, array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % 4])
        try:
            if flags & socket.MSG_TRUNC == 0:
                self._hear(pid, payload)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)  # the sender waits for this: it must be alive while we look for its session

    def _hear(self, pid: int, payload: bytes) -> None:
        instance = self._owner(pid)
        if instance is None:
            log.debug("a notice of process %d is passed over: it belongs to no worker that has `notify`", pid)
            return
        before = self._notices[instance]
        after = rules.heard(before, rules.parse(payload), time.monotonic())
        self._notices[instance] = after
        if replace(after, beat_s=before.beat_s) != before:
            for changed in self._waiting.get(instance, ()):
                if not changed.done():
                    changed.set_result(None)

    def _owner(self, pid: int) -> InstanceId | None:
        """Return the instance that a process belongs to: it is its first process, or of its session."""
        if pid <= 0:
            return None
        found = self._instances.get(pid)
        if found is None:
            try:
                found = self._instances.get(os.getsid(pid))
            except OSError:
                return None
        return found

    def close(self) -> None:
        """Stop listening. The file stays for the next agent, which puts its own in its place."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
