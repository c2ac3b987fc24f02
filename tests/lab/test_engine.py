"""The engine against an enumeration of the tests' own, and its fast way of taking batch sums against the literal one."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from tests.lab.brute import Array, Brute, softmax, to_go
from zoo.entry import MethodEntry
from zoo.lab.engine import Bench
from zoo.lab.synthetic import LOG_RATIO, direct, entry_of, score_function
from zoo.lab.world import World, world_of

W = World(3, 3)
GAE = {"learners": {"value": "value_head"}}


def bench_of(entry: MethodEntry, world: World = W) -> tuple[Bench, Any, Brute]:
    """A bench, its tables, and the same tables for the tests' own enumeration."""
    bench = Bench(entry, world)
    tables = bench.tables()
    return bench, tables, Brute(tables.student.numpy(), tables.logits("teacher").numpy(), world.vocabulary, world.horizon)


def mean(entry: MethodEntry, world: World = W) -> tuple[Array, Brute]:
    bench, tables, brute = bench_of(entry, world)
    return bench.measure(tables).gradient, brute


@pytest.mark.parametrize(
    ("credit", "advantage"),
    [
        ("immediate", lambda r: r),
        ("return_to_go", to_go),
        ({"kind": "return_to_go", "from": "next"}, lambda r: to_go(r) - r),
        ({"kind": "return_to_go", "per_length": True}, lambda r: to_go(r) / np.arange(len(r), 0, -1)),
        ({"kind": "discounted", "gamma": 0.7}, lambda r: to_go(r, 0.7)),
        ({"kind": "k_step", "k": 2}, lambda r: r + np.append(r[1:], 0.0)),
    ],
)
def test_score_functions(credit: Any, advantage: Any) -> None:
    bench, tables, brute = bench_of(entry_of(score_function(credit)))
    found = bench.measure(tables)
    np.testing.assert_allclose(found.gradient, brute.mean(lambda y: advantage(brute.log_ratio(y))), rtol=0, atol=1e-14)
    assert found.second[0] == pytest.approx(brute.second(lambda y: advantage(brute.log_ratio(y))), rel=1e-12)
    assert found.tokens == pytest.approx(sum(m * len(y) for y, m in brute.texts()), rel=1e-12)


def test_gae_with_any_value() -> None:
    bench, tables, brute = bench_of(entry_of(score_function({"kind": "gae", "gamma": 0.9, "lambda": 0.6}), **GAE))
    value = np.random.RandomState(3).standard_normal(len(brute.states))
    bench.values = {"value": torch.from_numpy(value)}

    def advantage(text: tuple[int, ...]) -> Array:
        v = np.array([value[brute.at[text[:t]]] for t in range(len(text))] + [0.0])
        return to_go(brute.log_ratio(text) + 0.9 * v[1:] - v[:-1], 0.9 * 0.6)

    np.testing.assert_allclose(bench.measure(tables).gradient, brute.mean(advantage), rtol=0, atol=1e-14)


def test_the_exact_value_is_the_mean_return() -> None:
    bench, tables, brute = bench_of(entry_of(score_function({"kind": "gae", "gamma": 0.8, "lambda": 1.0}), **GAE))
    total, mass = np.zeros(len(brute.states)), np.zeros(len(brute.states))
    for text, m in brute.texts():
        for t, g in enumerate(to_go(brute.log_ratio(text), 0.8)):
            total[brute.at[text[:t]]] += m * g
            mass[brute.at[text[:t]]] += m
    found: dict[str, Any] = {}
    original = bench._values
    bench._values = lambda *a: found.setdefault("V", original(*a))  # type: ignore[method-assign]
    bench.measure(tables)
    np.testing.assert_allclose(found["V"].numpy(), total / mass, atol=1e-14)


@pytest.mark.parametrize("reduce", ["token_mean", "sequence_mean", "sum", {"kind": "fixed", "divisor": 7.0}])
def test_denominators_are_expectations(reduce: Any) -> None:
    """The limit of a large batch: sums over tokens and sequences are expected ones."""
    found, brute = mean(entry_of({**score_function("immediate"), "reduce": reduce}))
    length = sum(m * len(y) for y, m in brute.texts())
    share = {"token_mean": lambda n: 1 / length, "sequence_mean": lambda n: 1 / n, "sum": lambda n: 1.0}
    factor = share[reduce] if isinstance(reduce, str) else lambda n: 1 / 7.0
    np.testing.assert_allclose(found, brute.mean(lambda y: factor(len(y)) * brute.log_ratio(y)), rtol=0, atol=1e-14)


def test_batchwide_shaping_is_that_of_the_law() -> None:
    found, brute = mean(entry_of(score_function("immediate", shaping=({"kind": "whiten"},))))
    tokens = [(m, a) for y, m in brute.texts() for a in brute.log_ratio(y)]
    weight = sum(m for m, _ in tokens)
    centre = sum(m * a for m, a in tokens) / weight
    spread = sum(m * (a - centre) ** 2 for m, a in tokens) / weight
    np.testing.assert_allclose(found, brute.mean(lambda y: (brute.log_ratio(y) - centre) / np.sqrt(spread + 1e-8)), rtol=0, atol=1e-13)


def test_a_batch_quantile_is_that_of_the_law() -> None:
    gate = {"kind": "quantile", "of": {"kind": "entropy", "of": "student"}, "above": 0.5}
    bench, tables, brute = bench_of(entry_of({**direct(), "gates": (gate,)}))
    found = bench.measure(tables).gradient
    entropy, visits = -(brute.p * np.log(brute.p)).sum(-1), brute.visits()
    kept = np.any(found != 0, axis=1)
    assert kept.any() and not kept.all()
    assert entropy[kept].min() > entropy[~kept].max()
    assert visits[~kept].sum() >= 0.5 * visits.sum() - 1e-9 >= visits[~kept].sum() - visits[~kept][np.argmax(entropy[~kept])] - 1e-9


@pytest.mark.parametrize("divide", ["none", "std"])
def test_groups_are_all_ordered_tuples(divide: str) -> None:
    """Four members, V = 2, T = 2: 81 tuples one by one, against the engine's 15 multisets."""
    world = world_of(2, 2)
    entry = entry_of(score_function({"kind": "group", "divide": divide}), rollouts={"main": {"author": "student", "group": 4}})
    bench, tables, brute = bench_of(entry, world)
    wanted = np.zeros_like(brute.p)
    second = 0.0
    for members in product(list(brute.texts()), repeat=4):
        mass = float(np.prod([m for _, m in members]))
        total = np.array([brute.log_ratio(y).sum() for y, _ in members])
        advantage = total - total.mean()
        if divide == "std":
            advantage = advantage / (total.std(ddof=1) + 1e-4)
        one = -sum(brute.score(y, np.full(len(y), a)) for (y, _), a in zip(members, advantage, strict=True)) / 4
        wanted += mass * one
        second += mass * float((one**2).sum())
    found = bench.measure(tables)
    np.testing.assert_allclose(found.gradient, wanted, rtol=0, atol=1e-13)
    assert found.second[0] == pytest.approx(second, rel=1e-11)
    assert found.laws["main"].outcomes == 15


def test_a_mixture_by_token_is_its_law() -> None:
    stream = {"author": "mixture", "of": {"student": 0.7, "teacher": 0.3}, "per": "token"}
    found, brute = mean(entry_of(score_function("immediate"), rollouts={"main": stream}))
    law = 0.7 * brute.p + 0.3 * brute.q
    np.testing.assert_allclose(found, brute.mean(brute.log_ratio, law), rtol=0, atol=1e-14)


def test_importance_sampling_undoes_the_mixture() -> None:
    """D.12: a ratio on each token leaves the states where they were drawn, and corrects the actions."""
    stream = {"author": "mixture", "of": {"student": 0.7, "teacher": 0.3}, "per": "token"}
    found, brute = mean(entry_of(score_function("immediate", ratio=("importance",)), rollouts={"main": stream}))
    law, visits = 0.7 * brute.p + 0.3 * brute.q, np.zeros(len(brute.states))
    for text, m in brute.texts(law):
        for t in range(len(text)):
            visits[brute.at[text[:t]]] += m
    advantage = np.log(brute.q / brute.p)
    wanted = -visits[:, None] * brute.p * (advantage - (brute.p * advantage).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)


def test_interleaved_proposals() -> None:
    """Rejected proposals are replaced by the teacher's: q(v) accepted(v) + rejected mass * teacher(v)."""
    stream = {"author": "interleaved", "verify": {"kind": "rank", "at_most": 1}}
    found, brute = mean(entry_of(direct("forward_kl"), rollouts={"main": stream}))
    best = brute.q == brute.q.max(-1, keepdims=True)
    law = np.where(best, brute.p, 0.0) + (brute.p * ~best).sum(-1, keepdims=True) * brute.q
    visits = np.zeros(len(brute.states))
    for text, m in brute.texts(law):
        for t in range(len(text)):
            visits[brute.at[text[:t]]] += m
    np.testing.assert_allclose(found, visits[:, None] * (brute.p - brute.q), rtol=0, atol=1e-14)


def test_draws_are_averaged() -> None:
    """A gate that accepts with probability min(1, q/p): the mean is that of the probabilities, to 1 / 64."""
    found, brute = mean(entry_of({**direct("forward_kl"), "gates": ({"kind": "acceptance"},)}))
    accept = np.minimum(1.0, brute.q / brute.p)
    share = brute.visits() * (brute.p * accept).sum(-1)
    np.testing.assert_allclose(found, share[:, None] * (brute.p - brute.q), rtol=0, atol=3 / 64)


@pytest.mark.parametrize(
    "entry",
    [
        entry_of({**score_function("immediate", shaping=({"kind": "whiten"},)), "reduce": {"kind": "token_mean", "over": "kept"},
                  "gates": ({"kind": "teacher_entropy", "above": 0.7},)}),
        entry_of({**score_function("return_to_go", baseline="batch_mean"), "reduce": "token_mean"}, {**direct(), "reduce": "sequence_mean"}),
        entry_of({**score_function({"kind": "group"}), "reduce": "token_mean"}, rollouts={"main": {"author": "student", "group": 3}}),
        entry_of({**direct("forward_kl"), "weights": ({"kind": "perplexity"},), "reduce": "token_mean"},
                 rollouts={"main": {"author": "mixture", "of": {"student": 1, "dataset": 1}, "per": "sequence"}}),
    ],
)  # fmt: skip
def test_fast_sums_equal_one_process_for_each_outcome(entry: MethodEntry) -> None:
    """Every outcome as a process of its own, whose reports are added by probability, gives the same gradient."""
    bench = Bench(entry, world_of(3, 2))
    tables = bench.tables()
    fast = bench.measure(tables).gradient
    np.testing.assert_allclose(fast, bench.by_process(tables), rtol=0, atol=1e-13)
    assert np.abs(fast).max() > 1e-3 and not bench.slow


def test_two_streams_of_one_term_are_independent() -> None:
    """A preference of the teacher's text over the student's: every pair of texts, by product probability."""
    rollouts = {"theirs": "teacher", "own": "student"}
    term = {"term": "log_prob_loss", "loss": {"kind": "dpo", "beta": 0.5}, "chosen": "theirs", "rejected": "own"}
    entry = entry_of(term, rollouts=rollouts)
    world = world_of(3, 2)
    bench = Bench(entry, world)
    tables = bench.tables()
    brute = Brute(tables.student.numpy(), tables.logits("teacher").numpy(), 3, 2)
    initial = softmax(tables.logits("reference").numpy())

    def logp(law: Array, text: tuple[int, ...]) -> float:
        return float(sum(np.log(law[brute.at[text[:t]], text[t]]) for t in range(len(text))))

    wanted = np.zeros_like(brute.p)
    for (a, ma), (b, mb) in product(list(brute.texts(brute.q)), list(brute.texts())):
        margin = logp(brute.p, a) - logp(initial, a) - logp(brute.p, b) + logp(initial, b)
        slope = -0.5 / (1 + np.exp(0.5 * margin))
        wanted += ma * mb * slope * (brute.score(a, np.ones(len(a))) - brute.score(b, np.ones(len(b))))
    np.testing.assert_allclose(bench.measure(tables).gradient, wanted, rtol=0, atol=1e-13)


def test_the_state_reward_is_the_kl() -> None:
    term = {**score_function("immediate"), "reward": {"kind": "state_divergence", "teacher": "teacher"}}
    bench, tables, brute = bench_of(entry_of(term))
    found = bench.measure(tables)
    kl = brute.state_kl()
    second = brute.second(lambda y: -np.array([kl[brute.at[y[:t]]] for t in range(len(y))]))
    assert found.second[0] == pytest.approx(second, rel=1e-12) and second > 0.01
    assert np.abs(found.gradient).max() < 1e-15


def test_every_text_once_and_probabilities_add_up() -> None:
    for vocabulary, horizon in ((2, 1), (2, 5), (4, 3), (6, 2)):
        world = World(vocabulary, horizon)
        assert len(set(world.texts)) == len(world.texts)
        bench = Bench(entry_of({**score_function("immediate"), "reward": LOG_RATIO}), world)
        law = bench.laws(bench.tables())["main"]
        assert law.probability_R.sum() == pytest.approx(1.0, abs=1e-12) and len(law) == len(world.texts)
    with pytest.raises(ValueError, match="2 to 6 tokens"):
        World(7, 2)


@pytest.mark.parametrize("supervise", ["continuation", "all"])
def test_a_given_beginning(supervise: str) -> None:
    """The teacher writes 0 to 2 tokens (each as likely, its text's length at most), the student goes on; only what is learned counts."""
    stream = {"author": "prefix", "of": "teacher", "low": 0, "high": 2, "unit": "tokens", "supervise": supervise}
    found, brute = mean(entry_of(direct("forward_kl"), rollouts={"main": stream}))
    visits = np.zeros(len(brute.states))
    for text, m in brute.texts(brute.q):
        body = len(text) - (text[-1] == brute.V - 1)
        for cut in (0, 1, 2):
            given = text[: min(cut, body)]
            rest = [(y, n) for y, n in brute.texts() if y[: len(given)] == given and len(y) > len(given)]
            whole = sum(n for _, n in rest)
            for y, n in rest:
                for t in range(0 if supervise == "all" else len(given), len(y)):
                    visits[brute.at[y[:t]]] += m / 3 * n / whole
    np.testing.assert_allclose(found, visits[:, None] * (brute.p - brute.q), rtol=0, atol=1e-12)
