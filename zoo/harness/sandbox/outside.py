"""Run a program that nobody has read, with walls around it and limits on all it may use.

On Linux it gets namespaces of its own (processes, network, mounts, IPC, users): no network, no file of the machine but the interpreter and
the system's libraries, read-only; a small scratch folder; limits on time, memory (each process and all together), processes and files; and
it ends as a whole. Elsewhere it is refused unless the caller says that it may run behind limits alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from zoo.errors import ZooError
from zoo.harness.sandbox.calls import refused_calls

INSIDE = Path(__file__).with_name("inside.py")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
GRACE = 2.0  # seconds behind the inner clock, for building the walls
# A program may be longer than an argument can be, so it is read from a descriptor, which is closed before it runs.
STARTER = "with open({}, encoding='utf-8') as _: _ = _.read()\nexec(compile(_, '<string>', 'exec'))"

End = Literal["finished", "time", "memory", "output"]


@dataclass(frozen=True)
class Limits:
    """What a program may use. `memory_bytes` holds for each process and for all together; `scratch_bytes` is the size of its only folder."""

    seconds: float = 10.0
    memory_bytes: int = 512 << 20
    processes: int = 16
    file_bytes: int = 8 << 20
    scratch_bytes: int = 16 << 20
    scratch_files: int = 256
    output_bytes: int = 64 << 10

    @property
    def cpu_seconds(self) -> int:
        """Whole seconds of processor time of one process."""
        return max(1, int(self.seconds) + 1)


@dataclass(frozen=True)
class Ran:
    """How a program ended: its exit code (128 + signal where one ended it), what it said, and whether a limit ended it."""

    ended: End
    code: int
    output: str
    errors: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it came to its own end with code 0."""
        return self.ended == "finished" and self.code == 0


def run_untrusted(program: str, *, given: str = "", limits: Limits | None = None, without_walls: bool = False) -> Ran:
    """Run Python code that may do anything. `given` is its standard input; `without_walls` lets it run behind limits alone where the machine has
    no namespaces.

    Raises:
        ZooError: no sandbox on this machine.
    """
    limits = limits or Limits()
    if sys.platform.startswith("linux"):
        ran = _attempt(program, given, limits, walls=True)
        if isinstance(ran, Ran):
            return ran
        reason = ran
    else:
        reason = f"no namespaces on {sys.platform}"
    if not without_walls or os.name != "posix":
        raise ZooError(f"untrusted code can't be run safely on this machine ({reason}); use Linux with user namespaces, or allow it to run "
                       "behind limits alone (--untrusted-code) if you have read what it may write")  # fmt: skip
    ran = _attempt(program, given, limits, walls=False) if sys.platform.startswith("linux") else _plain(program, given, limits)
    if isinstance(ran, str):
        raise ZooError(f"untrusted code could not be started: {ran}")
    return ran


def _interpreter() -> tuple[str, list[str]]:
    """The interpreter outside any virtual environment, and the folders that it needs."""
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    own = {"base": sys.base_prefix, "installed_base": sys.base_prefix, "platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}
    paths = [sys.base_prefix, *(sysconfig.get_path(name, vars=own) for name in ("stdlib", "platstdlib")), base]
    found: list[str] = []
    for path in sorted({os.path.realpath(p) for p in paths if p and Path(p).exists()} | {p for p in SYSTEM if Path(p).exists()}, key=len):
        if path != "/" and not any(path == kept or path.startswith(kept.rstrip("/") + "/") for kept in found):
            found.append(path)
    return base, found


@contextlib.contextmanager
def _files(program: str, given: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The program and its input as files that nobody can write to; half a character (a lone surrogate) is the program's own trouble."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("program", program), ("given", given)):
            Path(folder, name).write_bytes(text.encode("utf-8", "surrogatepass"))
        with Path(folder, "program").open("rb") as code, Path(folder, "given").open("rb") as said:
            yield code, said


def _attempt(program: str, given: str, limits: Limits, *, walls: bool) -> Ran | str:
    """How it ran, or why it could not."""
    calls = refused_calls(network=walls)
    if calls is None and walls:
        return f"the numbers of system calls on {os.uname().machine} are not known"
    base, views = _interpreter()
    report, theirs = os.pipe()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as told, _files(program, given) as (code, text):
        asked = {"command": [base, "-I", "-S", "-c", STARTER.format(code.fileno())], "views": views, "environment": ENVIRONMENT, "walls": walls,
                 "report": theirs, "folder": folder, "program": code.fileno(), "calls": (calls or b"").hex(),
                 "limits": {**asdict(limits), "cpu_seconds": limits.cpu_seconds}}  # fmt: skip
        told.write(json.dumps(asked).encode())
        told.seek(0)
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-I", "-S", str(INSIDE), str(told.fileno())], stdin=text, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, pass_fds=(theirs, told.fileno(), code.fileno()), start_new_session=True,
                                   env=ENVIRONMENT, cwd=folder)  # fmt: skip
        os.close(theirs)
        try:
            ended, output, errors = _listened(process, limits)
        finally:
            _kill(process, gently=not walls)
            said = b"" if process.poll() is None else os.read(report, 4096)
            os.close(report)
    found = json.loads(said) if said else {}
    if "unavailable" in found:
        return str(found["unavailable"])
    ended = found.get("ended", ended if found else "time" if ended == "finished" else ended)
    code_number = int(found.get("code", 128 + int(found.get("signal", signal.SIGKILL))))
    if found.get("signal") == signal.SIGXCPU and ended == "finished":
        ended = "time"
    return Ran(ended, code_number, output, errors, time.monotonic() - began)


def _listened(process: subprocess.Popen[bytes], limits: Limits) -> tuple[End, str, str]:
    """What the program says until it ends, or says too much, or takes too long."""
    until, ended = time.monotonic() + limits.seconds + GRACE, "finished"
    streams = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and ended == "finished":
            left = until - time.monotonic()
            if left <= 0:
                ended = "time"
            for key, _ in selector.select(max(0.0, left)):
                piece = os.read(key.fd, 1 << 14)
                if not piece:
                    selector.unregister(key.fileobj)
                streams[key.fileobj] += piece  # type: ignore[index]
                if len(streams[key.fileobj]) > limits.output_bytes:  # type: ignore[index]
                    ended = "output"
    if ended == "finished":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
    texts = [bytes(said[: limits.output_bytes]).decode("utf-8", "replace") for said in streams.values()]
    return ended, texts[0], texts[1]  # type: ignore[return-value]


def _kill(process: subprocess.Popen[bytes], *, gently: bool = False) -> None:
    """End the whole group; the first process of the namespace dies with its parent, and everything in it with the first. Without a namespace
    the first process is asked, `gently`, to end what has left the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
        if gently:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _plain(program: str, given: str, limits: Limits) -> Ran:
    """Behind limits alone, where there is neither a namespace nor a parent's death to hear of."""
    import resource

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    base, _ = _interpreter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, _files(program, given) as (code, text):
        command = [base, "-I", "-S", "-c", STARTER.format(code.fileno())]
        process = subprocess.Popen(command, stdin=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=ENVIRONMENT,
                                   cwd=folder, preexec_fn=limited, pass_fds=(code.fileno(),))  # fmt: skip
        try:
            ended, output, errors = _listened(process, limits)
        finally:
            _kill(process)
    return Ran(ended, process.returncode if process.returncode >= 0 else 128 - process.returncode, output, errors, time.monotonic() - began)


def tests_passed(answer: str, tests: Sequence[str], limits: Limits | None = None, *, without_walls: bool = False) -> float:
    """The share of the tests that an answer's code passes, each in a sandbox of its own. A test is code that runs behind the answer in the same
    names and fails by an exception. It has passed where a random mark is written behind it, so that leaving early with code 0 passes nothing;
    an answer that searches the interpreter's frames for the mark can cheat, and still do no harm."""
    if not tests:
        raise ZooError("a prompt has no unit tests; give it at least one")
    passed = 0
    for test in tests:
        mark = os.urandom(16).hex()
        ran = run_untrusted(f"{_RUN}\n_run({answer!r}, {test!r})", given=mark, limits=limits, without_walls=without_walls)
        passed += ran.passed and ran.output.endswith(mark)
    return passed / len(tests)


_RUN = """
import os, sys
def _run(answer, test):
    mark, out, null = os.read(0, 64), os.dup(1), os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0), os.dup2(null, 1)
    space = {"__name__": "answer"}
    exec(compile(answer, "answer", "exec"), space)
    exec(compile(test, "test", "exec"), space)
    os.write(out, mark)
    os._exit(0)
"""
