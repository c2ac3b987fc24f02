"""Rewards of whole answers: rules on shape and length, sums and products, against numbers worked out by hand; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zoo.compat import problems
from zoo.components.rewards import Answered, measured_in_order

from .compose import entry_of
from .six import build
from .test_sums import CONTRAST, GROUP, GRPO

ANSWERS = (Answered("3 8#8", 5, True), Answered("3 8", 3, False), Answered("", 0, True), Answered("9#9", 12, True))
VALUES = {"correct": torch.tensor([1.0, 0.0, 0.0, 1.0]), "short": torch.tensor([0.5, 2.0, 0.0, 1.0])}


def half(tokens: int, longest: int) -> float:
    return 0.5 * (1 - np.cos(np.pi * min(tokens / longest, 1)))


REFERENCES: dict[str, list[tuple[dict[str, Any], list[float]]]] = {
    "verifier": [({}, [1.0, 0.0, 0.0, 1.0])],
    "budget": [({"limit": 1.0}, [1.0, 0.0, 0.0, 1.0])],
    "structure": [
        ({"pattern": r".*#\d+"}, [1, 0, 0, 1]),
        ({"pattern": r"\d"}, [0, 0, 0, 0]),
        ({"at_most": 5}, [1, 1, 1, 0]),
        ({"at_least": 1, "finished": True}, [1, 0, 0, 1]),
        ({"finished": False}, [0, 1, 0, 0]),
    ],
    "overlong": [({"limit": 6, "buffer": 4}, [-0.75, -0.25, 0.0, -1.0]), ({"limit": 3, "buffer": 3}, [-1.0, -1.0, 0.0, -1.0])],
    "cosine_length": [
        ({"of": "correct", "longest": 10}, [1 - 0.5 * half(5, 10), -1.0, 0.0, 0.5]),
        ({"of": "correct", "longest": 20, "best": 2.0, "fall": 1.0, "worst": 3.0, "cut": -9.0}, [2 - half(5, 20), -9.0, 0.0, 2 - half(12, 20)]),
    ],
    "sum": [
        ({"of": {"correct": 1.0, "short": -0.5}}, [0.75, -1.0, 0.0, 0.5]),
        ({"of": {"correct": 1.0, "short": 2.0}, "how": "product"}, [0.25, 0.0, 0.0, 1.0]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "expected"), [(kind, *case) for kind, cases in REFERENCES.items() for case in cases])
def test_measure(kind: str, fields: dict[str, Any], expected: list[float]) -> None:
    asked: list[str] = []

    def verify(check: str) -> torch.Tensor:
        asked.append(check)
        return VALUES["correct"]

    found = build("reward", kind, **fields).measure(ANSWERS, VALUES, verify)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert asked == (["answer"] if kind in ("verifier", "budget") else [])


def test_parts_are_measured_before_what_is_made_of_them() -> None:
    rewards = {
        "total": build("reward", "sum", of={"shaped": 1, "format": 0.5}),
        "shaped": build("reward", "cosine_length", of="correct", longest=8),
        "format": build("reward", "structure", finished=True),
        "unread": build("reward", "structure", finished=False),
        "correct": build("reward", "verifier"),
        "gap": build("reward", "contrast", of={"teacher": 1}),
    }
    assert list(measured_in_order(["total", "gap"], rewards)) == ["correct", "shaped", "format", "total"]
    rewards["correct"] = build("reward", "sum", of={"total": 1})
    with pytest.raises(ValueError, match=r"'total' is made of itself \(total of shaped of correct of total\)"):
        measured_in_order(["total"], rewards)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (
            {"total": {"kind": "sum", "of": {"corect": 1.0}}, "correct": "verifier"},
            "rewards.total: reward 'corect' is not under rewards; did you mean 'correct'?",
        ),
        ({"total": {"kind": "sum", "of": {"gap": 1.0}}, "gap": CONTRAST}, "rewards.total: 'gap' is given per token"),
        ({"total": {"kind": "sum", "of": {"total": 1.0}}}, "rewards: 'total' is made of itself"),
        ({"total": "verifier", "other": {"kind": "structure", "finished": True}}, "rewards.other is declared but nothing reads it"),
    ],
)
def test_rules(rewards: dict[str, Any], message: str) -> None:
    found = problems(entry_of([{**GRPO, "reward": "total"}], rewards=rewards, rollouts=GROUP, teachers={}))
    assert any(message in problem for problem in found), found


def test_a_sum_is_an_outcome_like_its_parts() -> None:
    rewards = {"total": {"kind": "sum", "of": {"correct": 1.0, "format": 0.1}}, "correct": "verifier", "format": {"kind": "structure", "finished": True}}
    assert problems(entry_of([{**GRPO, "reward": "total"}], rewards=rewards, rollouts=GROUP, teachers={})) == []


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("structure", {}, "give at least one of pattern"),
        ("structure", {"pattern": "("}, "pattern is no regular expression"),
        ("overlong", {"limit": 3, "buffer": 4}, "buffer is the last part of limit"),
        ("sum", {"of": {}}, "at least 1 item"),
    ],
)
def test_refusals(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("reward", kind, **fields)
