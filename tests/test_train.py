"""The training loop: reuse of sequences and what each ratio then does, state that moves with the steps, budgets, and failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import LOG_RATIO, REVERSE_KL, TEACHER, Plain, chosen, made, read_pair, shipped, trainer_of, weights
from torch import Tensor

from zoo.components.base import Context
from zoo.errors import ZooError
from zoo.harness.models import LoadedPair
from zoo.harness.scoring import Scored
from zoo.harness.train import Diverged, Trainer
from zoo.method import Method
from zoo.tensors import Rollout

SOLUTION = Context(fields=("solution",), template="solution")
AGAINST_STUDENT = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}


@pytest.fixture(scope="module")
def sharp(pair_file: Path) -> LoadedPair:
    """The pair in float64, for comparisons of gradients."""
    return read_pair(pair_file, torch.float64)


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file)


def silent(row: Any = None) -> None:
    pass


class Step:
    """One optimizer step as it happened: its sequences, the student before it, the gradient it took."""

    def __init__(self, streams: dict[str, Rollout], scored: dict[str, Scored], student: dict[str, Tensor], models: dict[str, dict[str, Tensor]]) -> None:
        self.streams, self.scored, self.student, self.models = streams, scored, student, models
        self.gradient: dict[str, Tensor] = {}


def watched(trainer: Trainer) -> list[Step]:
    """Steps are appended to the list as the trainer takes them."""
    steps: list[Step] = []
    step, apply = trainer.step, trainer._apply

    def taking(method: Method, scored: dict[str, Scored]) -> dict[str, Any]:
        streams = {name: part.context.rollout for name, part in scored.items()}
        averaged = {name: weights(model) for name, model in trainer.bank.models.items() if name.startswith("ema:")}
        steps.append(Step(streams, scored, weights(trainer.pair.student), averaged))
        return step(method, scored)

    def applying() -> float:
        steps[-1].gradient = {name: p.grad.clone() for name, p in trainer.pair.student.named_parameters() if p.grad is not None}
        return apply()

    trainer.step, trainer._apply = taking, applying  # type: ignore[method-assign]
    return steps


def plain_gradient(pair: LoadedPair, step: Step, loss: Callable[[Plain, dict[str, Rollout]], Tensor]) -> dict[str, Tensor]:
    """The gradient of a plain loss with the student as it was before a step, the initial student being the old one."""
    old = pair.frozen_student()
    pair.student.load_state_dict(step.student, strict=False)
    pair.student.zero_grad()
    loss(Plain(pair, old), step.streams).backward()
    return {name: p.grad.clone() for name, p in pair.student.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 1e-3
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 1e-5 * scale, name


# --- ratios -------------------------------------------------------------------------------------------------------------------


def surrogate(kind: str, seen: dict[str, list[Tensor]]) -> Callable[[Plain, dict[str, Rollout]], Tensor]:
    """-A rho summed over the tokens of a minibatch, divided by their number; `seen` collects the ratios."""

    def loss(plain: Plain, streams: dict[str, Rollout]) -> Tensor:
        main, losses = streams["main"], []
        for row in range(len(main)):
            p, old, q = (chosen(logp_TV, main, row) for logp_TV in plain.three(main, row))
            behaviour = main.behaviour_logp_BT[row][main.mask_BT[row]]
            advantage, rho = q - old, (p - old).exp()
            if kind == "importance":
                rho = (p - behaviour).exp()
                losses.append(-advantage * rho)
            elif kind == "ppo_clip":
                losses.append(torch.maximum(-advantage * rho, -advantage * rho.clamp(0.9, 1.3)))
            elif kind == "mixture_importance":
                frozen = old.exp() / (0.6 * old.exp() + 0.4 * q.exp())
                rho = frozen * rho
                losses.append(torch.maximum(-advantage * rho, -advantage * rho.clamp(0.9, 1.3)))
            else:
                rho = (p - behaviour).exp() / ((p - behaviour).exp() + 0.1)
                losses.append(-advantage * rho)
            seen["rho"].append(rho.detach())
            seen["advantage"].append(advantage)
        return torch.cat(losses).mean()

    return loss


CLIP = {"kind": "ppo_clip", "at": 0.1, "upper": 0.3}
RATIOS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "importance": ({"author": "student", "temperature": 0.7}, [{"kind": "importance"}]),
    "ppo_clip": ({"author": "student"}, [CLIP]),
    "mixture_importance": ({"author": "mixture", "of": {"student": 0.6, "teacher": 0.4}, "per": "token"}, [{"kind": "mixture_importance"}, CLIP]),
    "shaped": ({"author": "teacher"}, [{"kind": "shaped", "behaviour": "known"}]),
}


@pytest.mark.parametrize("kind", RATIOS)
def test_every_ratio_follows_the_student_through_epochs_and_minibatches(kind: str, sharp: LoadedPair) -> None:
    stream, ratio = RATIOS[kind]
    term = {"term": "policy_gradient", "reward": AGAINST_STUDENT, "credit": "immediate", "ratio": ratio, "reduce": "token_mean"}
    entry = made(rollout={**stream, "reuse": {"epochs": 2, "minibatches": 2}}, **TEACHER, objective=[term])
    trainer = trainer_of(entry, sharp, learning_rate=0.03, rollouts_per_step=10, budget={"amount": 10_000})
    steps = watched(trainer)
    rows = list(trainer.iterate())
    assert len(steps) == len(rows) == 4
    old = None
    for index, step in enumerate(steps):
        seen: dict[str, list[Tensor]] = {"rho": [], "advantage": []}
        assert_close(step.gradient, plain_gradient(sharp, step, surrogate(kind, seen)))
        rho, advantage = torch.cat(seen["rho"]), torch.cat(seen["advantage"])
        if kind == "ppo_clip":
            assert (float((rho - 1).abs().max()) < 1e-9) == (index == 0)  # the first minibatch is on-policy, later ones are not
            bound = ((rho > 1.3) & (advantage > 0)) | ((rho < 0.9) & (advantage < 0))
            assert index == 0 or bool(bound.any())
        if index == 2:  # the second epoch meets the first minibatch again
            assert old is not None and float((rho - old).abs().max()) > 1e-2
        old = rho if index == 0 else old


def test_minibatches_keep_groups_whole_and_use_every_sequence_once(sharp: LoadedPair) -> None:
    entry = made(rollout={"author": "student", "group": 3, "reuse": {"minibatches": 2}}, rewards={"correct": {"kind": "verifier"}}, objective=[
        {"term": "policy_gradient", "reward": "correct", "credit": "group", "ratio": [CLIP], "reduce": "token_mean"}])  # fmt: skip
    trainer = trainer_of(entry, sharp, rollouts_per_step=15, budget={"amount": 10_000})
    steps = watched(trainer)
    list(trainer.iterate())
    groups = [step.streams["main"].group_B.tolist() for step in steps]
    assert groups == [[0] * 3 + [1] * 3, [2] * 3 + [3] * 3 + [4] * 3]
    for step in steps:
        reward = step.scored["main"].context.rewards["correct"].reshape(-1, 3)
        assert [p.id for p in step.streams["main"].prompts[::3]] == [p.id for p in step.streams["main"].prompts[2::3]] and len(reward) >= 2


def test_a_preference_in_the_second_minibatch_has_the_slope_of_the_present_student(sharp: LoadedPair) -> None:
    reuse = {"minibatches": 2}
    entry = made(rollouts={"theirs": {"author": "teacher", "reuse": reuse}, "own": {"author": "student", "reuse": reuse}}, **TEACHER, objective=[
        {"term": "log_prob_loss", "loss": {"kind": "orpo", "beta": 2.0}, "chosen": "theirs", "rejected": "own"}])  # fmt: skip

    def orpo(plain: Plain, streams: dict[str, Rollout]) -> Tensor:
        losses = []
        for row in range(len(streams["own"])):
            means = [chosen(plain.logp_TV(plain.pair.student, streams[s], row), streams[s], row).mean() for s in ("theirs", "own")]
            odds = [mean - (1 - mean.exp()).log() for mean in means]
            losses.append(-means[0] - 2.0 * torch.nn.functional.logsigmoid(odds[0] - odds[1]))
        return torch.stack(losses).mean()

    trainer = trainer_of(entry, sharp, learning_rate=0.03, rollouts_per_step=6, budget={"amount": 10_000})
    steps = watched(trainer)
    rows = list(trainer.iterate())
    for step, row in zip(steps, rows, strict=True):
        assert_close(step.gradient, plain_gradient(sharp, step, orpo))
        sharp.student.load_state_dict(step.student, strict=False)
        assert row["loss.0.log_prob_loss"] == pytest.approx(orpo(Plain(sharp, None), step.streams).item(), rel=1e-5)
    assert len(steps) == 2


# --- what moves with the steps ------------------------------------------------------------------------------------------------


def test_an_averaged_teacher_moves_by_its_formula_and_is_read_as_it_is_now(sharp: LoadedPair) -> None:
    average = {"kind": "student", "weights": {"ema": 0.6}, "context": {"fields": ["solution"], "template": "solution"}}
    entry = made(rollout={"author": "student", "reuse": {"minibatches": 2}}, teachers={"self": average}, objective=[{**REVERSE_KL, "teacher": "self"}])
    trainer = trainer_of(entry, sharp, learning_rate=0.05, budget={"amount": 10_000})
    steps = watched(trainer)
    list(trainer.iterate())
    after = weights(trainer.bank.models["ema:self"])
    assert len(steps) == 2
    for name, value in steps[0].models["ema:self"].items():
        assert torch.equal(value, steps[0].student[name])  # it starts at the student
        first = 0.6 * value + 0.4 * steps[1].student[name]
        torch.testing.assert_close(steps[1].models["ema:self"][name], first)
        torch.testing.assert_close(after[name], 0.6 * first + 0.4 * weights(trainer.pair.student)[name])
    teacher = sharp.frozen_student()

    def reverse_kl(plain: Plain, streams: dict[str, Rollout]) -> Tensor:
        losses = []
        for row in range(len(streams["main"])):
            with torch.no_grad():
                q = plain.logp_TV(teacher, streams["main"], row, SOLUTION)
            p = plain.logp_TV(plain.pair.student, streams["main"], row)
            losses.append((p.exp() * (p - q)).sum(-1))
        return torch.cat(losses).mean()

    for step in steps:
        teacher.load_state_dict(step.models["ema:self"], strict=False)
        assert_close(step.gradient, plain_gradient(sharp, step, reverse_kl))


def test_a_value_head_learns_a_constant_return(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.task, "verify", lambda *_: 1.0, raising=False)
    entry = made(rollout={"author": "student"}, rewards={"correct": {"kind": "verifier"}}, learners={"value": {"kind": "value_head", "learning_rate": 0.03}},
                 objective=[{"term": "policy_gradient", "reward": "correct", "credit": {"kind": "gae", "lambda": 1.0}, "reduce": "token_mean"}])  # fmt: skip
    trainer = trainer_of(entry, pair, learning_rate=1e-5, budget={"amount": 1_200})
    steps, errors = watched(trainer), []
    trainer.train(silent, silent)
    critic = trainer.bank.values["value"]
    for step in (steps[0], steps[-1]):
        scored = trainer.judge(Method(entry), step.streams)["main"]
        [value_BT] = scored.context.columns.values()
        errors.append(float((value_BT[scored.context.mask_BT] - 1.0).square().mean()))
    assert errors[1] < 0.2 and steps[0].scored["main"].context.column(next(iter(scored.context.columns))).abs().max() == 0
    assert critic.bias.item() > 0.05


def test_the_learning_rate_follows_its_schedule(pair: LoadedPair) -> None:
    def rate(progress: float, **settings: Any) -> float:
        trainer = trainer_of(shipped("sft"), pair, learning_rate=0.8, methods=("sft",), budget={"amount": 1000}, **settings)
        trainer.spent.supervised_tokens = round(1000 * progress)
        found = trainer._set_learning_rate()
        assert all(group["lr"] == found for group in trainer.optimizer.param_groups)
        return found

    assert [rate(s) for s in (0.0, 0.5, 0.999)] == [0.8, 0.8, 0.8]
    assert [rate(s, warmup=0.2) for s in (0.1, 0.2, 0.9)] == pytest.approx([0.4, 0.8, 0.8])
    assert 0 < rate(0.0, warmup=0.2) < 0.01  # the first step takes a little
    assert rate(0.0, warmup=1e-5) <= 0.8  # never above what was asked for
    assert [rate(s, warmup=0.2, schedule="linear") for s in (0.2, 0.6, 0.9)] == pytest.approx([0.8, 0.4, 0.1])
    assert [rate(s, schedule="cosine") for s in (0.0, 0.5, 0.75)] == pytest.approx([0.8, 0.4, 0.8 * 0.5 * (1 + math.cos(0.75 * math.pi))])
    assert rate(0.5, overrides={"sft": {"reason": "a test", "learning_rate": 0.1}}) == 0.1


def test_terms_come_and_go_with_the_run(pair: LoadedPair) -> None:
    entry = made(rollout={"author": "student"}, **TEACHER, objective=[
        {**REVERSE_KL, "during": [0.0, 0.5]}, {"term": "likelihood", "during": [0.5, 1.0], "reduce": "token_mean"}])  # fmt: skip
    trainer = trainer_of(entry, pair)
    trainer.train(silent, silent)
    keys = [[k for k in row if k.startswith("loss.")] for row in trainer.rows]
    assert keys[0] == ["loss.0.divergence"] and keys[-1] == ["loss.1.likelihood"] and len(keys) > 3


def test_the_validation_loss_is_the_mean_cross_entropy_of_the_solutions(sharp: LoadedPair) -> None:
    entry = made(rollout={"author": "replay", "of": {"author": "student"}, "capacity": 4, "phi": {"start": 0.5}}, **TEACHER, objective=[REVERSE_KL])
    trainer = trainer_of(entry, sharp, max_new_tokens=20, chunk_tokens=7)
    total, count = 0.0, 0
    for prompt in trainer.validation:
        ids = sharp.format_prompt(prompt)
        answer = [*sharp.tokenizer.encode(prompt.fields["solution"], add_special_tokens=False), 1]
        with torch.no_grad():
            logp = sharp.student(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        total, count = total - float(logp[range(len(answer)), answer].sum()), count + len(answer)
    assert trainer.validation_loss() == pytest.approx(total / count, rel=1e-6)


def test_a_replay_buffer_is_raised_by_the_validation_loss_and_drawn_from(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: Iterator[float] = iter([3.0, 3.2, 3.1, 3.3, 3.5, 3.7, 3.9, 4.1, 4.3])
    monkeypatch.setattr(Trainer, "validation_loss", lambda self: next(losses))
    phi = {"start": 0.4, "step": 0.2, "eps": 0.15}
    entry = made(rollout={"author": "replay", "of": {"author": "student"}, "capacity": 9, "phi": phi}, **TEACHER, objective=[REVERSE_KL])
    trainer = trainer_of(entry, pair, validate_every=2, budget={"amount": 1_000})
    memory, found = trainer.memories["main"], []
    trainer.train(lambda row: found.append((row["step"], round(memory.phi, 3))), silent)
    assert found[:8] == [(1, 0.4), (2, 0.4), (3, 0.4), (4, 0.6), (5, 0.6), (6, 0.6), (7, 0.6), (8, 0.6)] and found[9] == (10, 0.8)
    assert len(memory) == 9 and trainer.spent.generated_tokens < trainer.spent.supervised_tokens


@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_the_gradient_is_clipped_by_its_norm_over_all_parameters(pair: LoadedPair, clip_norm: float) -> None:
    trainer, taken = trainer_of(shipped("gkd"), pair, clip_norm=clip_norm), []
    step = trainer.optimizer.step
    grads = lambda: torch.cat([p.grad.flatten() for p in pair.student.parameters()])  # noqa: E731
    trainer.optimizer.step = lambda: (taken.append(float(grads().norm())), step())  # type: ignore[assignment, method-assign]
    trainer.train(silent, silent)
    norms = [row["grad_norm"] for row in trainer.rows]
    assert min(norms) > 0.02 and taken == pytest.approx([min(norm, clip_norm) for norm in norms], rel=1e-3)


# --- budget and noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gkd", "eopd", "orpo_distill"])
def test_a_run_stops_at_the_first_step_that_reaches_the_budget(name: str, pair: LoadedPair) -> None:
    trainer = trainer_of(shipped(name), pair, budget={"amount": 333})
    steps, written = watched(trainer), []
    write = trainer.write
    trainer.write = lambda method: written.append(write(method)) or written[-1]  # type: ignore[method-assign, func-returns-value]
    trainer.train(silent, silent)
    spent, tokens = trainer.spent, [row["tokens"] for row in trainer.rows]
    assert tokens == [sum(r.tokens for r in step.streams.values()) for step in steps]
    assert sum(tokens) == spent.supervised_tokens >= 333 > sum(tokens[:-1])
    assert spent.steps == len(tokens) and [row["step"] for row in trainer.rows] == list(range(1, len(tokens) + 1))
    assert spent.rollouts == sum(len(r) for streams in written for r in streams.values())
    assert trainer.done and trainer.progress == 1.0 and trainer.rows[-1]["progress"] == 1.0
    by_model = [r.mask_BT & (r.author_BT < 2) for streams in written for r in streams.values()]
    assert spent.generated_tokens == sum(int(mask.sum()) for mask in by_model) == trainer.phases.tokens["rollout"]
    judged = sum(r.tokens for streams in written for r in streams.values()) if name != "orpo_distill" else 0
    assert spent.teacher_tokens == judged == trainer.phases.tokens["score"]
    assert trainer.phases.tokens["update"] == spent.supervised_tokens
    looked = trainer.phases.seconds["diagnose"]  # is no part of what a method costs
    assert spent.seconds == pytest.approx(sum(trainer.phases.seconds.values()) - looked) and min(trainer.phases.seconds.values()) > 0


def first_rollout(name: str, pair: LoadedPair, **options: Any) -> Rollout:
    trainer = trainer_of(shipped(name), pair, **options)
    return next(iter(trainer.write(Method(trainer.entry)).values()))


def test_methods_see_the_same_prompts_and_the_same_noise(pair: LoadedPair) -> None:
    one, two, three = (first_rollout(name, pair) for name in ("tml_opd", "vopd", "gkd_on_policy"))
    assert one.prompts == two.prompts and torch.equal(one.response_BT, two.response_BT) and torch.equal(one.response_BT, three.response_BT)
    assert first_rollout("kd", pair).prompts == one.prompts
    mixed = first_rollout("gkd", pair)
    own = [row for row in range(len(mixed)) if int(mixed.author_BT[row, 0]) == 0]
    assert mixed.prompts == one.prompts and 0 < len(own) < len(mixed)
    for row in own:
        assert mixed.response_BT[row][mixed.mask_BT[row]].tolist() == one.response_BT[row][one.mask_BT[row]].tolist()
    other = first_rollout("tml_opd", pair, seed=1)
    assert other.prompts != one.prompts
    assert first_rollout("tml_opd", pair, id="another").prompts != one.prompts


def test_prompts_come_once_each_pass_in_an_order_of_their_own(pair: LoadedPair) -> None:
    trainer = trainer_of(shipped("tml_opd"), pair, rollouts_per_step=20)
    written: list[tuple[str, tuple[int, ...]]] = []
    for trainer.iteration in range(12):
        main = trainer.write(Method(trainer.entry))["main"]
        written += [(prompt.id, tuple(row)) for prompt, row in zip(main.prompts, main.response_BT.tolist(), strict=True)]
    passes = [dict(written[i : i + 48]) for i in range(0, 240, 48)]
    assert all(len(each) == 48 for each in passes) and list(passes[0]) != list(passes[1])
    assert sum(passes[0][prompt] == passes[1][prompt] for prompt in passes[0]) < 5  # fresh noise, though the student is the same


def test_no_op_leaves_the_student_as_it_was_bit_for_bit(pair: LoadedPair) -> None:
    trainer = trainer_of(shipped("no_op"), pair)
    before = weights(pair.reset_student())
    trainer.train(silent, silent)
    assert trainer.spent.steps > 3 and all(torch.equal(before[name], value) for name, value in weights(pair.student).items())


def test_global_random_states_play_no_part(pair: LoadedPair) -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        trainer = trainer_of(shipped("minillm"), pair, rollouts_per_step=4)
        trainer.train(lambda row: torch.rand(3), silent)
        ends.append(weights(pair.student))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


# --- failures -----------------------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_reaches_the_weights(pair: LoadedPair) -> None:
    entry = made(rollout={"author": "student"}, **TEACHER, objective=[{**LOG_RATIO, "coefficient": 1e38}])
    trainer = trainer_of(entry, pair)
    before = weights(pair.student)
    with pytest.raises(Diverged, match=r"gradient norm is (inf|nan) at step 0; lower the learning rate or bound the signal"):
        trainer.train(silent, silent)
    assert all(torch.equal(before[name], value) for name, value in weights(pair.student).items())
    ends = []
    for _ in range(2):  # the next cell on the same student is that of a fresh process
        trainer = trainer_of(shipped("gkd"), pair)
        trainer.train(silent, silent)
        ends.append(weights(pair.student))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_prompt_without_the_field_that_a_context_needs_is_named(pair: LoadedPair) -> None:
    teachers = {"self": {"kind": "student", "context": {"fields": ["proof"], "template": "solution"}}}
    entry = made(rollout={"author": "student"}, teachers=teachers, objective=[{**REVERSE_KL, "teacher": "self"}])
    with pytest.raises(ZooError, match=r"prompt 'train-\d+@\d+' has no field 'proof' for context 'solution'"):
        trainer_of(entry, pair).train(silent, silent)
