"""A comparison's sweep: its trials lie apart, the best rate wins, the file says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness_kit import comparison, write_pair, write_suite
from pydantic import ValidationError
from typer.testing import CliRunner

from zoo.cli import app
from zoo.errors import ZooError
from zoo.harness import packing
from zoo.harness.comparison import Comparison, load_comparison
from zoo.record_types import Eval
from zoo.records import load_records
from zoo.tune import MARK, Trial, _choice, trials_of, write_choices

SWEEP: dict[str, Any] = {"learning_rates": (1.0e-5, 1.5e-4, 2.0e-2), "seeds": (100,), "suite": "micro-valid"}


def test_trials_differ_from_the_comparison_in_rate_seeds_and_suite_alone() -> None:
    declared = comparison(sweep=SWEEP, overrides={"gkd": {"reason": "x", "learning_rate": 1.0}})
    trials = trials_of(declared)
    assert [trial.id for trial in trials] == ["trial-at-1e-5", "trial-at-1-5e-4", "trial-at-2e-2"]
    assert [trial.learning_rate("gkd") for trial in trials] == [1.0e-5, 1.5e-4, 2.0e-2]
    assert {(trial.seeds, trial.suites, trial.sweep) for trial in trials} == {((100,), ("micro-valid",), None)}
    assert {trial.budget for trial in trials} == {declared.budget}
    assert {(trial.settings.diagnose_every, trial.settings.evaluate_every, trial.settings.probes) for trial in trials} == {(0, 0, ())}
    Comparison.model_validate(trials[1].model_dump())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (0,)}, "is reported by this comparison"),
        ({"suite": "micro"}, "is reported by this comparison"),
        ({"learning_rates": (1.0, 0.1)}, "ascend"),
        ({"learning_rates": (0.1,)}, "at least 2"),
        ({"learning_rates": (0.0, 0.1)}, "greater than 0"),
    ],
)
def test_a_sweep_that_would_not_be_fair_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        comparison(sweep={**SWEEP, **change})


def test_a_comparison_without_a_sweep_is_told_how_to_declare_one() -> None:
    with pytest.raises(ZooError, match="declares no sweep; add"):
        trials_of(comparison())


def trial(rate: float, score: float | None, done: int = 2) -> Trial:
    return Trial("gkd", rate, score, done, 2)


def test_the_best_mean_wins_and_of_equal_ones_the_smallest_rate() -> None:
    best = _choice("gkd", [trial(0.1, 0.4), trial(0.2, 0.6), trial(0.3, 0.6), trial(0.4, 0.1)])
    assert (best.learning_rate, best.edge) == (0.2, False)
    assert _choice("gkd", [trial(0.1, 0.4), trial(0.2, 0.3)]).edge
    assert _choice("gkd", [trial(0.1, 0.4), trial(0.2, 0.9, done=1)]).learning_rate is None


def test_choices_are_written_below_a_mark_and_replace_the_former_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# a comment of mine\n" + yaml.safe_dump(comparison(id="mine", sweep=SWEEP).model_dump(mode="json", exclude={"overrides"})))
    for rate in (0.1, 0.2):
        write_choices(file, load_comparison(file), [_choice("gkd", [trial(rate, 0.5), trial(0.3, 0.4)])])
        assert load_comparison(file).learning_rate("gkd") == rate
    assert file.read_text().startswith("# a comment of mine\n") and file.read_text().count(MARK) == 1
    file.write_text(file.read_text().replace(MARK, ""))
    with pytest.raises(ZooError, match="overrides of its own"):
        write_choices(file, load_comparison(file), [_choice("gkd", [trial(0.1, 0.5)])])


def test_zoo_tune_runs_what_is_left_and_takes_the_rate_that_the_records_favour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = write_suite(tmp_path / "suites")
    pair = write_pair(tmp_path)
    declared = comparison(
        pair=pair.name, methods=("student", "sft"), budget={"amount": 60}, sweep={**SWEEP, "suite": str(suite), "learning_rates": (1e-4, 5e-2)}
    )
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump(declared.model_dump(mode="json", exclude={"overrides"})))
    asked = ["tune", str(file), "--results", str(tmp_path / "results"), "--device", "cpu", "--json", "--write", "--weights-note", "made up"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    (found,) = json.loads(said.stdout)
    root = tmp_path / "results" / "sweeps" / "records"
    scores = {}
    for name, rate in (("trial-at-1e-4", 1e-4), ("trial-at-5e-2", 5e-2)):
        (record,) = load_records(root, name)
        scored: Eval = record.evals[0]
        assert (record.run.method, record.run.seed, record.run.resolved["learning_rate"]) == ("sft", 100, rate)
        assert record.run.weights_note == "made up"
        scores[rate] = scored.tasks["micro_add"].metrics["exact_match,strict"]
    assert {t["learning_rate"]: t["score"] for t in found["trials"]} == scores
    assert load_comparison(file).learning_rate("sft") == found["learning_rate"] == max(scores, key=lambda r: (scores[r], -r))
    assert not (tmp_path / "results" / "records").exists()
    before = sorted(root.rglob("run.json"))
    assert CliRunner().invoke(app, asked).exit_code == 0 and sorted(root.rglob("run.json")) == before
    (pair.parent / "student" / "model.safetensors").unlink()  # --show needs no weights: it reads records
    shown = CliRunner().invoke(app, ["tune", str(file), "--results", str(tmp_path / "results"), "--show", "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)[0]["learning_rate"] == found["learning_rate"]


def test_what_workers_leave_undone_is_run_once_more_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, pair, asked = write_suite(tmp_path / "suites"), write_pair(tmp_path), []
    declared = comparison(pair=pair.name, methods=("sft",), budget={"amount": 40}, sweep={**SWEEP, "suite": str(suite), "learning_rates": (1e-4, 5e-2)})
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump(declared.model_dump(mode="json", exclude={"overrides"})))
    monkeypatch.setattr(packing, "run_packed", lambda arguments, jobs, follow, device, sharing: asked.append(jobs))
    said = CliRunner().invoke(app, ["tune", str(file), "--results", str(tmp_path / "results"), "--device", "cpu", "--json", "--jobs", "2"])
    assert said.exit_code == 0, said.output
    assert asked == [2] and all(trial["done"] == 1 for trial in json.loads(said.stdout)[0]["trials"])
