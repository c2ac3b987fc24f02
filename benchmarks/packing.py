"""Methods an hour, one cell at a time against several at once: the same cells, each time in a fresh results folder.

python benchmarks/packing.py COMPARISON [--jobs 1,2,4] [--device cuda] [--budget TOKENS] [--limit ITEMS] [--method ID ...] [--seeds N] [--json FILE]
    [-- OPTIONS OF zoo run]

COMPARISON is an id or a YAML file; --budget, --limit and --method shrink it, --seeds runs each method so many times, from seed 0 on. Wall time is from the
command's start to its table, start-up and evaluation in it. Processor time is that of all its processes, the server that workers are forked from among
them (complete on Linux): where other work shares the cores, it is the figure to read, since wall time then measures the others. Before the first row
all modules are loaded once, untimed: they are compiled then, as an installer would have done, and in the file cache, for every row alike.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

from zoo.harness.comparison import load_comparison
from zoo.harness.packing import memory_needed
from zoo.paths import declared
from zoo.records import load_records


def shrunk(name: str, folder: Path, given: argparse.Namespace) -> Path:
    """The comparison's file with a smaller budget, fewer items, fewer methods, and so many seeds."""
    values = yaml.safe_load(declared("comparison", name).read_text())
    values["id"] = "packing"
    if given.budget:
        values["budget"]["amount"] = given.budget
    if given.limit:
        values.setdefault("evaluation", {})["limit"] = given.limit
    if given.method:
        values["methods"] = given.method
        values["overrides"] = {method: own for method, own in values.get("overrides", {}).items() if method in given.method}
    if given.seeds:
        values["seeds"] = list(range(given.seeds))
    file = folder / "packing.yaml"
    file.write_text(yaml.safe_dump(values))
    load_comparison(file)
    return file


def adopt_orphans() -> None:
    """On Linux: processes that the command leaves behind as it ends (the server of its workers) become children of this one, and can be waited for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def wait_for_all() -> None:
    """Let every child end: only then does its processor time count."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def measured(file: Path, jobs: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One run of all cells."""
    results = folder / f"results-{jobs}"
    command = [sys.executable, "-m", "zoo", "run", str(file), "--results", str(results), "--tables", str(folder / "tables"), "--jobs", str(jobs)]
    command += ["--device", given.device, *given.options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.perf_counter() - began
    wait_for_all()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    records = load_records(results / "records", "packing")
    good = [record for record in records if record.run.status == "success"]
    if done.returncode or not good:
        print(done.stderr[-2000:], file=sys.stderr)
    spent = [record.run.budget.spent for record in good]
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "jobs": jobs, "seeds": len({record.run.seed for record in records}), "cells": len(good), "failed": len(records) - len(good),
        "wall_s": wall, "cells_per_hour": 3600 * len(good) / wall,
        "processor_s": processor, "tokens_per_wall_s": sum(s["supervised_tokens"] or 0 for s in spent) / wall,
        "inside_cells_s": sum(s["seconds"] or 0 for s in spent), "peak_bytes": max((s.get("peak_memory_bytes") or 0 for s in spent), default=0),
        "reserved_bytes": memory_needed(records),
    }  # fmt: skip


def load_modules(folder: Path) -> None:
    """Have all modules compiled, in this folder where Python is told to write no compiled ones beside them (some images say so for their build)."""
    if sys.dont_write_bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    subprocess.run([sys.executable, "-c", "import zoo.harness.warm, zoo.tables"], check=True)


def without_folders(arguments: Sequence[str]) -> list[str]:
    """Arguments with paths cut down to their names, also behind an equals sign."""
    return ["=".join(Path(part).name if "/" in part else part for part in argument.split("=")) for argument in arguments]


def main() -> None:
    """Measure each number of jobs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison")
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--method", nargs="*")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--json", type=Path)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)  # argparse of Python 3.12 and of 3.11 differ on what follows a list and --
    given = parser.parse_args(sys.argv[1:end])
    given.options = sys.argv[end + 1 :]
    adopt_orphans()
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        load_modules(Path(folder) / "compiled")
        file = shrunk(given.comparison, Path(folder), given)
        for jobs in map(int, given.jobs.split(",")):
            rows.append(measured(file, jobs, Path(folder), given))
            row = rows[-1]
            print(f"jobs {jobs}: {row['cells']} cells in {row['wall_s']:.1f} s, {row['cells_per_hour']:.0f} an hour "
                  f"({row['cells_per_hour'] / max(rows[0]['cells_per_hour'], 1e-9):.2f} times the first), {row['processor_s']:.1f} s of processor, "
                  f"peak {row['peak_bytes'] / 2**30:.2f} GiB", flush=True)  # fmt: skip
    where = torch.cuda.get_device_name() if given.device.startswith("cuda") else platform.processor() or platform.machine()
    told = {"where": where, "cores": os.cpu_count(), "load_before": load, "torch": torch.__version__, "arguments": without_folders(sys.argv[1:]), "rows": rows}
    print(f"{where}, {told['cores']} cores, load {load:.1f} before, torch {torch.__version__}")
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
