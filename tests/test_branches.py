"""Soft prompts, branches of the student and their mean, snapshots as authors, and a run that starts again: against plain forward passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, TEACHER, made, read_pair, trainer_of, weights

from zoo.compat import problems
from zoo.coordinates import derive_coordinates
from zoo.harness.models import LoadedPair
from zoo.harness.scoring import hidden_states, logits_of
from zoo.method import Method
from zoo.seeds import seed_for

OWN = {"rollout": {"author": "student"}}
PUPIL = {**REVERSE_KL, "teacher": "pupil"}
LOOSE = {"budget": {"amount": 400}, "micro_tokens": 60, "clip_norm": 1e9}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def prompted(rollout: Any = OWN["rollout"], **more: Any) -> Any:
    spec = {"kind": "soft_prompt", "length": 3, "init": "ab", "objective": [PUPIL], "learning_rate": 0.05, **more}
    teachers = {"warm": {"kind": "learner", "learner": "words"}}
    return made(rollout=rollout, teachers=teachers, learners={"words": spec}, objective=[{**REVERSE_KL, "teacher": "warm"}])


def branched(**more: Any) -> Any:
    spec = {"kind": "peer", "model": "student", "objective": [{"term": "likelihood", "reduce": "token_mean"}], "learning_rate": 0.02}
    body: dict[str, Any] = {
        **OWN, "teachers": {"sibling": {"kind": "learner", "learner": "branch"}}, "learners": {"branch": spec},
        "objective": [{**REVERSE_KL, "teacher": "sibling"}], "update": {"kind": "adamw", "step": {"kind": "merge", "of": ["branch"]}},
    }  # fmt: skip
    return made(**{**body, **more})


def test_a_soft_prompt_is_read_before_every_text(pair: LoadedPair) -> None:
    trainer = trainer_of(prompted(), pair)
    model, teacher = trainer.bank.models["learner:words"], pair.teachers["teacher"]
    ids = pair.tokenizer.encode("ab")
    table = teacher.get_input_embeddings().weight.detach()
    assert torch.equal(model.soft_MH.detach(), table[[ids[0], ids[1], ids[0]]])
    torch.nn.init.normal_(model.soft_MH)
    [rollout] = trainer.write(Method(trainer.entry)).values()
    states = hidden_states(trainer.bank, ["warm"], rollout)["warm"]
    got = logits_of(trainer.bank, "warm", states)
    expected = []
    for b in range(len(rollout)):
        text = torch.tensor([[*rollout.prompt_ids[b], *rollout.response_BT[b][rollout.mask_BT[b]].tolist()]])
        embedded = torch.cat([model.soft_MH[None], table[text]], 1)
        expected.append(teacher(inputs_embeds=embedded).logits[0, 3 + len(rollout.prompt_ids[b]) - 1 : -1])
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-8, atol=1e-8)


def test_nothing_but_the_prompt_learns_and_it_comes_nearer(pair: LoadedPair) -> None:
    trainer = trainer_of(prompted(), pair, learning_rate=1e-9, **LOOSE)
    before, part = weights(pair.teachers["teacher"]), trainer.parts["learner:words"]
    assert [p.shape for p in part.parameters()] == [(3, pair.teachers["teacher"].config.hidden_size)]
    start = part.parameters()[0].detach().clone()
    trainer.train(lambda row: None, lambda: None)
    losses = [row["loss.0.divergence"] for row in trainer.rows]
    assert losses[-1] < losses[0] and not torch.equal(part.parameters()[0], start)
    assert all(torch.equal(p, before[name]) for name, p in pair.teachers["teacher"].named_parameters())
    state = {key: value.clone() for key, value in part.state_dict().items()}
    assert {"model.soft_MH"} == {key for key in state if not key.startswith("optimizer")}
    trained = part.parameters()[0].detach().clone()
    torch.nn.init.zeros_(part.parameters()[0])
    part.load_state_dict(state)
    assert torch.equal(part.parameters()[0], trained)


def test_without_words_it_begins_as_tokens_of_the_vocabulary(pair: LoadedPair) -> None:
    first, second = (trainer_of(prompted(init=None), pair).bank.models["learner:words"].soft_MH for _ in range(2))
    table = pair.teachers["teacher"].get_input_embeddings().weight
    assert torch.equal(first, second) and all(bool((table == row).all(1).any()) for row in first)


def test_branches_of_one_start_are_averaged_at_the_end(pair: LoadedPair) -> None:
    trainer = trainer_of(branched(), pair, learning_rate=0.01, **LOOSE)
    branch = trainer.bank.models["learner:branch"]
    assert all(torch.equal(p, pair.initial[name]) for name, p in branch.named_parameters())
    seen: list[Any] = []
    after = trainer.mover.after_step

    def noted(metrics: Any) -> None:
        seen.append((weights(pair.student), weights(branch)))
        after(metrics)

    trainer.mover.after_step = noted  # type: ignore[method-assign]
    trainer.train(lambda row: None, lambda: None)
    own, other = seen[-1]
    assert len(seen) > 2 and any(not torch.equal(own[name], other[name]) for name in own)
    for name, p in pair.student.named_parameters():
        torch.testing.assert_close(p, (own[name] + other[name]) / 2)
    assert torch.equal(next(iter(seen[1][0].values())), next(iter(seen[1][0].values())))
    coordinates = derive_coordinates(branched())
    assert coordinates.feedback_signal == ("self_play",) and coordinates.teacher_access == "teacher_free"


def test_a_restarted_run_learns_from_the_beginning_with_fresh_moments(pair: LoadedPair) -> None:
    step = {"kind": "adamw", "step": {"kind": "restart", "at": 0.5}}
    trainer = trainer_of(made(**OWN, **TEACHER, objective=[REVERSE_KL], update=step), pair, learning_rate=0.01, **LOOSE)
    moved: list[bool] = []

    def noted(row: Any) -> None:
        same = all(torch.equal(p, pair.initial[name]) for name, p in pair.student.named_parameters())
        moved.append(not same)
        assert same == (not trainer.optimizer.state), "fresh weights have fresh moments"

    trainer.train(noted, lambda: None)
    assert moved.count(False) == 1 and moved[0] and moved[-1]
    at = moved.index(False)
    assert trainer.rows[at]["progress"] >= 0.5 > trainer.rows[at - 1]["progress"]
    again = trainer_of(trainer.entry, pair, **LOOSE)
    again.mover.load_state_dict(trainer.mover.state_dict())
    again.mover.after_step({"progress": 0.9})
    assert again.mover.restarted


def test_snapshots_are_taken_by_the_clock_and_drawn_by_the_step(pair: LoadedPair) -> None:
    past = {"past": {"kind": "student", "weights": {"kind": "snapshots", "count": 3, "until": 0.6}}}
    entry = made(rollout={"author": "mixture", "of": {"dataset": 1, "past": 3}, "per": "sequence"}, teachers=past, objective=[
        {"term": "likelihood", "reduce": "token_mean"}])  # fmt: skip
    assert problems(entry) == []
    trainer = trainer_of(entry, pair, learning_rate=0.01, rollouts_per_step=4, **LOOSE)
    part = trainer.parts["copy:past"]
    history: list[dict[str, Any]] = []
    counts, shown = [], []

    def noted(row: Any) -> None:
        history.append(weights(pair.student))
        counts.append(len(part.kept))
        shown.append(weights(part.model))

    trainer.train(noted, lambda: None)
    due = [min(math.floor(row["progress"] / 0.6 * 3), 3) for row in trainer.rows]
    assert counts == due and set(counts) == {0, 1, 2, 3}
    for i, kept in enumerate(part.kept):
        assert all(torch.equal(kept[name], value) for name, value in history[next(n for n, d in enumerate(due) if d > i)].items())
    for step, (now, count) in enumerate(zip(shown, counts, strict=True), 1):
        wanted = part.kept[seed_for("snapshot", "trial", 0, "past", step) % 3] if count == 3 else pair.initial
        assert all(torch.equal(value, wanted[name]) for name, value in now.items())
    other = trainer_of(entry, pair, rollouts_per_step=4, **LOOSE).parts["copy:past"]
    other.load_state_dict(part.state_dict())
    assert len(other.kept) == 3 and all(torch.equal(a[n], b[n]) for a, b in zip(other.kept, part.kept, strict=True) for n in a)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (branched(update={"kind": "adamw", "step": {"kind": "merge", "of": ["other"]}}), "'other' is no peer with model: student, so there is no mean"),
        (branched(learners={"branch": {"kind": "peer", "objective": [PUPIL]}}), "'branch' is no peer with model: student"),
        (prompted(rollout={"author": "teacher", "teacher": "warm"}), "a soft prompt, which scores and does not write"),
        (made(**OWN, teachers={"x": {"kind": "learner", "learner": "y"}}, objective=[{**REVERSE_KL, "teacher": "x"}]), "no learner of kind peer, adapter or"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(entry: Any, why: str) -> None:
    assert any(why in problem for problem in problems(entry)), problems(entry)
