"""What the lab proves: each statement of the catalogue's Part 1b, as Part 5 corrects it, in exact expectation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.lab.brute import Array, Brute, softmax, to_go
from tests.lab.test_engine import bench_of, mean
from zoo.components.base import Slot
from zoo.lab import references as ref
from zoo.lab.engine import Bench
from zoo.lab.synthetic import direct, entry_of, score_function
from zoo.lab.world import World, world_of

W = world_of(3, 4)
GAE = {"learners": {"value": "value_head"}}


def relative(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def student_and_teacher(brute: Brute) -> tuple[Array, Array]:
    return np.log(brute.p), np.log(brute.q)


def frozen_kl_gradient(brute: Brute) -> Array:
    """sum over s of d(s) times the gradient of KL(p || q), d held fixed, by differences of the states' KL."""
    visits = brute.visits()
    return brute.differentiate(lambda b: float(visits @ b.state_kl()), *student_and_teacher(brute))


def test_immediate_credit_descends_the_per_state_reverse_kl() -> None:
    found, brute = mean(entry_of(score_function("immediate")), W)
    p, q = brute.p, brute.q
    exact = brute.visits()[:, None] * p * (np.log(p / q) - brute.state_kl()[:, None])
    assert relative(found, exact) < 1e-12
    assert relative(found, frozen_kl_gradient(brute)) < 1e-8
    assert relative(mean(entry_of(direct()), W)[0], exact) < 1e-12


def test_return_to_go_descends_the_sequence_reverse_kl() -> None:
    found, brute = mean(entry_of(score_function("return_to_go")), W)
    assert relative(found, brute.differentiate(Brute.sequence_kl, *student_and_teacher(brute))) < 1e-8
    assert relative(found, frozen_kl_gradient(brute)) > 0.1


def test_sequence_kl_is_the_visited_states_kl() -> None:
    _, brute = mean(entry_of(direct()), W)
    assert brute.sequence_kl() == pytest.approx(float(brute.visits() @ brute.state_kl()), rel=1e-13)


def test_what_immediate_credit_withholds_from_stopping() -> None:
    """D.4 with Part 5 item 8: d(s) p_stop E[cost-to-go of the next state], never negative, 0 in the last position, 0 at the teacher."""
    immediate, brute = mean(entry_of(score_function("immediate")), W)
    exact, _ = mean(entry_of(score_function("return_to_go")), W)
    withheld = immediate[:, -1] - exact[:, -1]  # loss gradients: the exact update raises the stop logit by so much more
    cost = np.log(brute.p / brute.q)
    np.testing.assert_allclose(withheld, ref.stop_bonus(W, brute.p, cost), atol=1e-14)
    assert (withheld >= -1e-15).all() and withheld.max() > 0.01
    assert all(abs(withheld[i]) < 1e-15 for i, s in enumerate(brute.states) if len(s) == W.horizon - 1)
    ahead = ref.action_values(W, brute.p, cost) - cost
    for i, s in enumerate(brute.states):  # cost-to-go of the next states, from the texts themselves
        if len(s) < W.horizon - 1:
            rest = [(m / brute.visits()[i], -brute.log_ratio(y)[len(s) + 1 :].sum()) for y, m in brute.texts() if y[: len(s)] == s and len(y) > len(s)]
            assert float((brute.p[i] * ahead[i]).sum()) == pytest.approx(sum(m * c for m, c in rest), abs=1e-12)


@pytest.mark.parametrize("kind", [
    {"kind": "forward_kl"}, {"kind": "reverse_kl"}, {"kind": "generalized_jsd", "beta": 0.3}, {"kind": "total_variation"},
    {"kind": "squared_hellinger"}, {"kind": "pearson_chi2"}, {"kind": "alpha", "alpha": 0.4}, {"kind": "skew_forward_kl", "skew": 0.1},
    {"kind": "skew_reverse_kl", "skew": 0.1},
])  # fmt: skip
def test_w_f_turns_a_policy_gradient_into_any_f_divergence(kind: dict[str, Any]) -> None:
    """A.3: the advantage w_f(q/p) has the per-state gradient of D_f; so has the direct loss, and so have differences of its definition."""
    sampled, brute = mean(entry_of(score_function("immediate", shaping=({"kind": "w_f", "of": kind},))), W)
    whole, _ = mean(entry_of(direct(kind)), W)
    assert relative(sampled, whole) < 1e-8
    wanted = ref.divergence_field(brute.visits(), brute.p, brute.q, kind["kind"], kind)
    assert wanted is not None and relative(whole, wanted) < 1e-8
    component = Slot("divergence").validate(kind)
    visits = brute.visits()

    def value(b: Brute) -> float:
        log_u = torch.from_numpy(np.log(b.q / b.p))
        return float(visits @ (b.p * component.generator(log_u).numpy()).sum(-1))  # type: ignore[attr-defined]

    assert relative(whole, brute.differentiate(value, *student_and_teacher(brute), step=1e-4)) < 1e-6


@pytest.mark.parametrize(("scale", "helps"), [(0.25, True), (5.0, False)])
def test_the_kl_baseline_is_unbiased_and_near_optimal_in_flat_states_only(scale: float, helps: bool) -> None:
    """D.6 with Part 5 item 7, one state of six tokens: b* = sum p |e - p|^2 A / sum p |e - p|^2 is best; -KL is near it where p is flat."""
    world = World(6, 1)
    random = np.random.RandomState(5)
    plain, based = (Bench(entry_of(score_function("immediate", **extra)), world) for extra in ({}, {"baseline": {"kind": "kl", "teacher": "teacher"}}))
    better, share = 0, []
    for _ in range(20):
        student = scale * random.standard_normal((1, 6))
        pinned = {"teacher": torch.from_numpy(student + random.standard_normal((1, 6)))}
        noise = []
        for bench in (plain, based):
            tables = bench.tables(torch.from_numpy(student.copy()))
            tables.pinned = pinned
            noise.append(bench.measure(tables))
        np.testing.assert_allclose(noise[0].gradient, noise[1].gradient, atol=1e-13)
        p = softmax(student)[0]
        a = np.log(softmax(pinned["teacher"].numpy())[0] / p)
        length = 1 - 2 * p + (p**2).sum()
        best = float((p * length * a).sum() / (p * length).sum())
        floor = float((p * length * (a - best) ** 2).sum())
        assert floor <= min(n.second[0] for n in noise) + 1e-12
        assert noise[1].second[0] == pytest.approx(float((p * length * (a - (p * a).sum()) ** 2).sum()), rel=1e-10)
        better += noise[1].second[0] < noise[0].second[0]
        share.append((noise[0].second[0] - noise[1].second[0]) / (noise[0].second[0] - floor))
    assert (better == 20 and np.median(share) > 0.95) if helps else better < 20


def test_the_example_in_which_the_kl_baseline_hurts() -> None:
    """Part 5 item 7: p = (.99, .01), q = (.9, .1) has a second moment of .104 without, .110 with, .0011 at the optimum."""
    world, found = World(2, 1), []
    for baseline in ("none", {"kind": "kl", "teacher": "teacher"}):
        bench = Bench(entry_of(score_function("immediate", baseline=baseline)), world)
        tables = bench.tables(torch.log(torch.tensor([[0.99, 0.01]], dtype=torch.float64)))
        tables.pinned = {"teacher": torch.log(torch.tensor([[0.9, 0.1]], dtype=torch.float64))}
        found.append(bench.measure(tables).second[0])
    assert found[0] < found[1]
    assert found == pytest.approx([0.104, 0.110], abs=8e-4)


def test_a_divergence_value_as_the_advantage_is_exactly_nothing() -> None:
    bench, tables, _ = bench_of(entry_of({**score_function("immediate"), "reward": {"kind": "state_divergence", "teacher": "teacher"}}), W)
    found = bench.measure(tables)
    assert np.linalg.norm(found.gradient) < 1e-14 * np.sqrt(found.second[0])
    assert found.second[0] > 0.01


class TestGae:
    """D.8 with Part 5 items 2 and 3."""

    def found(self, gamma: float, lam: float, value: Array | None = None) -> Array:
        bench, tables, _ = bench_of(entry_of(score_function({"kind": "gae", "gamma": gamma, "lambda": lam}), **GAE), W)
        if value is not None:
            bench.values = {"value": torch.from_numpy(value)}
        return bench.measure(tables).gradient

    def test_gamma_0_with_minus_kl_is_the_kl_baseline_token_by_token(self) -> None:
        bench, tables, brute = bench_of(entry_of(score_function({"kind": "gae", "gamma": 0.0, "lambda": 0.9}), **GAE), W)
        bench.values = {"value": torch.from_numpy(-brute.state_kl())}
        baseline = Bench(entry_of(score_function("immediate", baseline={"kind": "kl", "teacher": "teacher"})), W)
        one, other = bench.measure(tables), baseline.measure(baseline.tables())
        np.testing.assert_allclose(one.gradient, other.gradient, atol=1e-14)
        assert one.second[0] == pytest.approx(other.second[0], rel=1e-12)

    def test_its_exact_value_at_gamma_0_is_minus_kl_and_not_minus_the_cost_to_go(self) -> None:
        bench, tables, brute = bench_of(entry_of(score_function({"kind": "gae", "gamma": 0.0, "lambda": 1.0}), **GAE), W)
        np.testing.assert_allclose(
            bench.measure(tables).second[0],
            Bench(entry_of(score_function("immediate", baseline={"kind": "kl", "teacher": "teacher"})), W).measure(tables).second[0],
            rtol=1e-12,
        )
        cost = -(ref.action_values(W, brute.p, np.log(brute.q / brute.p)) * brute.p).sum(-1)
        assert np.abs(cost - brute.state_kl()).max() > 0.1

    def test_gamma_1_lambda_1_is_return_to_go_with_any_critic(self) -> None:
        wanted = mean(entry_of(score_function("return_to_go")), W)[0]
        states = len(W.states)
        assert relative(self.found(1.0, 1.0, np.random.RandomState(0).standard_normal(states)), wanted) < 1e-12

    @pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
    def test_gamma_1_with_the_exact_critic_is_the_sequence_gradient(self, lam: float) -> None:
        wanted, brute = mean(entry_of(score_function("return_to_go")), W)
        assert relative(self.found(1.0, lam), wanted) < 1e-12
        assert relative(self.found(1.0, lam), brute.differentiate(Brute.sequence_kl, *student_and_teacher(brute))) < 1e-8

    @pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
    def test_gamma_below_1_with_the_exact_critic_is_the_discounted_field(self, lam: float) -> None:
        discounted, _ = mean(entry_of(score_function({"kind": "discounted", "gamma": 0.8})), W)
        assert relative(self.found(0.8, lam), discounted) < 1e-12
        assert relative(self.found(0.8, lam), mean(entry_of(score_function("return_to_go")), W)[0]) > 0.01

    def test_a_wrong_critic_biases_lambda_below_1(self) -> None:
        wanted = mean(entry_of(score_function("return_to_go")), W)[0]
        assert relative(self.found(1.0, 0.5, np.zeros(len(W.states))), wanted) > 1e-3


def test_discounting_lies_between_and_is_no_gradient() -> None:
    """D.5 with Part 5 item 6: bias falls with gamma, and the field has an asymmetric Jacobian for gamma < 1, gamma = 0 included."""
    whole, _ = mean(entry_of(score_function("return_to_go")), W)
    biases = [relative(mean(entry_of(score_function({"kind": "discounted", "gamma": g})), W)[0], whole) for g in (0.0, 0.5, 0.9, 1.0)]
    assert biases == sorted(biases, reverse=True) and biases[-1] < 1e-12 < 0.01 < biases[2]
    asymmetry = []
    for gamma in (0.0, 0.5, 1.0):
        bench = Bench(entry_of(score_function({"kind": "discounted", "gamma": gamma})), world_of(3, 2))
        tables = bench.tables()
        flat = tables.student.numpy().reshape(-1)
        jacobian = np.zeros((flat.size, flat.size))
        for k in range(flat.size):
            ends = []
            for sign in (1, -1):
                moved = flat.copy()
                moved[k] += sign * 1e-5
                ends.append(bench.measure(tables.at(torch.from_numpy(moved.reshape(tables.student.shape)))).gradient.reshape(-1))
            jacobian[:, k] = (ends[0] - ends[1]) / 2e-5
        asymmetry.append(np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian))
    assert asymmetry[0] > 0.01 and asymmetry[1] > 0.01 and asymmetry[2] < 1e-8


def test_groups_estimate_the_sequence_gradient_up_to_a_factor() -> None:
    world = world_of(3, 2)
    group = {"main": {"author": "student", "group": 4}}
    whole, _ = mean(entry_of(score_function("return_to_go")), world)
    assert relative(mean(entry_of(score_function("leave_one_out"), rollouts=group), world)[0], whole) < 1e-12
    assert relative(mean(entry_of(score_function({"kind": "group", "divide": "none"}), rollouts=group), world)[0], 0.75 * whole) < 1e-12
    scaled, _ = mean(entry_of(score_function({"kind": "group", "divide": "std"}), rollouts=group), world)
    assert ref.compare(scaled, whole)[1] < 0.999  # rewards of many values: no common factor


@pytest.mark.parametrize("divide", ["none", "std"])
def test_groups_with_a_verifier_climb_the_expected_reward(divide: str) -> None:
    """With rewards of 0 or 1 the standard deviation is a common factor too."""
    world = world_of(3, 2)
    term = {**score_function({"kind": "group", "divide": divide}), "reward": "correct"}
    bench = Bench(entry_of(term, rollouts={"main": {"author": "student", "group": 4}}, rewards={"correct": {"kind": "verifier"}}), world)
    tables = bench.tables()
    found = bench.measure(tables).gradient
    law = bench.laws(tables)["main"]
    verdict = dict(zip(world.texts, bench._verdicts(bench_law(world), "answer"), strict=True))
    assert 0 < sum(verdict.values()) < len(verdict) and len(law) == 840
    brute = Brute(tables.student.numpy(), tables.student.numpy(), 3, 2)
    wanted = brute.differentiate(lambda b: -sum(m * verdict[y] for y, m in b.texts()), tables.student.numpy(), tables.student.numpy())
    assert 1 - ref.compare(found, wanted)[1] < 1e-9
    if divide == "none":
        assert relative(found, 0.75 * wanted) < 1e-7


def bench_law(world: World) -> Any:
    """All texts of a world, in the order of `texts`."""
    bench = Bench(entry_of(score_function("immediate")), world)
    law = bench.laws(bench.tables())["main"]
    texts = [tuple(int(v) for v, s in zip(row, state, strict=True) if s >= 0) for row, state in zip(law.token_RT, law.state_RT, strict=True)]
    return law.rows([texts.index(text) for text in world.texts])


def test_noise_grows_with_the_horizon_as_stated() -> None:
    """D.7 with Part 5 item 4: return-to-go grows faster than immediate credit, and subtracting the value helps."""

    def noise(credit: Any, horizon: int, **sections: Any) -> float:
        bench = Bench(entry_of(score_function(credit), **sections), world_of(3, horizon))
        return bench.measure(bench.tables()).variance(0)

    gae = {"kind": "gae", "gamma": 1.0, "lambda": 1.0}
    for horizon in (3, 4, 5):
        assert noise("immediate", horizon) < noise(gae, horizon, **GAE) < noise("return_to_go", horizon)
    assert noise("return_to_go", 5) / noise("return_to_go", 2) > 1.5 * noise("immediate", 5) / noise("immediate", 2)
    assert noise("immediate", 4) == pytest.approx(_own_variance(4, lambda r: r), rel=1e-10)


def _own_variance(horizon: int, credit: Any) -> float:
    _, brute = mean(entry_of(score_function("immediate")), world_of(3, horizon))
    whole = brute.mean(lambda y: credit(brute.log_ratio(y)))
    return brute.second(lambda y: credit(brute.log_ratio(y))) - float((whole**2).sum())


def test_k2_descends_the_reverse_and_k3_the_forward_kl() -> None:
    reverse, _ = mean(entry_of(direct("k2", "sampled")), W)
    forward, _ = mean(entry_of(direct("k3", "sampled")), W)
    assert relative(reverse, mean(entry_of(direct()), W)[0]) < 1e-12
    assert relative(forward, mean(entry_of(direct("forward_kl")), W)[0]) < 1e-12


def test_to_go_of_the_tests_is_a_sum() -> None:
    np.testing.assert_allclose(to_go(np.array([1.0, 2.0, 4.0]), 0.5), [3.0, 4.0, 4.0])
