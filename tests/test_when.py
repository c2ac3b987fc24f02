"""Streams that are written for some rows only: nothing changes but the text that is spared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import made, read_pair, trainer_of

from zoo.compat import problems
from zoo.components.rollouts import GroupReward
from zoo.harness.models import LoadedPair
from zoo.method import Method

SOLVED = {"fields": ["solution"], "template": "solution"}
WHEN = {"kind": "group_reward", "of": "main", "at_most": 0.5}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def hinted(when: dict[str, Any] | None = WHEN, gate: dict[str, Any] | None = None, scope: str = "group") -> Any:
    second: dict[str, Any] = {"author": "student", "group": 2, "context": SOLVED, **({"when": when} if when else {})}
    gates = [{"kind": "reward", "name": "unaided", **(gate or {"at_most": 0.5})}]
    return made(rollouts={"main": {"author": "student", "group": 2}, "hinted": second}, rewards={
        "correct": {"kind": "verifier"}, "unaided": {"kind": "elsewhere", "on": "main", "reward": {"kind": "verifier"}, "scope": scope}}, objective=[
        {"term": "policy_gradient", "reward": "correct", "credit": "return_to_go", "reduce": "token_mean"},
        {"term": "likelihood", "on": "hinted", "gates": gates, "reduce": {"kind": "token_mean", "over": "kept"}}])  # fmt: skip


def test_which_rows_are_due() -> None:
    passed, groups = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1, 2, 2]
    rule = GroupReward.model_validate
    assert rule({"of": "main", "at_most": 0.0}).due(passed, groups) == [False, False, True, True, False, False]
    assert rule({"of": "main", "at_most": 0.5}).due(passed, groups) == [True, True, True, True, False, False]
    assert rule({"of": "main", "at_least": 0.5}).due(passed, groups) == [True, True, False, False, True, True]
    assert rule({"of": "main", "at_most": 0.0, "scope": "sequence"}).due(passed, groups) == [p == 0.0 for p in passed]


@pytest.mark.parametrize(
    "bad", [{"of": "main"}, {"of": "main", "at_most": 0.0, "at_least": 0.5}, {"of": "main", "at_most": 1.0}, {"of": "main", "at_least": 0.0}]
)
def test_a_test_that_decides_nothing_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        GroupReward.model_validate(bad)


def test_the_gradient_is_that_of_the_gate_alone_and_text_is_spared(pair: LoadedPair) -> None:
    found = {}
    for name, when in (("all", None), ("some", WHEN)):
        assert problems(hinted(when)) == []
        trainer = trainer_of(hinted(when), pair, clip_norm=1e9)
        method = Method(trainer.entry)
        streams = trainer.write(method)
        row = trainer.step(method, trainer.judge(method, streams))
        found[name] = streams["hinted"], row, trainer.spent.generated_tokens
    (everything, before, spent), (some, after, less) = found["all"], found["some"]
    main = {int(g) for g in everything.group_B}
    kept = [bool(row.any()) for row in some.mask_BT]
    assert 0 < sum(kept) < len(kept) and len(some) == len(everything) and some.group_B.tolist() == everything.group_B.tolist() and main
    for i, there in enumerate(kept):
        if there:
            assert some.response_BT[i][some.mask_BT[i]].tolist() == everything.response_BT[i][everything.mask_BT[i]].tolist()
    assert less < spent
    for key in ("loss.0.policy_gradient", "loss.1.likelihood", "grad_norm"):
        assert after[key] == pytest.approx(before[key], rel=1e-9), key


def test_a_step_in_which_nothing_is_due(pair: LoadedPair) -> None:
    never = {"kind": "group_reward", "of": "main", "check": "answer", "at_least": 1.0}
    trainer = trainer_of(hinted(never, {"at_least": 1.0}), pair)
    judge = trainer.bank.judge
    judge.verify = lambda *a: 0.0  # type: ignore[method-assign]
    method = Method(trainer.entry)
    streams = trainer.write(method)
    assert streams["hinted"].tokens == 0
    row = trainer.step(method, trainer.judge(method, streams))
    assert row["loss.1.likelihood"] == 0.0


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (hinted(gate={"at_most": 0.0}), "which when writes for some rows only; give it the same gate, {kind: reward, name: ..., at_most: 0.5}"),
        (hinted(scope="sequence"), "reward: {kind: verifier, check: answer}, scope: group}"),
        (hinted({**WHEN, "of": "other"}), "stream 'other' is not under rollouts"),
        (hinted({**WHEN, "of": "hinted"}), "which reads it in turn"),
    ],
)
def test_without_its_gate_it_is_refused(entry: Any, why: str) -> None:
    assert any(why in problem for problem in problems(entry)), problems(entry)
