"""Processes forked from a warm server: what they share, what is their own, and that none outlives its command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_packing import COMPARISON, children

from zoo.harness import forked
from zoo.harness.forked import WARM, Command, start_server

FORKED = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ASKS_NOTHING = """
import torch
def refuse(*_, **__):
    raise SystemExit("CUDA was asked for something before the fork")
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties", "get_device_capability", "mem_get_info"):
    setattr(torch.cuda, name, refuse)
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
import zoo.harness.warm as warm
print(sorted(name for name in warm.MODULES if name not in sys.modules), torch.cuda.is_initialized(), threading.active_count())
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, os.fstat(2).st_ino == int(sys.argv[1]))
"""


def test_the_server_loads_all_of_its_modules_and_asks_for_no_gpu(tmp_path: Path) -> None:
    """A process forked after CUDA was asked for something can't use it; and a count that was taken would be another worker's."""
    with (tmp_path / "heard").open("w") as heard:
        command = [sys.executable, "-c", ASKS_NOTHING, str(os.fstat(heard.fileno()).st_ino)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=heard, text=True, timeout=120)
    assert done.stdout.splitlines() == ["[] False 1", "True True"], (tmp_path / "heard").read_text()


def test_a_command_has_its_own_environment_and_is_heard() -> None:
    """What only the worker's environment says is refused there, in the words and with the exit code of the command itself."""
    command = Command(["run", "quickstart", "--jobs", "2"], {**os.environ, "WORLD_SIZE": "2"})
    said = command.stderr.read()
    assert (command.wait(), command.poll()) == (1, 1)
    assert said.startswith("zoo: --jobs and --engine ray") and command.stdout.read() == ""
    assert "WORLD_SIZE" not in os.environ


@FORKED
def test_commands_are_forked_from_one_server() -> None:
    started = [Command(["list"], os.environ) for _ in range(2)]
    try:
        parents = {int(Path(f"/proc/{command.process.pid}/stat").read_text().rpartition(")")[2].split()[1]) for command in started}
        [server] = parents
        assert server in children(os.getpid()) and WARM in Path(f"/proc/{server}/cmdline").read_text()
    finally:
        for command in started:
            command.terminate()
    assert [command.wait() for command in started] == [-signal.SIGTERM] * 2


def test_the_server_has_one_thread_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: seen.append(os.environ.get("OMP_NUM_THREADS")))
    for chosen in (None, "3"):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if chosen:
            monkeypatch.setenv("OMP_NUM_THREADS", chosen)
        start_server()
        assert os.environ.get("OMP_NUM_THREADS") == chosen  # this process's own stays as it was
    assert seen == ["1", "3"]


def test_where_there_is_no_server_processes_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert start_server().get_start_method() == "spawn"


@FORKED
@pytest.mark.parametrize("ending", ["refused", "interrupted"])
def test_a_command_that_ends_early_leaves_no_server_at_its_imports(ending: str) -> None:
    """Whoever reads its output waits for all that hold it."""
    name = "no_such_comparison" if ending == "refused" else "quickstart"
    command = [sys.executable, "-m", "zoo", "run", name, "--results", "/dev/null/none", "--jobs", "2"]
    heard = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # The tests may run in a shell's background, where interrupts are ignored.
    with subprocess.Popen(command, **heard, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:  # type: ignore[call-overload]
        while not any(WARM in _command_line(child) for child in children(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        if ending == "interrupted":
            time.sleep(1.0)  # now it has begun
            os.killpg(process.pid, signal.SIGINT)
        code, ended = process.wait(), time.monotonic()
        said = process.communicate()[0]
    assert time.monotonic() - ended < 5.0 and len(said.splitlines()) == 1
    # Python ends by the signal itself, which a shell calls 130 as well, where the interrupt came upon code that a library had as text (dataclasses do).
    code = 128 + signal.SIGINT if code == -signal.SIGINT else code
    assert (code, "no comparison" in said, "interrupted" in said) == ((1, True, False) if ending == "refused" else (130, False, True))


def _command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


@FORKED
def test_workers_and_server_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    """The command has no time to end them: each sees for itself that it is gone. The cell is left as after a worker's own death, with no record."""
    (tmp_path / "packed.yaml").write_text(yaml.safe_dump({**COMPARISON, "methods": ["sft", "no_op"], "budget": {"unit": "supervised_tokens", "amount": 10**7}}))
    command = [sys.executable, "-m", "zoo", "run", str(tmp_path / "packed.yaml"), "--results", str(tmp_path / "results"), "--device", "cpu", "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        below: list[int] = []
        saved: list[Path] = []
        while len(saved) < 2 and process.poll() is None:
            time.sleep(0.1)
            saved = list((tmp_path / "results").glob("work/*/*/checkpoint/state.json"))
        below = children(process.pid)
        below += [worker for child in below for worker in children(child)]
        process.send_signal(signal.SIGKILL)
    assert len(below) >= 3  # the server and two workers; and what the standard library has beside them
    until = time.monotonic() + 10
    while (alive := [one for one in below if _alive(one)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert alive == [] and not list((tmp_path / "results").glob("records/**/run.json"))


def _alive(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody has asked after does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("chosen", [None, "error"])
def test_the_server_is_started_with_one_thread_and_silent_where_it_is_interrupted(chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    if chosen:
        monkeypatch.setenv("PYTHONWARNINGS", chosen)
    before = dict(os.environ)
    with forked._surroundings():
        code = "import warnings; warnings.warn('resource_tracker: There appear to be 2 leaked semaphore objects')"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (os.environ["OMP_NUM_THREADS"], said.returncode, said.stderr) == ("1", 0, "")
    assert dict(os.environ) == before
