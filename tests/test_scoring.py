"""Scoring and the backward pass: chunked, micro-batched, padded and shuffled, they give the gradient of a plain autograd computation
over whole unpadded sequences; and nobody ever holds a tensor of all tokens by the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import TEACHER, Plain, chosen, made, read_pair, shipped, trainer_of
from torch import Tensor

from zoo.components.base import Context
from zoo.harness.models import LoadedPair
from zoo.harness.scoring import backward, micro_batches, refreshed, score
from zoo.harness.train import Trainer
from zoo.method import Method
from zoo.tensors import Rollout

Streams = dict[str, Rollout]


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


# --- plain losses: one unpadded sequence at a time, all logits, formulas as printed on the cards ------------------------------


def clipped(advantage_T: Tensor, rho_T: Tensor) -> Tensor:
    return torch.maximum(-advantage_T * rho_T, -advantage_T * rho_T.clamp(0.8, 1.2))


def gkd(plain: Plain, streams: Streams) -> Tensor:
    main, losses = streams["main"], []
    for row in range(len(main)):
        p, _, q = plain.three(main, row)
        m = (0.5 * p.exp() + 0.5 * q.exp()).log()
        losses.append((0.5 * p.exp() * (p - m) + 0.5 * q.exp() * (q - m)).sum(-1))
    return torch.cat(losses).mean()


def eopd(plain: Plain, streams: Streams) -> Tensor:
    main, losses = streams["main"], []
    for row in range(len(main)):
        p, old, q = plain.three(main, row)
        advantage = chosen(q, main, row) - chosen(old, main, row)
        signal = clipped(advantage, (chosen(p, main, row) - chosen(old, main, row)).exp())
        top = q.topk(16, -1)
        q_top = top.values.log_softmax(-1)
        forward = (q_top.exp() * (q_top - p.gather(-1, top.indices))).sum(-1)
        uncertain = -(q.exp() * q).sum(-1) > 0.8
        losses.append((signal + forward * uncertain).mean())
    return torch.stack(losses).mean()


def minillm(plain: Plain, streams: Streams) -> Tensor:
    main, corpus = streams["main"], streams["corpus"]
    advantages, ratios, one_step, nll = [], [], [], []
    for row in range(len(main)):
        p, old, q = plain.three(main, row)
        reward = ((chosen(q, main, row) - chosen(old, main, row)) / 0.5).clamp(-100, 100).tolist()
        length = len(reward)
        returns = [sum(0.95 ** (k - t - 1) * reward[k] for k in range(t + 1, length)) / max(length - t - 1, 1) for t in range(length)]
        advantages.append(torch.tensor(returns, dtype=torch.float64))
        mixture = (0.8 * chosen(old, main, row).exp() + 0.2 * chosen(q, main, row).exp()).log()
        ratios.append(((chosen(old, main, row) - mixture).exp(), (chosen(p, main, row) - chosen(old, main, row)).exp()))
        one_step.append((p.exp() * (p - q)).sum(-1))
    flat = torch.cat(advantages)
    white = (flat - flat.mean()) / (flat.var(unbiased=False) + 1e-8).sqrt()
    rho = torch.cat([w * r for w, r in ratios])
    for row in range(len(corpus)):
        nll.append(-chosen(plain.logp_TV(plain.pair.student, corpus, row), corpus, row))
    return clipped(white, rho).mean() + torch.cat(one_step).mean() + torch.cat(nll).mean()


def grpo(plain: Plain, streams: Streams) -> Tensor:
    main, losses = streams["main"], []
    texts = [plain.pair.decode([i for i in r[m].tolist() if i != 1]) for r, m in zip(main.response_BT, main.mask_BT, strict=True)]
    reward = torch.tensor([plain.pair.verify("answer", t, p) for t, p in zip(texts, main.prompts, strict=True)], dtype=torch.float64)
    for row in range(len(main)):
        p, old, _ = plain.three(main, row)
        with torch.no_grad():
            reference = chosen(plain.logp_TV(initial(plain.pair), main, row), main, row)
        members = reward[main.group_B == main.group_B[row]]
        advantage = (reward[row] - members.mean()) / (members.std() + 1e-4)
        signal = clipped(advantage.expand(p.shape[0]), (chosen(p, main, row) - chosen(old, main, row)).exp())
        log_r = reference - chosen(p, main, row)
        losses.append((signal + 0.04 * (log_r.exp() - 1 - log_r)).mean())
    assert 0 < reward.mean() < 1
    return torch.stack(losses).mean()


def orpo_distill(plain: Plain, streams: Streams) -> Tensor:
    theirs, own, losses = streams["theirs"], streams["own"], []
    for row in range(len(own)):
        right = [plain.pair.verify("answer", text_of(plain.pair, s, row), s.prompts[row]) for s in (theirs, own)]
        if right == [1.0, 0.0]:
            means = [chosen(plain.logp_TV(plain.pair.student, s, row), s, row).mean() for s in (theirs, own)]
            odds = [mean - (1 - mean.exp()).log() for mean in means]
            losses.append(-means[0] - 0.1 * torch.nn.functional.logsigmoid(odds[0] - odds[1]))
    assert 1 < len(losses) < len(own)
    return torch.stack(losses).mean()


def opsd(plain: Plain, streams: Streams) -> Tensor:
    main, losses = streams["main"], []
    for row in range(len(main)):
        with torch.no_grad():
            q = plain.logp_TV(initial(plain.pair), main, row, Context(fields=("solution",), template="solution"), 1.1)
        p = plain.logp_TV(plain.pair.student, main, row, temperature=1.1)
        losses.append((q.exp() * (q - p)).clamp(max=0.05).sum(-1))
    return torch.cat(losses).mean()


def text_of(pair: LoadedPair, rollout: Rollout, row: int) -> str:
    return pair.decode([i for i in rollout.response_BT[row][rollout.mask_BT[row]].tolist() if i != 1])


def initial(pair: LoadedPair) -> Any:
    return pair.frozen_student()


PLAIN: Mapping[str, Callable[[Plain, Streams], Tensor]] = {f.__name__: f for f in (gkd, eopd, minillm, grpo, orpo_distill, opsd)}


# --- the harness's own way ----------------------------------------------------------------------------------------------------


def written(trainer: Trainer) -> Streams:
    """One iteration's sequences, enough of them that lengths, groups and rewards differ."""
    return trainer.write(Method(trainer.entry))


def nudge(student: Any, scale: float = 0.03) -> None:
    """Move the student away from where it was at rollout time, so that no ratio is 1."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def rearranged(rollout: Rollout, order: list[int], padding: int) -> Rollout:
    """The same sequences in another order, with more padding, which holds rubbish."""
    rollout = rollout.rows(order)
    rubbish = torch.full((len(rollout), padding), 7)
    response_BT = torch.cat([torch.where(rollout.mask_BT, rollout.response_BT, 9), rubbish], 1)
    wider = {name: torch.nn.functional.pad(getattr(rollout, name), (0, padding)) for name in ("mask_BT", "author_BT")}
    unknown = {name: torch.nn.functional.pad(getattr(rollout, name), (0, padding), value=float("nan")) for name in ("behaviour_logp_BT", "student_logp_BT")}
    return replace(rollout, response_BT=response_BT, **wider, **unknown)


def harness_gradient(trainer: Trainer, streams: Streams, move: Callable[[], None]) -> tuple[dict[str, Tensor], float]:
    """Judge, move the student, prepare, and run the chunked backward pass; gradients by name, and the loss."""
    method, bank, student = Method(trainer.entry), trainer.bank, trainer.pair.student
    scored = {name: score(method, bank, name, rollout, lambda value: value) for name, rollout in streams.items()}
    move()
    scored = {name: refreshed(method, bank, name, part, version=1) for name, part in scored.items()}
    prepared = method.prepare({name: part.context for name, part in scored.items()})
    student.zero_grad()
    loss = 0.0
    for name, part in scored.items():
        mine = [p for p in prepared if p.stream == name]
        shares = backward(method, bank, part, mine)
        loss += sum(float(share if p.value is None else p.value) for p, share in zip(mine, shares, strict=True) if p.value is not None or not method.live)
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}, loss


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 1e-3
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 1e-5 * scale, name


LAYOUTS = [(100_000, 100_000, 0), (60, 7, 3), (1, 1, 1)]  # micro_tokens, chunk_tokens, extra padding


@pytest.mark.parametrize("name", PLAIN)
def test_the_gradient_is_that_of_plain_autograd_in_any_layout(name: str, pair: LoadedPair) -> None:
    trainer = trainer_of(shipped(name), pair, rollouts_per_step=40 if name == "orpo_distill" else 16, max_new_tokens=9)
    streams = written(trainer)
    assert len({int(n) for rollout in streams.values() for n in rollout.mask_BT.sum(1)}) > 2
    old, student = pair.frozen_student(), pair.student
    nudge(student)
    student.zero_grad()
    loss = PLAIN[name](Plain(pair, old), streams)
    loss.backward()
    expected = {n: p.grad.clone() for n, p in student.named_parameters()}
    for micro_tokens, chunk_tokens, padding in LAYOUTS:
        student.load_state_dict(old.state_dict())
        trainer.bank.micro_tokens, trainer.bank.chunk_tokens = micro_tokens, chunk_tokens
        order = list(range(len(next(iter(streams.values())))))
        order = order[::-1] if padding else order
        seen = {stream: rearranged(rollout, order, padding) for stream, rollout in streams.items()}
        found, value = harness_gradient(trainer, seen, lambda: nudge(student))
        assert value == pytest.approx(float(loss.detach()), rel=1e-5)
        assert_close(found, expected)


def live_teacher(plain: Plain, streams: Streams) -> Tensor:
    """The student as it is now teaches itself, with the solution before its eyes, and learns nothing in that role."""
    main, losses = streams["main"], []
    for row in range(len(main)):
        with torch.no_grad():
            q = plain.logp_TV(plain.pair.student, main, row, Context(fields=("solution",), template="solution"))
        p = plain.logp_TV(plain.pair.student, main, row)
        losses.append((q.exp() * (q - p)).sum(-1))
    return torch.cat(losses).mean()


def test_a_live_teacher_is_as_the_student_is_now_and_carries_no_gradient(pair: LoadedPair) -> None:
    """Its head is the student's own, and its states were taken before the student moved."""
    entry = made(
        rollout={"author": "student"},
        teachers={"self": {"kind": "student", "weights": "live", "context": {"fields": ["solution"], "template": "solution"}}},
        objective=[{"term": "divergence", "teacher": "self", "divergence": "forward_kl", "support": "full", "reduce": "token_mean"}],
    )
    trainer = trainer_of(entry, pair)
    streams, student = written(trainer), pair.student
    nudge(student)
    student.zero_grad()
    loss = live_teacher(Plain(pair, None), streams)
    loss.backward()
    expected = {n: p.grad.clone() for n, p in student.named_parameters()}
    pair.reset_student()
    found, value = harness_gradient(trainer, streams, lambda: nudge(student))
    assert value == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_close(found, expected)


def test_two_value_heads_learn_from_their_own_terms(pair: LoadedPair) -> None:
    term = {"term": "policy_gradient", "reward": {"kind": "contrast", "of": {"teacher": 1, "student": -1}}, "reduce": "token_mean"}
    entry = made(
        rollout={"author": "student"}, **TEACHER, learners={"near": {"kind": "value_head"}, "far": {"kind": "value_head"}},
        objective=[{**term, "credit": {"kind": "gae", "gamma": 0.0, "lambda": 0.0, "value": "near"}}, {**term, "credit": {"kind": "gae", "value": "far"}}],
    )  # fmt: skip
    trainer = trainer_of(entry, pair)
    method, streams = Method(entry), written(trainer)
    part = score(method, trainer.bank, "main", streams["main"], lambda value: value)
    prepared = method.prepare({"main": part.context})
    backward(method, trainer.bank, part, prepared)
    for critic, mine in zip(("near", "far"), prepared, strict=True):
        residual = -(mine.columns["value_target"] * mine.scale_BT).sum()  # a head starts at 0
        assert float(trainer.bank.values[critic].bias.grad) == pytest.approx(float(residual), rel=1e-5)


# --- what is held, and where the head is used -----------------------------------------------------------------------------------


class Wide:
    """Counts the rows of vocabulary-wide tensors that autograd keeps at one time."""

    def __init__(self, vocabulary: int, parameters: list[Tensor]) -> None:
        self.vocabulary, self.own = vocabulary, {p.untyped_storage().data_ptr() for p in parameters}
        self.alive: dict[int, int] = {}
        self.peak = 0

    def pack(self, tensor: Tensor) -> Any:
        if tensor.dim() == 2 and tensor.shape[-1] == self.vocabulary and tensor.untyped_storage().data_ptr() not in self.own:
            held = Held(self, tensor)
            self.alive[id(held)] = len(tensor)
            self.peak = max(self.peak, sum(self.alive.values()))
            return held
        return tensor

    @staticmethod
    def unpack(kept: Any) -> Tensor:
        return kept.tensor if isinstance(kept, Held) else kept


class Held:
    def __init__(self, count: Wide, tensor: Tensor) -> None:
        self.count, self.tensor = count, tensor

    def __del__(self) -> None:
        self.count.alive.pop(id(self), None)


def test_no_tensor_of_all_tokens_by_the_vocabulary_is_held(pair: LoadedPair) -> None:
    entry = made(rollout={"author": "student"}, **TEACHER, objective=[
        {"term": "divergence", "teacher": "teacher", "divergence": "generalized_jsd", "support": "full", "reduce": "token_mean"}])  # fmt: skip
    peaks = {}
    for chunk_tokens in (7, 100_000):
        trainer = trainer_of(entry, pair, chunk_tokens=chunk_tokens, micro_tokens=100_000, rollouts_per_step=24)
        streams = written(trainer)
        tokens, calls = streams["main"].tokens, []
        heads = {name: model.get_output_embeddings() for name, model in (("student", pair.student), ("teacher", pair.teachers["teacher"]))}
        hooks = [head.register_forward_hook(lambda _m, _i, out, n=n, calls=calls: calls.append((n, out.shape))) for n, head in heads.items()]
        wide = Wide(40, [p for head in heads.values() for p in head.parameters()])
        with torch.autograd.graph.saved_tensors_hooks(wide.pack, wide.unpack):
            harness_gradient(trainer, streams, lambda: None)
        for hook in hooks:
            hook.remove()
        assert all(len(shape) == 2 and shape[0] <= chunk_tokens and shape[1] == 40 for _, shape in calls)
        for name in heads:  # once for each supervised token: never on prompts, never on padding
            assert sum(shape[0] for which, shape in calls if which == name) == tokens
        peaks[chunk_tokens] = wide.peak
    assert tokens > 100 and peaks[100_000] >= 3 * tokens and peaks[7] <= 20 * 7 < tokens


def test_micro_batches_hold_every_sequence_once_within_the_limit(pair: LoadedPair) -> None:
    trainer = trainer_of(made(rollout={"author": "student"}, **TEACHER, objective=[
        {"term": "divergence", "teacher": "teacher", "divergence": "reverse_kl", "support": "full", "reduce": "token_mean"}]), pair)  # fmt: skip
    rollout = written(trainer)["main"]
    size = [len(p) + int(n) for p, n in zip(rollout.prompt_ids, rollout.mask_BT.sum(1), strict=True)]
    for limit in (1, 30, 60, 10_000):
        groups = micro_batches(rollout, limit)
        assert sorted(i for group in groups for i in group) == list(range(len(rollout)))
        assert all(len(group) == 1 or len(group) * max(size[i] for i in group) <= limit for group in groups)
    assert len(micro_batches(rollout, 10_000)) == 1
