"""Running a comparison: each cell trained, evaluated, recorded; what is done is skipped, what was cut off goes on."""

from __future__ import annotations

import gc
import json
import resource
import shutil
import time
import uuid as uuids
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from rich.console import Console

from zoo.compat import pair_problems
from zoo.entry import MethodEntry, Registry, body
from zoo.errors import ZooError
from zoo.harness.checkpoint import load_checkpoint, save_checkpoint, split_state
from zoo.harness.comparison import Comparison
from zoo.harness.decode import Decoder
from zoo.harness.engine import decoding_copy
from zoo.harness.evaluate import evaluate, lm_eval_version
from zoo.harness.learners import extra_state, load_extra_state, load_optimizer_tensors, optimizer_tensors
from zoo.harness.models import LoadedPair, PairSpec, load_pair, load_pair_spec
from zoo.harness.parallel import Processes, start_processes
from zoo.harness.plan import Cell, Place, make_plan, trains
from zoo.harness.report import progress_of
from zoo.harness.suites import load_suite, suite_digest
from zoo.harness.train import Diverged, Phases, Spent, Trainer, make_trainer
from zoo.provenance import provenance, without_paths
from zoo.records import digest_json, write_record


@dataclass(frozen=True)
class Outcome:
    """How one cell ended; `record` is its folder."""

    cell: Cell
    status: str
    record: Path | None
    message: str = ""


@dataclass
class Session:
    """What all cells of one call share: models in memory, place, processes."""

    comparison: Comparison
    registry: Registry
    place: Place
    pair: LoadedPair
    processes: Processes
    console: Console | None
    arguments: list[str] | None = None

    def say(self, text: str) -> None:
        """One line, from the main process."""
        if self.console is not None and self.processes.main:
            self.console.print(text, highlight=False)


def run_comparison(
    comparison: Comparison,
    registry: Registry,
    place: Place,
    *,
    methods: Iterable[str] | None = None,
    device: str | None = None,
    console: Console | None = None,
    trust_remote_code: bool = False,
    weights_note: str | None = None,
    arguments: list[str] | None = None,
) -> list[Outcome]:
    """Run every cell that is not done, in one process with the models loaded once (or in several under `accelerate launch`).

    A cell that fails is recorded with its status and the others go on. `weights_note` says in records and tables what is
    special about local weights (de-quantised ones, say).

    Raises:
        ZooError: bad input, a cell locked by another process, a full disk.
    """
    plan = make_plan(comparison, registry, place, methods)
    todo = [cell for cell in plan.cells if cell.state != "done"]
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    processes = start_processes(chosen)
    if not todo:
        return []
    spec = load_pair_spec(comparison.pair)
    spec = spec.model_copy(update={"weights_note": weights_note}) if weights_note else spec
    pair = load_pair(spec, paths=place.pair_paths, data=place.data, device=processes.device, trust_remote_code=trust_remote_code)
    session = Session(comparison, registry, place, pair, processes, console, arguments)
    _refuse_misfits(session, {cell.method for cell in todo})
    return [_run_cell(session, cell) for cell in todo]


def _refuse_misfits(session: Session, methods: set[str]) -> None:
    prompt, spec = session.pair.task.prompts("train")[0], session.pair.spec
    found = []
    for name in sorted(methods):
        problems = pair_problems(
            session.registry[name],
            templates=spec.contexts,
            fields=prompt.fields,
            teachers=spec.teachers,
            checks=session.pair.task.checks,
            same_vocabulary=session.pair.same_vocabulary,
        )
        found += [f"method '{name}' on pair '{spec.id}': {p}" for p in problems]
    if found:
        raise ZooError("\n".join(found))


def _run_cell(session: Session, cell: Cell) -> Outcome:
    work = session.place.work(session.comparison.id, cell.method, cell.seed, cell.run_key)
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=0)
    try:
        if session.processes.main:
            lock.acquire()
    except Timeout:
        raise ZooError(f"another process is running {cell.method} (seed {cell.seed}) of '{session.comparison.id}'; wait for it, or stop it") from None
    try:
        outcome = _attempt(session, cell, work)
    finally:
        lock.release()
    session.processes.wait()
    if session.processes.main and outcome.record is not None:
        shutil.rmtree(work, ignore_errors=True)
    return outcome


def _attempt(session: Session, cell: Cell, work: Path) -> Outcome:
    entry = session.registry[cell.method]
    session.say(f"{cell.method} (seed {cell.seed})")
    if session.pair.student.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer: Trainer | None = None
    uuid = _attempt_uuid(work, cell)
    status: str = "success"
    failure: BaseException | None = None
    try:
        if trains(entry):
            trainer = make_trainer(entry, session.comparison, cell.seed, session.pair, session.processes)
            _train(session, cell, trainer, work)
    except Diverged as error:
        status, failure = "diverged", error
    except torch.OutOfMemoryError as error:
        status, failure = "oom", error
    except (ZooError, KeyboardInterrupt):
        raise
    except Exception as error:
        status, failure = "error", error
    if not session.processes.main:
        return Outcome(cell, status, None)
    return _finish(session, cell, entry, uuid, trainer, status, failure)


def _finish(session: Session, cell: Cell, entry: MethodEntry, uuid: str, trainer: Trainer | None, status: str, failure: BaseException | None) -> Outcome:
    """Evaluate and write the records; `run.json` comes last, so a cell without it is not done."""
    folder = session.place.records / session.comparison.id / cell.method / uuid
    seconds, tokens = 0.0, 0
    if status == "success":
        began = time.perf_counter()
        tokens = _evaluate(session, cell, entry, uuid, folder)
        seconds = time.perf_counter() - began
    write_record(folder, "run.json", _run_payload(session, cell, entry, uuid, trainer, status, failure, {"seconds": seconds, "tokens": tokens}))
    if trainer is not None:
        _write_steps(session, cell, uuid, trainer)
        trainer.engine.release()
    del trainer
    gc.collect()
    message = "" if failure is None else _first_line(failure)
    if status != "success":
        session.say(f"  {status}: {message}")
    return Outcome(cell, status, folder, message)


def _attempt_uuid(work: Path, cell: Cell) -> str:
    """The attempt's name, kept beside its checkpoint so that a resumed attempt writes the same record."""
    file = work / "uuid"
    if not file.is_file():
        file.write_text(str(uuids.uuid4()), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _train(session: Session, cell: Cell, trainer: Trainer, work: Path) -> None:
    restore(trainer, work / "checkpoint")
    every = session.comparison.settings.checkpoint_every
    saved = trainer.iteration

    def after_iteration() -> None:
        nonlocal saved
        if session.processes.main and (trainer.done or trainer.iteration - saved >= every):
            save(trainer, work / "checkpoint")
            saved = trainer.iteration

    console = session.console if session.processes.main else None
    with progress_of(console, f"  {cell.method}", trainer.progress) as say:
        trainer.train(say, after_iteration)


def save(trainer: Trainer, folder: Path) -> None:
    """Checkpoint everything that the next step depends on."""
    tensors = {"student": dict(trainer.pair.student.state_dict()), "optimizer": optimizer_tensors(trainer.optimizer), **extra_state(trainer.bank)}
    memories = {}
    for name, memory in trainer.memories.items():
        memories[name], tensors[f"memory:{name}"] = split_state(memory.state_dict())
    tied = trainer.pair.student.config.tie_word_embeddings
    tensors["student"] = {k: v for k, v in tensors["student"].items() if not (tied and k == "lm_head.weight")}
    state = {"spent": asdict(trainer.spent), "phases": asdict(trainer.phases), "iteration": trainer.iteration, "rows": trainer.rows, "memories": memories}
    save_checkpoint(folder, state, tensors)


def restore(trainer: Trainer, folder: Path) -> None:
    """Go on from a checkpoint, if there is one."""
    found = load_checkpoint(folder)
    if found is None:
        return
    state, tensors = found
    trainer.pair.student.load_state_dict(tensors["student"], strict=False)
    load_optimizer_tensors(trainer.optimizer, tensors["optimizer"])
    load_extra_state(trainer.bank, {k: v for k, v in tensors.items() if k.startswith(("ema:", "critic:"))})
    for name, memory in trainer.memories.items():
        memory.load_state_dict({**state["memories"][name], **tensors[f"memory:{name}"]})
    trainer.spent, trainer.phases = Spent(**state["spent"]), Phases(**state["phases"])
    trainer.iteration, trainer.rows = state["iteration"], state["rows"]


def _evaluate(session: Session, cell: Cell, entry: MethodEntry, uuid: str, folder: Path) -> int:
    """Evaluate on every suite and write the records; returns the number of tokens written in evaluation."""
    pair, comparison, tokens = session.pair, session.comparison, 0
    if entry.anchor == "student":
        pair.reset_student()
    model = pair.teachers[next(iter(pair.teachers))] if entry.anchor == "teacher" else pair.student
    if model.device.type == "cuda" and next(model.parameters()).dtype != torch.bfloat16:
        model = decoding_copy(model, torch.bfloat16)
    decoder = Decoder(model, pad_id=pair.pad_id, stop_ids=pair.stop_ids, max_batch=comparison.evaluation.batch, vocab_size=pair.vocab_size)
    for name in comparison.suites:
        suite, log = load_suite(name), _log_folder(session, cell) / f"{uuid}-{name}.parquet"
        tasks = evaluate(
            decoder,
            model,
            pair.tokenizer,
            suite,
            batch_size=comparison.evaluation.batch,
            limit=comparison.evaluation.limit,
            data_folder=session.place.data,
            prompt_suffix=pair.spec.prompt_suffix,
            log_path=log,
        )
        tokens += sum(int((t["mean_length"] or 0) * t["n"]) for t in tasks.values())
        if not (folder / f"eval-{name}.json").exists():
            write_record(folder, f"eval-{name}.json", {
                "schema": 1, "kind": "eval", "uuid": uuid, "run_key": cell.run_key, "comparison": comparison.id, "method": cell.method,
                "pair": pair.spec.id, "seed": cell.seed, "suite": name, "suite_digest": suite_digest(suite),
                "model": entry.anchor or "trained", "batch_size": comparison.evaluation.batch, "lm_eval_version": lm_eval_version(), "tasks": tasks,
            })  # fmt: skip
    decoder.stepper.release()
    return tokens


def _run_payload(
    session: Session, cell: Cell, entry: MethodEntry, uuid: str, trainer: Trainer | None, status: str, failure: BaseException | None, evaluation: Any
) -> dict[str, Any]:
    comparison, spent = session.comparison, asdict(trainer.spent) if trainer else asdict(Spent())
    phases = trainer.phases if trainer else Phases()
    error = None if failure is None else {"type": type(failure).__name__, "message": without_paths(_first_line(failure))}
    return {
        "schema": 1, "kind": "run", "uuid": uuid, "run_key": cell.run_key, "created": datetime.now(UTC).isoformat(), "status": status,
        "comparison": comparison.id, "method": cell.method, "pair": session.pair.spec.id, "seed": cell.seed,
        "asked": {**comparison.model_dump(mode="json"), "pair": session.pair.spec.id},
        "resolved": {"body": body(entry), "learning_rate": comparison.learning_rate(entry.id), "pair": _without_folders(session.pair.spec)},
        "entry_digest": digest_json(body(entry)),
        "budget": {"unit": comparison.budget.unit, "asked": comparison.budget.amount if trains(entry) else 0,
                   "spent": {**spent, "peak_memory_bytes": peak_memory(session.pair.student.device)}},
        "phases": {**{n: {"seconds": phases.seconds[n], "tokens": phases.tokens[n]} for n in phases.seconds}, "evaluate": evaluation},
        "final": {k: v for k, v in (trainer.rows[-1] if trainer and trainer.rows else {}).items() if isinstance(v, int | float)},
        "error": error, "weights_note": session.pair.spec.weights_note, "evidence": entry.evidence.model_dump(mode="json"),
        "provenance": {**provenance(session.arguments), "processes": session.processes.count},
    }  # fmt: skip


def _first_line(failure: BaseException) -> str:
    return next(iter(str(failure).splitlines()), type(failure).__name__)


def _without_folders(spec: PairSpec) -> dict[str, Any]:
    """A pair's declaration with local folders reduced to their names: a record says nothing about somebody's machine."""
    dump = spec.model_dump(mode="json")
    for source in (dump["student"], dump["task"], *dump["teachers"].values()):
        source["path"] = source["path"] and Path(source["path"]).name
    return dump


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest point: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _log_folder(session: Session, cell: Cell) -> Path:
    return session.place.results / "logs" / session.comparison.id / f"{cell.method}-s{cell.seed}"


def _write_steps(session: Session, cell: Cell, uuid: str, trainer: Trainer) -> None:
    folder = _log_folder(session, cell)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(trainer.rows).to_parquet(folder / f"{uuid}-steps.parquet")


def status_of(comparison: Comparison, registry: Registry, place: Place) -> list[dict[str, Any]]:
    """Every cell's state, with the progress of those that have begun."""
    found = []
    for cell in make_plan(comparison, registry, place).cells:
        row: dict[str, Any] = {"method": cell.method, "seed": cell.seed, "state": cell.state, "reason": cell.reason}
        state = place.work(comparison.id, cell.method, cell.seed, cell.run_key) / "checkpoint" / "state.json"
        if cell.state == "started" and state.is_file():
            spent = json.loads(state.read_text(encoding="utf-8"))["spent"]
            row["progress"] = spent["supervised_tokens"] / comparison.budget.amount
        found.append(row)
    return found
