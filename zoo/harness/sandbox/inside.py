"""The inner half of the sandbox: a script of its own, standard library only, started by `zoo.harness.sandbox.outside`.

It leaves every namespace it can (mounts, processes, network, IPC, host name; users too unless it is root), builds a root of its own from
read-only views of the interpreter and the system's libraries and a small scratch file system, sets limits, gives up all privileges and
runs the program. It is process 1 of its namespace, so when it ends, nothing that the program started is left.

Its argument is the descriptor of a file with all it has to know, in JSON; it reports on a descriptor named there. Its standard input is the
program's.
"""

# ruff: noqa: PTH103, PTH112, PTH120, PTH123, PTH208
from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time

NEW_NS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH, SET_PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, SET_SUBREAPER, SET_NO_NEW_PRIVS, CAPBSET_DROP = 2, 1, 4, 22, 36, 38, 24
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SCRATCH, POLL = "/tmp", 0.02
LIBC = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """The kernel refuses a wall of the sandbox."""


def call(name: str, *arguments: object) -> int:
    """A libc function, its error raised."""
    found = [a.encode() if isinstance(a, str) else a for a in arguments]
    result = int(getattr(LIBC, name)(*found))
    if result < 0:
        raise Unavailable(f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    call("mount", source, target, kind, ctypes.c_ulong(flags), options)


def bind(root: str, path: str) -> None:
    """A read-only view of a file or folder of the host at the same place of the new root."""
    real, target = os.path.realpath(path), root + path
    os.makedirs(target if os.path.isdir(real) else os.path.dirname(target), exist_ok=True)
    if not os.path.isdir(real):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    mount(real, target, "", BIND | REC)
    flags = BIND | REMOUNT | NOSUID | (0 if path.startswith("/dev/") else RDONLY | NODEV)
    try:
        mount("", target, "", flags)
    except Unavailable:  # a mount of the host that an unprivileged user may not loosen keeps its own flags
        kept = os.statvfs(target).f_flag
        mount("", target, "", flags | (kept & (NOEXEC | NODEV | NOSUID)))


def unshared(uid: int, gid: int) -> None:
    """Leave the host's namespaces."""
    flags = NEW_NS | NEW_UTS | NEW_IPC | NEW_PID | NEW_NET | (0 if uid == 0 else NEW_USER)
    call("unshare", flags)
    LIBC.sethostname(b"sandbox", 7)
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def new_root(limits: dict[str, int], views: list[str]) -> None:
    """Change into a file system of our own."""
    mount("", "/", "", REC | PRIVATE)
    root = "/tmp"
    mount("none", root, "tmpfs", NOSUID | NODEV, "size=1m,mode=0755")
    for path in (*views, "/dev/null", "/dev/urandom"):
        bind(root, path)
    for name in ("proc", "tmp", "old"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    try:
        mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC, "subset=pid")
    except Unavailable:  # before Linux 5.8 all of it is shown
        mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC)
    mount("none", root + SCRATCH, "tmpfs", NOSUID | NODEV, f"size={limits['scratch_bytes']},nr_inodes={limits['scratch_files']},mode=1777")
    os.chdir(root)
    number = SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise Unavailable(f"no number of pivot_root for {os.uname().machine}")
    call("syscall", ctypes.c_long(number), ".", "old")
    os.chdir("/")
    call("umount2", "/old", DETACH)
    mount("", "/", "", REMOUNT | RDONLY | NOSUID | NODEV | BIND)


def limited(limits: dict[str, int]) -> None:
    """Limits of each process; of their number together by user."""
    for name, value in (
        ("RLIMIT_CPU", limits["cpu_seconds"]), ("RLIMIT_AS", limits["memory_bytes"]), ("RLIMIT_FSIZE", limits["file_bytes"]),
        ("RLIMIT_NPROC", limits["processes"]), ("RLIMIT_NOFILE", 64), ("RLIMIT_CORE", 0),
    ):  # fmt: skip
        resource.setrlimit(getattr(resource, name), (value, value))


def humbled(uid: int) -> None:
    """Give up every privilege, for good."""
    for capability in range(64):
        LIBC.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    if uid == 0:
        nobody = 0x60000000 + int.from_bytes(os.urandom(3), "big")  # a user of its own, so that the number of processes is counted for it alone
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)
    else:
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        call("capset", header, data)


def filtered(program: bytes) -> None:
    """Refuse the system calls that the program of `zoo.harness.sandbox.calls` names, from here on and in all children."""

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    call("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", SET_SECCOMP, 2, ctypes.byref(Filter(len(program) // 8, program)), 0, 0)


def descendants() -> list[int]:
    """All processes below this one: none but the program's, also those that left its session."""
    parent = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found: set[int] = set()
    new = {os.getpid()}
    while new:
        new = {child for child, above in parent.items() if above in new} - found
        found |= new
    return sorted(found)


def ended() -> None:
    """End whatever the program started."""
    for _round in range(50):
        below = descendants()
        for process in below:
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if not below:
            return
        time.sleep(POLL)


def stopped(*_: object) -> None:
    """What is done when the caller wants an end."""
    ended()
    os._exit(0)


def resident(session: int | None) -> int:
    """Bytes of memory that all processes of the namespace but this one hold; without a namespace, those of the program's session."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if session is None or os.getsid(int(name)) == session:
                    with open(f"/proc/{name}/statm") as file:
                        pages += int(file.read().split()[1])
            except (OSError, IndexError):
                continue
    return pages * resource.getpagesize()


def watched(child: int, limits: dict[str, int], walls: bool) -> dict[str, object]:
    """Wait for the program; end it when all of it together holds too much memory."""
    until = time.monotonic() + limits["seconds"]
    while True:
        done, status, used = os.wait4(-1, os.WNOHANG)
        if done == child:
            if os.WIFEXITED(status):
                return {"code": os.WEXITSTATUS(status)}
            spent = used.ru_utime + used.ru_stime >= limits["cpu_seconds"] - 0.5
            return {"signal": os.WTERMSIG(status), **({"ended": "time"} if spent else {})}
        if resident(None if walls else child) > limits["memory_bytes"]:
            return {"ended": "memory"}
        if time.monotonic() > until:
            return {"ended": "time"}
        time.sleep(POLL if done == 0 else 0)


def started(asked: dict[str, object], limits: dict[str, int], report: int, program: int) -> int:
    """The program as a child of process 1."""
    child = os.fork()
    if child:
        return child
    os.close(report)
    os.lseek(program, 0, os.SEEK_SET)
    os.set_inheritable(program, True)
    os.setsid()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.chdir(SCRATCH if asked["walls"] else str(asked["folder"]))
    limited(limits)
    command, environment = [str(part) for part in asked["command"]], dict(asked["environment"])  # type: ignore[call-overload, attr-defined]
    try:
        os.execve(command[0], command, environment)
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    os._exit(126)


def first(asked: dict[str, object], limits: dict[str, int], report: int, uid: int) -> None:
    """Process 1 of the new namespace; without one, the process to which all that the program leaves behind comes."""
    call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    calls, program = bytes.fromhex(str(asked["calls"])), int(asked["program"])  # type: ignore[call-overload]
    try:
        if asked["walls"]:
            new_root(limits, [str(path) for path in asked["views"]])  # type: ignore[attr-defined]
            humbled(uid)
            filtered(calls)
        else:
            call("prctl", SET_SUBREAPER, 1, 0, 0, 0)
            signal.signal(signal.SIGTERM, stopped)
            with contextlib.suppress(Unavailable):
                filtered(calls)
        call("prctl", SET_DUMPABLE, 0, 0, 0, 0)  # nobody attaches to the watcher
        found = watched(started(asked, limits, report, program), limits, bool(asked["walls"]))
    except (Unavailable, OSError) as error:
        found = {"unavailable": str(error)}
    if not asked["walls"]:
        ended()
    os.write(report, json.dumps(found).encode())
    os._exit(0)


def main() -> None:
    """Build the walls, then be the first process behind them."""
    with open(int(sys.argv[1]), encoding="utf-8") as file:
        asked = json.load(file)
    limits, report, uid = asked["limits"], int(asked["report"]), os.getuid()
    call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        if asked["walls"]:
            unshared(uid, os.getgid())
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child hears it, ends what the program left, and then itself
        child = os.fork()
        if child == 0:
            first(asked, limits, report, uid)
        os.waitpid(child, 0)
    except (Unavailable, OSError) as error:
        os.write(report, json.dumps({"unavailable": str(error)}).encode())


if __name__ == "__main__":
    main()
