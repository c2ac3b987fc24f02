"""How steps are taken: private, foreseeing and matched steps, anchors, copied teachers and numbers that follow a measure, each against a
plain computation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, made, moving_entries, read_pair, trainer_of, weights
from torch import Tensor

from zoo.components.schedules import Momentum
from zoo.errors import ZooError
from zoo.harness import privacy
from zoo.harness.models import LoadedPair
from zoo.harness.privacy import Accountant
from zoo.harness.scoring import response_hidden
from zoo.harness.train import Trainer
from zoo.method import Method

OWN = {"rollout": {"author": "student"}}
MEAN = {**REVERSE_KL, "reduce": "sequence_mean"}
LONG = {"budget": {"amount": 100_000}}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def taken(trainer: Trainer) -> dict[str, Tensor]:
    """The gradient that the optimizer receives in one step."""
    found: dict[str, Tensor] = {}
    step = trainer.optimizer.step

    def keep() -> None:
        found.update({name: p.grad.clone() for name, p in trainer.pair.student.named_parameters() if p.grad is not None})
        step()

    trainer.optimizer.step = keep  # type: ignore[assignment, method-assign]
    next(trainer.iterate())
    return found


def gradient(pair: LoadedPair, update: dict[str, Any] | None = None, objective: Any = (MEAN,), **changes: Any) -> dict[str, Tensor]:
    entry = made(**OWN, **TEACHER, objective=list(objective), **({"update": update} if update else {}))
    return taken(trainer_of(entry, pair, clip_norm=1e9, **LONG, **changes))


def norm(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([g.norm() for g in gradients.values()]).norm())


# --- private steps ------------------------------------------------------------------------------------------------------------


def private(clip: float, noise: float, **more: Any) -> dict[str, Any]:
    return {"kind": "adamw", "step": {"kind": "dp", "clip": clip, "noise": noise, **more}}


def each(pair: LoadedPair) -> list[dict[str, Tensor]]:
    """The gradient of each sequence's own mean, one at a time and without the harness's update."""
    trainer = trainer_of(made(**OWN, **TEACHER, objective=[MEAN]), pair)
    [main] = trainer.write(Method(trainer.entry)).values()
    found = []
    for i in range(len(main)):
        ids = torch.tensor([[*main.prompt_ids[i], *main.response_BT[i][main.mask_BT[i]].tolist()]])
        start = len(main.prompt_ids[i]) - 1
        p = pair.student(ids).logits[0, start:-1].log_softmax(-1)
        with torch.no_grad():
            q = pair.teachers["teacher"](ids).logits[0, start:-1].log_softmax(-1)
        pair.student.zero_grad()
        (p.exp() * (p - q)).sum(-1).mean().backward()
        found.append({name: w.grad.clone() for name, w in pair.student.named_parameters()})
    pair.student.zero_grad()
    return found


@pytest.mark.parametrize("clip", [1e6, 1.0])
def test_each_sequence_is_clipped_by_itself(pair: LoadedPair, clip: float) -> None:
    single = each(pair)
    norms = [norm(g) for g in single]
    assert max(norms) > 1.5 > 1.0 > 0  # so that the small bound acts
    factors = [min(1.0, clip / n) for n in norms]
    found = gradient(pair, private(clip, 0.0))
    for name, value in found.items():
        expected = sum(f * g[name] for f, g in zip(factors, single, strict=True)) / len(single)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    assert (norm(found) <= clip) and (clip < 1e6 or norm(found) == pytest.approx(norm(gradient(pair)), rel=1e-6))


def test_noise_has_its_variance_and_is_the_same_again(pair: LoadedPair) -> None:
    quiet, loud = gradient(pair, private(0.5, 0.0)), gradient(pair, private(0.5, 3.0))
    noise = torch.cat([(loud[name] - quiet[name]).flatten() for name in quiet])
    assert float(noise.std()) == pytest.approx(3.0 * 0.5 / 8, rel=0.05) and abs(float(noise.mean())) < 4 * 0.2 / math.sqrt(len(noise))
    again = gradient(pair, private(0.5, 3.0))
    assert all(torch.equal(again[name], loud[name]) for name in loud)
    quiet, loud = (gradient(pair, private(0.5, noise), seed=1) for noise in (0.0, 3.0))
    assert float(torch.corrcoef(torch.stack([noise, torch.cat([(loud[name] - quiet[name]).flatten() for name in quiet])]))[0, 1].abs()) < 0.1


def test_epsilon_grows_and_equals_the_accountants(pair: LoadedPair) -> None:
    accountants = pytest.importorskip("opacus.accountants")
    entry = made(**OWN, **TEACHER, objective=[MEAN], update=private(0.5, 1.1, delta=1e-5))
    trainer = trainer_of(entry, pair, **LONG)
    rows = [row for _ in range(3) for row in trainer.iterate()]
    plain = accountants.RDPAccountant()
    for row in rows:
        plain.step(noise_multiplier=1.1, sample_rate=8 / 48)
        assert row["epsilon"] == pytest.approx(plain.get_epsilon(delta=1e-5))
    assert Accountant(1.1, 1e-5).epsilon() == 0.0


def test_without_opacus_the_remedy_is_named(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    with pytest.raises(ZooError, match=r"opd-zoo\[dp\]"):
        privacy.opacus_accountant()


# --- other steps --------------------------------------------------------------------------------------------------------------


def test_the_whole_gradient_takes_the_norm_of_one_part(pair: LoadedPair) -> None:
    other = {"term": "likelihood", "coefficient": 3.0, "reduce": "token_mean"}
    alone, both = gradient(pair), gradient(pair, objective=(MEAN, other))
    found = gradient(pair, {"kind": "adamw", "step": {"kind": "match_norm", "to": 0}}, (MEAN, other))
    assert norm(found) == pytest.approx(norm(alone), rel=1e-6) and norm(both) > 1.5 * norm(alone)
    for name, value in found.items():
        torch.testing.assert_close(value, both[name] * norm(alone) / norm(both), rtol=1e-5, atol=1e-6)


def test_a_foreseeing_step_goes_on_while_the_score_rises(pair: LoadedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.2, 0.3, 0.3, 0.5, 0.5])  # step 1: two trials accepted, the third not; step 2: the first is not
    monkeypatch.setattr(Trainer, "validation_score", lambda self, check, count: next(scores))
    entry = made(**OWN, **TEACHER, objective=[MEAN], update={"kind": "adamw", "step": {"kind": "extrapolate", "factor": 2.0, "prompts": 3}})
    plain = trainer_of(made(**OWN, **TEACHER, objective=[MEAN]), pair, **LONG)
    start = weights(pair.student)
    next(plain.iterate())
    stepped = weights(pair.student)
    trainer = trainer_of(entry, pair, **LONG)
    list(trainer.iterate())
    moved = weights(pair.student)
    for name, value in moved.items():
        inner = ("self_attn" in name or "mlp" in name) and value.ndim == 2
        stride = stepped[name] - start[name]
        torch.testing.assert_close(value, stepped[name] + (4.0 * stride if inner else 0.0 * stride), rtol=1e-9, atol=1e-12)
    trainer.iteration += 1
    list(trainer.iterate())
    trainer.iteration += 1
    list(trainer.iterate())
    assert next(scores, None) is None and trainer.spent.steps == 3  # nothing is tried at step 3


def test_the_validation_score_is_the_share_of_accepted_greedy_answers(pair: LoadedPair) -> None:
    trainer = trainer_of(made(**OWN, **TEACHER, objective=[MEAN]), pair)
    prompts, right = pair.task.prompts("valid")[:5], 0.0
    for prompt in prompts:
        ids = list(pair.format_prompt(prompt))
        for _ in range(8):
            ids.append(int(pair.student(torch.tensor([ids])).logits[0, -1, : pair.vocab_size].argmax()))
            if ids[-1] in pair.stop_ids:
                break
        text = pair.decode([i for i in ids[len(pair.format_prompt(prompt)) :] if i not in pair.stop_ids])
        right += pair.verify("answer", text, prompt)
    assert trainer.validation_score("answer", 5) == pytest.approx(right / 5)


# --- anchors ------------------------------------------------------------------------------------------------------------------


def test_an_l2_anchor_pulls_towards_the_start(pair: LoadedPair) -> None:
    entry = made(**OWN, **TEACHER, objective=[{**MEAN, "coefficient": 0.0}], update={"kind": "adamw", "anchor": {"l2": 3.0}})
    trainer = trainer_of(entry, pair, clip_norm=1e9, **LONG)
    start = weights(pair.student)
    with torch.no_grad():
        for p in pair.student.parameters():
            p.add_(0.01)
    found = taken(trainer)
    for name, value in found.items():
        torch.testing.assert_close(value, torch.full_like(start[name], 0.03), rtol=1e-6, atol=1e-9)


def test_a_fisher_anchor_weighs_by_squared_gradients_of_own_answers(pair: LoadedPair) -> None:
    entry = made(
        **OWN, **TEACHER, objective=[{**MEAN, "coefficient": 0.0}], update={"kind": "adamw", "anchor": {"kind": "fisher", "strength": 2.0, "samples": 3}}
    )
    trainer = trainer_of(entry, pair, clip_norm=1e9, **LONG)
    axes = (trainer.comparison.id, 0, "fisher")
    main = trainer.sampled(trainer.prompts[:3], axes)
    fisher = {name: torch.zeros_like(p) for name, p in pair.student.named_parameters()}
    for i in range(3):
        pair.student.zero_grad()
        row = main.rows([i])
        logits = pair.student.get_output_embeddings()(response_hidden(pair.student, row.prompt_ids, row, pair.pad_id))
        logits.log_softmax(-1).gather(-1, row.response_BT[row.mask_BT][:, None]).sum().backward()
        for name, p in pair.student.named_parameters():
            fisher[name] += p.grad**2 / 3
    pair.student.zero_grad()
    with torch.no_grad():
        for p in pair.student.parameters():
            p.add_(0.01)
    found = taken(trainer)
    assert max(float(value.abs().max()) for value in fisher.values()) > 0.1
    for name, value in found.items():
        torch.testing.assert_close(value, 0.02 * fisher[name], rtol=1e-6, atol=1e-9)


# --- copied teachers ----------------------------------------------------------------------------------------------------------


def test_copies_follow_the_clock_the_rounds_and_the_gate(pair: LoadedPair) -> None:
    [entry] = [e for e in moving_entries() if e.id == "copied"]
    trainer = trainer_of(entry, pair, learning_rate=0.02, budget={"amount": 500})
    past = [weights(pair.student)]
    models = {name: trainer.bank.models[f"copy:{name}"] for name in ("clock", "rounds", "gate")}
    seen: dict[str, list[int]] = {name: [] for name in models}
    rewards, progress = [], []

    def look(row: dict[str, Any]) -> None:
        past.append(weights(pair.student))
        rewards.append(row["reward.correct.main"])
        progress.append(row["progress"])
        for name, model in models.items():
            at = [i for i, w in enumerate(past) if all(torch.equal(w[k], v) for k, v in model.named_parameters())]
            seen[name].append(at[0])

    trainer.train(look, lambda: None)
    count = len(rewards)
    assert count >= 6
    assert seen["clock"] == [step - step % 2 for step in range(1, count + 1)]
    expected, last = [], 0
    for step, share in enumerate(progress, 1):
        last = step if int(3 * share) > int(3 * (progress[step - 2] if step > 1 else 0.0)) else last
        expected.append(last)
    assert seen["rounds"] == expected and len(set(expected)) == 4
    mean, best, last, expected = None, None, 0, []
    for step, reward in enumerate(rewards, 1):
        mean = reward if mean is None else 0.5 * mean + 0.5 * reward
        if step - last >= 2 and (best is None or mean > best):
            best, last = mean, step
        expected.append(last)
    assert seen["gate"] == expected and len(set(expected)) > 2


# --- numbers that follow a measure --------------------------------------------------------------------------------------------


def test_a_number_in_the_objective_follows_its_measure(pair: LoadedPair) -> None:
    [entry] = [e for e in moving_entries() if e.id == "following"]
    trainer, seen, losses = trainer_of(entry, pair, budget={"amount": 500}), [], []

    def look(row: dict[str, Any]) -> None:
        losses.append((row["loss.0.divergence"], row["progress"]))
        seen.append(Method(entry, trainer.progress, trainer.measured.values).entry.teachers["teacher"].target.t)

    trainer.train(look, lambda: None)
    [rule] = [r for r in trainer.measured.rules if isinstance(r, Momentum)]
    state = rule.begin()
    for (loss, progress), value in zip(losses, seen, strict=True):
        state = rule.follow(state, {"loss": loss}, progress)
        assert value == state["value"]
    assert seen[0] == 0.2 < seen[-1] and len(set(seen)) > 3
    assert Method(entry).entry.teachers["teacher"].target.t == 0.2  # without measures, at its start


def test_a_coefficient_follows_its_own_term_without_itself(pair: LoadedPair) -> None:
    """Divided out, or a factor of 10 would move the measure tenfold and then itself."""
    follows = {"schedule": "informed", "measure": "loss.0", "at": 0.3, "sharpness": 1.0, "cap": 20.0, "start": 10.0}
    entry = made(**OWN, **TEACHER, objective=[{**MEAN, "coefficient": follows}, {**MEAN, "coefficient": 0.0}])
    trainer = trainer_of(entry, pair, budget={"amount": 500})
    used, own = [10.0], []

    def look(row: dict[str, Any]) -> None:
        own.append(row["loss.0.divergence"] / used[-1])
        used.append(Method(entry, trainer.progress, trainer.measured.values).entry.objective[0].coefficient)
        assert used[-1] == pytest.approx(min(math.exp(own[-1] - 0.3), 20.0))
        assert row["loss.1.divergence"] == 0.0

    trainer.train(look, lambda: None)
    assert len(own) > 3 and 0.0 < own[1] < 1.5 * own[0]
