"""Probes of a run: taken at its start, its evaluations and its end, without changing anything that it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.bench import Bench
from zoo.entry import load_registry
from zoo.failures import load_logs
from zoo.failures.probes import looking
from zoo.failures.probes.scene import Sizes
from zoo.harness.cell import make_trainer
from zoo.harness.comparison import Budget, Comparison, Settings, settings_that_matter
from zoo.harness.parallel import Processes
from zoo.harness.train import Trainer

FEW = Sizes(prompts=4, rollouts=2, greedy=8)


@pytest.fixture(scope="module")
def bench() -> Bench:
    torch.set_num_threads(1)
    return Bench()


def comparison(**settings: Any) -> Comparison:
    made = Settings(rollouts_per_step=8, max_new_tokens=24, learning_rate=1e-3, diagnose_every=0, **settings)
    return Comparison(id="looks", title="Looks", pair="micro", methods=("tml_opd",), seeds=(0,), suites=("micro",), budget=Budget(amount=400), settings=made)


def run(bench: Bench, folder: Path | None = None, steps: int | None = None, **settings: Any) -> Trainer:
    """A run of a few steps, or the first of them."""
    trainer = make_trainer(load_registry()["tml_opd"], comparison(**settings), 0, bench.pair, Processes())
    trainer.looks.sizes = FEW
    if folder is not None:
        trainer.diagnosis.keep(folder)

    def stop() -> None:
        if trainer.iteration == steps:
            raise KeyboardInterrupt

    try:
        trainer.train(lambda row: None, stop)
    except KeyboardInterrupt:
        assert steps is not None
    return trainer


def test_looks_are_taken_and_change_nothing(bench: Bench, tmp_path: Path) -> None:
    plain = run(bench)
    weights = {name: value.clone() for name, value in bench.pair.student.state_dict().items()}
    probed = run(bench, tmp_path / "work", probes=("recovery", "pass_rates", "privileged"), evaluate_every=1)
    assert all(torch.equal(value, weights[name]) for name, value in bench.pair.student.state_dict().items())
    for one, other in zip(plain.rows, probed.rows, strict=True):
        assert {k: v for k, v in other.items() if k in one and "seconds" not in k} == {k: v for k, v in one.items() if "seconds" not in k}
    assert (plain.spent.generated_tokens, plain.spent.teacher_tokens) == (probed.spent.generated_tokens, probed.spent.teacher_tokens)
    last = probed.spent.steps
    probed.looks.write(tmp_path / "logs", "u")
    logs = load_logs(tmp_path / "logs", "u")
    assert sorted(logs.probes["recovery"]["step"].unique()) == list(range(last + 1))  # cheap: at each evaluation
    assert sorted(logs.probes["pass_rates"]["step"].unique()) == [0, last]
    assert "privileged" not in logs.probes
    assert "sees more than the prompt" in probed.looks.reasons["privileged"]
    assert settings_that_matter(probed.comparison, "tml_opd") == settings_that_matter(plain.comparison, "tml_opd")
    assert "probes" not in plain.comparison.settings.model_dump()


def test_a_run_that_was_cut_off_keeps_its_first_look(bench: Bench, tmp_path: Path) -> None:
    first = run(bench, tmp_path, steps=1, probes=("pass_rates",))
    assert set(first.looks.seen) == {("pass_rates", 0)}
    again = run(bench, tmp_path, probes=("pass_rates",))  # from the start, as without a checkpoint
    assert ("pass_rates", 0) not in again.looks.seen
    assert sorted(again.looks.frames()["pass_rates"]["step"].unique()) == [0, again.spent.steps]


def test_an_error_in_a_probe_ends_no_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scene: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setitem(looking.PROBES, "stops", broken)  # type: ignore[arg-type]
    trainer = run(bench, probes=("stops",))
    assert trainer.looks.reasons == {"stops": "the probe failed (RuntimeError: no such thing)"}
    assert trainer.done


def test_a_probe_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="'rescu' is no probe; did you mean 'rescue'"):
        comparison(probes=("rescu",))
