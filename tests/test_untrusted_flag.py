"""`zoo run --untrusted-code`: where nothing walls generated code off, a method whose reward runs it is refused before training, unless asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from harness_kit import stub_evaluation, write_pair
from typer.testing import CliRunner

from zoo.cli import app
from zoo.harness import evaluate, run
from zoo.harness.sandbox import outside

ENTRY = {
    "id": "tested", "name": "tested", "paper": {}, "surveys": [], "evidence": {"level": "inferred", "source": "a test"}, "fixed_point": "none",
    "coordinates": {"feedback_signal": ["outcome"], "teacher_access": "teacher_free", "loss_granularity": "sequence", "estimator": ["pg_group"],
                    "routing": ["sampled_token"]},
    "rollout": {"author": "student", "group": 4},
    "rewards": {"passed": {"kind": "unit_tests", "field": "solution", "seconds": 1.0}},
    "objective": [{"term": "policy_gradient", "reward": "passed", "credit": {"kind": "group"}, "reduce": "token_mean"}],
}  # fmt: skip


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A comparison of one short run of such a method on a machine without namespaces."""
    attempt = outside._attempt
    monkeypatch.setattr(outside, "_attempt", lambda *a, walls: "unshare: Operation not permitted" if walls else attempt(*a, walls=walls))
    monkeypatch.setattr(run, "evaluate", stub_evaluation)
    entries = tmp_path / "entries"
    entries.mkdir()
    (entries / "tested.yaml").write_text(yaml.safe_dump(ENTRY), encoding="utf-8")
    asked: dict[str, Any] = {
        "id": "trial", "title": "Trial", "pair": str(write_pair(tmp_path)), "methods": ["tested"], "seeds": [0], "suites": ["micro"], "budget": {"amount": 8},
        "settings": {"rollouts_per_step": 4, "max_new_tokens": 4, "learning_rate": 1.0e-3, "micro_tokens": 100, "chunk_tokens": 16},
    }  # fmt: skip
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump(asked), encoding="utf-8")
    return ["run", str(file), "--registry", str(entries), "--results", str(tmp_path / "results"), "--tables", str(tmp_path / "tables"), "--device", "cpu"]


def test_without_walls_the_run_is_refused_before_it_trains(arguments: list[str], tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code != 0
    said = " ".join((ended.output + ended.stderr).split())
    assert "can't be run safely on this machine (unshare: Operation not permitted)" in said and "--untrusted-code" in said
    assert not list(tmp_path.glob("results/records/**/run.json"))


def test_with_the_flag_it_runs_behind_limits_alone(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consents = []
    monkeypatch.setattr(run, "evaluate", lambda *a, **settings: consents.append(settings["allow_code"]) or stub_evaluation(*a, **settings))
    monkeypatch.setattr("zoo.cli.run._tables", lambda *a: [])
    ended = CliRunner().invoke(app, [*arguments, "--untrusted-code", "--json"])
    assert ended.exit_code == 0, ended.output
    assert len(list(tmp_path.glob("results/records/**/run.json"))) == 1 and consents == [True]


def test_evaluation_asks_for_the_same_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(evaluate.ZooError, match="--untrusted-code"):
        evaluate.evaluate(None, None, None, "code", batch_size=1)
