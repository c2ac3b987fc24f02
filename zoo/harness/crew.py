"""The processes of a command that runs several cells at once: its workers, what those of one GPU share, and who takes a lost one's place."""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from zoo.errors import DeviceLost
from zoo.harness.forked import Command
from zoo.harness.mps import VISIBLE, Service, possible
from zoo.harness.report import Listener, deliver
from zoo.harness.shared_teachers import Keeper, Sharing

Name = tuple[str, int]  # a cell: its method and its seed
RESTARTS = 3  # how often a lost process is replaced, in all
GIVEN_UP = (
    "{who} {end}, and {restarts} processes had been replaced before; nothing recorded is lost, and the same command goes on from the last checkpoint: zoo "
)


@dataclass
class Worker:
    """One process, what it is at, and what it said last on its error stream."""

    number: int
    process: Command
    cell: Name | None = None
    complaints: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def where(self) -> str:
        """At which cell it is."""
        return "" if self.cell is None else f" at {self.cell[0]} (seed {self.cell[1]})"

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


@dataclass
class Group:
    """The workers of one GPU, by number, where they are placed, and what they share: the GPU's time, and their teachers."""

    numbers: list[int]
    place: dict[str, str]
    service: Service | None = None
    keeper: Keeper | None = None

    @property
    def told(self) -> dict[str, str]:
        """What the environment of these workers says of it."""
        return {**(self.service.told if self.service else {}), **(self.keeper.told if self.keeper else {})}

    def close(self) -> None:
        """End what they share; they have ended before."""
        for shared in (self.keeper, self.service):
            if shared is not None:
                shared.close()
        self.keeper = self.service = None


@dataclass
class Crew:
    """All workers of a command, in groups, and what went wrong."""

    arguments: Sequence[str]
    heard: Listener
    places: list[dict[str, str]]
    device: str
    sharing: Sharing | None = None
    groups: list[Group] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    restarts: int = 0

    def work(self) -> list[str]:
        """Start all and stay until the last worker has ended; the problems there were."""
        numbers: dict[str, list[int]] = {}
        for number, place in enumerate(self.places, 1):
            numbers.setdefault(place.get(VISIBLE, ""), []).append(number)
        self.groups = [Group(several, self.places[several[0] - 1]) for several in numbers.values()]
        try:
            for group in self.groups:
                self._open(group, possible(len(group.numbers), self.device))
            for number in range(1, len(self.places) + 1):
                self._start(number)
            while self.workers:
                self._look()
        except BaseException:
            self._dismiss(self.workers)
            raise
        finally:
            for group in self.groups:
                group.close()
        return self.problems

    def _open(self, group: Group, overlapping: bool) -> None:
        """Start what the workers of a GPU share: a service under which their kernels overlap, if that is wanted, and the keeper of their teachers, if that
        pays."""
        if overlapping:
            group.service = Service(group.place, group.numbers)
            if not group.service.told:
                self.heard.say("NVIDIA's MPS does not answer on this GPU, so workers take turns on it (ZOO_MPS=off does not ask for it)")
                group.close()
        if self.sharing is not None and self.sharing.pays(len(group.numbers), self.device):
            group.keeper = Keeper(self.sharing, self.device, {**group.place, **group.told}, group.numbers)

    def _group(self, number: int) -> Group:
        return next(group for group in self.groups if number in group.numbers)

    def _start(self, number: int) -> None:
        self.workers.append(start(self.arguments, number, self.heard, {**self.places[number - 1], **self._group(number).told}))

    def _look(self) -> None:
        """See to a keeper or a worker that has ended, or wait a moment."""
        bereft = next((group for group in self.groups if group.keeper is not None and group.keeper.poll() is not None), None)
        done = next((worker for worker in self.workers if worker.process.poll() is not None), None)
        if bereft is not None:
            self._without_keeper(bereft)
        elif done is not None:
            self.workers.remove(done)
            self._ended(done, done.join())
        else:
            time.sleep(0.2)

    def _ended(self, worker: Worker, code: int) -> None:
        """Replace a worker that was killed or has lost its GPU, or keep what one that failed has said."""
        group = self._group(worker.number)
        if code == DeviceLost.code and group.service is not None:
            self._one_by_one(group, worker)
        elif code < 0 or code == DeviceLost.code:
            end = (f"was killed by signal {-code}" if code < 0 else "lost its GPU") + worker.where
            if self._again("a worker", end):
                self.heard.say(f"[{worker.number}] {end}; another worker goes on from its checkpoint")
                self._replace([worker])
        elif code > 0:
            self.problems.append("\n".join(worker.complaints[-5:]) or f"a worker ended with exit code {code}")

    def _without_keeper(self, group: Group) -> None:
        """Replace a keeper that has ended, and the workers whose teachers were in its memory."""
        assert group.keeper is not None
        bereft, end = self._dismiss(self._of(group)), f"ended with exit code {group.keeper.poll()}"  # below zero that is a signal's number
        if bereft and self._again("the process that kept the teachers", end):
            self.heard.say(f"the process that kept the teachers {end}; another one takes its place, and {len(bereft)} workers go on from their checkpoints")
            group.keeper.start()
            self._replace(bereft)
        else:
            group.keeper = None

    def _one_by_one(self, group: Group, first: Worker) -> None:
        """After a fault on a GPU that several workers used at once any of them may have lost it, and nobody knows whose fault it was. They go on taking
        turns, where a fault strikes nobody else; so this happens once to a group."""
        struck = [first, *self._dismiss(self._of(group))]
        end = f"a fault on the GPU{first.where} ended its {len(struck)} workers, which had used it at once"
        self.heard.say(f"{end}; they go on from their checkpoints by turns")
        group.close()
        self._open(group, overlapping=False)
        self._replace(struck)

    def _of(self, group: Group) -> list[Worker]:
        return [worker for worker in self.workers if worker.number in group.numbers]

    def _dismiss(self, workers: list[Worker]) -> list[Worker]:
        """End these workers; they are returned."""
        gone = list(workers)
        for worker in gone:
            worker.process.terminate()
        for worker in gone:
            worker.join()
            self.workers.remove(worker)
        return gone

    def _again(self, who: str, end: str) -> bool:
        """Whether one more process may be replaced; a problem where not."""
        if self.restarts == RESTARTS:
            self.problems.append(GIVEN_UP.format(who=who, end=end, restarts=self.restarts) + shlex.join(self.arguments))
            return False
        self.restarts += 1
        return True

    def _replace(self, workers: list[Worker]) -> None:
        for worker in workers:
            if worker.cell is not None:
                self.heard.lost(*worker.cell)
            self._start(worker.number)


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
