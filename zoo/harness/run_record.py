"""What `run.json` says about one attempt at one cell, and the logs beside it."""

from __future__ import annotations

import re
import resource
import sys
import traceback
import uuid as uuids
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from zoo.entry import body
from zoo.harness.lag import worst
from zoo.harness.models import LoadedPair, PairSpec
from zoo.harness.plan import Cell, trains
from zoo.harness.shared_teachers import bytes_of
from zoo.harness.suites import load_suite
from zoo.harness.train import Phases, Spent, Trainer
from zoo.provenance import provenance, without_paths
from zoo.record_types import Status
from zoo.records import digest_json

LOGGED = re.compile(r"(kept|weight|advantage|lag|seen|ratio)\.|(seconds|snr|grad_noise|\w+_tokens)$")  # columns that stay in the logs
ELSEWHERE = re.compile(r" Process \d+ has \S+ \S+ memory in use\.| Of the allocated memory .*")  # of CUDA's message: other processes, and advice

if TYPE_CHECKING:
    from zoo.harness.run import Session


def attempt_uuid(records: Path, work: Path) -> str:
    """The attempt's name, kept beside its checkpoint so that a resumed attempt writes the same record, unless that one, among the method's, says failed."""
    file = work / "uuid"
    uuid = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not uuid or (records / uuid / "run.json").exists():
        uuid = str(uuids.uuid4())
        (work / "uuid.partial").write_text(uuid, encoding="utf-8")
        (work / "uuid.partial").rename(file)
    return uuid


def run_payload(
    session: Session, cell: Cell, uuid: str, trainer: Trainer | None, status: Status, failure: BaseException | None, evaluation: dict[str, float]
) -> dict[str, Any]:
    """The record of an attempt, whatever its end."""
    entry = session.registry[cell.method]
    comparison, spent = session.comparison, asdict(trainer.spent) if trainer else asdict(Spent())
    phases = trainer.phases if trainer else Phases()
    error = None if failure is None else {"type": type(failure).__name__, "message": without_paths(first_line(failure))}
    return {
        "schema": 1, "kind": "run", "uuid": uuid, "run_key": cell.run_key, "created": datetime.now(UTC).isoformat(), "status": status,
        "comparison": comparison.id, "method": cell.method, "pair": session.pair.spec.id, "seed": cell.seed,
        "asked": {**comparison.model_dump(mode="json"), "pair": session.pair.spec.id, "suites": [load_suite(name).id for name in comparison.suites]},
        "resolved": {"body": body(entry), "learning_rate": comparison.learning_rate(entry.id), "pair": _without_folders(session.pair.spec)},
        "entry_digest": digest_json(body(entry)),
        "budget": {"unit": comparison.budget.unit, "asked": comparison.budget.amount if trains(entry) else 0,
                   "spent": {**spent, "peak_memory_bytes": peak_memory(session.pair)},
                   **({"teachers": teachers} if (teachers := trainer.accounts.figures() if trainer else {}) else {}),
                   **({"endpoints": {name: one.ledger.figures() for name, one in session.pair.endpoints.items()}} if session.pair.endpoints else {})},
        "phases": {**{n: {"seconds": phases.seconds[n], "tokens": phases.tokens[n]} for n in phases.seconds}, "evaluate": evaluation},
        "final": {k: v for k, v in (trainer.rows[-1] if trainer and trainer.rows else {}).items() if isinstance(v, int | float) and not LOGGED.match(k)},
        **({"lag0": lag} if (lag := worst(trainer.rows if trainer else [])) else {}),
        "error": error, "weights_note": session.pair.spec.weights_note, "evidence": entry.evidence.model_dump(mode="json"),
        "provenance": {**provenance(session.arguments), "processes": session.processes.count, "device": session.processes.device.type},
    }  # fmt: skip


def first_line(failure: BaseException | None) -> str:
    """An error's first line, or its type where it says nothing; empty for no error. Of a GPU without memory: what was asked for, what there is, and
    what this process has of it."""
    if failure is None:
        return ""
    line = next(iter(str(failure).splitlines()), type(failure).__name__)
    return ELSEWHERE.sub("", line).rstrip(" ;") if isinstance(failure, torch.OutOfMemoryError) else line


def _without_folders(spec: PairSpec) -> dict[str, Any]:
    """A pair's declaration with local folders reduced to their names: a record says nothing about somebody's machine."""
    dump = spec.model_dump(mode="json")
    for source in (dump["student"], dump["task"], *dump["teachers"].values()):
        source["path"] = source["path"] and Path(source["path"]).name
    for endpoint in dump.get("endpoints", {}).values():
        endpoint["cache"] = endpoint["cache"] and Path(endpoint["cache"]).name
    return dump


def peak_memory(pair: LoadedPair) -> int:
    """Bytes at the highest point: of the device on CUDA, of the process elsewhere. Teachers that another process keeps for this one are counted, as
    they would be if they were its own."""
    if pair.student.device.type == "cuda":  # whose allocator knows nothing of memory that is another process's
        return int(torch.cuda.max_memory_allocated()) + (bytes_of(pair.teachers.values()) if pair.lent else 0)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def log_folder(session: Session, cell: Cell) -> Path:
    """Where a cell's per-step and per-item logs go."""
    return session.place.results / "logs" / session.comparison.id / f"{cell.method}-s{cell.seed}"


def write_logs(session: Session, cell: Cell, uuid: str, trainer: Trainer | None, failure: BaseException | None) -> None:
    """What is kept beside the records and never committed: one row a step, probes, and the traceback of a failure."""
    folder = log_folder(session, cell)
    folder.mkdir(parents=True, exist_ok=True)
    if trainer is not None and trainer.rows:
        pd.DataFrame(trainer.rows).to_parquet(folder / f"{uuid}-steps.parquet")
        trainer.looks.write(folder, uuid)
    if failure is not None:
        (folder / f"{uuid}-failure.txt").write_text("".join(traceback.format_exception(failure)), encoding="utf-8")
