"""A judge that marks each turn of a dialogue, against plain forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import made, read_pair, trainer_of

from zoo.compat import problems
from zoo.coordinates import derive_coordinates
from zoo.harness.contexts import episodes_of
from zoo.harness.models import LoadedPair
from zoo.method import Method

SEEN = {"made": ["observation"], "template": "observation", "per": "turn"}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def judged(**reward: Any) -> Any:
    spec = {"kind": "turn_judge", "by": "critic", "context": SEEN, **reward}
    stream = {"author": "student", "environment": {"kind": "simulated_user", "turns": 2}}
    term = {"term": "policy_gradient", "reward": "vote", "credit": {"kind": "immediate", "per": "turn"}, "reduce": "token_mean"}
    return made(rollout=stream, teachers={"critic": {"kind": "external"}}, rewards={"vote": spec}, objective=[term])


def test_each_turn_has_the_judges_mark_on_its_last_token(pair: LoadedPair) -> None:
    assert problems(judged()) == []
    trainer = trainer_of(judged(), pair)
    method = Method(trainer.entry)
    scored = trainer.judge(method, trainer.write(method))["main"]
    rollout, marks_BT = scored.context.rollout, scored.context.turn_rewards["vote"]
    model, words = pair.teachers["teacher"], [pair.tokenizer.encode(pair.words[word]) for word in ("right", "wrong")]
    found = 0
    for b, episode in enumerate(episodes_of(rollout, trainer.bank.judge.text)):
        for turn in range(len(episode.said)):
            last = (rollout.mask_BT[b] & (rollout.turns_BT[b] == turn)).nonzero()[-1]
            if episode.replies[turn] is None:
                assert float(marks_BT[b, last]) == 0.0  # nothing followed
                continue
            before = pair.tokenizer.encode(f"?{episode.replies[turn]}?{rollout.prompts[b].text}")
            totals = []
            for word in words:
                logp_TV = model(torch.tensor([[*before, *word]])).logits[0].log_softmax(-1)
                totals.append(sum(float(logp_TV[len(before) - 1 + i, token]) for i, token in enumerate(word)))
            expected = 2 * float(torch.tensor(totals).softmax(-1)[0]) - 1
            assert float(marks_BT[b, last]) == pytest.approx(expected, abs=3e-4)
            found += 1
    assert found > 2 and int((marks_BT != 0).sum()) <= found
    assert trainer.bank.scored["teacher"] > 0


def test_votes_are_signs_and_a_judge_is_an_outcome(pair: LoadedPair) -> None:
    trainer = trainer_of(judged(neutral=0.0), pair, budget={"amount": 60})
    method = Method(trainer.entry)
    marks_BT = trainer.judge(method, trainer.write(method))["main"].context.turn_rewards["vote"]
    assert set(marks_BT.unique().tolist()) <= {-1.0, 0.0, 1.0}
    trainer.train(lambda row: None, lambda: None)
    coordinates = derive_coordinates(judged())
    assert coordinates.feedback_signal == ("outcome",) and coordinates.teacher_access == "black_box"


def test_a_judge_that_is_no_teacher_is_refused() -> None:
    assert any("judge 'nobody' is not under teachers" in problem for problem in problems(judged(by="nobody")))
