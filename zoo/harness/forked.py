"""Commands of our own in processes forked from one server, which has imported what they need before they start (`zoo.harness.warm`).

A fresh interpreter spends longer on imports than a small cell on training, and each of several spends it again; a forked one spends nothing. The server is
the standard library's. It holds no model and has never asked for a GPU, so each process still chooses its own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import IO, Any

from zoo.environment import environment

WARM = "zoo.harness.warm"
THREADS, WARNINGS = "OMP_NUM_THREADS", "PYTHONWARNINGS"


def start_server() -> BaseContext:
    """Where processes come from. The first call starts the server, whose imports then go on beside what this process does next: call it early.
    Where the system has no such server the processes are fresh interpreters."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([WARM])
    with _surroundings():
        forkserver.ensure_running()
    return made


def _surroundings() -> AbstractContextManager[None]:
    """What the server is started with. Libraries read the number of threads when they are loaded: one, unless the user chose another. Where a command is
    interrupted the standard library clears up behind its processes, and need not say so."""
    unsaid = ",".join(filter(None, (os.environ.get(WARNINGS), "ignore:resource_tracker")))
    return environment({THREADS: os.environ.get(THREADS, "1"), WARNINGS: unsaid})


class Command:
    """`python -m zoo ARGUMENTS` with these variables in place of the environment. Lines come as they are written. It ends when this process does, however
    that ends: a checkpoint is what is left of its cell."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        context = start_server()
        ends = [context.Pipe(duplex=False) for _ in range(2)]
        writing = [end for _, end in ends]
        self.process: Any = context.Process(target=_run, args=(list(arguments), dict(environment), str(Path.cwd()), *writing))  # type: ignore[attr-defined]
        self.process.start()
        for end in writing:
            end.close()
        self.stdout, self.stderr = [_text(end) for end, _ in ends]

    def poll(self) -> int | None:
        """Its exit code, or None while it runs; that of a process killed by a signal is the signal's number below zero."""
        return self.process.exitcode  # type: ignore[no-any-return]

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        self.process.join()
        return int(self.process.exitcode)

    def terminate(self) -> None:
        """Ask it to end."""
        self.process.terminate()


def _text(end: Any) -> IO[str]:
    """The lines that come through a pipe."""
    made = os.fdopen(os.dup(end.fileno()), encoding="utf-8", errors="replace")
    end.close()
    return made


def _run(arguments: list[str], environment: dict[str, str], folder: str, out: Any, err: Any) -> None:
    """In the process itself."""
    for end, number in ((out, 1), (err, 2)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    settle(environment, folder)
    sys.argv = ["zoo", *arguments]
    runpy.run_module("zoo", run_name="__main__", alter_sys=True)


def settle(environment: Mapping[str, str], folder: str) -> None:
    """What a forked process begins with: these variables in place of its environment, this folder, and an end that comes with the command's."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A command that was killed can't end its workers, and the server is its child no less than they are."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
