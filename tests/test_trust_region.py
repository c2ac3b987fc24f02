"""The trust-region step against dense linear algebra in float64, its bound, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, Plain, made, read_pair, shipped, trainer_of, weights
from torch import Tensor

from zoo.harness.models import LoadedPair
from zoo.harness.train import Trainer
from zoo.harness.trust_region import Fisher, TrustRegionMover, conjugate_gradients
from zoo.method import Method
from zoo.tensors import Rollout

KL, DAMPING = 1e-6, 0.05  # a bound so small that the quadratic model holds and the first trial stands
SMALL = {"rollouts_per_step": 3, "max_new_tokens": 6, "budget": {"amount": 100_000}}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def trusting(**changes: Any) -> Any:
    update = {"kind": "trust_region", "kl": KL, "damping": DAMPING, "iterations": 400, **changes}
    return made(rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL], update=update)


def trainer_for(pair: LoadedPair, **changes: Any) -> Trainer:
    return trainer_of(trusting(**changes), pair, **SMALL)


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in tensors.values()])


def logits(pair: LoadedPair, rollout: Rollout) -> Iterator[Tensor]:
    """All logits (T, V) before each sequence's supervised tokens, without the harness."""
    for row in range(len(rollout)):
        prompt, response = list(rollout.prompt_ids[row]), rollout.response_BT[row][rollout.mask_BT[row]].tolist()
        yield pair.student(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1, : pair.vocab_size]


def roots(pair: LoadedPair, rollout: Rollout) -> Tensor:
    """B (N V, P) with B^T B the Fisher information: rows sqrt(p_v / N) d log p_v / d theta."""
    found, parameters = [], list(pair.student.parameters())
    for logits_TV in logits(pair, rollout):
        logp_TV = logits_TV.log_softmax(-1)
        for token in (logp_TV * (0.5 * logp_TV.detach()).exp()).flatten():
            gradient = torch.autograd.grad(token, parameters, retain_graph=True)
            found.append(torch.cat([g.flatten() for g in gradient]))
    return torch.stack(found) / rollout.tokens**0.5


@pytest.fixture(scope="module")
def dense(pair: LoadedPair) -> tuple[Rollout, Tensor]:
    """The first batch and its B."""
    trainer = trainer_for(pair)
    [main] = trainer.write(Method(trainer.entry)).values()
    return main, roots(pair, main).detach()


def test_the_product_is_that_of_the_dense_fisher_information(pair: LoadedPair, dense: tuple[Rollout, Tensor]) -> None:
    main, root_KP = dense
    trainer = trainer_for(pair)
    parameters = trainer.trained
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    Fisher(trainer.bank, [main], parameters, main.tokens).gather(vector)
    found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    expected = root_KP.T @ (root_KP @ vector)
    assert float((found - expected).norm() / expected.norm()) < 1e-6  # a Llama takes its norms in fp32
    trainer.optimizer.zero_grad()


def test_the_step_is_the_dense_solution_scaled_to_the_bound(pair: LoadedPair, dense: tuple[Rollout, Tensor]) -> None:
    main, root_KP = dense
    trainer = trainer_for(pair)
    before = flat(weights(pair.student))
    plain, losses = Plain(pair, pair.student), []
    for row in range(len(main)):
        student_TV, _, teacher_TV = plain.three(main, row)
        losses.append((student_TV.exp() * (student_TV - teacher_TV)).sum(-1))
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(torch.cat(losses).mean(), list(pair.student.parameters()))])
    # (B^T B + c)^-1 g = (g - B^T (B B^T + c)^-1 B g) / c
    small_KK = root_KP @ root_KP.T + DAMPING * torch.eye(len(root_KP), dtype=torch.float64)
    natural = (gradient - root_KP.T @ torch.linalg.solve(small_KK, root_KP @ gradient)) / DAMPING
    curvature = natural @ (root_KP.T @ (root_KP @ natural)) + DAMPING * natural @ natural
    [row] = list(trainer.iterate())
    moved = flat(weights(pair.student)) - before
    expected = -natural * (2 * KL / curvature).sqrt()
    assert float((moved - expected).norm() / expected.norm()) < 1e-4
    assert row["step_share"] == 1.0 and row["kl"] < KL  # the damping's part of the bound is not moved along
    assert row["kl"] == pytest.approx(float(0.5 * moved @ (root_KP.T @ (root_KP @ moved))), rel=1e-2)


@pytest.mark.parametrize("kl", [0.3, 0.01])
def test_every_step_keeps_the_bound_and_lowers_the_loss(pair: LoadedPair, kl: float) -> None:
    trainer = trainer_for(pair, kl=kl, damping=1e-3, iterations=10)
    for _ in range(3):
        method = Method(trainer.entry)
        scored = trainer.judge(method, trainer.write(method))
        before = flat(weights(pair.student))
        old = [x.detach().log_softmax(-1) for x in logits(pair, scored["main"].context.rollout)]
        row = trainer.step(method, scored)
        new = [x.detach().log_softmax(-1) for x in logits(pair, scored["main"].context.rollout)]
        moved = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(old, new, strict=True)]).mean()
        assert 0 < row["kl"] <= kl and row["kl"] == pytest.approx(float(moved), rel=1e-5)
        after = trainer.judge(method, {"main": scored["main"].context.rollout})
        again = trainer.mover.gather(method, after, method.prepare({"main": after["main"].context}))
        assert float(again[0]) < row["loss.0.divergence"] and not torch.equal(before, flat(weights(pair.student)))
        trainer.optimizer.zero_grad()
        trainer.iteration += 1


def test_a_step_that_nothing_vouches_for_is_taken_back(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([(1.0, 0.0), (0.5, 1.0), (1.0, 0.0), (2.0, 0.0)])
    monkeypatch.setattr(TrustRegionMover, "_measured", lambda *_: next(told))
    trainer = trainer_for(pair, kl=0.01, backtracks=3)
    before = weights(pair.student)
    [row] = list(trainer.iterate())
    assert (row["kl"], row["step_share"]) == (0.0, 0.0) and all(torch.equal(value, before[name]) for name, value in weights(pair.student).items())
    told = iter([(1.0, 0.0), (0.5, 1.0), (1.0, 0.0), (0.9, 0.005)])
    trainer.iteration += 1
    [row] = list(trainer.iterate())
    assert (row["kl"], row["step_share"]) == (0.005, 0.25)


def test_without_a_gradient_nothing_moves(pair: LoadedPair) -> None:
    pair.task.verify = lambda *_: 0.0  # type: ignore[method-assign]
    entry = shipped("trpo").model_copy(update={"id": "made", "anchor": "trained"})
    trainer = trainer_of(entry, pair, **SMALL)
    before = weights(pair.student)
    [row] = list(trainer.iterate())
    del pair.task.verify
    assert row["grad_norm"] == 0.0 and all(torch.equal(value, before[name]) for name, value in weights(pair.student).items())


def test_conjugate_gradients_solve_and_stop() -> None:
    rng = np.random.default_rng(4)
    root = rng.normal(size=(30, 12))
    matrix, target = root.T @ root + 0.1 * np.eye(12), rng.normal(size=12)
    products: list[Tensor] = []

    def product(vector: Tensor) -> Tensor:
        products.append(vector)
        return torch.as_tensor(matrix) @ vector

    found = conjugate_gradients(product, torch.as_tensor(target), 100)
    np.testing.assert_allclose(found.numpy(), np.linalg.solve(matrix, target), rtol=1e-4)
    assert len(products) < 16
    first = conjugate_gradients(product, torch.as_tensor(target), 1)
    np.testing.assert_allclose(first.numpy(), target * (target @ target) / (target @ matrix @ target), rtol=1e-12)
    assert not bool(conjugate_gradients(lambda vector: -vector, torch.as_tensor(target), 5).any())
