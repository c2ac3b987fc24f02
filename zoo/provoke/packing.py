"""Several runs at once, each on one thread of its own process.

Why not the workers of `zoo.harness.packing`: those are whole commands that walk the same plan, each with its part of a GPU, its models loaded once, lines of
events to a board, and a successor if it is killed. That rests on a record of every attempt, by which a worker knows what has failed beside it. A
provocation that fails leaves none, so each worker would try it again; and a standard pool, which does for runs of seconds, can't replace a killed process.
The processes of both are forked from the same warm server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.harness.forked import start_server
from zoo.harness.plan import Place
from zoo.provoke.running import Cell, done_keys, key_of, run_cells
from zoo.quiet import quiet_libraries

Say = Callable[[str], None]


def run_all(cells: Sequence[Cell], results: Path, jobs: int, say: Say) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the cells that have no record, `jobs` at once; gives the new records and a line for each run that failed. The others go on.

    Raises:
        ZooError: a set-up is wrong, before anything runs; a process was killed.
    """
    place = Place(results=results)
    known = done_keys(place)
    todo = [cell for cell in cells if key_of(cell, place) not in known]
    if jobs == 1 or len(todo) < 2:
        return _one_after_another(todo, place, say)
    # Child processes read the number of threads when they load their libraries.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    made, failed = [], []
    with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=start_server()) as pool:
        waiting: dict[Future[list[dict[str, Any]]], Cell] = {pool.submit(_alone, cell, results): cell for cell in todo}
        for future in as_completed(waiting):
            cell = waiting[future]
            try:
                records = future.result()
            except BrokenProcessPool:
                raise ZooError("a process was killed (out of memory, perhaps); the same command goes on with what is left, with fewer --jobs") from None
            except Exception as error:
                failed.append(_failure(cell, error))
                continue
            made += records
            for record in records:
                say(_line(record))
    return made, failed


def _line(record: dict[str, Any]) -> str:
    from zoo.provoke.running import summary

    return summary(record)


def _alone(cell: Cell, results: Path) -> list[dict[str, Any]]:
    quiet_libraries()
    return list(run_cells([cell], Place(results=results)))


def _one_after_another(cells: Sequence[Cell], place: Place, say: Say) -> tuple[list[dict[str, Any]], list[str]]:
    made, failed = [], []
    for cell in cells:
        try:
            made += list(run_cells([cell], place, say))
        except Exception as error:
            failed.append(_failure(cell, error))
    return made, failed


def _failure(cell: Cell, error: BaseException) -> str:
    return f"{cell.name} s{cell.seed}: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
