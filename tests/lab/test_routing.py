"""What the lab proves about routings: where a negative update takes probability from, and who receives it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.lab.brute import softmax
from zoo.lab.engine import Bench
from zoo.lab.routing import STUDENT, TEACHER, routing_numbers
from zoo.lab.synthetic import direct, entry_of, score_function
from zoo.lab.world import World, world_of

W = world_of(3, 4)


class TestRouting:
    """D.9 and D.10 with Part 5 items 9, 10 and 13."""

    found = {n.row.name: n for n in routing_numbers()}

    def test_sampled_updates_follow_the_formula(self) -> None:
        for token, moved in self.found["sampled"].moved.items():
            a = np.log(TEACHER[token] / STUDENT[token])
            wanted = -a * STUDENT * (STUDENT + STUDENT[token] - (STUDENT**2).sum())
            wanted[token] = 0.0
            wanted[token] = -wanted.sum()
            np.testing.assert_allclose(moved, wanted, atol=1e-15)

    def test_the_argmax_takes_everything(self) -> None:
        moved = self.found["sampled"].moved[1]
        assert moved[0] > 0 and (moved[2:] < 0).all()
        assert self.found["sampled"].losers[1] == 3

    def test_a_rare_teacher_token_is_out_of_reach_of_the_reverse_kl(self) -> None:
        """D.9 iv: p_j = 1e-6, q_j = 0.9: 1.6e-5 against 0.9 for the forward KL."""
        p, q = np.array([1 - 1e-6, 1e-6]), np.array([0.1, 0.9])
        pushes = []
        for divergence in ("reverse_kl", "forward_kl"):
            bench = Bench(entry_of(direct(divergence)), World(2, 1))
            tables = bench.tables(torch.from_numpy(np.log(p)[None].copy()))
            tables.pinned = {"teacher": torch.from_numpy(np.log(q)[None].copy())}
            pushes.append(-bench.measure(tables).gradient[0, 1])
        assert pushes == pytest.approx([1.6e-5, 0.9], rel=0.01)

    def test_redirected_updates_move_named_tokens_only(self) -> None:
        """Untouched logits have gradient 0, since rho adds up to 1; the probabilities follow."""
        token = 1
        a = abs(np.log(TEACHER[token] / STUDENT[token]))
        for name, rho in (("teacher", TEACHER), ("teacher's top 2", np.array([0.3, 0, 0.35, 0, 0]) / 0.65)):
            step = a * (rho - np.eye(5)[token])
            np.testing.assert_allclose(self.found[name].moved[token], STUDENT * (step - STUDENT @ step), atol=1e-15)

    def test_counterfactual_routing_lowers_the_kl_and_reaches_the_teacher(self) -> None:
        n, sampled = self.found["counterfactual"], self.found["sampled"]
        assert all(n.kl[v] < sampled.kl[v] for v in n.kl) and all(k < 0 for k in n.kl.values())
        assert n.mean_kl < sampled.mean_kl

    def test_the_sampled_rule_can_raise_the_kl(self) -> None:
        """Token 1 has A < 0 but A + KL > 0 or near: pushing it down feeds the second worst."""
        assert self.found["sampled"].kl[0] > 0

    def test_only_the_sampled_rule_is_the_reverse_kl_in_the_mean(self) -> None:
        assert self.found["sampled"].cosine == pytest.approx(1.0, abs=1e-12)
        assert all(self.found[name].cosine < 0.97 for name in self.found if name != "sampled")

    @pytest.mark.parametrize("routing", ["sampled", "teacher", {"kind": "teacher_topk", "k": 2}, "counterfactual"])
    def test_the_teacher_stays_a_fixed_point(self, routing: Any) -> None:
        bench = Bench(entry_of(score_function("immediate", routing=routing)), W)
        tables = bench.tables()
        placed = tables.at(tables.logits("teacher"))
        assert np.abs(bench.measure(placed).gradient).max() < 1e-15

    def test_the_mean_log_ratio_is_minus_the_kl_and_negatives_need_not_be_a_majority(self) -> None:
        """Part 5 item 1: P_p(A < 0) = P_q(A < 0) + TV(p, q), below one half where the teacher is sharper."""
        for sharper, student in ((True, np.zeros(6)), (False, np.array([3.0, 0, 0, 0, 0, 0]))):
            p = softmax(student)
            q = softmax(student + (np.array([2.0, 1.9, 1.8, 1.7, 0, 0]) if sharper else 0.2 * np.arange(6)))
            negative = np.log(q / p) < 0
            assert p[negative].sum() == pytest.approx(q[negative].sum() + 0.5 * np.abs(p - q).sum(), abs=1e-12)
            assert (p[negative].sum() < 0.5) == sharper
