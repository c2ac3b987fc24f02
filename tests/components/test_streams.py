"""Laws that tokens are drawn from, and rules that end or hand over a text, against plain numpy on a few states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.components.six import Array, build, rows, tensor
from zoo.components.rollouts.blended import within_budget
from zoo.tensors import Author

P, Q = np.exp(rows("student")), np.exp(rows("teacher"))


def law_of(stream: Any, draws: int = 6) -> tuple[Array, Array, Array]:
    """Tokens, authors and probabilities of one draw in each of the six states."""
    uniform = torch.linspace(0.05, 0.95, draws, dtype=torch.float64)[None]
    choice, _ = stream.choose(None, {"student": tensor(rows("student")), "teacher": tensor(rows("teacher"))}, uniform)
    return choice.token_B.numpy(), choice.author_B.numpy(), choice.behaviour_logp_B.exp().numpy()


def kl(p: Array, q: Array) -> Array:
    return np.asarray((p * np.log(p / q)).sum(-1))


def geometric(b: float | Array) -> Array:
    raw = P ** (1 - b) * Q**b
    return np.asarray(raw / raw.sum(-1, keepdims=True))


@pytest.mark.parametrize(("how", "weight", "law"), [
    ("arithmetic", 0.3, 0.7 * P + 0.3 * Q), ("geometric", 0.3, geometric(0.3)), ("arithmetic", 0.0, P), ("geometric", 0.0, P),
    ("arithmetic", 1.0, Q), ("geometric", 1.0, Q)])  # fmt: skip
def test_a_blend_draws_from_its_law_and_says_so(how: str, weight: float, law: Array) -> None:
    token, author, probability = law_of(build("rollout", "blended", how=how, weight=weight))
    at = np.arange(6)
    expected = [int(np.searchsorted(np.cumsum(row), u, side="right")) for row, u in zip(law, np.linspace(0.05, 0.95, 6), strict=True)]
    assert token.tolist() == expected
    np.testing.assert_allclose(probability, law[at, token], rtol=1e-12)
    of_teacher = (Q[at, token] > P[at, token]) & (weight > 0)
    assert author.tolist() == np.where(of_teacher, int(Author.TEACHER), int(Author.STUDENT)).tolist()


@pytest.mark.parametrize("budget", [0.02, 0.2, 50.0])
def test_a_budget_is_spent_and_not_exceeded(budget: float) -> None:
    share = within_budget(tensor(rows("student")), tensor(rows("teacher")), budget).numpy()
    spent = kl(geometric(share[:, None]), P)
    whole = kl(Q, P) <= budget
    np.testing.assert_allclose(spent, np.where(whole, kl(Q, P), budget), rtol=1e-9)
    assert (share[whole] == 1.0).all() and ((share > 0) & (share <= 1)).all()
    token, _, probability = law_of(build("rollout", "blended", how="geometric", budget=budget))
    np.testing.assert_allclose(probability, geometric(share[:, None])[np.arange(6), token], rtol=1e-9)


def test_no_budget_is_the_student_and_entropy_asks_for_the_teacher() -> None:
    token, author, probability = law_of(build("rollout", "blended", how="geometric", budget=0.0))
    np.testing.assert_allclose(probability, P[np.arange(6), token], rtol=1e-12)
    assert (author == int(Author.STUDENT)).all()
    share = np.clip(0.8 * -(P * np.log(P)).sum(-1) / np.log(6), 0, 1)[:, None]
    token, _, probability = law_of(build("rollout", "blended", how="geometric", entropy=0.8))
    np.testing.assert_allclose(probability, geometric(share)[np.arange(6), token], rtol=1e-12)


@pytest.mark.parametrize(("fields", "said"), [
    ({"how": "geometric"}, "exactly one of weight, budget, entropy"), ({"how": "geometric", "weight": 0.5, "budget": 1.0}, "exactly one"),
    ({"how": "arithmetic", "budget": 1.0}, "set how: geometric"), ({"how": "arithmetic", "weight": 1.5}, "weight must lie in")])  # fmt: skip
def test_blends_that_mean_nothing_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        build("rollout", "blended", **fields)


def test_a_proposal_stands_above_a_share_of_the_students_own_probability() -> None:
    accepted = build("verify", "probability_ratio", at_least=0.6).accepts(tensor(rows("teacher")), tensor(rows("student"))).numpy()
    assert (accepted == (Q >= 0.6 * P)).all() and accepted.any() and not accepted.all()
    assert build("verify", "probability_ratio", at_least=0.0).accepts(tensor(rows("teacher")), tensor(rows("student"))).all()


def drops(**fields: Any) -> list[bool]:
    """Whether a stream would end before each of seven tokens, whose divergences are 2, 1, 0.2, 0.1, 0.1, 0.1, 3 nats."""
    when, state, found = build("handover", "divergence_drop", **fields), None, []
    for value in (2.0, 1.0, 0.2, 0.1, 0.1, 0.1, 3.0):
        first = torch.tensor([[0.0, -torch.inf]])  # all on one token, which the other gives exp(-value)
        other = torch.tensor([[-value, float(np.log1p(-np.exp(-value)))]])
        now, state = when.observe(state, first, other, torch.zeros(1))
        found.append(bool(now))
    return found


def test_a_low_divergence_has_to_last() -> None:
    assert drops(below=0.3, window=1) == [False, False, True, True, True, True, False]
    assert drops(below=0.3, window=1, patience=3) == [False] * 4 + [True, True, False]
    assert drops(below=0.3, window=3) == [False] * 4 + [True, True, False]  # means 1.07, 0.43, 0.13, 0.1, 1.07
    # Shares of the mean so far: 2, 1.5, 1.07, 0.825, 0.68, 0.583, 0.93.
    assert drops(share=0.5, window=2) == [False, False, False, True, True, True, False]  # means of two 1.5, 0.6, 0.15, 0.1, 0.1, 1.55
    assert drops(share=0.0, window=1) == [False] * 7


def test_a_drop_needs_one_bound() -> None:
    for fields in ({}, {"below": 0.1, "share": 0.5}):
        with pytest.raises(ValidationError, match="exactly one of below and share"):
            build("handover", "divergence_drop", **fields)


def test_lengths_of_a_given_beginning() -> None:
    uniform = torch.tensor([0.0, 0.5, 0.999], dtype=torch.float64)
    texts = torch.tensor([5, 5, 5])
    assert build("rollout", "prefix", high=1.0, supervise="all").lengths(texts, uniform).tolist() == [0, 2, 4]
    assert build("rollout", "prefix", low=0.6, high=0.6, supervise="all").lengths(texts, uniform).tolist() == [3, 3, 3]
    tokens = build("rollout", "prefix", low=2.0, high=7.0, unit="tokens", supervise="continuation")
    assert tokens.lengths(texts, uniform).tolist() == [2, 5, 5]


@pytest.mark.parametrize(("fields", "said"), [
    ({"high": 0.5}, "supervise"), ({"low": 0.6, "high": 0.5, "supervise": "all"}, "must not exceed"), ({"high": 1.5, "supervise": "all"}, "high must lie in"),
    ({"high": 0.5, "supervise": "all", "of": "corpus"}, "can't be taken from author corpus"),
    ({"high": 0.5, "supervise": "all", "of": {"author": "teacher", "group": 2}}, "write 'group' at the prefix stream")])  # fmt: skip
def test_prefixes_that_mean_nothing_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        build("rollout", "prefix", **fields)
