"""Untrusted code: what it tries comes to nothing, whatever it tries ends, and nothing of it is left. All of it is bounded by small limits."""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from zoo.errors import ZooError
from zoo.harness.sandbox import Limits, calls, outside, run_untrusted
from zoo.harness.sandbox.outside import tests_passed as passed

SMALL = Limits(seconds=2.0, memory_bytes=160 << 20, processes=6, scratch_bytes=2 << 20, file_bytes=1 << 20)


def walls() -> bool:
    try:
        return run_untrusted("print(1)", limits=SMALL).passed
    except ZooError:
        return False


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux") or not walls(), reason="this machine has no namespaces to build the sandbox of")


def test_a_harmless_program_runs_and_reads_what_it_is_given() -> None:
    ran = run_untrusted("import sys; print(sys.stdin.read() * 2); sys.exit(3)", given="ab", limits=SMALL)
    assert (ran.ended, ran.code, ran.output, ran.passed) == ("finished", 3, "abab\n", False)


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        pytest.param("while True: pass", "time", id="loop"),
        pytest.param("import time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", "time", id="sleep"),
        pytest.param("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "time", id="fork bomb"),
        pytest.param("while True: print('x' * 4096)", "output", id="flood"),
    ],
)
def test_what_never_ends_is_ended(program: str, ended: str) -> None:
    began = time.monotonic()
    ran = run_untrusted(program, limits=SMALL)
    assert ran.ended == ended
    assert not ran.passed
    assert time.monotonic() - began < SMALL.seconds + 3.0
    assert len(ran.output) <= SMALL.output_bytes


def test_one_process_cannot_take_the_memory() -> None:
    ran = run_untrusted("x = []\nwhile True: x.append(bytearray(1 << 24))", limits=SMALL)
    assert "MemoryError" in ran.errors or ran.ended == "memory"


def test_several_processes_together_cannot_either() -> None:
    program = "import os, time\nfor i in range(4):\n    if os.fork() == 0:\n        x = bytearray(b'x') * (70 << 20)\n        time.sleep(9)\ntime.sleep(9)"
    assert run_untrusted(program, limits=SMALL).ended == "memory"


def test_no_file_of_the_machine_can_be_read_or_written(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    program = f"""
import os
for path, mode in (({str(secret)!r}, "r"), ({str(secret)!r}, "w"), ("/etc/passwd", "r"), ("/usr/new", "w"), ("/new", "w"),
                   ("/proc/sys/kernel/core_pattern", "w")):
    try:
        open(path, mode).close()
        print("open", path, mode)
    except OSError as error:
        pass
print(os.listdir("/tmp"), sorted(k for k in os.environ if "KEY" in k))
"""
    ran = run_untrusted(program, limits=SMALL)
    assert ran.output == "[] []\n", ran.errors
    assert secret.read_text() == "hidden"


def test_the_scratch_folder_is_small() -> None:
    assert "OSError" in run_untrusted("open('/tmp/x', 'wb').write(bytes(2 << 20))", limits=SMALL).errors
    many = "for i in range(10_000): open(f'/tmp/{i}', 'w').close()"
    assert "OSError" in run_untrusted(many, limits=SMALL).errors
    several = "for i in range(9):\n    with open(f'/tmp/{i}', 'wb') as file: file.write(bytes(1 << 19))"
    assert "OSError" in run_untrusted(several, limits=SMALL).errors


def test_there_is_no_network() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nprint('connected')"
        ran = run_untrusted(program, limits=SMALL)
    assert not ran.passed
    assert "connected" not in ran.output


def test_nothing_is_left_behind() -> None:
    program = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "600.125"])
    os._exit(0)
print("left")
"""
    before = set(Path("/proc").iterdir())
    assert run_untrusted(program, limits=SMALL).output == "left\n"
    time.sleep(0.2)
    for process in set(Path("/proc").iterdir()) - before:
        with contextlib.suppress(OSError):
            assert b"600.125" not in (process / "cmdline").read_bytes()


def test_it_has_no_privileges_and_sees_no_other_process() -> None:
    program = "import os\nprint(os.getuid() != 0, [p for p in os.listdir('/proc') if p.isdigit()], open('/proc/self/status').read())"
    ran = run_untrusted(program, limits=SMALL)
    assert ran.output.startswith("True ['1', '2']")
    assert "CapEff:\t0000000000000000" in ran.output
    assert "NoNewPrivs:\t1" in ran.output
    assert "PermissionError" in run_untrusted("import os; os.kill(1, 9); open('/proc/1/mem')", limits=SMALL).errors


def test_unit_tests() -> None:
    answer = "def double(x):\n    print('noise')\n    return 2 * x"
    assert passed(answer, ["assert double(2) == 4", "assert double('a') == 'aa'", "assert double(2) == 5"], SMALL) == pytest.approx(2 / 3)
    for cheat in ("import os; os._exit(0)", "raise SystemExit(0)", "def double(x): return 5\nimport sys; sys.stdout.write('ok'); sys.exit()", "syntax error"):
        assert passed(cheat, ["assert double(2) == 4"], SMALL) == 0.0
    with pytest.raises(ZooError, match="no unit tests"):
        passed(answer, [], SMALL)


def test_without_namespaces_it_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = outside._attempt
    monkeypatch.setattr(outside, "_attempt", lambda *a, walls: "unshare: Operation not permitted" if walls else attempt(*a, walls=walls))
    with pytest.raises(ZooError, match=r"can't be run safely on this machine \(unshare: Operation not permitted\); use Linux"):
        run_untrusted("print(1)", limits=SMALL)
    assert run_untrusted("print(1)", limits=SMALL, without_walls=True).output == "1\n"
    assert run_untrusted("while True: pass", limits=SMALL, without_walls=True).ended == "time"
    monkeypatch.setattr(outside.sys, "platform", "darwin")
    with pytest.raises(ZooError, match="no namespaces on darwin"):
        run_untrusted("print(1)", limits=SMALL)
    assert run_untrusted("print(1)", limits=SMALL, without_walls=True).output == "1\n"


def decided(steps: bytes, machine: str, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What a filter says of a call, by a reading of its instructions of our own."""
    data = struct.pack("=IIQ6Q", number, calls.ARCHITECTURES.get(machine, 1), 0, *(*arguments, *[0] * 6)[:6])
    accumulator, at = 0, 0
    while True:
        code, yes, no, value = struct.unpack_from("=HBBI", steps, 8 * at)
        at += 1
        if code == calls.LOAD:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == calls.AND:
            accumulator &= value
        elif code == calls.RETURN:
            return int(value)
        else:
            met = {calls.EQUAL: accumulator == value, calls.AT_LEAST: accumulator >= value, calls.ANY_BIT: bool(accumulator & value)}[code]
            at += yes if met else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_names_and_nothing_else(machine: str) -> None:
    steps = calls.refused_calls(network=True, machine=machine)
    assert steps is not None
    column = ["x86_64", "aarch64"].index(machine)
    for name, numbers in calls.REFUSED.items():
        assert decided(steps, machine, numbers[column]) == calls.REFUSE | errno.EPERM, name
    ordinary = set(range(400)) - {numbers[column] for numbers in (*calls.REFUSED.values(), calls.SOCKET)}
    assert all(decided(steps, machine, number) == calls.ALLOW for number in ordinary)
    assert decided(steps, machine, calls.CLONE3[column]) == calls.REFUSE | errno.ENOSYS
    clone, mmap, sock = calls.CLONE[column], calls.MMAP[column], calls.SOCKET[column]
    for bit in range(32):
        spaces = 1 << bit in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
        assert (decided(steps, machine, clone, (1 << bit,)) != calls.ALLOW) == spaces
    for flags, allowed in ((0x22, True), (0x21, False), (0x23, False), (0x1, True), (0x20, True), (0x4021, False)):
        assert (decided(steps, machine, mmap, (0, 4096, 3, flags)) == calls.ALLOW) == allowed
    assert [family for family in range(50) if decided(steps, machine, sock, (family,)) == calls.ALLOW] == [1, 2, 10]
    walled = calls.refused_calls(network=False, machine=machine)
    assert walled is not None
    assert [family for family in range(50) if decided(walled, machine, sock, (family,)) == calls.ALLOW] == [1]
    assert decided(steps, "other", 0) == calls.KILL
    assert decided(steps, machine, 0x40000000 + 39) == calls.REFUSE | errno.EPERM
    assert calls.refused_calls(network=True, machine="riscv64") is None


def test_no_namespace_of_its_own_and_so_no_file_system_of_any_size() -> None:
    program = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
print([c.unshare(flag) for flag in (0x10000000, 0x20000, 0x40000000)], c.mount(b"none", b"/tmp", b"tmpfs", 0, b"size=1g"))
"""
    assert run_untrusted(program, limits=SMALL).output == "[-1, -1, -1] -1\n"


def test_memory_that_belongs_to_no_process_is_refused() -> None:
    """Each way fills memory that the sum over processes would not show: a file without a name, System V memory, a shared mapping left to a child."""
    program = """
import ctypes, mmap, os
c = ctypes.CDLL(None, use_errno=True)
print(c.memfd_create(b"x", 0), c.shmget(0, 1 << 20, 0o1600))
for flags in (mmap.MAP_SHARED | mmap.MAP_ANONYMOUS,):
    try: mmap.mmap(-1, 1 << 20, flags=flags); print("mapped")
    except OSError: pass
mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(os.path.exists("/dev/zero"), os.path.exists("/dev/shm"))
"""
    assert run_untrusted(program, limits=SMALL).output == "-1 -1\nFalse False\n"


def test_neither_keys_of_the_session_nor_sockets_to_the_host() -> None:
    program = """
import ctypes, socket
c = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}[__import__("os").uname().machine]
print(c.syscall(numbers[0], b"user", b"k", b"v", 1, -3), c.syscall(numbers[1], 6, -3))
for family in (40, 16, 17, 38):
    try: socket.socket(family, socket.SOCK_STREAM if family != 16 else socket.SOCK_RAW); print("open", family)
    except OSError: pass
"""
    assert run_untrusted(program, limits=SMALL).output == "-1 -1\n"


def test_it_learns_nothing_of_the_machine() -> None:
    program = """
import os, platform
print(os.environ, platform.node(), [name for name in ("version", "cmdline", "meminfo", "sys", "net") if os.path.exists(f"/proc/{name}") and name != "net"])
print(open("/proc/1/cmdline").read().count("assert"), os.listdir("/tmp"))
found = []
for name in os.listdir("/proc/self/fd"):
    try: found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
    except OSError: pass
print(sorted(n for n, _ in found))
try: os.write(0, b"x")
except OSError as error: print(error.errno)
for place in ("environ", "fd", "root", "cwd", "mem", "maps"):
    try: os.listdir(f"/proc/1/{place}") if place in ("fd", "root", "cwd") else open(f"/proc/1/{place}").read(); print("read", place)
    except OSError: pass
"""
    lines = run_untrusted(program, given="abc", limits=SMALL).output.splitlines()
    assert "sandbox []" in lines[0]
    assert "KEY" not in lines[0]
    assert lines[1:] == ["0 []", "[0, 1, 2]", "9"], "no descriptor but the three, and the input cannot be written to"


def test_links_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden")
    program = f"""
import os
os.symlink({str(tmp_path)!r}, "/tmp/link")
for path in ("/tmp/link/secret", "/old/etc/passwd", "/proc/self/root/etc/passwd", "/proc/self/cwd/../etc/passwd", "/bin/../etc/passwd"):
    try: print(open(path).read())
    except OSError: pass
"""
    assert run_untrusted(program, limits=SMALL).output == ""


def test_odd_programs_end_like_others() -> None:
    assert run_untrusted("x = '" + "a" * 400_000 + "'\nprint(len(x))", limits=SMALL).output == "400000\n", "longer than an argument may be"
    assert not run_untrusted("x = '\0'", limits=SMALL).passed
    assert not run_untrusted("x = '\ud800'", limits=SMALL).passed
    assert run_untrusted("import sys; print(len(sys.stdin.buffer.read()))", given="\ud800", limits=SMALL).output == "3\n"
    assert run_untrusted("", limits=SMALL).passed
    ran = run_untrusted("import os; os.kill(os.getpid(), 9)", limits=SMALL)
    assert (ran.ended, ran.code, ran.passed) == ("finished", 137, False), "ended by its own hand, not by the clock"
    ran = run_untrusted(
        "import os\nfor d in range(3, 64):\n    try: os.write(d, b'{\"code\": 0}'); print(d)\n    except OSError: pass\nos.kill(os.getppid(), 9)\n1/0",
        limits=SMALL,
    )
    assert (ran.code, ran.output) == (1, ""), "it cannot report for its watcher, nor end it"


def test_behind_limits_alone_a_daemon_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = outside._attempt
    monkeypatch.setattr(outside, "_attempt", lambda *a, walls: "no" if walls else attempt(*a, walls=walls))
    daemon = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 9)
        os.execv("/bin/sleep", ["sleep", "600.375"])
    os._exit(0)
"""
    loose = replace(SMALL, processes=4096, seconds=1.0)
    for rest, ended in (("print(1)", "finished"), ("while True: print('x' * 4096)", "output"), ("time.sleep(60)", "time")):
        assert run_untrusted(daemon + rest, limits=loose, without_walls=True).ended == ended
        alive = [p for p in Path("/proc").iterdir() if p.name.isdigit() and _says(p, b"600.375")]
        assert not alive, rest
    assert "Address family" in run_untrusted("import socket; socket.socket()", limits=loose, without_walls=True).errors


def _says(process: Path, text: bytes) -> bool:
    """Whether a process was started with this text and still runs."""
    try:
        return text in (process / "cmdline").read_bytes()
    except OSError:
        return False
