"""An event loop whose time is a number, and simulated programs on it that can be stopped, continued and killed.

Nothing waits: when every callback has run, time jumps to the next timer. Callbacks of a `Program` pass a gate, so a
stopped program holds them and a killed one loses them: no `finally` runs, as after kill -9. Tasks are hashed by their
number, so that sets of them have the same order in every run.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

_OWNER: ContextVar[Program | None] = ContextVar("program", default=None)


class Stuck(Exception):
    """Every task waits for ever."""


class Killed(BaseException):
    """Unwinds the stack of a program that was killed in the middle of a call; nobody is to catch it."""


class _Jump(selectors.SelectSelector):
    """Lets time pass instead of waiting for files."""

    def __init__(self, advance: Callable[[float | None], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Advance to the next timer."""
        self._advance(timeout)
        return []


class _Task(asyncio.Task[Any]):
    number = 0
    owner: Program | None = None

    def __new__(cls, *_: Any, loop: VirtualLoop, **__: Any) -> _Task:
        task = super().__new__(cls)
        loop.tasks_made += 1
        task.number, task.owner = loop.tasks_made, _OWNER.get()
        return task

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `after_event` is called after every callback of a program and every delivery."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self.tasks_made = 0
        self.events = 0
        self.is_over = False
        self.failure: BaseException | None = None
        self._graveyard: list[asyncio.Task[Any]] = []
        """Tasks of dead programs: kept, so that nothing of them runs when they would be collected."""
        super().__init__(_Jump(self._advance))
        self.nobody = copy_context()
        """The context of what belongs to no program: the network, the store, the clockwork of the test."""
        self.nobody.run(_OWNER.set, None)
        self.set_task_factory(self._new_task)
        self.set_exception_handler(self._on_error)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now_s

    def _advance(self, timeout: float | None) -> None:
        if timeout is None:
            raise Stuck("nothing will ever happen again")
        self._now_s += timeout

    def _new_task(self, loop: Any, work: Any, **options: Any) -> _Task:
        context = options.get("context")
        if context is not None:  # the owner is that of the context the task runs in
            return context.run(lambda: _Task(work, loop=self, **options))
        return _Task(work, loop=self, **options)

    def _on_error(self, _: Any, what: dict[str, Any]) -> None:
        if isinstance(what.get("exception"), Killed):
            return
        if not self.is_over and self.failure is None:
            self.failure = what.get("exception") or RuntimeError(str(what.get("message")))

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        """Call back soon, unless its program is stopped or dead by then."""
        self.events += 1
        owner = _OWNER.get() if context is None else context.get(_OWNER)
        if owner is None:
            return super().call_soon(callback, *args, context=context)
        gate = _Gate(owner, callback, args, context if context is not None else copy_context())
        gate.handle = super().call_soon(gate, context=gate.context)
        return gate.handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        """Call back at a time, unless its program is stopped or dead by then."""
        owner = _OWNER.get() if context is None else context.get(_OWNER)
        if owner is None:
            return super().call_at(when, callback, *args, context=context)
        gate = _Gate(owner, callback, args, context if context is not None else copy_context())
        handle = gate.handle = super().call_at(when, gate, context=gate.context)
        return handle

    def run_in_executor(self, executor: Any, function: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run it here and now: a simulation has no threads."""
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def later(self, delay_s: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        """Call back after a time on behalf of nobody."""
        return super().call_at(self._now_s + delay_s, callback, *args, context=self.nobody)

    def soon(self, callback: Any, *args: Any) -> None:
        """Call back soon on behalf of nobody."""
        super().call_soon(callback, *args, context=self.nobody)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a task that belongs to no program."""
        return self.create_task(work, name=name, context=self.nobody.copy())

    def finish(self) -> None:
        """End every task of the simulation, dead programs included; their last words are nobody's business."""
        self.is_over = True
        left: list[asyncio.Task[Any]] = []
        for _ in range(20):
            left = sorted((task for task in asyncio.all_tasks(self) if not task.done()), key=hash)
            if not left:
                break
            for task in left:
                task.cancel()
            try:
                self.run_until_complete(asyncio.wait(left, timeout=60.0))
            except Stuck:
                break
            except RuntimeError:
                continue  # a stop that was asked for before
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for task in asyncio.all_tasks(self):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            left.clear()
            self._graveyard.clear()
            self.close()
            gc.collect()
        finally:
            sys.unraisablehook = hook


class Program:
    """A simulated process: whatever is started in its context lives and dies with it."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.is_dead = False
        self.is_stopped = False
        self.on_death: list[Callable[[], None]] = []
        self.held: list[_Gate] = []
        self._context = loop.nobody.copy()
        self._context.run(_OWNER.set, self)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a task of this program; an error that ends it fails the simulation."""
        task = self.loop.create_task(work, name=f"{self.name}: {name}", context=self._context.copy())
        task.add_done_callback(self._has_ended, context=self.loop.nobody)
        return task

    def call(self, callback: Callable[..., None], *args: Any) -> None:
        """Call back in this program, soon."""
        self.loop.call_soon(callback, *args, context=self._context)

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or self.loop.is_over:
            return
        error = task.exception()
        if error is not None and not self.is_dead and self.loop.failure is None:
            self.loop.failure = error

    def stop(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """SIGCONT: all that became due meanwhile happens now, in its order."""
        self.is_stopped = False
        held, self.held = self.held, []
        for gate in held:
            self.loop.soon(gate.pass_again)

    def kill(self) -> None:
        """SIGKILL."""
        if self.is_dead:
            return
        self.is_dead = True
        self.held.clear()
        self.loop._graveyard += [task for task in asyncio.all_tasks(self.loop) if getattr(task, "owner", None) is self]
        for tell in self.on_death:
            tell()


class _Gate:
    """A callback of a program."""

    __slots__ = ("args", "callback", "context", "handle", "owner")

    def __init__(self, owner: Program, callback: Any, args: tuple[Any, ...], context: Context) -> None:
        self.owner = owner
        self.callback = callback
        self.args = args
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        owner = self.owner
        if owner.loop.is_over:
            self.callback(*self.args)
        elif owner.is_dead:
            return
        elif owner.is_stopped:
            owner.held.append(self)
        else:
            self.callback(*self.args)

    def pass_again(self) -> None:
        """Run what was held, unless it was cancelled meanwhile."""
        if self.handle is None or not self.handle.cancelled():
            self.context.run(self)
