"""Learners beside the student: peers, adapters on a teacher, and the student's own adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, made, read_pair, trainer_of, weights

from zoo.compat import problems
from zoo.errors import ZooError
from zoo.harness.models import LoadedPair
from zoo.method import Method

PUPIL = {**REVERSE_KL, "teacher": "pupil", "divergence": "forward_kl"}
BESIDE = {"term": "likelihood", "reduce": "token_mean"}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def mutual(spec: dict[str, Any]) -> Any:
    return made(rollout={"author": "student"}, teachers={"partner": {"kind": "learner", "learner": "mate"}}, learners={"mate": spec}, objective=[
        {**REVERSE_KL, "teacher": "partner"}])  # fmt: skip


def test_a_peer_descends_its_own_objective_on_the_students_sequences(pair: LoadedPair) -> None:
    entry = mutual({"kind": "peer", "objective": [PUPIL, BESIDE], "learning_rate": 0.01})
    assert problems(entry) == []
    trainer = trainer_of(entry, pair, budget={"amount": 10_000}, micro_tokens=1, chunk_tokens=3, clip_norm=1e9)
    mate = trainer.parts["learner:mate"]
    before, teacher = weights(mate.model), weights(pair.teachers["teacher"])
    found: dict[str, torch.Tensor] = {}
    mate.optimizer.register_step_pre_hook(lambda *_: found.update({n: p.grad.clone() for n, p in mate.model.named_parameters()}))
    method = Method(entry)
    streams = trainer.write(method)
    main, start = streams["main"], pair.frozen_student()
    trainer.step(method, trainer.judge(method, streams))
    mate.model.load_state_dict(before)
    losses = []
    for i in range(len(main)):
        ids = torch.tensor([[*main.prompt_ids[i], *main.response_BT[i][main.mask_BT[i]].tolist()]])
        at = slice(len(main.prompt_ids[i]) - 1, -1)
        p = mate.model(ids).logits[0, at].log_softmax(-1)
        with torch.no_grad():
            q = start(ids).logits[0, at].log_softmax(-1)
        losses.append((q.exp() * (q - p)).sum(-1) - p.gather(-1, ids[0, at.start + 1 :, None])[:, 0])
    mate.model.zero_grad()
    torch.cat(losses).mean().backward()
    for name, parameter in mate.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(p, teacher[name]) for name, p in pair.teachers["teacher"].named_parameters())


def test_the_student_sees_its_peer_as_it_is_now(pair: LoadedPair) -> None:
    entry = mutual({"kind": "peer", "objective": [PUPIL], "learning_rate": 0.02})
    trainer = trainer_of(entry, pair, budget={"amount": 800}, learning_rate=1e-7)
    trainer.train(lambda row: None, lambda: None)
    losses = [row["loss.0.divergence"] for row in trainer.rows]
    assert losses[-1] < 0.5 * losses[0]  # the student rests; the peer comes to it


def test_an_adapter_trains_alone_and_is_taken_off_again(pair: LoadedPair) -> None:
    pytest.importorskip("peft")
    lora = {"kind": "lora", "rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"]}
    entry = made(rollout={"author": "student"}, teachers={"reference": {"kind": "student", "weights": "initial"}, "teacher": {"kind": "external"}}, objective=[
        REVERSE_KL, {**REVERSE_KL, "teacher": "reference", "role": "anchor"}], update={"kind": "adamw", "adapter": lora})  # fmt: skip
    names = set(weights(pair.reset_student()))
    trainer = trainer_of(entry, pair, budget={"amount": 10_000}, learning_rate=0.05)
    assert len(trainer.trained) == 2 * 2 * 2
    first = next(trainer.iterate())
    assert first["loss.1.divergence"] == pytest.approx(0.0, abs=1e-9)  # off, the student is the initial one
    trainer.iteration += 1
    assert next(trainer.iterate())["loss.1.divergence"] > 1e-6
    own = {name.replace("base_layer.", ""): p for name, p in pair.student.named_parameters() if "lora_" not in name}
    assert set(own) == names and all(torch.equal(p, pair.initial[name]) for name, p in own.items() if name in pair.initial)
    assert set(weights(pair.reset_student())) == names and all(p.requires_grad for p in pair.student.parameters())


def test_an_adapter_on_the_teacher_leaves_the_teacher_as_it_is(pair: LoadedPair) -> None:
    pytest.importorskip("peft")
    module = {"kind": "lora", "rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"]}
    entry = mutual({"kind": "adapter", "objective": [PUPIL, BESIDE], "learning_rate": 0.02, "module": module})
    trainer = trainer_of(entry, pair, budget={"amount": 600})
    before = weights(pair.teachers["teacher"])
    trainer.train(lambda row: None, lambda: None)
    mate = trainer.parts["learner:mate"]
    assert all(torch.equal(p, before[name]) for name, p in pair.teachers["teacher"].named_parameters())
    frozen = {name.replace("base_layer.", ""): p for name, p in mate.model.named_parameters() if "lora_" not in name}
    assert all(torch.equal(p, before[name]) for name, p in frozen.items()) and any(bool(p.any()) for n, p in mate.model.named_parameters() if "lora_B" in n)


def test_refusals(pair: LoadedPair) -> None:
    stray = mutual({"kind": "peer", "objective": [{**PUPIL, "teacher": "pupl"}]})
    assert any("learners.mate.objective[0]: 'pupl' is not declared" in problem for problem in problems(stray))
    unnamed = made(rollout={"author": "student"}, teachers={"partner": {"kind": "learner", "learner": "mat"}}, objective=[{**REVERSE_KL, "teacher": "partner"}])
    assert any("'mat' is no learner" in problem for problem in problems(unnamed))
    with pytest.raises(ZooError, match="is no teacher of pair"):
        trainer_of(mutual({"kind": "peer", "model": "other", "objective": [PUPIL]}), pair)
    with pytest.raises(ZooError, match="no such linear map"):
        odd = {"kind": "adamw", "adapter": {"kind": "lora", "targets": ["qproj"]}}
        trainer_of(made(rollout={"author": "student"}, teachers={"teacher": {"kind": "external"}}, objective=[REVERSE_KL], update=odd), pair)
    with pytest.raises(ValueError, match="which an adapter freezes"):
        both = {"kind": "adamw", "adapter": "lora", "anchor": {"l2": 1.0}}
        made(rollout={"author": "student"}, teachers={"teacher": {"kind": "external"}}, objective=[REVERSE_KL], update=both)
