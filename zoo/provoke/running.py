"""One cell: a doctored pair trained for seconds, every detector asked, one record written."""

from __future__ import annotations

import copy
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from zoo.compat import pair_problems
from zoo.errors import ZooError
from zoo.failures import Finding, RunLogs, detect_all, load_catalogue
from zoo.failures.probes.scene import Sizes
from zoo.harness.cell import make_trainer
from zoo.harness.doctor import install
from zoo.harness.doctor_lessons import teach
from zoo.harness.doctor_task import DoctoredTask, TaskChanges
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.parallel import Processes
from zoo.harness.plan import Place, weights_digest
from zoo.harness.run_record import first_line
from zoo.harness.train import Diverged
from zoo.provenance import provenance, without_paths
from zoo.provoke.logs import Kept, Watch, logs_of
from zoo.provoke.setups import ARMS, Arm, Doctor, load_healthy, load_provocation, load_provocations
from zoo.records import digest_json, run_key, write_record

COMPARISON = "provocations"  # the folder of the records
HEALTHY = "healthy"
RECORD = "provocation.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One run: a failure mode's provocation or control, or one healthy method (`mode` is then `healthy`), with one seed."""

    mode: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """`fm05-control`, `healthy-gkd`: the folder of its records, and what its random numbers are named by."""
        return f"{self.mode.lower()}-{self.arm.replace('_', '-')}"

    def setup(self) -> Arm:
        """What is run."""
        return load_healthy().arm(self.arm) if self.mode == HEALTHY else load_provocation(self.mode).arm(self.arm)


def cells_of(modes: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """The runs of some failure modes; of all of them and the healthy runs where none is named."""
    named = list(modes) or [*load_provocations(), HEALTHY]
    found = []
    for mode in named:
        arms = load_healthy().methods if mode == HEALTHY else ARMS
        found += [Cell(mode, arm, seed) for arm in arms for seed in seeds]
    return found


def key_of(cell: Cell, place: Place) -> str:
    """The identity of a cell: its set-up, its weights, and the thresholds that it is judged by."""
    arm = cell.setup()
    limits = {name: mode.limits for name, mode in load_catalogue().items()}
    entry = arm.entry(cell.name)
    return run_key({
        "provocation": cell.name, "seed": cell.seed, "setup": arm.model_dump(mode="json", exclude={"summary"}), "limits": limits,
        "body": digest_json(entry.model_dump(mode="json", by_alias=True)),
        "settings": arm.comparison(cell.name, cell.seed).settings.model_dump(mode="json"),
        "weights": weights_of(arm.pair),
    })  # fmt: skip


@cache
def weights_of(pair: str) -> dict[str, str]:
    """The digests of a shipped pair's models."""
    spec = load_pair_spec(pair)
    return {name: weights_digest(spec, name, Place()) for name in ("student", *spec.teachers)}


def done_keys(place: Place) -> set[str]:
    """Keys of the cells that have a record."""
    import json

    return {str(json.loads(path.read_text(encoding="utf-8"))["run_key"]) for path in sorted((place.records / COMPARISON).glob(f"*/*/{RECORD}"))}


def run_cells(cells: Sequence[Cell], place: Place, say: Say = lambda line: None) -> Iterator[dict[str, Any]]:
    """Run what has no record yet; gives the records as they are written. A cell that another process is at is left to it."""
    torch.set_num_threads(1)
    known = done_keys(place)
    for cell in cells:
        key = key_of(cell, place)
        if key in known:
            continue
        work = place.results / "work" / COMPARISON
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / f"{cell.name}-s{cell.seed}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        try:
            if key not in done_keys(place):  # another process may have finished it meanwhile
                yield run_cell(cell, key, place, say)
        finally:
            lock.release()


def run_cell(cell: Cell, key: str, place: Place, say: Say = lambda line: None) -> dict[str, Any]:
    """Train, ask every detector, write the record; returns it."""
    began = time.perf_counter()
    logs, ended = trained(cell)
    findings = detect_all(logs)
    uuid = str(uuids.uuid4())
    payload = {
        "schema": 1, "kind": "provocation", "uuid": uuid, "run_key": key, "created": datetime.now(UTC).isoformat(), "comparison": COMPARISON,
        "method": cell.name, "failure_mode": None if cell.mode == HEALTHY else cell.mode, "arm": HEALTHY if cell.mode == HEALTHY else cell.arm,
        "seed": cell.seed, "pair": cell.setup().pair, "summary": cell.setup().summary, **ended,
        "seconds": round(time.perf_counter() - began, 1), "findings": {f.failure_mode: _short(f) for f in findings},
        "provenance": {k: v for k, v in provenance().items() if k in ("commit", "dirty", "packages")},
    }  # fmt: skip
    write_record(place.records / COMPARISON / cell.name / uuid, RECORD, payload)
    _keep_logs(place, cell, uuid, logs)
    say(summary(payload))
    return payload


def summary(record: dict[str, Any]) -> str:
    """One line about a finished cell."""
    fired = " ".join(
        f"{mode}:{found[0]}{'' if found[2] is None else '@' + str(found[2])}" for mode, found in record["findings"].items() if found[0] in ("amber", "red")
    )
    course = record["accuracy"]
    ends = f"{course[0][1]:.2f} -> {course[-1][1]:.2f}" if course else "not measured"
    return f"{record['method']} s{record['seed']}: {record['status']} in {record['seconds']:.0f} s, accuracy {ends}; {fired or 'silent'}"


def _short(finding: Finding) -> list[Any]:
    value = None if finding.value is None else float(f"{finding.value:.4g}")
    said = finding.reason if finding.level != "silent" else ""
    return [finding.level, value, finding.first_step, said[:90]]


def trained(cell: Cell) -> tuple[RunLogs, dict[str, Any]]:
    """What a run logged, and how it ended: `status`, `error`, `accuracy` ([step, share of the validation prompts]), `prompts` of these, `spent`."""
    arm = cell.setup()
    pair = doctored(arm)
    entry, comparison = arm.entry(cell.name), arm.comparison(cell.name, cell.seed)
    _refuse_misfit(entry, pair, cell)
    trainer = make_trainer(entry, comparison, cell.seed, pair, Processes())
    status, error = "success", None
    kept, watch = Kept(trainer), Watch(trainer, arm.probes, arm.looks, Sizes(**arm.sizes))
    try:
        watch.look(arm.probes)
        try:
            trainer.train(lambda row: None, watch.after_iteration)
        except Diverged as failure:
            status, error = "diverged", without_paths(first_line(failure))
        if status == "success":
            watch.last()
        logs = logs_of(trainer, cell.name, kept, watch)
    finally:
        kept.drop()
    spent = {"steps": trainer.spent.steps, "supervised_tokens": trainer.spent.supervised_tokens}
    return logs, {"status": status, "error": error, "accuracy": course(logs.steps), "prompts": comparison.settings.validation_prompts, "spent": spent}


def course(steps: pd.DataFrame) -> list[list[float]]:
    """Accuracy on the validation prompts as [step, share], before the first step and wherever it was measured."""
    found: list[list[float]] = []
    for column, shift in (("accuracy.start", 1), ("accuracy.valid", 0)):
        if column in steps:
            measured = steps[["step", column]].dropna()
            found += [[int(step) - shift, round(float(share), 4)] for step, share in zip(measured["step"], measured[column], strict=True)]
    return found


def doctored(arm: Arm) -> LoadedPair:
    """The arm's pair, freshly loaded and changed."""
    pair = load_pair(load_pair_spec(arm.pair), device="cpu")
    operate(pair, arm.doctor)
    return pair


def operate(pair: LoadedPair, doctor: Doctor) -> None:
    """Change a pair in place.

    Raises:
        ZooError: a change names a model or a token that is not there.
    """
    loaded = {"student": pair.student, **pair.teachers}
    for name, changes in doctor.models.items():
        if changes.of is not None:
            if changes.of not in loaded or name == "student":
                raise ZooError(f"doctor.models.{name}: cannot be a copy of '{changes.of}'; the pair has {', '.join(loaded)}, and the student stays itself")
            pair.teachers[name] = copy.deepcopy(loaded[changes.of]).requires_grad_(False)
            pair.tokenizers[name] = pair.tokenizer
        elif name not in loaded:
            raise ZooError(f"doctor.models.{name}: no such model in pair '{pair.spec.id}'; say `of:` which one it is a copy of")
    vocabulary = pair.tokenizer.get_vocab()
    for name, changes in doctor.models.items():
        model = pair.student if name == "student" else pair.teachers[name]
        for lesson in changes.lessons:
            teach(model, lesson, pair.tokenizer)
        if name == "student" and changes.lessons:
            pair.initial = {key: value.detach().clone() for key, value in model.state_dict().items()}
        if changes.changes:
            install(model, changes.changes, vocabulary, pair.pad_id)
        if changes.stops:
            if missing := [token for token in changes.stops if token not in vocabulary]:
                raise ZooError(f"doctor.models.{name}.stops: '{missing[0]}' is no token of the pair")
            model.generation_config.eos_token_id = [vocabulary[token] for token in changes.stops]
            if name == "student":
                pair.stop_ids = tuple(vocabulary[token] for token in changes.stops)
    pair.spec = pair.spec.model_copy(update={"contexts": {**pair.spec.contexts, **doctor.contexts}})
    if doctor.task != TaskChanges():
        pair.task = DoctoredTask(pair.task, doctor.task)  # type: ignore[assignment]


def _refuse_misfit(entry: Any, pair: LoadedPair, cell: Cell) -> None:
    found = pair_problems(
        entry, templates=pair.spec.contexts, fields=pair.task.prompts("train")[0].fields, teachers=[*pair.teachers, *pair.spec.endpoints],
        checks=pair.task.checks, same_vocabulary=pair.same_vocabulary, turns=pair.spec.turns, task=pair.task,
    )  # fmt: skip
    if found:
        raise ZooError(f"{cell.name} on pair '{pair.spec.id}': " + "; ".join(map(str, found)))


def _keep_logs(place: Place, cell: Cell, uuid: str, logs: RunLogs) -> None:
    """What is kept beside the records and never committed."""
    folder = place.results / "logs" / COMPARISON / f"{cell.name}-s{cell.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    frames = {"steps": logs.steps, "rollouts": logs.rollouts, "tokens": logs.tokens, **{f"probe-{name}": frame for name, frame in logs.probes.items()}}
    for name, frame in frames.items():
        if not frame.empty:
            frame.to_parquet(folder / f"{uuid}-{name}.parquet")
