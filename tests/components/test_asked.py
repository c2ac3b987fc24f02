"""Rewards that the harness gives: what each asks for, on the micro pair, against the same worked out apart; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.compat import problems
from zoo.errors import ZooError
from zoo.harness.asked import Asking
from zoo.harness.bank import Bank, ScorerKey, response_hidden
from zoo.harness.discriminators import Critic
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.parallel import Processes
from zoo.tensors import Prompt, Rollout

from .compose import entry_of
from .six import build
from .test_sums import GROUP, GRPO

ATTEMPT = {"made": ({"kind": "attempt"},), "template": "attempt"}
MATCH = {"kind": "match", "field": "solution"}
TEXTS = ("3 8#8", "3 8#9", "8", "3 8#8", "1#8", "")
# What each reward asks for, and of the texts above what it gives, where numbers without a model say so.
REFERENCES: dict[str, list[tuple[dict[str, Any], list[float] | None]]] = {
    "match": [
        ({"field": "solution"}, [1, 0, 0, 1, 0, 0]),
        ({"extract": r"#(\d+)"}, [1, 0, 0, 1, 1, 0]),
        ({"extract": r"\d+$"}, [1, 0, 1, 1, 1, 0]),
    ],
    "consensus": [({"extract": r"#(\d+)"}, [1, 0, 0, 1, 1, 0]), ({"extract": r"#(\d+)", "at_least": 3}, [0, 0, 0, 0, 0, 0]), ({}, [1, 0, 0, 1, 0, 0])],
    "unit_tests": [({"field": "tests"}, None)],
    "reward_model": [({"model": "rm"}, None)],
    "judge": [({"ask": "likelihood"}, None), ({"ask": "verdict", "context": ATTEMPT}, None), ({"ask": "score", "context": ATTEMPT}, None)],
    "learner": [({"learner": "critic"}, None)],
    "elsewhere": [
        ({"on": "other", "reward": MATCH}, [0, 0, 1, 1, 0, 0]),
        ({"on": "other", "reward": MATCH, "scope": "group"}, [1 / 3] * 6),
        ({"on": "other", "reward": {"kind": "structure", "at_least": 3}}, [0, 1, 1, 1, 1, 0]),
    ],
}


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return load_pair(load_pair_spec("micro"))


def asking(pair: LoadedPair, micro_tokens: int = 4096) -> Asking:
    """Two groups of three answers to one prompt; the second group's are `3 8#8`, `1#8` and an empty one."""
    prompt = Prompt("p", "+35=", {"solution": "3 8#8", "answer": "8", "tests": "assert double(2) == 4\n\nassert double(1) == 3"})
    ids = [[*pair.tokenizer.encode(text, add_special_tokens=False), pair.stop_ids[0]] for text in TEXTS]
    width = max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]).bool()
    zeros = torch.zeros(mask.shape)
    rollout = Rollout(
        (prompt,) * 6, (tuple(pair.format_prompt(prompt)),) * 6, torch.tensor([row + [pair.pad_id] * (width - len(row)) for row in ids]), mask,
        mask.long() * 0, zeros, zeros, torch.tensor([0, 0, 0, 1, 1, 1]), torch.ones(6).bool(),
    )  # fmt: skip
    keys = {"student": ScorerKey("student"), "teacher": ScorerKey("teacher")}
    bank = Bank(pair, {"student": pair.student, "teacher": pair.teachers["teacher"]}, keys, micro_tokens, 64)
    # In the other stream the rows stand the other way round: an empty text first, the right ones third and sixth.
    return Asking(bank, rollout, TEXTS, {"other": rollout.rows([5, 4, 3, 0, 1, 2]), "short": rollout.rows([0])})


@pytest.mark.parametrize(("kind", "fields", "expected"), [(k, f, e) for k, cases in REFERENCES.items() for f, e in cases if e is not None])
def test_given_numbers(kind: str, fields: dict[str, Any], expected: list[float], pair: LoadedPair) -> None:
    reward = build("reward", kind, **fields)
    found = reward.measure((), {}, asking(pair))
    if kind == "consensus" and fields.get("extract") and fields.get("at_least") is None:
        expected = [0, 0, 0, 1, 1, 0]  # in the first group 8 and 9 have a vote each
    elif kind == "consensus":
        expected = [0] * 6
    np.testing.assert_allclose(found.numpy(), expected)


def test_a_judge_is_its_model_s_likelihood_verdict_or_expected_mark(pair: LoadedPair) -> None:
    whole, cut = asking(pair), asking(pair, micro_tokens=1)
    for fields, _ in REFERENCES["judge"]:
        reward = build("reward", "judge", **fields)
        np.testing.assert_allclose(whole(reward).numpy(), cut(reward).numpy(), atol=1e-4)
        assert bool(((whole(reward) >= 0) & (whole(reward) <= 1)).all())
    rollout = whole.rollout
    with torch.no_grad():
        states = response_hidden(pair.teachers["teacher"], rollout.prompt_ids, rollout, pair.pad_id)
        logp = pair.teachers["teacher"].get_output_embeddings()(states)[:, : pair.vocab_size].log_softmax(-1)
    own = logp.gather(-1, rollout.response_BT[rollout.mask_BT][:, None])[:, 0]
    row = rollout.mask_BT.nonzero()[:, 0]
    expected = torch.stack([own[row == i].mean().exp() for i in range(6)])
    found = whole(build("reward", "judge", ask="likelihood"))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    assert found[0] > found[1], "the teacher finds the right answer likelier"


def test_unit_tests_run_in_the_sandbox(pair: LoadedPair) -> None:
    reward = build("reward", "unit_tests", seconds=3.0, memory_mb=160)
    asked = replace(asking(pair), texts=("```python\ndef double(x): return 2 * x\n```", "no code", *[""] * 4))
    try:
        assert asked(reward).tolist() == [0.5, 0, 0, 0, 0, 0]
    except ZooError as error:
        pytest.skip(str(error))


def test_a_missing_field_or_reward_model_is_said(pair: LoadedPair) -> None:
    with pytest.raises(ZooError, match="prompt 'p' has no field 'gold'"):
        asking(pair)(build("reward", "match", field="gold"))
    with pytest.raises(ZooError, match="has no reward model 'rm'"):
        asking(pair)(build("reward", "reward_model", model="rm"))


def test_another_stream_is_read_row_by_row(pair: LoadedPair) -> None:
    with pytest.raises(ZooError, match="'short' row by row, which has another number of answers"):
        asking(pair)(build("reward", "elsewhere", on="short", reward=MATCH))


def test_mathematics_needs_its_package_and_reads_equal_forms(pair: LoadedPair) -> None:
    pytest.importorskip("math_verify")
    reward = build("reward", "match", how="math")
    assert replace(asking(pair), texts=("$8$", "16/2", "9", "\\boxed{8}", "", "x"))(reward).tolist() == [1, 1, 0, 1, 0, 0]


def test_a_discriminator_learns_to_tell_texts_apart_and_comes_back_from_its_state(pair: LoadedPair) -> None:
    asked = asking(pair)
    spec = build("learner", "discriminator", real="real", fake="fake", learning_rate=3e-3)
    critic = Critic("c", spec, asked.bank, Processes(), 1.0, ("t", 0))
    real, fake = asked.rollout.rows([0, 0]), asked.rollout.rows([1, 2, 4, 5])
    first = critic.scores(fake).detach()
    for _ in range(12):
        critic.learn({"real": real, "fake": fake}, 0.0)
        critic.after_step({})
    assert critic.figures == {"pairs": 4.0, "told_apart": 1.0}
    assert bool((critic.scores(real).min() > critic.scores(fake).max()).item())
    again = Critic("c", spec, asked.bank, Processes(), 1.0, ("t", 0))
    assert torch.equal(again.scores(fake), first), "the start is named by its axes"
    again.load_state_dict({name: value.clone() for name, value in critic.state_dict().items()})
    assert torch.equal(again.scores(fake), critic.scores(fake))
    assert not any(p.grad is not None for p in pair.student.parameters()), "the student itself is not moved"


def test_the_gradient_of_a_discriminator_is_bradley_and_terry_s(pair: LoadedPair) -> None:
    asked = asking(pair)
    critic = Critic("c", build("learner", "discriminator", real="real", fake="fake"), asked.bank, Processes(), 1.0, ("t", 1))
    real, fake = asked.rollout.rows([0, 0]), asked.rollout.rows([1, 2])
    critic.learn({"real": real, "fake": fake}, 0.0)
    found = critic.weight_H.grad
    assert found is not None
    with torch.no_grad():
        states = [response_hidden(critic.model, r.prompt_ids, critic.read(r), pair.pad_id) for r in (real, fake)]
    gap = (states[0] - states[1]) @ critic.weight_H.detach()
    np.testing.assert_allclose(found.numpy(), (-torch.sigmoid(-gap)[:, None] * (states[0] - states[1])).mean(0).numpy(), atol=1e-5)


def test_a_span_reads_its_part_of_the_text(pair: LoadedPair) -> None:
    asked = asking(pair)
    for span, expected in (((0.0, 0.5), "3 8"), ((0.5, 1.0), "#8"), ((0.0, 1.0), "3 8#8")):
        critic = Critic("c", build("learner", "discriminator", real="r", span=span), asked.bank, Processes(), 1.0, ("t", 0))
        shown = critic.read(asked.rollout)
        at = int(shown.mask_BT[0].nonzero()[0, 0])
        assert pair.decode(shown.response_BT[0][:at].tolist()).strip() == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rewards": {"total": {"kind": "judge", "by": "nobody", "ask": "likelihood"}}}, "judge 'nobody' is not under teachers"),
        ({"rewards": {"total": {"kind": "judge", "ask": "likelihood"}}, "teachers": {"teacher": "endpoint"}}, "an endpoint gives no probabilities"),
        ({"rewards": {"total": {"kind": "learner", "learner": "critic"}}}, "'critic' is no learner of kind discriminator"),
        (
            {"rewards": {"total": {"kind": "learner", "learner": "c"}}, "learners": {"c": {"kind": "discriminator", "real": "theirs"}}},
            "learners.c: stream 'theirs' is not under rollouts",
        ),
        (
            {
                "rewards": {"total": {"kind": "learner", "learner": "c"}},
                "learners": {"c": {"kind": "discriminator", "real": "theirs"}},
                "rollouts": {**GROUP, "theirs": {"author": "teacher"}},
            },
            "answer different numbers of prompts",
        ),
        ({"rewards": {"total": {"kind": "elsewhere", "on": "nowhere", "reward": MATCH}}}, "rewards.total: stream 'nowhere' is not under rollouts"),
        (
            {"rewards": {"total": {"kind": "elsewhere", "on": "one", "reward": MATCH}}, "rollouts": {**GROUP, "one": {"author": "student"}}},
            "rollouts.main and rollouts.one are read row by row; give both the same group and share",
        ),
    ],
)
def test_rules(sections: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"rollouts": GROUP, "teachers": {"teacher": "external"}}
    found = problems(entry_of([{**GRPO, "reward": "total"}], **{**usual, **sections}))
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("judge", {"ask": "verdict"}, "needs a context that shows the answer"),
        ("match", {"extract": "("}, "extract is no regular expression"),
        ("consensus", {"at_least": 1}, "greater than or equal to 2"),
        ("unit_tests", {"seconds": 0}, "greater than 0"),
        ("elsewhere", {"on": "other", "reward": {"kind": "judge", "ask": "likelihood"}}, "asks no judge and is made of no others"),
        ("elsewhere", {"on": "other", "reward": {"kind": "sum", "of": {"correct": 1.0}}}, "asks no judge and is made of no others"),
        ("elsewhere", {"on": "other", "reward": {"kind": "contrast", "of": {"teacher": 1}}}, "is one of whole answers"),
    ],
)
def test_refusals(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("reward", kind, **fields)
