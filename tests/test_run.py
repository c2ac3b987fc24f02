"""Cells, plans and records: what identifies a cell, what is skipped and what is tried again, and what failures leave behind."""

from __future__ import annotations

import errno
import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock
from harness_kit import (
    LOG_RATIO,
    REVERSE_KL,
    TEACHER,
    comparison,
    digest,
    made,
    read_pair,
    registry,
    shipped,
    stub_evaluation,
    trainer_of,
    weights,
    write_pair,
    write_suite,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

import zoo.records
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness import checkpoint, run
from zoo.harness.comparison import Comparison
from zoo.harness.models import LoadedPair
from zoo.harness.plan import Place, make_plan, status_of
from zoo.harness.run import Outcome, run_comparison
from zoo.harness.train import Trainer
from zoo.records import load_records

PLAIN = made("plain", rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL])
OTHER = made("other", rollout={"author": "student"}, **TEACHER, objective=[{**REVERSE_KL, "divergence": "forward_kl"}])
WILD = made("wild", rollout={"author": "student"}, **TEACHER, objective=[{**LOG_RATIO, "coefficient": 1e38}])
ENTRIES = registry(PLAIN, OTHER, WILD, shipped("student"), shipped("teacher"), shipped("no_op"))


@pytest.fixture(scope="module", autouse=True)
def small_garbage() -> Iterator[None]:
    """Each cell ends with a garbage collection, which takes half a second where all imported modules are looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, pair: LoadedPair) -> None:
    """Models loaded once, and an evaluation that only says which weights it saw."""
    monkeypatch.setattr(run, "load_pair", lambda *_, **__: pair)
    monkeypatch.setattr(run, "evaluate", stub_evaluation)


class Desk:
    """One comparison in one results folder."""

    def __init__(self, pair_file: Path, results: Path, *methods: str, **changes: Any) -> None:
        self.comparison = comparison(pair_file, methods=methods or ("plain",), **{"budget": {"amount": 150}, **changes})
        self.place = Place(results)

    def run(self, **options: Any) -> list[Outcome]:
        return run_comparison(self.comparison, ENTRIES, self.place, device="cpu", **options)

    def states(self) -> dict[str, tuple[str, str]]:
        return {cell.method: (cell.state, cell.reason) for cell in make_plan(self.comparison, ENTRIES, self.place).cells}

    def records(self, method: str = "plain") -> list[Any]:
        return [record for record in load_records(self.place.records, self.comparison.id) if record.run.method == method]

    def final_weights(self, method: str = "plain") -> str:
        """Digest of the weights that the last attempt ended with."""
        return self.records(method)[-1].evals[0].tasks["micro_add"].weights


@pytest.fixture
def desk(pair_file: Path, tmp_path: Path, quick: None) -> Callable[..., Desk]:
    return lambda *methods, folder="results", **changes: Desk(pair_file, tmp_path / folder, *methods, **changes)


@pytest.fixture(scope="module")
def undisturbed(pair: LoadedPair) -> str:
    """The weights that `plain` ends with."""
    trainer = trainer_of(PLAIN, pair, budget={"amount": 150})
    trainer.train(lambda row: None, lambda: None)
    return digest(weights(pair.student))


# --- identity -----------------------------------------------------------------------------------------------------------------


def keys(declared: Comparison, place: Place, *entries: MethodEntry) -> dict[tuple[str, int], str]:
    return {(c.method, c.seed): c.run_key for c in make_plan(declared, registry(*(entries or ENTRIES.values())), place).cells}


def test_a_key_changes_with_everything_that_affects_a_result(pair_file: Path, tmp_path: Path) -> None:
    methods = ("plain", "student")
    base = keys(comparison(pair_file, methods=methods), Place(tmp_path))
    own_suite = write_suite(tmp_path / "suite")

    def changed(file: Path = pair_file, entries: tuple[MethodEntry, ...] = (), **changes: Any) -> dict[tuple[str, int], str]:
        return keys(comparison(file, **{"methods": methods, **changes}), Place(tmp_path), *entries)

    settings: list[dict[str, Any]] = [
        {"learning_rate": 0.02}, {"rollouts_per_step": 16}, {"max_new_tokens": 9}, {"schedule": "cosine"}, {"warmup": 0.1}, {"clip_norm": 2.0},
        {"budget": {"amount": 401}}, {"validation_prompts": 5}, {"validate_every": 3},
        {"overrides": {"plain": {"reason": "tried", "learning_rate": 0.02}}},
    ]  # fmt: skip
    for change in settings:
        assert changed(**change)["plain", 0] != base["plain", 0], change
        assert changed(**change)["student", 0] == base["student", 0], change  # an anchor that is not trained has no such settings
    for change in ({"id": "another"}, {"suites": (str(own_suite),)}, {"evaluation": {"limit": 7}}):
        assert all(changed(**change)[cell] != base[cell] for cell in base), change
    assert len(set(changed(seeds=(0, 1)).values())) == 3 and changed(seeds=(0, 1))["plain", 0] == base["plain", 0]
    body = made("plain", rollout={"author": "student", "temperature": 0.9}, **TEACHER, objective=[REVERSE_KL])
    assert changed(entries=(body, ENTRIES["student"]))["plain", 0] != base["plain", 0]
    before = keys(comparison(pair_file, methods=methods, suites=(str(own_suite),)), Place(tmp_path))
    assert keys(comparison(pair_file, methods=methods, suites=(str(write_suite(tmp_path / "moved")),)), Place(tmp_path)) == before
    tuned = write_pair(tmp_path / "tuned", prompt_suffix="!")
    assert all(changed(tuned)[cell] != base[cell] for cell in base)
    own_suite.write_text(own_suite.read_text().replace("limit: 4", "limit: 5"))
    assert keys(comparison(pair_file, methods=methods, suites=(str(own_suite),)), Place(tmp_path)) != before


def test_a_key_is_that_of_the_weights_wherever_they_lie(pair_file: Path, tmp_path: Path) -> None:
    declared = comparison(pair_file, methods=("plain",))
    base = keys(declared, Place(tmp_path))
    moved = comparison(write_pair(tmp_path / "elsewhere"), methods=("plain",))
    assert keys(moved, Place(tmp_path / "other results")) == base
    assert keys(declared, Place(tmp_path, {"student": tmp_path / "elsewhere" / "student"})) == base
    for name in ("student", "teacher"):
        weights_file = tmp_path / "elsewhere" / name / "model.safetensors"
        data = bytearray(weights_file.read_bytes())
        data[-1] ^= 1
        weights_file.write_bytes(data)
        assert keys(moved, Place(tmp_path)) != base
        data[-1] ^= 1
        weights_file.write_bytes(data)
    assert keys(moved, Place(tmp_path)) == base


def test_a_key_does_not_change_with_what_affects_no_result(pair_file: Path, tmp_path: Path) -> None:
    methods = ("plain", "other")
    base = keys(comparison(pair_file, methods=methods), Place(tmp_path))
    renamed = PLAIN.model_copy(update={"name": "Another name", "notes": "said better", "known_failures": ("FM01",)})
    assert keys(comparison(pair_file, methods=methods), Place(tmp_path), renamed, OTHER) == base
    for change in ({"micro_tokens": 7}, {"chunk_tokens": 3}, {"checkpoint_every": 5}, {"decode_batch": 2}, {"title": "New"}, {"notes": "said"},
                   {"evaluation": {"batch": 3}}, {"overrides": {"other": {"reason": "none"}}}, {"methods": ("other", "plain", "student")}):  # fmt: skip
        found = keys(comparison(pair_file, **{"methods": methods, **change}), Place(tmp_path))
        assert {cell: found[cell] for cell in base} == base, change


# --- plans --------------------------------------------------------------------------------------------------------------------


def test_budgets_must_be_equal(desk: Callable[..., Desk]) -> None:
    desk().run()
    with pytest.raises(ZooError, match="'trial' asks for 200 supervised_tokens, but plain was recorded with 150; budgets must be equal: restore the amount"):
        desk("other", budget={"amount": 200}).run()
    assert desk("other").states() == {"other": ("left", "")}


def test_steps_that_cannot_be_cut_are_refused(pair_file: Path, tmp_path: Path) -> None:
    grouped = made("grouped", rollout={"author": "student", "group": 4, "reuse": {"minibatches": 3}}, **TEACHER, objective=[REVERSE_KL])
    with pytest.raises(ZooError, match="'grouped' writes groups of 4, which do not divide rollouts_per_step 6"):
        make_plan(comparison(pair_file, methods=("grouped",), rollouts_per_step=6), registry(grouped), Place(tmp_path))
    with pytest.raises(ZooError, match=r"'grouped' takes 3 minibatches from 2 x 4 sequences of stream 'main'.*set rollouts_per_step to 12 or more"):
        make_plan(comparison(pair_file, methods=("grouped",), rollouts_per_step=8), registry(grouped), Place(tmp_path))
    make_plan(comparison(pair_file, methods=("grouped",), rollouts_per_step=12), registry(grouped), Place(tmp_path))


def test_methods_are_named_once_and_known(desk: Callable[..., Desk]) -> None:
    with pytest.raises(ZooError, match="method 'plian' is not part of comparison 'trial'; did you mean 'plain'"):
        desk("plain").run(methods=["plian"])
    with pytest.raises(ZooError, match="no method 'othr' in the registry; did you mean 'other'"):
        desk("othr").run()
    assert [o.cell.method for o in desk("plain", "other").run(methods=["other"])] == ["other"]


def test_what_is_done_is_skipped_without_loading_anything(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    both = desk("plain", "student")
    assert [outcome.status for outcome in both.run()] == ["success", "success"]
    before = {file: file.stat().st_mtime_ns for file in both.place.results.rglob("*") if file.is_file()}
    monkeypatch.setattr(run, "load_pair", forbidden)
    assert both.run() == [] and both.states() == {"plain": ("done", ""), "student": ("done", "")}
    assert {file: file.stat().st_mtime_ns for file in both.place.results.rglob("*") if file.is_file()} == before
    assert not list(both.place.results.glob("work/*/*"))


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing should be computed")


# --- failures -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the third step of `plain` fail."""
    step = Trainer.step

    def arm(error: BaseException | None) -> None:
        def taking(self: Trainer, *arguments: Any) -> Any:
            if error is not None and self.entry.id == "plain" and self.spent.steps == 2:
                raise error
            return step(self, *arguments)

        monkeypatch.setattr(Trainer, "step", taking)

    return arm


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("it broke\nhere"), "error"), (torch.OutOfMemoryError("CUDA out of memory"), "oom")])
def test_a_failed_cell_is_recorded_and_tried_again_while_the_others_go_on(
    desk: Callable[..., Desk], failing: Any, undisturbed: str, error: Exception, status: str
) -> None:
    both = desk("plain", "other")
    failing(error)
    assert [(o.cell.method, o.status, o.message) for o in both.run()] == [("plain", status, str(error).splitlines()[0]), ("other", "success", "")]
    [record] = both.records()
    assert (record.run.status, record.run.error.message, record.evals) == (status, str(error).splitlines()[0], ())
    assert record.run.budget.spent["steps"] == 2 and record.run.budget.spent["supervised_tokens"] > 0
    [log] = both.place.results.glob("logs/trial/plain-s0/*-failure.txt")
    assert str(error) in log.read_text()
    state, reason = both.states()["plain"]
    assert state == "failed" and reason.startswith(f"{status}: {str(error).splitlines()[0]}; checkpoint at ")
    failing(None)
    assert [(o.cell.method, o.status) for o in both.run()] == [("plain", "success")]
    assert [r.run.status for r in both.records()] == [status, "success"] and both.states()["plain"] == ("done", "")
    assert both.final_weights() == undisturbed


def test_a_diverged_cell_is_recorded_with_what_it_spent_and_not_tried_again(desk: Callable[..., Desk], undisturbed: str) -> None:
    both = desk("wild", "plain")
    assert [(o.cell.method, o.status) for o in both.run()] == [("wild", "diverged"), ("plain", "success")]
    [record] = both.records("wild")
    assert record.run.error.type == "Diverged" and "gradient norm" in record.run.error.message
    assert record.run.budget.spent["generated_tokens"] > 0 == record.run.budget.spent["steps"]
    assert both.final_weights() == undisturbed  # nothing of the first cell is left in the second
    assert both.states() == {"wild": ("done", "diverged"), "plain": ("done", "")} and both.run() == []
    assert not list(both.place.results.glob("work/*/*"))


def test_a_failed_evaluation_is_recorded_and_needs_no_second_training(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, undisturbed: str) -> None:
    both = desk("plain", "student")
    monkeypatch.setattr(run, "evaluate", lambda *_, **__: 1 / 0)
    assert [o.status for o in both.run()] == ["error", "error"]
    assert both.records()[0].run.error.type == "ZeroDivisionError"
    [folder] = both.place.results.glob("work/*/plain-*/checkpoint")
    assert load_file(folder / "student.safetensors") and load_file(folder / "optimizer.safetensors") == {}  # no step will need it
    monkeypatch.setattr(run, "evaluate", stub_evaluation)
    monkeypatch.setattr(Trainer, "step", forbidden)
    assert [o.status for o in both.run()] == ["success", "success"]
    assert both.final_weights() == undisturbed


def test_bad_input_in_the_middle_ends_the_command_without_a_record(desk: Callable[..., Desk], failing: Any) -> None:
    failing(ZooError("a prompt lacks its solution"))
    one = desk("plain", "other")
    with pytest.raises(ZooError, match="a prompt lacks its solution"):
        one.run()
    assert one.records() == [] and one.states()["plain"][0] == "started" and one.states()["other"] == ("left", "")


def test_an_interrupted_run_shows_its_progress_and_goes_on(desk: Callable[..., Desk], failing: Any, undisturbed: str) -> None:
    one, kept = desk(), gc.get_freeze_count()
    failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert gc.get_freeze_count() <= kept  # what the collector passed over meanwhile is its own again
    [row] = status_of(one.comparison, ENTRIES, one.place)
    assert row["state"] == "started" and 0 < row["progress"] < 1 and row["reason"] == f"checkpoint at {round(150 * row['progress'])} tokens"
    failing(None)
    assert [o.status for o in one.run()] == ["success"] and one.final_weights() == undisturbed


# --- a full disk --------------------------------------------------------------------------------------------------------------


def exhausted(real: Callable[..., Any], after: int, error: Exception) -> Callable[..., Any]:
    """The function, until the disk is full."""
    calls: Iterator[int] = iter(range(1, 10_000))

    def full(*arguments: Any, **options: Any) -> Any:
        if next(calls) > after:
            raise error
        return real(*arguments, **options)

    return full


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
FULL: dict[str, tuple[Any, str, int, Exception]] = {
    "weights": (checkpoint, "save_file", 5, SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')),
    "sync": (checkpoint, "_sync", 6, NO_SPACE),
    "first checkpoint": (checkpoint, "save_file", 0, OSError(errno.EDQUOT, "Disk quota exceeded")),
    "eval record": (zoo.records, "_write_durably", 0, NO_SPACE),
    "run record": (zoo.records, "_write_durably", 1, NO_SPACE),
    "step log": (pd.DataFrame, "to_parquet", 0, NO_SPACE),
}  # fmt: skip


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_loses_nothing(desk: Callable[..., Desk], undisturbed: str, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    holder, name, after, error = FULL[where]
    one = desk("plain", "other")
    with monkeypatch.context() as patched:
        patched.setattr(holder, name, exhausted(getattr(holder, name), after, error))
        with pytest.raises(ZooError, match="the disk is full") as told:
            one.run()
    assert "\n" not in str(told.value) and "run the same command again" in str(told.value)
    assert one.records() == [] and not list(one.place.results.glob("**/.*.partial"))
    assert one.states()["plain"][0] == ("left" if where == "first checkpoint" else "started")
    assert [o.status for o in one.run()] == ["success", "success"]
    assert len(one.records()) == 1 and one.final_weights() == undisturbed


# --- two commands at once -----------------------------------------------------------------------------------------------------


def test_a_second_command_is_told_and_the_first_undisturbed(desk: Callable[..., Desk], undisturbed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, messages, step = desk(), [], Trainer.step

    def meanwhile(self: Trainer, *arguments: Any) -> Any:
        if not messages:
            with pytest.raises(ZooError) as told:
                desk().run()
            messages.append(str(told.value))
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", meanwhile)
    assert [o.status for o in one.run()] == ["success"]
    assert messages == ["another process is running plain (seed 0) of 'trial'; wait for it, or stop it"]
    assert len(one.records()) == 1 and one.final_weights() == undisturbed


def test_other_cells_are_not_locked(desk: Callable[..., Desk]) -> None:
    both = desk("plain", "other")
    [cell] = [c for c in make_plan(both.comparison, ENTRIES, both.place).cells if c.method == "plain"]
    work = both.place.work("trial", "plain", 0, cell.run_key)
    work.mkdir(parents=True)
    with FileLock(work / "lock"):
        assert [o.status for o in both.run(methods=["other"])] == ["success"]
        with pytest.raises(ZooError, match="another process is running plain"):
            both.run()
    assert [o.status for o in both.run()] == ["success"]


def test_a_cell_that_another_process_has_finished_since_is_left_alone(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk()
    stale = make_plan(one.comparison, ENTRIES, one.place)
    one.run()
    monkeypatch.setattr(run, "make_plan", lambda *_: stale)
    monkeypatch.setattr(Trainer, "step", forbidden)
    assert [(o.status, o.message) for o in one.run()] == [("success", "finished by another process")]
    assert len(one.records()) == 1 and not list(one.place.results.glob("work/*/*"))


# --- real evaluation ----------------------------------------------------------------------------------------------------------


def test_anchors_are_what_they_say(pair_file: Path, pair: LoadedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With lm-eval itself: no_op scores as the student does, item by item, although a trained method ran in between."""
    monkeypatch.setattr(run, "load_pair", lambda *_, **__: pair)
    seen: list[str] = []
    real = run.evaluate
    monkeypatch.setattr(run, "evaluate", lambda d, model, *a, **o: seen.append(digest(weights(model))) or real(d, model, *a, **o))
    suite = write_suite(tmp_path / "suite")
    desk = Desk(pair_file, tmp_path, "no_op", "plain", "student", "teacher", suites=(str(suite),))
    assert [o.status for o in desk.run()] == ["success"] * 4
    found = {method: desk.records(method)[0] for method in desk.comparison.methods}
    assert seen[0] == seen[2] == digest(weights(pair.reset_student())) and seen[3] == digest(weights(pair.teachers["teacher"])) != seen[1]
    assert found["no_op"].evals[0].tasks == found["student"].evals[0].tasks
    assert {m: r.evals[0].model for m, r in found.items()} == {"no_op": "trained", "plain": "trained", "student": "student", "teacher": "teacher"}
    plain = found["plain"].run
    assert (plain.pair, plain.budget.asked, found["student"].run.budget.asked) == ("tiny", 150, 0)
    assert plain.budget.spent["supervised_tokens"] >= 150 and plain.phases["evaluate"]["tokens"] > 0
    steps = pd.read_parquet(next(tmp_path.glob("logs/trial/plain-s0/*-steps.parquet")))
    assert steps["tokens"].sum() == plain.budget.spent["supervised_tokens"] and len(steps) == plain.budget.spent["steps"]
    assert str(tmp_path) not in json.dumps(plain.model_dump(mode="json"))


def test_an_evaluation_between_steps_changes_no_step(pair: LoadedPair, tmp_path: Path, undisturbed: str) -> None:
    from zoo.harness.evaluate import evaluate
    from zoo.harness.writers import Decoder

    suite, trainer = write_suite(tmp_path), trainer_of(PLAIN, pair, budget={"amount": 150})

    def look() -> None:
        before = torch.get_rng_state()
        decoder = Decoder(pair.student, pad_id=pair.pad_id, stop_ids=pair.stop_ids)
        evaluate(decoder, pair.student, pair.tokenizer, suite, batch_size=3)
        assert torch.equal(before, torch.get_rng_state())

    trainer.train(lambda row: None, look)
    assert digest(weights(pair.student)) == undisturbed
