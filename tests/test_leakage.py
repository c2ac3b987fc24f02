"""Leakage control: a scorer's context swapped between prompts, against plain forward passes, and blind to what the run does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from harness_kit import Plain, comparison, made, read_pair, trainer_of, weights

from zoo.components.base import ABSENT, Context
from zoo.harness.comparison import settings_that_matter
from zoo.harness.leakage import leakage, shuffled
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.method import Method

SOLVED = {"fields": ["solution"], "template": "solution"}
OPSD = {
    "rollout": {"author": "student"},
    "teachers": {"self": {"kind": "student", "weights": "initial", "context": SOLVED}},
    "objective": [{"term": "divergence", "teacher": "self", "divergence": "forward_kl", "support": "full", "reduce": "token_mean"}],
}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


@cache
def micro() -> LoadedPair:
    return load_pair(load_pair_spec("micro"))


def test_the_columns_are_plain_means_over_the_written_tokens(pair: LoadedPair) -> None:
    trainer = trainer_of(made(**OPSD), pair)
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))
    rollout, plain = scored["main"].context.rollout, Plain(pair, pair.student)
    context = trainer.bank.keys["self"].context
    found = leakage(method, trainer.bank, scored, lambda value: value)
    swapped, kept_B = shuffled(rollout, context)
    assert bool(kept_B.all()) and all(a.fields["solution"] != b.fields["solution"] for a, b in zip(rollout.prompts, swapped.prompts, strict=True))
    sums, count = {"own": 0.0, "shuffled": 0.0}, 0
    with torch.no_grad():
        for b in range(len(rollout)):
            written = rollout.response_BT[b][rollout.mask_BT[b]][:, None]
            bare = plain.logp_TV(pair.student, rollout, b).gather(-1, written).sum()
            for label, shown in (("own", rollout), ("shuffled", swapped)):
                sums[label] += float(plain.logp_TV(pair.student, shown, b, context).gather(-1, written).sum() - bare)
            count += len(written)
    for label, value in sums.items():
        assert found[f"leak.self.{label}.main"] == pytest.approx(value / count, abs=1e-9)


def test_a_teacher_that_reads_solutions_knows_more_from_its_own() -> None:
    entry = made(**{**OPSD, "rollout": {"author": "dataset"}, "teachers": {"self": {"kind": "external", "context": SOLVED}}})
    trainer = trainer_of(entry, micro(), max_new_tokens=40, rollouts_per_step=16)
    method = Method(entry)
    scored = trainer.judge(method, trainer.write(method))
    found = leakage(method, trainer.bank, scored, lambda value: value)
    assert found["leak.self.own.main"] > found["leak.self.shuffled.main"] + 1.0  # a copied solution; another one only misleads


def test_the_control_changes_nothing_and_is_a_column_of_the_run(pair: LoadedPair) -> None:
    rows, ends = {}, {}
    for every in (0, 2):
        trainer = trainer_of(made(**OPSD), pair, leakage_every=every, rollouts_per_step=4, budget={"amount": 100})
        trainer.train(lambda row: None, lambda: None)
        rows[every], ends[every] = trainer.rows, weights(pair.student)
        spent = trainer.spent
        assert trainer.accounts.figures() == {} and spent.teacher_tokens == 0  # the initial student is not charged, and the control to nobody
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[2].values(), strict=True))
    with_columns = ["leak.self.own.main" in row for row in rows[2]]
    assert with_columns[:4] == [True, False, True, False] and not any("leak" in key for row in rows[0] for key in row)
    assert settings_that_matter(comparison(leakage_every=5), "gkd") == settings_that_matter(comparison(), "gkd")
    assert "leakage_every" not in comparison().settings.model_dump() and comparison(leakage_every=5).settings.model_dump()["leakage_every"] == 5


def test_who_has_no_context_or_no_company_is_left_out(pair: LoadedPair) -> None:
    plain = made(rollout={"author": "student"}, teachers={"teacher": {"kind": "external"}}, objective=[{**OPSD["objective"][0], "teacher": "teacher"}])  # type: ignore[index]
    trainer = trainer_of(plain, pair)
    method = Method(plain)
    assert leakage(method, trainer.bank, trainer.judge(method, trainer.write(method)), lambda value: value) == {}
    trainer = trainer_of(made(**OPSD), pair)
    [rollout] = trainer.write(Method(trainer.entry)).values()
    context = Context(fields=("solution",), template="solution")
    assert not bool(shuffled(rollout.rows([0]), context)[1].any())
    missing = rollout.prompts[0].__class__("x", "+1=", {"solution": ABSENT})
    swapped, kept_B = shuffled(replace(rollout.rows([0, 1, 2]), prompts=(missing, *rollout.prompts[1:3])), context)
    assert kept_B.tolist() == [False, True, True]
    assert swapped.prompts[2].fields["solution"] == rollout.prompts[1].fields["solution"]
