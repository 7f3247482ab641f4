"""Tells the service manager that started us (systemd) how we are: sd_notify of the agent itself.

READY=1 once orders are loaded, living workers are taken over and the control socket answers; STATUS= when another
number of instances runs; RELOADING=1 and READY=1 around a reload; WATCHDOG=1 from the event loop, so that a loop that
hangs is silent; STOPPING=1 at the end. Not to be mixed up with `hsu_agent.notify`, where workers tell the agent.

The main process of the unit is the keeper, the agent is its child, hence `NotifyAccess=all` there. A MAINPID= of the
agent would be worse: systemd would take a crash of the agent for the end of the service, and start a second keeper
beside the one that is about to mend it. What `all` lets in is kept out by the address: it is taken out of the
environment before anything is started, so neither workers nor hooks nor probes have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, MutableMapping

from hsu_agent.loop import Supervisor
from hsu_core.model.ids import InstanceId
from hsu_core.runtime.tasks import Wake

log = logging.getLogger(__name__)

ADDRESS_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
OWNER_VARIABLE = "WATCHDOG_PID"

STATUS_PAUSE_S = 1.0
"""Shortest time between two STATUS=: a thousand starts must not become a thousand messages."""

UNSENT_LIMIT = 16
"""Messages kept while the service manager does not read; they are sent again with the next one, or after a pause."""

RETRY_S = 1.0


class ServiceManager:
    """The service manager at an address (empty: there is none and nothing is sent), which expects beats or not."""

    def __init__(self, address: str = "", beat_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._beat_s = beat_s
        self._unsent: deque[str] = deque(maxlen=UNSENT_LIMIT)
        self._is_ready = False
        self._is_ending = False
        self._is_broken = False
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, tasks: asyncio.TaskGroup, supervisor: Supervisor, stop: asyncio.Event) -> None:
        """Say that the agent is ready; then go on with its status and beats, and say when it stops."""
        if not self._address:
            return
        self._is_ready = True
        changed, line = Wake(), status_line(supervisor)

        def note(_: InstanceId) -> None:
            changed.wake()

        supervisor.table.listeners.append(note)
        self._send("READY=1", line)
        self._tasks = [
            tasks.create_task(self._tell_status(supervisor, changed, line), name="service status"),
            tasks.create_task(self._tell_stop(stop), name="service stop"),
        ]
        if self._beat_s is not None:
            self._tasks.append(tasks.create_task(self._beat(self._beat_s), name="service watchdog"))

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that a reload begins, and that it is over, however it ended."""
        self._send("RELOADING=1", _monotonic())
        try:
            yield
        finally:
            if not self._is_ending:
                self._send("READY=1")

    def replaced(self) -> None:
        """Say that this agent ends so that its keeper starts the next one, which will be ready again."""
        if self._is_ready and not self._is_ending:
            self._is_ending = True
            self._send("RELOADING=1", _monotonic())

    def stopping(self) -> None:
        """Say that the agent ends."""
        if self._is_ready and not self._is_ending:
            self._is_ending = True
            self._send("STOPPING=1")

    def close(self) -> None:
        """Say nothing any more."""
        self.stopping()
        for task in self._tasks:
            task.cancel()

    async def _tell_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.stopping()

    async def _beat(self, beat_s: float) -> None:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(beat_s)

    async def _tell_status(self, supervisor: Supervisor, changed: Wake, told: str) -> None:
        while True:
            if await changed.wait(RETRY_S if self._unsent else None) and (line := status_line(supervisor)) != told:
                told = line
                self._send(line)
            elif self._unsent:
                self._flush()
            await asyncio.sleep(STATUS_PAUSE_S)

    def _send(self, *lines: str) -> None:
        if self._address:
            self._unsent.append("\n".join(lines))
            self._flush()

    def _flush(self) -> None:
        """Send what is to be sent, in order; what does not go out now is kept. Never waits."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as out:
                while self._unsent:
                    out.sendto(self._unsent[0].encode(), self._address)
                    self._unsent.popleft()
        except OSError as error:
            if not self._is_broken:
                log.warning("the service manager at %s cannot be told: %s", self._address.replace("\0", "@"), error)
            self._is_broken = True
            return
        self._is_broken = False


def taken_from(environment: MutableMapping[str, str], pid: int, parent: int) -> ServiceManager:
    """Return the service manager that an environment names; its variables are taken out, for nobody else to have.

    systemd expects the beats of its main process: `pid`, or the keeper that is its `parent`. Addresses other than
    paths and abstract names (@) are passed over.
    """
    address = environment.pop(ADDRESS_VARIABLE, "")
    usec, owner = environment.pop(WATCHDOG_VARIABLE, ""), environment.pop(OWNER_VARIABLE, "")
    if len(address) < 2 or address[0] not in "/@":
        return ServiceManager()
    is_ours = owner in ("", str(pid), str(parent))
    is_watched = is_ours and usec.isascii() and usec.isdigit() and int(usec) > 0
    return ServiceManager(address, int(usec) / 2 / 1_000_000 if is_watched else None)


def status_line(supervisor: Supervisor) -> str:
    """Return the line that `systemctl status` shows."""
    alive = sum(1 for found in supervisor.observed.values() if found.is_alive)
    return f"STATUS={alive} of {len(supervisor.observed.keys() | supervisor.desired.keys())} instances run"


def _monotonic() -> str:
    return f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def own(environment: MutableMapping[str, str]) -> ServiceManager:
    """Return the service manager of this process; see `taken_from`."""
    return taken_from(environment, os.getpid(), os.getppid())
