"""The small program that turns into a worker: takes on user, priorities and limits, then executes it.

Run by its path with `python -I -S -E`; nothing of ours and hardly anything of the standard library is imported, so
that a start costs few milliseconds. What to do stands in the file behind descriptor 0 (marshal of a map, see
`hsu_agent.host.attributes`). What cannot be done is said on stderr, and the exit code is 126, as a shell has it for
a program that it cannot run: nothing runs with more rights than it was to have.
"""

import marshal
import posix
import sys
import time

CANNOT = 126

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_KEEPCAPS = 23, 24, 8
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
_WHO_PROCESS = 1
_CLASS_SHIFT = 13
_EINVAL, _EPERM = 22, 1


def _read_instructions() -> dict:  # type: ignore[type-arg]
    parts: list[bytes] = []
    while part := posix.read(0, 65536):
        parts.append(part)
    return marshal.loads(b"".join(parts))  # type: ignore[no-any-return]


class _Kernel:
    """Calls that Python has no function for."""

    def __init__(self) -> None:
        import ctypes  # noqa: PLC0415 - it takes longer than all the rest, and few workers need it

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def call(self, name: str, *arguments) -> int:  # type: ignore[no-untyped-def]
        """Return the result of a function of the C library. Raises OSError."""
        long = self._ctypes.c_long
        function = getattr(self._libc, name)
        function.restype = long
        result = function(*(each if isinstance(each, self._ctypes.Array) else long(each) for each in arguments))
        if result == -1:
            number = self._ctypes.get_errno()
            raise OSError(number, posix.strerror(number))
        return result  # type: ignore[no-any-return]

    def limit_capabilities(self, kept: list[int]) -> None:
        """Take every other capability out of what this process and its children can ever have."""
        for number in range(64):
            try:
                is_there = self.call("prctl", _PR_CAPBSET_READ, number, 0, 0, 0)
                if is_there and number not in kept:
                    self.call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
            except OSError as error:
                if error.errno == _EINVAL:  # this kernel has no more
                    return
                if error.errno != _EPERM:
                    raise
                self.forbid_new_privileges()  # without privileges the bound itself stays, and is out of reach
                return

    def set_capabilities(self, kept: list[int]) -> None:
        """Have these capabilities and no others, over the execution of the program too."""
        low, high = sum(1 << each for each in kept if each < 32), sum(1 << each - 32 for each in kept if each >= 32)
        head = (self._ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        self.call("capset", head, (self._ctypes.c_uint32 * 6)(low, low, low, high, high, high))
        for each in kept:
            self.call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, each, 0, 0)

    def forbid_new_privileges(self) -> None:
        """No program that is executed from now on gains rights by its file."""
        self.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _set_rlimits(limits: list[tuple[int, int, int]]) -> None:
    import resource  # noqa: PLC0415 - few workers need it

    for number, soft, hard in limits:
        resource.setrlimit(number, (soft, hard))


def _set_oom_score(value: int) -> None:
    descriptor = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(descriptor, b"%d" % value)
    finally:
        posix.close(descriptor)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    posix.setgroups(groups)
    posix.setresgid(gid, gid, gid)
    posix.setresuid(uid, uid, uid)


def _enter(group: str, until_s: float) -> None:
    """Go where the guard kills at the end of the lease, and only then look whether that has passed."""
    descriptor = posix.open(group + "/cgroup.procs", posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(descriptor, b"0")
    finally:
        posix.close(descriptor)
    if time.clock_gettime(time.CLOCK_BOOTTIME) >= until_s:
        posix.kill(posix.getpid(), 9)  # as the guard would have done


def _steps(plan: dict):  # type: ignore
    """Give what is to be done, in an order in which privileges are needed no more once they are gone."""
    kept = plan.get("capabilities")
    if "guarded_by" in plan:
        yield "enter the group of its guard", lambda: _enter(*plan["guarded_by"])
    if "umask" in plan:
        yield "set the umask", lambda: posix.umask(plan["umask"])
    if "rlimits" in plan:
        yield "set the rlimits", lambda: _set_rlimits(plan["rlimits"])
    if "nice" in plan:
        yield "set nice", lambda: posix.setpriority(posix.PRIO_PROCESS, 0, plan["nice"])
    if "io" in plan:
        call, kind, level = plan["io"]
        yield (
            "set the priority of I/O",
            lambda: _Kernel().call("syscall", call, _WHO_PROCESS, 0, kind << _CLASS_SHIFT | level),
        )
    if "cpu_affinity" in plan:
        yield "bind it to its processors", lambda: posix.sched_setaffinity(0, plan["cpu_affinity"])
    if "oom_score_adj" in plan:
        yield "set oom_score_adj", lambda: _set_oom_score(plan["oom_score_adj"])
    if kept is not None:
        yield "give up capabilities", lambda: _Kernel().limit_capabilities(kept)
    if "identity" in plan:
        if kept:
            yield "keep capabilities", lambda: _Kernel().call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
        uid, gid, groups = plan["identity"]
        yield f"become user {uid} and group {gid}", lambda: _become(uid, gid, groups)
    if kept is not None:
        yield "set its capabilities", lambda: _Kernel().set_capabilities(kept)
    if "no_new_privileges" in plan:
        yield "forbid new privileges", lambda: _Kernel().forbid_new_privileges()


def main() -> int:
    """Become the program that the instructions name."""
    plan = _read_instructions()
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.dup2(null, 0)
    if null > 2:
        posix.close(null)
    what = "start it"
    try:
        for what, act in _steps(plan):  # noqa: B007 - the failed step is named below
            act()
        what = f"execute {plan['executable']}"
        posix.execve(plan["executable"], plan["argv"], plan["environment"])
    except (OSError, ValueError) as error:
        posix.write(2, f"hsu-agent: cannot {what}: {error}\n".encode("utf-8", "replace"))
    return CANNOT


if __name__ == "__main__":
    sys.exit(main())
