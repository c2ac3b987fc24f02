"""Several cells of a comparison at once on one machine: worker processes that take cells from the same plan.

A worker is the same command with `--worker`: it walks the plan and leaves out cells that are done or that another worker holds the lock of, so
each cell is run once whoever comes first. A worker that is killed leaves its checkpoint; a new one goes on from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from zoo.errors import ZooError
from zoo.records import Record

Say = Callable[[str], None]
RESTARTS = 3  # how often a killed worker is replaced, in all


@dataclass
class Worker:
    """One process, and what it said last on its error stream."""

    number: int
    process: subprocess.Popen[str]
    complaints: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def join(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait()
        for thread in self.threads:
            thread.join()
        return code


def run_packed(arguments: Sequence[str], jobs: int, say: Say) -> None:
    """Run `zoo ARGUMENTS --worker` in so many processes until no cell is left to them; a killed one is replaced.

    Raises:
        ZooError: a worker refused its input or failed, with its own words; the others were let finish.
    """
    workers, restarts, problems = [start(arguments, number + 1, say) for number in range(jobs)], 0, []
    try:
        while workers:
            worker = workers.pop(0)
            code = worker.join()
            if code < 0 and restarts < RESTARTS:
                restarts += 1
                say(f"[{worker.number}] was killed by signal {-code}; another worker goes on from its checkpoint")
                workers.append(start(arguments, worker.number, say))
            elif code:
                problems.append("\n".join(worker.complaints[-5:]) or f"a worker ended with exit code {code}")
    except BaseException:
        for worker in workers:
            worker.process.terminate()
        raise
    if problems:
        raise ZooError("\n".join(dict.fromkeys(problems)).removeprefix("zoo: "))


def spelled(given: Iterable[tuple[str, Any]], flags: Iterable[tuple[str, bool]]) -> list[str]:
    """Options as a command line has them: one value or several each, those that were not given left out."""
    values = [(name, value if isinstance(value, list) else [value]) for name, value in given if value]
    return [*(text for name, several in values for value in several for text in (name, str(value))), *(name for name, wanted in flags if wanted)]


def start(arguments: Sequence[str], number: int, say: Say) -> Worker:
    """A worker whose lines are passed on behind its number."""
    command = [sys.executable, "-m", "zoo", *arguments, "--worker"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())
    worker = Worker(number, process)
    for stream, take in ((process.stdout, lambda line: say(f"[{number}] {line}")), (process.stderr, worker.complaints.append)):
        thread = threading.Thread(target=_relay, args=(stream, take), daemon=True)
        thread.start()
        worker.threads.append(thread)
    return worker


def _relay(stream: IO[str], take: Callable[[str], None]) -> None:
    for line in stream:
        if line.strip():
            take(line.rstrip())


def _environment() -> dict[str, str]:
    """Lines come when they are written; one thread each unless the user chose a number."""
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}


def jobs_for(asked: str, device: str, cells: int, records: Sequence[Record]) -> int:
    """How many workers: the number asked for, or for `auto` what the machine bears, at most one a cell.

    On a CPU `auto` is its cores, one thread each. On a GPU it is how often the largest peak of memory that a finished run of this comparison recorded
    fits into what is free now, with a tenth to spare; 1 where nothing has been measured.

    Raises:
        ZooError: neither a number nor `auto`.
    """
    if asked != "auto":
        if not asked.isdigit() or int(asked) < 1:
            raise ZooError(f"--jobs '{asked}': give a number of at least 1, or auto")
        return min(int(asked), max(cells, 1))
    fit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.startswith("cuda"):
        peak = max((record.run.budget.spent.get("peak_memory_bytes") or 0 for record in records if record.run.status == "success"), default=0)
        free, _ = torch.cuda.mem_get_info(device)
        fit = min(fit, int(0.9 * free // peak)) if peak else 1
    return max(1, min(fit, cells))
