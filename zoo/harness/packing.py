"""Several cells of a comparison at once on one machine: worker processes that take cells from the same plan.

A worker is the same command with `--worker`, in a process forked from a warm server (`zoo.harness.forked`). It walks the plan and leaves out cells that
are done or that another worker holds the lock of, so each cell is run once whoever comes first. A worker that is killed leaves its checkpoint; a new one
goes on from there. Workers of one GPU share their teachers where that saves memory (`zoo.harness.shared_teachers`).
"""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from zoo.errors import ZooError
from zoo.harness.board import Board
from zoo.harness.forked import Command
from zoo.harness.parallel import CONTEXT, MEMORY_SHARE
from zoo.harness.report import Listener, deliver
from zoo.harness.shared_teachers import Keeper, Sharing
from zoo.records import Record

Name = tuple[str, int]  # a cell: its method and its seed
RESTARTS = 3  # how often a killed process is replaced, in all
KILLED = "{who} {end}, and {restarts} processes had been replaced before; nothing recorded is lost, and the same command goes on from the last checkpoint: zoo "
SLACK = 1.2  # of a peak: what the allocator keeps beyond it


@dataclass
class Worker:
    """One process, what it is at, and what it said last on its error stream."""

    number: int
    process: Command
    cell: Name | None = None
    complaints: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def hear(self, line: str, follow: Listener) -> None:
        """Pass on one line of its output: an event, or words of its own."""
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            return follow.say(f"[{self.number}] {line}")
        if "method" in event:
            self.cell = None if event["event"] == "end" else (event["method"], event["seed"])
        return deliver(event, follow)

    def join(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait()
        for thread in self.threads:
            thread.join()
        return code


def run_packed(
    arguments: Sequence[str], jobs: int, follow: Listener | Callable[[str], None], device: str | None = None, sharing: Sharing | None = None
) -> None:
    """Run `zoo ARGUMENTS --worker` in so many processes until no cell is left to them, over all GPUs if the device that the arguments name, if they name
    one, is a plain `cuda`; a killed one is replaced. What they say goes to a listener, or as lines to a function. Where `sharing` pays, the workers of
    one device have their teachers from one keeper.

    Raises:
        ZooError: a worker refused its input or failed, with its own words; the others were let finish.
    """
    heard = follow if isinstance(follow, Listener) else Board(follow, cells=0, budget=0)
    crew = Crew(arguments, heard, places_of(device or "cuda", jobs))  # without GPUs that is one place all the same
    try:
        crew.begin(sharing, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        while crew.workers:
            crew.look()
    except BaseException:
        for worker in crew.workers:
            worker.process.terminate()
        raise
    finally:
        for keeper in crew.keepers:
            keeper.close()
    if crew.problems:
        raise ZooError("\n".join(dict.fromkeys(crew.problems)).removeprefix("zoo: "))


@dataclass
class Crew:
    """The workers of a command, the keepers of their teachers, and what went wrong."""

    arguments: Sequence[str]
    heard: Listener
    places: list[dict[str, str]]
    keepers: list[Keeper] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    restarts: int = 0

    def begin(self, sharing: Sharing | None, device: str) -> None:
        """Start a keeper for each device whose workers share, and all workers."""
        numbers: dict[str, list[int]] = {}
        for number, place in enumerate(self.places, 1):
            numbers.setdefault(place.get("CUDA_VISIBLE_DEVICES", ""), []).append(number)
        for together in numbers.values():
            if sharing is not None and sharing.pays(len(together), device):
                keeper = Keeper(sharing, device, self.places[together[0] - 1], together)
                self.keepers.append(keeper)
                for number in together:
                    self.places[number - 1].update(keeper.told)
        for number in range(1, len(self.places) + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        self.workers.append(start(self.arguments, number, self.heard, self.places[number - 1]))

    def look(self) -> None:
        """See to a keeper or a worker that has ended, or wait a moment."""
        lost = next((keeper for keeper in self.keepers if keeper.poll() is not None), None)
        done = next((worker for worker in self.workers if worker.process.poll() is not None), None)
        if lost is not None:
            self._without(lost)
        elif done is not None:
            self.workers.remove(done)
            self._ended(done, done.join())
        else:
            time.sleep(0.2)

    def _ended(self, worker: Worker, code: int) -> None:
        """Replace a worker that was killed, or keep what one that failed has said."""
        if code < 0 and self._again("a worker", f"was killed by signal {-code}{_where(worker)}"):
            self.heard.say(f"[{worker.number}] was killed by signal {-code}{_where(worker)}; another worker goes on from its checkpoint")
            self._replace(worker)
        elif code > 0:
            self.problems.append("\n".join(worker.complaints[-5:]) or f"a worker ended with exit code {code}")

    def _without(self, keeper: Keeper) -> None:
        """Replace a keeper that has ended, and the workers whose teachers were in its memory."""
        bereft = [worker for worker in self.workers if worker.number in keeper.numbers]
        for worker in bereft:
            worker.process.terminate()
            self.workers.remove(worker)
            worker.join()
        end = f"ended with exit code {keeper.poll()}"  # below zero that is a signal's number
        if bereft and self._again("the process that kept the teachers", end):
            self.heard.say(f"the process that kept the teachers {end}; another one takes its place, and {len(bereft)} workers go on from their checkpoints")
            keeper.start()
            for worker in bereft:
                self._replace(worker)
        else:
            self.keepers.remove(keeper)

    def _again(self, who: str, end: str) -> bool:
        """Whether one more process may be replaced; a problem where not."""
        if self.restarts == RESTARTS:
            self.problems.append(KILLED.format(who=who, end=end, restarts=self.restarts) + shlex.join(self.arguments))
            return False
        self.restarts += 1
        return True

    def _replace(self, worker: Worker) -> None:
        if worker.cell is not None:
            self.heard.lost(*worker.cell)
        self._start(worker.number)


def _where(worker: Worker) -> str:
    return "" if worker.cell is None else f" at {worker.cell[0]} (seed {worker.cell[1]})"


def spelled(given: Iterable[tuple[str, Any]], flags: Iterable[tuple[str, bool]]) -> list[str]:
    """Options as a command line has them: one value or several each, those that were not given left out."""
    values = [(name, value if isinstance(value, list) else [value]) for name, value in given if value]
    return [*(text for name, several in values for value in several for text in (name, str(value))), *(name for name, wanted in flags if wanted)]


def gpus(device: str) -> list[str]:
    """What workers are spread over: every visible GPU if a plain `cuda` is asked for and there are several, else the device that is asked for."""
    count = torch.cuda.device_count() if device == "cuda" else 1  # makes no context
    return [f"cuda:{number}" for number in range(count)] if count > 1 else [device]


def places_of(device: str, jobs: int) -> list[dict[str, str]]:
    """For each worker the variables that say which GPU it sees and what part of that one's memory it may take. GPUs are given out in turn; those
    that share one share it equally. The visible ones are counted once, so a worker's successor has its GPU."""
    count, places = len(gpus(device)), []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if chosen is None else [name.strip() for name in chosen.split(",")]  # numbers, or UUIDs
    for worker in range(jobs):
        sharing = len(range(worker % count, jobs, count))
        seen = {"CUDA_VISIBLE_DEVICES": names[worker % count]} if count > 1 else {}
        places.append({**seen, **({MEMORY_SHARE: f"{1 / sharing:.4f}"} if sharing > 1 else {})})
    return places


def start(arguments: Sequence[str], number: int, follow: Listener, place: Mapping[str, str]) -> Worker:
    """A worker at its place (`places_of`). Its lines come when they are written; it has one thread unless the user chose a number."""
    process = Command([*arguments, "--worker"], {"OMP_NUM_THREADS": "1", **os.environ, **place})
    worker = Worker(number, process)
    for stream, take in ((process.stdout, lambda line: worker.hear(line, follow)), (process.stderr, worker.complaints.append)):
        thread = threading.Thread(target=_relay, args=(stream, take), daemon=True)
        thread.start()
        worker.threads.append(thread)
    return worker


def _relay(stream: IO[str], take: Callable[[str], None]) -> None:
    for line in stream:
        if line.strip():
            take(line.rstrip())


def jobs_for(asked: str, device: str, cells: int, records: Sequence[Record], sharing: Sharing | None = None) -> int:
    """How many workers: the number asked for, or for `auto` what the machine bears, at most one a cell.

    On a CPU `auto` is its cores, one thread each. On GPUs it is how often the measured need of a cell fits into the memory that each has free now,
    summed over all of them (`gpus`), at most one a core; one a GPU where nothing has been measured (see `to_measure`). Where so many would share their
    teachers, those count once a GPU.

    Raises:
        ZooError: neither a number nor `auto`.
    """
    if asked != "auto":
        if not asked.isdigit() or int(asked) < 1:
            raise ZooError(f"--jobs '{asked}': give a number of at least 1, or auto")
        return min(int(asked), max(cells, 1))
    fit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.startswith("cuda"):
        need = memory_needed(records)
        fit = min(fit, sum(_fitting(torch.cuda.mem_get_info(gpu)[0], need, sharing) if need else 1 for gpu in gpus(device)))
    return max(1, min(fit, cells))


def _fitting(free: int, need: int, sharing: Sharing | None) -> int:
    """How many cells fit into so much of a GPU's memory, each with its own teachers or, where they share, beside one keeper."""
    apart = free // need
    if sharing is None:
        return apart
    together = (free - CONTEXT - sharing.size) // max(need - int(SLACK * sharing.size), CONTEXT)
    return max(apart, together if sharing.pays(together, "cuda") else 0)


def to_measure(device: str, cells: Sequence[Name], records: Sequence[Record]) -> Name | None:
    """Of cells that train, the one that must be run before it can be said how many fit on a GPU: the first of several, where nothing has been measured."""
    unknown = device.startswith("cuda") and not memory_needed(records)
    return cells[0] if unknown and len(cells) > 1 else None


def memory_needed(records: Iterable[Record], method: str | None = None) -> int:
    """Bytes of a GPU that a cell's process takes: the largest peak that finished runs of the method, or else of any that trained, have recorded, a fifth
    more for what the allocator keeps, and what CUDA itself takes. 0 where nothing has been measured on a GPU: a run that only evaluates says nothing of
    those that train."""
    done = [record.run for record in records if record.run.status == "success" and record.run.provenance.get("device", "cuda") == "cuda"]
    own = [run for run in done if run.method == method]
    trained = [run for run in done if run.budget.spent.get("supervised_tokens")]
    peak = max((run.budget.spent.get("peak_memory_bytes") or 0 for run in own or trained), default=0)
    return int(SLACK * peak) + CONTEXT if peak else 0
