"""Three entries of the registry as a user gets them, `zoo lab ID --json`, against plain loops over every text; and what is printed."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.lab.brute import Array, Brute, softmax
from zoo.cli import app


@cache
def told(name: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["lab", name, "--json", "--quick"])
    assert result.exit_code == 0, result.output
    [found] = json.loads(result.stdout)["entries"]
    return dict(found)


def brute_of(found: dict[str, Any], teacher: str) -> Brute:
    numbers = found["numbers"]
    student, scorer = np.array(numbers["student"]), np.array(numbers["scorers"][teacher])
    horizon = 1 + max(len(state) for state in numbers["states"])
    brute = Brute(student, scorer, student.shape[1], horizon)
    assert [list(state) for state in brute.states] == numbers["states"]
    return brute


def update(found: dict[str, Any], term: int) -> Array:
    return np.array(found["numbers"]["update"][str(term)])


def test_vopd() -> None:
    """Immediate log-ratio plus the KL of the state, per token of the batch."""
    found = told("vopd")
    brute = brute_of(found, "teacher")
    kl, length = brute.state_kl(), sum(m * len(y) for y, m in brute.texts())

    def advantage(text: tuple[int, ...]) -> Array:
        return np.array([r + kl[brute.at[text[:t]]] for t, r in enumerate(brute.log_ratio(text))]) / length

    np.testing.assert_allclose(update(found, 0), -brute.mean(advantage), rtol=0, atol=1e-14)
    whole = brute.mean(advantage)
    noise = brute.second(advantage) - float((whole**2).sum())
    assert found["runs"][0]["variance"] == pytest.approx(noise * length, rel=1e-10)


def test_grpo() -> None:
    """Groups of four, standardised, and the k3 penalty towards the initial student, each answer's mean."""
    found = told("grpo")
    brute = brute_of(found, "reference")
    assert found["changes"] == ["student.group 8 -> 4"]
    rewards = np.array(found["numbers"]["rewards"]["correct"])
    assert set(np.unique(rewards)) <= {0.0, 1.0}
    texts = list(brute.texts())
    result = {y: rewards[brute.at[y[:-1]], y[-1]] for y, _ in texts}
    wanted = np.zeros_like(brute.p)
    scores = {y: brute.score(y, np.full(len(y), 1.0 / len(y))) for y, _ in texts}
    for members in product(texts, repeat=4):
        mass = float(np.prod([m for _, m in members]))
        got = np.array([result[y] for y, _ in members])
        advantage = (got - got.mean()) / (got.std(ddof=1) + 1e-4)
        wanted += mass * sum(a * scores[y] for a, (y, _) in zip(advantage, members, strict=True)) / 4
    np.testing.assert_allclose(update(found, 0), wanted, rtol=0, atol=1e-12)
    held = np.zeros_like(brute.p)
    for y, m in texts:
        ratio = np.exp(brute.log_ratio(y))
        held += m * 0.04 * brute.score(y, (ratio - 1.0) / len(y))
    np.testing.assert_allclose(update(found, 1), held, rtol=0, atol=1e-13)


def test_gkd() -> None:
    """Half of the texts the student's, half given; the gradient of the JSD by differences, states held fixed."""
    found = told("gkd")
    brute = brute_of(found, "teacher")
    given = softmax(np.array(found["numbers"]["writers"]["main"]["dataset"]))
    visits, length = np.zeros(len(brute.states)), 0.0
    for law in (brute.p, given):
        for y, m in brute.texts(law):
            length += 0.5 * m * len(y)
            for t in range(len(y)):
                visits[brute.at[y[:t]]] += 0.5 * m

    def loss(b: Brute) -> float:
        middle = 0.5 * (b.p + b.q)
        return float(visits @ (0.5 * b.q * np.log(b.q / middle) + 0.5 * b.p * np.log(b.p / middle)).sum(-1)) / length

    slope = brute.differentiate(loss, np.log(brute.p), np.log(brute.q))
    np.testing.assert_allclose(update(found, 0), -slope, rtol=0, atol=1e-9)


def test_one_entry_does_not_need_the_others(tmp_path: Path) -> None:
    """A mistake in another file stops the whole registry, not an entry beside it."""
    (tmp_path / "broken.yaml").write_text("id: broken\nnonsense: 1\n")
    result = CliRunner().invoke(app, ["lab", "vopd", "--quick", "--registry", str(tmp_path)])
    assert result.exit_code == 0 and "joint outcomes" in result.output
    assert CliRunner().invoke(app, ["lab", "--all", "--quick", "--registry", str(tmp_path)]).exit_code == 1


def test_each_reason_names_its_sort() -> None:
    result = CliRunner().invoke(app, ["lab", "oprd", "dagger_llm", "credit_boundaries", "teacher", "--json"])
    found = json.loads(result.stdout)
    sorts = {name: one["sort"] for name, one in found["exempt_entries"].items()}
    assert sorts == {"oprd": "representation", "dagger_llm": "environment", "credit_boundaries": "not executable", "teacher": "no objective"}
    assert found["exempt"] == 2 and found["measured"] == 0
