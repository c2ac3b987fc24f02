"""Several cells of a comparison at once on one machine: worker processes that take cells from the same plan.

A worker is the same command with `--worker`, in a process forked from a warm server (`zoo.harness.forked`). It walks the plan and leaves out cells that
are done or that another worker holds the lock of, so each cell is run once whoever comes first. A worker that is killed leaves its checkpoint; a new one
goes on from there (`zoo.harness.crew`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.harness.board import Board
from zoo.harness.crew import Crew, Name
from zoo.harness.parallel import CONTEXT, MEMORY_SHARE
from zoo.harness.report import Listener
from zoo.harness.shared_teachers import Sharing
from zoo.records import Record

SLACK = 1.2  # of a peak: what the allocator keeps beyond it


def run_packed(
    arguments: Sequence[str], jobs: int, follow: Listener | Callable[[str], None], device: str | None = None, sharing: Sharing | None = None
) -> None:
    """Run `zoo ARGUMENTS --worker` in so many processes until no cell is left to them, over all GPUs if the device that the arguments name, if they name
    one, is a plain `cuda`; a killed one is replaced. What they say goes to a listener, or as lines to a function. Those of one GPU use it at once
    (`zoo.harness.mps`) and, where `sharing` pays, have one copy of their teachers.

    Raises:
        ZooError: a worker refused its input or failed, with its own words; the others were let finish.
    """
    heard = follow if isinstance(follow, Listener) else Board(follow, cells=0, budget=0)
    places = places_of(device or "cuda", jobs)  # without GPUs that is one place all the same
    problems = Crew(arguments, heard, places, device or ("cuda" if torch.cuda.is_available() else "cpu"), sharing).work()
    if problems:
        raise ZooError("\n".join(dict.fromkeys(problems)).removeprefix("zoo: "))


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
