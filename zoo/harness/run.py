"""Running a comparison: each cell trained, evaluated, recorded; what is done is skipped, what was cut off goes on."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from zoo.entry import Registry
from zoo.errors import ZooError
from zoo.harness.board import screen
from zoo.harness.cell import make_trainer
from zoo.harness.checkpoint import restore, save
from zoo.harness.comparison import Comparison
from zoo.harness.device import lost, refuse_lost, shared
from zoo.harness.diagnose_records import write_diagnoses
from zoo.harness.evaluate import evaluate, lm_eval_version
from zoo.harness.keep import keep_weights
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.parallel import Processes, start_processes
from zoo.harness.plan import DONE, Cell, Place, ended, make_plan, trains
from zoo.harness.ready import origin_note, refuse_misfits, settle_threads
from zoo.harness.report import Listener, Several
from zoo.harness.run_record import attempt_uuid, first_line, log_folder, run_payload, write_logs
from zoo.harness.shadow import decoding_copy
from zoo.harness.sharding import wanted as sharding_wanted
from zoo.harness.shared_teachers import borrowed
from zoo.harness.suites import load_suite, suite_digest
from zoo.harness.tidy import remove_torn, tidy
from zoo.harness.train import Diverged, Trainer
from zoo.harness.vllm import options_for
from zoo.harness.writers import Decoder
from zoo.record_types import Status
from zoo.records import NO_SPACE, load_records, write_record

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Outcome:
    """How one cell ended; `record` is its folder."""

    cell: Cell
    status: Status
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
    listener: Listener
    arguments: list[str] | None = None
    worker: bool = False
    before: frozenset[str] = frozenset()  # attempts that were there when this call began
    whole: Any = None  # of sharded models, the one that is being evaluated


def run_comparison(
    comparison: Comparison,
    registry: Registry,
    place: Place,
    *,
    methods: Iterable[str] | None = None,
    seeds: Collection[int] | None = None,
    device: str | None = None,
    console: Console | None = None,
    listeners: Sequence[Listener] = (),
    trust_remote_code: bool = False,
    untrusted_code: bool = False,
    weights_note: str | None = None,
    arguments: list[str] | None = None,
    worker: bool = False,
) -> list[Outcome]:
    """Run every cell that is not done, in one process with the models loaded once (or in several under `accelerate launch`).

    A cell that fails is recorded with its status and the others go on. What goes on is told to `listeners`, and on `console`:
    to a reader, or by a `worker` as lines of JSON. A `worker` leaves cells alone that another process is running. `weights_note` says in records and
    tables what is special about local weights (de-quantised ones, say).

    Raises:
        ZooError: bad input, a cell locked by another process, a full disk.
    """
    before = frozenset(record.run.uuid for record in load_records(place.records, comparison.id))
    plan = make_plan(comparison, registry, place, methods)
    todo = [cell for cell in plan.cells if cell.state != "done" and (seeds is None or cell.seed in seeds)]
    processes = start_processes(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if processes.main:
        tidy(comparison, place, [cell for cell in plan.cells if cell.state == "done"])
    if not todo:
        return []
    spec = load_pair_spec(comparison.pair)
    spec = spec.model_copy(update={"weights_note": note}) if (note := weights_note or origin_note(spec, place)) else spec
    told: dict[str, Any] = {"device": processes.device, "trust_remote_code": trust_remote_code}
    split = processes if sharding_wanted(comparison, processes) else None
    lender = partial(borrowed, print, trust_remote_code) if worker and split is None else None
    pair = load_pair(spec, paths=place.pair_paths, data=place.data, split=split, lender=lender, **told)
    pair.untrusted_code = untrusted_code
    settle_threads(pair)
    refuse_misfits(pair, registry, {cell.method for cell in todo})
    heard = [*listeners, *([screen(console, len(todo), plan.tokens_each, worker)] if console else [])] if processes.main else []
    session = Session(comparison, registry, place, pair, processes, Several(heard), arguments, worker, before)
    gc.collect()
    gc.freeze()  # libraries and models stay: what a cell leaves behind is then found in a tenth of the time
    try:
        outcomes = [_run_cell(session, cell) for cell in todo]
    finally:
        gc.unfreeze()
        session.listener.close()
    return [outcome for outcome in outcomes if outcome is not None]


def _run_cell(session: Session, cell: Cell) -> Outcome | None:
    """How the cell ended; None where another process has it, or had it, and this one is a worker beside it."""
    work = session.place.work(session.comparison.id, cell.method, cell.seed, cell.run_key)
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=0)
    try:
        if session.processes.main:
            lock.acquire()
    except Timeout:
        if session.worker:
            return None
        raise ZooError(f"another process is running {cell.method} (seed {cell.seed}) of '{session.comparison.id}'; wait for it, or stop it") from None
    name = f"{cell.method} (seed {cell.seed})"
    try:
        done = _done_meanwhile(session, cell)
        outcome = done or _attempt(session, cell, work)
        if outcome.status == "error":
            refuse_lost(name, outcome.message, recorded=True)
        session.processes.wait()
        if session.processes.main and outcome.status in DONE:
            shutil.rmtree(work, ignore_errors=True)
    except RuntimeError as error:
        refuse_lost(name, first_line(error))
        raise
    finally:
        lock.release()
    return outcome


def _done_meanwhile(session: Session, cell: Cell) -> Outcome | None:
    """How the cell ended where another process has finished it since this call began; for a worker, also where it failed there."""
    records = load_records(session.place.records, session.comparison.id) if session.processes.main else []
    fresh = [r.run.status for r in records if r.run.run_key == cell.run_key and r.run.uuid not in session.before and r.withdrawn is None]
    status = ended(records, cell.run_key) or (fresh[-1] if fresh and session.worker else None)
    known = session.processes.total_int(0 if status is None else STATUSES.index(status) + 1)
    return Outcome(cell, STATUSES[known - 1], None, "finished by another process") if known else None


def _attempt(session: Session, cell: Cell, work: Path) -> Outcome:
    entry = session.registry[cell.method]
    if session.pair.student.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer: Trainer | None = None
    status: Status = "success"
    failure: BaseException | None = None
    if not trains(entry):
        session.listener.begin(cell.method, cell.seed, 0.0)
    else:
        trainer = make_trainer(entry, session.comparison, cell.seed, session.pair, session.processes)
        status, failure = _tried(partial(_train, session, cell, trainer, work))
        if session.processes.count > 1 and status not in DONE:
            # The others wait for this process's sums and can't be told; ending it makes the launcher end them all.
            raise ZooError(f"{cell.method}: process {session.processes.rank} failed ({first_line(failure)}); run the same command again to go on from the "
                           "last checkpoint") from failure  # fmt: skip
    if session.pair.split is not None and status == "success":
        session.whole = _whole(session, cell, trainer)
    if not session.processes.main:
        session.whole = None
        return Outcome(cell, status, None)
    return _finish(session, cell, work, trainer, status, failure)


def _whole(session: Session, cell: Cell, trainer: Trainer | None) -> Any:
    """The sharded model that is to be evaluated, gathered by all processes for the main one."""
    if trainer is not None:
        return trainer.engine.whole_student()
    pair, anchor = session.pair, session.registry[cell.method].anchor
    model = pair.teachers[next(iter(pair.teachers))] if anchor == "teacher" else pair.reset_student()
    return decoding_copy(model, torch.bfloat16 if model.device.type == "cuda" else None)


def _tried(work: Callable[[], None]) -> tuple[Status, BaseException | None]:
    """How a piece of work ends. Bad input, a full disk, the user's interrupt and a fault of some process on a GPU that several share are no failures of the
    cell: they end the command."""
    try:
        work()
    except Diverged as error:
        return "diverged", error
    except torch.OutOfMemoryError as error:
        return "oom", error.with_traceback(None)  # its frames hold the tensors that took the memory
    except ZooError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise ZooError(f"the disk is full ({error}); nothing recorded was lost, free space and run the same command again") from None
        if shared() and lost():
            raise
        return "error", error
    return "success", None


def _finish(session: Session, cell: Cell, work: Path, trainer: Trainer | None, status: Status, failure: BaseException | None) -> Outcome:
    """Evaluate and write the records; `run.json` comes last, so a cell without it is not done."""
    records = session.place.records / session.comparison.id / cell.method
    uuid = attempt_uuid(records, work)
    folder = records / uuid
    remove_torn(folder)
    evaluation: dict[str, float] = {"seconds": 0.0, "tokens": 0}
    if status == "success":
        if trainer is not None and session.comparison.settings.keep_weights:
            keep_weights(session, cell, uuid, session.whole or session.pair.student)
        session.listener.evaluating(cell.method, cell.seed)
        status, failure = _tried(partial(_evaluate, session, cell, uuid, folder, evaluation))
    _tried(partial(write_logs, session, cell, uuid, trainer, failure))
    _tried(partial(write_diagnoses, session, cell, uuid, trainer, folder))
    write_record(folder, "run.json", run_payload(session, cell, uuid, trainer, status, failure, evaluation))
    if trainer is not None:
        trainer.engine.release()
    del trainer
    gc.collect()
    message = first_line(failure)
    session.listener.end(cell.method, cell.seed, status, message)
    return Outcome(cell, status, folder, message)


def _train(session: Session, cell: Cell, trainer: Trainer, work: Path) -> None:
    restore(trainer, work / "checkpoint")
    trainer.diagnosis.keep(work / "diagnostics")
    every = session.comparison.settings.checkpoint_every
    saved = trainer.iteration

    def after_iteration() -> None:
        nonlocal saved
        if trainer.done or trainer.iteration - saved >= every:
            session.processes.wait()  # for what the others have seen
            saved = trainer.iteration
            if session.processes.main or session.pair.split is not None:
                save(trainer, work / "checkpoint")

    session.listener.begin(cell.method, cell.seed, trainer.progress)
    trainer.train(partial(session.listener.step, cell.method, cell.seed), after_iteration)


def _evaluate(session: Session, cell: Cell, uuid: str, folder: Path, spent: dict[str, float]) -> None:
    """Evaluate on every suite that has no record yet and write the records; seconds and tokens are added to `spent`."""
    pair, anchor, batch, began = session.pair, session.registry[cell.method].anchor, session.comparison.evaluation.batch, time.perf_counter()
    if anchor == "student" and session.whole is None:
        pair.reset_student()
    model = session.whole or (pair.teachers[next(iter(pair.teachers))] if anchor == "teacher" else pair.student)
    if model.device.type == "cuda" and next(model.parameters()).dtype != torch.bfloat16:
        model = decoding_copy(model, torch.bfloat16)
    beside = None if anchor == "teacher" else options_for(session.comparison.settings)
    decoder = Decoder(model, pad_id=pair.pad_id, stop_ids=pair.stop_ids, max_batch=batch, vocab_size=pair.vocab_size, vllm=beside)
    for name in session.comparison.suites:
        suite = load_suite(name)
        if (folder / f"eval-{suite.id}.json").exists():
            continue  # this attempt was cut off after it
        tasks = evaluate(
            decoder,
            model,
            pair.tokenizer,
            suite,
            batch_size=batch,
            limit=session.comparison.evaluation.limit,
            data_folder=session.place.data,
            prompt_suffix=pair.spec.prompt_suffix,
            log_path=log_folder(session, cell) / f"{uuid}-{suite.id}.parquet",
            allow_code=pair.untrusted_code or None,
        )
        spent["tokens"] += sum(int((t["mean_length"] or 0) * t["n"]) for t in tasks.values())
        write_record(folder, f"eval-{suite.id}.json", {
            "schema": 1, "kind": "eval", "uuid": uuid, "run_key": cell.run_key, "comparison": session.comparison.id, "method": cell.method,
            "pair": pair.spec.id, "seed": cell.seed, "suite": suite.id, "suite_digest": suite_digest(suite),
            "model": anchor or "trained", "batch_size": batch, "lm_eval_version": lm_eval_version(), "tasks": tasks,
        })  # fmt: skip
    decoder.writers.release()
    session.whole = None
    spent["seconds"] += time.perf_counter() - began
