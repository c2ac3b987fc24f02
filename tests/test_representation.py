"""Hidden states as the signal: values and gradients against a plain computation, projectors, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import TEACHER, made, read_pair, trainer_of, weights
from torch import Tensor

from zoo.compat import problems
from zoo.coordinates import derive_coordinates
from zoo.errors import ZooError
from zoo.harness.layers import chosen
from zoo.harness.models import LoadedPair
from zoo.method import Method

HINTED = {"self": {"kind": "student", "weights": "initial", "context": {"fields": ["solution"], "template": "solution"}}}
TERM = {"term": "representation", "layers": "all", "reduce": "token_mean"}
BRIDGE = {"learners": {"bridge": {"kind": "projector", "learning_rate": 0.02}}}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def plain(pair: LoadedPair, model: Any, rollout: Any, row: int, layers: list[int], context: Any = None) -> list[Tensor]:
    prompt = pair.format_prompt(rollout.prompts[row], context) if context else list(rollout.prompt_ids[row])
    response = rollout.response_BT[row][rollout.mask_BT[row]].tolist()
    given = model.base_model(torch.tensor([[*prompt, *response]]), output_hidden_states=True).hidden_states
    return [given[layer][0, len(prompt) - 1 : -1] for layer in layers]


def distance(kind: str, h: Tensor, g: Tensor) -> Tensor:
    if kind == "cosine":
        return 1 - (h * g).sum(-1) / (h.norm(dim=-1) * g.norm(dim=-1))
    if kind == "mse":
        return ((h - g) ** 2).mean(-1)
    h, g = h / h.norm(dim=-1, keepdim=True), g / g.norm(dim=-1, keepdim=True)
    return ((h - g) ** 2).sum(-1)


@pytest.mark.parametrize("kind", ["mse", "normalised_mse", "cosine"])
@pytest.mark.parametrize("layers", ["all", "last"])
def test_value_and_gradient(pair: LoadedPair, kind: str, layers: str) -> None:
    entry = made(rollout={"author": "student"}, teachers=HINTED, objective=[{**TERM, "teacher": "self", "layers": layers, "distance": kind}])
    trainer = trainer_of(entry, pair, clip_norm=1e9, budget={"amount": 10_000})
    streams = trainer.write(Method(entry))
    scored = trainer.judge(Method(entry), streams)
    found: dict[str, Tensor] = {}
    trainer.optimizer.register_step_pre_hook(lambda *_: found.update({n: p.grad.clone() for n, p in pair.student.named_parameters() if p.grad is not None}))
    start = pair.frozen_student()
    row = trainer.step(Method(entry), scored)
    pair.reset_student()
    numbers, losses, main = {"all": [1, 2], "last": [2]}[layers], [], streams["main"]
    for i in range(len(main)):
        mine = plain(pair, pair.student, main, i, numbers)
        with torch.no_grad():
            theirs = plain(pair, start, main, i, numbers, entry.teachers["self"].context)
        losses.append(torch.stack([distance(kind, h, g) for h, g in zip(mine, theirs, strict=True)]).mean(0))
    loss = torch.cat(losses).mean()
    loss.backward()
    assert row["loss.0.representation"] == pytest.approx(float(loss.detach()), rel=1e-6) and float(loss.detach()) > 1e-3
    for name, p in pair.student.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-5, atol=1e-7)
    pair.student.zero_grad()


def test_a_projector_meets_a_wider_teacher_and_learns(pair: LoadedPair) -> None:
    entry = made(rollout={"author": "dataset"}, **TEACHER, **BRIDGE, objective=[{**TERM, "projector": "bridge", "distance": "normalised_mse"}])
    trainer = trainer_of(entry, pair, budget={"amount": 2_000}, max_new_tokens=20, learning_rate=1e-6)
    bridge = trainer.bank.projectors["bridge"]
    assert [tuple(m.shape) for m in bridge.maps] == [(16, 24), (16, 24)]
    teacher = weights(pair.teachers["teacher"])
    before = [m.detach().clone() for m in bridge.maps]
    trainer.train(lambda row: None, lambda: None)
    losses = [row["loss.0.representation"] for row in trainer.rows]
    assert losses[-1] < 0.8 * losses[0] and all(not torch.equal(m, b) for m, b in zip(bridge.maps, before, strict=True))
    assert all(torch.equal(p, teacher[name]) and p.grad is None for name, p in pair.teachers["teacher"].named_parameters())
    again = trainer_of(entry, pair)
    assert all(torch.equal(m, b) for m, b in zip(again.bank.projectors["bridge"].maps, before, strict=True))


def test_beside_a_divergence_the_heads_read_their_own_states(pair: LoadedPair) -> None:
    kl = {"term": "divergence", "teacher": "teacher", "divergence": "reverse_kl", "support": "full", "reduce": "token_mean"}
    alone = trainer_of(made(rollout={"author": "student"}, **TEACHER, objective=[kl]), pair)
    value = next(alone.iterate())["loss.0.divergence"]
    both = made(rollout={"author": "student"}, **TEACHER, **BRIDGE, objective=[kl, {**TERM, "projector": "bridge"}])
    trainer = trainer_of(both, pair, micro_tokens=1, chunk_tokens=3)
    assert next(trainer.iterate())["loss.0.divergence"] == pytest.approx(value, rel=1e-6)


def test_layers_and_coordinates() -> None:
    assert [chosen(layers, 5) for layers in ("all", "odd", "even", "last")] == [[1, 2, 3, 4, 5], [1, 3, 5], [2, 4], [5]]
    found = derive_coordinates(made(rollout={"author": "student"}, **TEACHER, objective=[TERM]))
    assert (found.estimator, found.routing, found.feedback_signal, found.loss_granularity) == (("representation",), ("none",), ("logit",), "token")


def test_refusals(pair: LoadedPair) -> None:
    with pytest.raises(ZooError, match="16 wide and those of 'teacher' 24"):
        trainer_of(made(rollout={"author": "student"}, **TEACHER, objective=[TERM]), pair)
    unnamed = made(rollout={"author": "student"}, **TEACHER, objective=[{**TERM, "projector": "bridge"}])
    assert any("projector 'bridge' is not declared" in problem for problem in problems(unnamed))
    assert problems(made(rollout={"author": "student"}, **TEACHER, **BRIDGE, objective=[{**TERM, "projector": "bridge"}])) == []
    warm = {"teacher": {"kind": "external", "target": {"kind": "temperature", "tau": 2.0}}}
    assert any("reads hidden states" in problem for problem in problems(made(rollout={"author": "student"}, teachers=warm, objective=[TERM])))
