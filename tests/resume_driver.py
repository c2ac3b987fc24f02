"""A server that runs cells in forked processes and lets them be killed: started once, because importing everything takes seconds.

It reads one JSON request a line and answers each with one line. A request names the method, the results folder, and where to die:
`event` (before the n-th change to a file or folder under the results), `checkpoints` (after so many of them), `seconds` (from outside, by
the clock), or nothing.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  loaded here once, not in every child
import harness_kit as kit
import pyarrow.parquet  # noqa: F401

import zoo.harness.run as run
from zoo.errors import ZooError
from zoo.harness.plan import Place

ANSWER = "=> "
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.chmod"}
ENTRIES = {entry.id: entry for entry in kit.stateful_entries()}


class Changes:
    """Counts changes under a folder; kills the process before the n-th, or before the next one after n checkpoints."""

    def __init__(self, folder: str, fatal: int | None, checkpoints: int | None) -> None:
        self.folder, self.fatal, self.left, self.seen, self.saved = folder, fatal, checkpoints, 0, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        inside_rmtree = event in ("os.remove", "os.rmdir") and arguments[1] != -1  # there paths are relative to an open folder
        if (event in CHANGES or writes) and (self.folder in str(arguments[0]) or inside_rmtree):
            self.seen += 1
            if self.seen == self.fatal or self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if event == "os.rename" and str(arguments[1]).endswith("/checkpoint"):
                self.saved += 1
                self.left = None if self.left is None else self.left - 1


def child(request: dict[str, Any], answer: int) -> None:
    counter = Changes(request["results"], request.get("event"), request.get("checkpoints"))
    sys.addaudithook(counter)
    error = ""
    try:
        comparison = kit.comparison(request["pair"], methods=(request["method"],), **request["settings"])
        run.run_comparison(comparison, kit.registry(ENTRIES[request["method"]]), Place(Path(request["results"])), device="cpu")
    except ZooError as problem:
        error = str(problem)
    os.write(answer, json.dumps({"events": counter.seen, "iterations": counter.saved, "error": error}).encode())


def serve(request: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            try:
                child(request, write)
            finally:
                os._exit(0)
    os.close(write)
    clock = threading.Timer(request.get("seconds", 3600.0), os.kill, (pid, signal.SIGKILL))
    clock.start()
    with os.fdopen(read) as pipe:
        said = pipe.read()
    clock.cancel()
    _, status = os.waitpid(pid, 0)
    return {"killed": os.WIFSIGNALED(status), **(json.loads(said) if said else {})}


if __name__ == "__main__":
    pair = kit.read_pair(Path(sys.argv[1]))
    run.evaluate = kit.stub_evaluation  # type: ignore[assignment]
    run.load_pair = lambda *_, **__: pair  # type: ignore[assignment]
    gc.collect()
    gc.freeze()  # or each child would copy all memory when it collects garbage
    print(ANSWER, flush=True)
    for line in sys.stdin:
        print(ANSWER + json.dumps(serve(json.loads(line))), flush=True)
