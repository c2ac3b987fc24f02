"""The cells of a comparison as tasks of a Ray cluster: one task a cell, with a part of a GPU, tried again where its node or process is lost.

Tasks write records, checkpoints and locks themselves, into the results folder, which all machines must share. A cell whose task is lost goes on from
its checkpoint. It can't be recorded twice: the attempt's name lies beside the checkpoint, so a process that was only thought lost would write the
same files, and a record's file is linked into place, which fails where there is one.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from zoo.errors import ZooError
from zoo.harness.crew import RESTARTS, Name
from zoo.harness.packing import memory_needed
from zoo.harness.parallel import MEMORY_SHARE
from zoo.harness.report import Listener, Wire, deliver
from zoo.records import Record, load_records

HELD = "held"  # another process has the cell's lock: one whose node Ray has given up, say
PAUSE = 5.0  # seconds before a cell that was held is asked for again


@dataclass(frozen=True)
class Order:
    """What all tasks of one call share, as plain data. Paths are absolute and mean the same on every machine; `token` is a file in the results folder
    by which a task knows that it sees the driver's."""

    comparison: str
    results: str
    token: str
    registry: tuple[str, ...] = ()
    pair_paths: dict[str, str] = field(default_factory=dict)
    data: str | None = None
    device: str = "cpu"
    trackers: tuple[str, ...] = ()
    told: dict[str, Any] = field(default_factory=dict)  # further arguments of zoo.run

    @property
    def id(self) -> str:
        """The comparison's, where `comparison` is a file."""
        from zoo.harness.comparison import load_comparison

        return load_comparison(self.comparison).id


def run_on_ray(order: Order, cells: Sequence[Name], follow: Listener, *, address: str = "auto", jobs: int | None = None) -> None:
    """Run these cells on the cluster at `address` (`auto`: the one of this machine; `local`: one started for this call), at most `jobs` at once.

    Raises:
        ZooError: no Ray, no cluster, no GPU where one is asked for; a task that refused its input or was lost too often, after the others ended.
    """
    ray = _ray()
    with _cluster(ray, address), _token(Path(order.token)):
        if order.device.startswith("cuda") and not ray.cluster_resources().get("GPU"):
            raise ZooError("--device cuda: this Ray cluster has no GPU; start a node that has one, or use --device cpu")
        _Dispatch(ray, order, follow, jobs).run(cells)


class _Dispatch:
    """Hands out cells and hears how they go."""

    def __init__(self, ray: Any, order: Order, follow: Listener, jobs: int | None) -> None:
        self.ray, self.order, self.follow, self.jobs = ray, order, follow, jobs
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.sink = ray.remote(num_cpus=0)(_Sink).options(scheduling_strategy=here).remote()
        self.work = _task(ray, order.device, _work)
        self.running: dict[Any, Name] = {}
        self.lost: Counter[Name] = Counter()
        self.alone: set[Name] = set()  # cells that a whole GPU is asked for, since a part of one was too little
        self.later: list[tuple[float, Name]] = []
        self.problems: list[str] = []

    def run(self, cells: Iterable[Name]) -> None:
        queue = deque(cells)
        while queue or self.running or self.later:
            queue.extend(cell for due, cell in self.later if due <= time.monotonic())
            self.later = [(due, cell) for due, cell in self.later if due > time.monotonic()]
            while queue and len(self.running) < self._slots(queue[0]):
                self._submit(queue.popleft())
            if not self.running:
                time.sleep(1.0)
            ended = self.ray.wait(list(self.running), timeout=1.0)[0] if self.running else []
            self._hear()
            for task in ended:
                queue.extend(self._end(task, self.running.pop(task)))
        self._hear()
        if self.problems:
            raise ZooError("\n".join(dict.fromkeys(self.problems)))

    def _slots(self, cell: Name) -> int:
        """How many cells the cluster takes at once, were all like this one."""
        if self.jobs is not None:
            return self.jobs
        has = self.ray.cluster_resources()
        return max(1, int(has.get("GPU", 0) / self._share(cell)) if self.order.device.startswith("cuda") else int(has.get("CPU", 1)))

    def _share(self, cell: Name) -> float:
        """The part of a GPU that a cell needs, as measured so far."""
        if cell in self.alone:
            return 1.0
        root = Path(self.order.results) / "records"
        return gpu_share(load_records(root, self.order.id), cell[0])

    def _submit(self, cell: Name) -> None:
        share = self._share(cell) if self.order.device.startswith("cuda") else 0.0
        task = self.work.options(num_cpus=1, num_gpus=share, name=f"{cell[0]} (seed {cell[1]})").remote(self.order, *cell, share, self.sink)
        self.running[task] = cell

    def _hear(self) -> None:
        for event in self.ray.get(self.sink.take.remote()):
            deliver(event, self.follow)

    def _end(self, task: Any, cell: Name) -> list[Name]:
        """What an ended task leaves to do: its cell once more, or nothing."""
        try:
            status = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(getattr(error, "cause", None), ZooError) else None
            self.problems.append(str(cause) if cause else f"{cell[0]} (seed {cell[1]}): {str(error).strip().splitlines()[-1]}")
            return []
        except self.ray.exceptions.RayError as error:
            return self._lose(cell, type(error).__name__)
        if status == HELD:
            self.later.append((time.monotonic() + PAUSE, cell))
        if status == "oom" and cell not in self.alone and self.order.device.startswith("cuda"):
            self.alone.add(cell)
            self.follow.say(f"{cell[0]} (seed {cell[1]}) ran out of its part of a GPU; once more with a whole one")
            return [cell]
        return []

    def _lose(self, cell: Name, reason: str) -> list[Name]:
        self.lost[cell] += 1
        self.follow.lost(*cell)
        if self.lost[cell] > RESTARTS:
            self.problems.append(f"{cell[0]} (seed {cell[1]}): its process was lost {self.lost[cell]} times ({reason}); the same command goes on from "
                                 "its checkpoint")  # fmt: skip
            return []
        self.follow.say(f"{cell[0]} (seed {cell[1]}): its process or node was lost ({reason}); taken up again from its checkpoint")
        return [cell]


def _task(ray: Any, device: str, work: Callable[..., Any]) -> Any:
    """Work as a task. A process that has used a GPU ends with its task: another one may be given another GPU, or another part of it, and CUDA knows
    those that it began with. Ray does so by itself only where GPUs are named here, and not with each task."""
    return ray.remote(max_retries=0, max_calls=1 if device.startswith("cuda") else 0)(work)


class _Sink:
    """An actor beside the driver: keeps what tasks tell until the driver takes it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def put(self, event: dict[str, Any]) -> None:
        """One event."""
        self.events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """All since the last time."""
        events, self.events = self.events, []
        return events


def _work(order: Order, method: str, seed: int, share: float, sink: Any) -> str:
    """In a process of the cluster: one cell. How it ended, or that another process has it."""
    import zoo
    from zoo.harness.trackers import trackers

    if not Path(order.token).is_file():
        raise ZooError(f"{os.uname().nodename} does not see the results folder of the process that started the run: results must lie on storage that all "
                       "machines share, under the same path")  # fmt: skip
    if 0.0 < share < 1.0:
        os.environ[MEMORY_SHARE] = f"{share:.4f}"
    outcomes = zoo.run(
        order.comparison,
        methods=[method],
        seeds=[seed],
        registry=zoo.load_registry(*order.registry),
        results=order.results,
        pair_paths=order.pair_paths,
        data=order.data,
        device=order.device,
        quiet=True,
        worker=True,
        listeners=[Wire(sink.put.remote), *trackers(order.trackers, order.results, order.id)],
        **order.told,
    )
    if outcomes:
        return outcomes[0].status
    left = [c for c in zoo.plan(order.comparison, methods=[method], registry=zoo.load_registry(*order.registry), results=order.results,
                                pair_paths=order.pair_paths, data=order.data).cells if c.seed == seed and c.state != "done"]  # fmt: skip
    return HELD if left else "success"


def gpu_share(records: Iterable[Record], method: str) -> float:
    """The part of a GPU that a cell of a method is given: its measured need over the smallest GPU that was measured on, in hundredths, rounded up. A whole
    one where nothing has been measured, or where no two would fit."""
    found = list(records)
    sizes = [gpu["memory_bytes"] for record in found for gpu in record.run.provenance.get("hardware", {}).get("gpus", ())]
    need = memory_needed(found, method)
    share = math.ceil(100 * need / min(sizes)) / 100 if need and sizes else 1.0
    return share if share <= 0.5 else 1.0


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise ZooError("--engine ray needs the package ray: pip install 'opd-zoo[ray]'") from None
    return ray


@contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """Connected to a cluster; a local one ends with the call."""
    if address.startswith("ray://"):
        raise ZooError(f"--address {address}: run the command on a machine of the cluster, with --address auto or HOST:PORT")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", namespace=f"zoo-{uuid4().hex[:8]}")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ZooError(f"no Ray cluster at --address {address} ({reason}); start one with `ray start --head`, or give --address local") from None
    try:
        with _unheard():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _unheard() -> Iterator[None]:
    """Ray prints on this process's stdout what its daemons complain about, pages for one lost node; the run says it in a line."""
    module = import_module("ray._private.worker")
    printed = getattr(module, "print_to_stdstream", None)
    module.print_to_stdstream = lambda *_, **__: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.print_to_stdstream = printed  # type: ignore[attr-defined]


@contextmanager
def _token(file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("seen by every task of one run\n", encoding="utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
