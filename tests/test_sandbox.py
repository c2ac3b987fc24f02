"""Untrusted code: what it tries comes to nothing, whatever it tries ends, and nothing of it is left. All of it is bounded by small limits."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import pytest

from zoo.errors import ZooError
from zoo.harness.sandbox import Limits, outside, run_untrusted
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
        time.sleep(600.125)
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
