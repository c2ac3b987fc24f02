"""Parts that read dialogues, against plain arithmetic: two dialogues of three and two turns, an environment's words between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.components.six import build, per_group
from zoo.components.contexts import Answers, Lesson
from zoo.components.environments import Environment
from zoo.statistics import TokenContext
from zoo.tensors import Author, Episode, Prompt, Role

TURN = np.array([[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1, 0, 0]])
OWN = np.array([[1, 1, 0, 1, 0, 1, 1, 0], [1, 0, 1, 1, 1, 0, 0, 0]], dtype=bool)  # 0: the environment's words, then padding
ROLE = np.array([[0, 1, 3, 1, 3, 0, 2, 3], [1, 3, 0, 0, 2, 3, 0, 0]])
R = np.array([[1.0, 2.0, 9.0, -1.0, 9.0, 0.5, 0.25, 9.0], [3.0, 9.0, -2.0, 1.0, 0.5, 9.0, 9.0, 9.0]])
V = np.array([[0.2, 0.6, 0, -1.0, 0, 2.0, 4.0, 0], [1.0, 0, 3.0, 4.0, 5.0, 0, 0, 0]])
WORDS = np.array([[0.0, 0.5, 0, 0.25, 0, 0, 1.0, 0], [0.75, 0, 0, 0, 0.5, 0, 0, 0]])  # a reward of turns, on their last tokens


def dialogue(**rewards: np.ndarray) -> TokenContext:
    plain = per_group(2, [8, 8], [0, 0]).rollout
    author = np.where(OWN, 0, np.where(ROLE == 3, int(Author.ENVIRONMENT), 0))
    columns = {"mask_BT": OWN, "turn_BT": TURN, "role_BT": ROLE, "author_BT": author}
    told = {name: torch.tensor(value) for name, value in rewards.items()}
    return TokenContext(replace(plain, **{name: torch.tensor(value) for name, value in columns.items()}), turn_rewards=told)


def turn_sums(value: np.ndarray) -> np.ndarray:
    found = np.zeros((2, 3))
    for b, k in np.ndindex(2, 3):
        found[b, k] = value[b][OWN[b] & (TURN[b] == k)].sum()
    return found


def spread(per_turn: np.ndarray) -> np.ndarray:
    return np.take_along_axis(per_turn, TURN, 1) * OWN


LEFT = np.array([[2], [1]]) - TURN
GATES: dict[str, list[tuple[dict[str, Any], np.ndarray]]] = {
    "role": [({"is": "call"}, ROLE == 1), ({"is": "answer"}, ROLE == 2), ({"is": "text"}, ROLE == 0)],
    "turn": [
        ({"at_most": 0}, TURN == 0),
        ({"at_least": 1}, TURN >= 1),
        ({"at_most": 0, "from_end": True}, LEFT == 0),
        ({"above": 0, "from_end": True}, LEFT > 0),
    ],
}


@pytest.mark.parametrize(("kind", "fields", "kept"), [(kind, *case) for kind, cases in GATES.items() for case in cases])
def test_gate(kind: str, fields: dict[str, Any], kept: np.ndarray) -> None:
    np.testing.assert_array_equal(build("gate", kind, **fields).keep(dialogue(), None).numpy(), kept & OWN)


@pytest.mark.parametrize(("kind", "fields", "gamma"), [("immediate", {}, 0.0), ("return_to_go", {}, 1.0), ("discounted", {"gamma": 0.5}, 0.5)])
def test_credit_of_turns(kind: str, fields: dict[str, Any], gamma: float) -> None:
    """G_k = sum over j >= k of gamma^(j - k) R_j on each token of turn k; what stands on the environment's words counts for nothing."""
    sums = turn_sums(R)
    expected = spread(np.array([[sum(gamma ** (j - k) * row[j] for j in range(k, 3)) for k in range(3)] for row in sums]))
    credit = build("credit", kind, per="turn", **fields)
    np.testing.assert_allclose(credit.advantage(torch.tensor(R), dialogue()).numpy(), expected, atol=1e-12)
    assert not credit.local
    single = replace(dialogue().rollout, turn_BT=None)
    whole = credit.advantage(torch.tensor(R), TokenContext(single))[0, OWN[0]]
    np.testing.assert_allclose(whole.numpy(), (R[0] * OWN[0]).sum())


@pytest.mark.parametrize("fields", [{"from": "next"}, {"per_length": True}])
def test_credit_of_turns_counts_whole_turns(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="counts whole turns"):
        build("credit", "return_to_go", per="turn", **fields)


@pytest.mark.parametrize(("turns", "units"), [("mean", 5), ("sum", 2)])
@pytest.mark.parametrize("over", ["valid", "kept"])
def test_turn_mean(turns: str, units: int, over: str) -> None:
    """1 / (units * tokens of the turn): all five turns, or the two sequences; of the kept tokens alone three turns."""
    kept = OWN & (ROLE != 1)
    counted = kept if over == "kept" else OWN
    length = np.array([[(counted[b] & (TURN[b] == k)).sum() for k in range(3)] for b in range(2)])
    units = units if over == "valid" else {"mean": 3, "sum": 2}[turns]
    expected = np.take_along_axis(1.0 / (units * np.maximum(length, 1)), TURN, 1) * OWN
    found = build("reduce", "turn_mean", turns=turns, over=over).scale(torch.tensor(OWN), torch.tensor(kept), lambda value: value, torch.tensor(TURN))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    twice = build("reduce", "turn_mean", turns=turns, over=over).scale(torch.tensor(OWN), torch.tensor(kept), lambda value: 2 * value, torch.tensor(TURN))
    np.testing.assert_allclose(twice.numpy(), expected / 2, rtol=1e-6)


@pytest.mark.parametrize(("fields", "expected"), [
    ({"scope": "turn", "name": "state"}, spread(turn_sums(WORDS))),
    ({"scope": "turn", "name": "state", "floor": 0.5}, (0.5 + 0.5 * spread(turn_sums(WORDS))) * OWN)])  # fmt: skip
def test_weight_by_a_reward_of_turns(fields: dict[str, Any], expected: np.ndarray) -> None:
    found = build("weight", "reward", **fields).weight(dialogue(state=WORDS), None).numpy()
    np.testing.assert_allclose(found * OWN, expected)


def test_gate_by_a_reward_of_turns() -> None:
    kept = build("gate", "reward", name="state", scope="turn", at_least=0.5).keep(dialogue(state=WORDS), None)
    np.testing.assert_array_equal(kept.numpy(), (spread(turn_sums(WORDS)) >= 0.5) & OWN)


def test_means_over_turns_of_measures_and_weights() -> None:
    context = dialogue()
    lengths = np.array([[(OWN[b] & (TURN[b] == k)).sum() for k in range(3)] for b in range(2)])
    mean = spread(turn_sums(V) / np.maximum(lengths, 1))
    np.testing.assert_allclose((context.turn_mean(torch.tensor(V)).numpy()) * OWN, mean)
    place = np.where(OWN, OWN.cumsum(1) - 1, 0)
    mapped = build("weight", "mapped", of={"kind": "position"}, scope="turn").weight(context, None).numpy()
    np.testing.assert_allclose(mapped * OWN, spread(turn_sums(place) / np.maximum(lengths, 1)))
    shares = build("weight", "normalised", of=({"kind": "mapped", "of": {"kind": "position"}, "base": 1.0},), among="turn").weight(context, None).numpy() * OWN
    np.testing.assert_allclose(turn_sums(shares), lengths, rtol=1e-6)
    gate = build("gate", "threshold", of={"kind": "position"}, scope="turn", above=0.6).keep(context, None).numpy()
    np.testing.assert_array_equal(gate, (spread(turn_sums(place) / np.maximum(lengths, 1)) > 0.6) & OWN)


@pytest.mark.parametrize(("fields", "expected"), [({}, [0.2, 0.6, 0.5]), ({"gain": True}, [0.2, 0.4, -0.1])])
def test_turn_state(fields: dict[str, Any], expected: list[float]) -> None:
    reward = build("reward", "turn_state", **fields)
    np.testing.assert_allclose(reward.of_turns([0.2, 0.6, 0.5]), expected)
    np.testing.assert_array_equal(reward.tokens(dialogue(state=WORDS), "state").numpy(), WORDS)
    with pytest.raises(ValueError, match="read by its name"):
        reward.tokens(dialogue(), None)


def test_turn_judge() -> None:
    context = {"made": ("observation",), "template": "observation", "per": "turn"}
    plain, votes = build("reward", "turn_judge", context=context), build("reward", "turn_judge", context=context, neutral=0.3)
    np.testing.assert_allclose(plain.marks([0.9, 0.5, 0.2]), [0.8, 0.0, -0.6])
    assert votes.marks([0.9, 0.5, 0.2, 0.36, 0.64]) == [1.0, 0.0, -1.0, 0.0, 0.0]
    assert plain.asks() == ("teacher",) and plain.per_turn
    np.testing.assert_array_equal(plain.tokens(dialogue(state=WORDS), "state").numpy(), WORDS)
    with pytest.raises(ValueError, match="read by its name"):
        plain.tokens(dialogue(), None)
    for wrong in ({**context, "per": "sequence"}, {"fields": ("hint",), "template": "hint", "per": "turn"}):
        with pytest.raises(ValueError, match="a judge of turns needs a context with per: turn"):
            build("reward", "turn_judge", context=wrong)


def test_spans_are_runs_of_one_turn_role_and_author() -> None:
    assert dialogue().rollout.span_BT.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 2, 3, 4, 5, 5]]
    single = replace(dialogue().rollout, turn_BT=None, role_BT=None)
    assert not single.turns_BT.any() and not single.roles_BT.any()


# --- contexts


class Judge:
    words = {"between": "|"}
    pool: list[Prompt] = []
    lessons = [Lesson(p, {"domain": d}, t, "answer", r) for p, d, t, r in [
        ("a", "x", "old", True), ("b", "x", "new", True), ("b", "x", "bad", False), ("c", "y", "other", True)]]  # fmt: skip

    def hidden(self, prompt: Prompt) -> str:
        return f"secret of {prompt.id}"


EPISODES = (Episode("hi", ("one", "two"), ("r1", "r2")), Episode("ho", ("three",), (None,)))
ANSWERS = Answers([Prompt("p", "a", {"domain": "x"}), Prompt("q", "q", {"domain": "z"})], ["two", "three"], [0, 1], episodes=EPISODES)
CONTEXTS: dict[str, list[tuple[dict[str, Any], int | None, list[str | None]]]] = {
    "observation": [({}, None, ["r2", None]), ({}, 0, ["r1", None]), ({}, 1, ["r2", None])],
    "history": [({}, None, ["hi|r1|r2", "ho"]), ({}, 0, ["hi", "ho"]), ({}, 1, ["hi|r1", "ho"]),
                ({"shows": "all"}, None, ["hi|one|r1|two|r2", "ho|three"]), ({"shows": "all"}, 1, ["hi|one|r1", "ho|three"])],
    "hidden_state": [({}, None, ["secret of p", "secret of q"])],
    "experience": [({}, None, ["other", "other"]), ({"by": "domain"}, None, ["new", None]), ({"count": 2, "by": "domain"}, None, ["new", None]),
                   ({"is": "wrong"}, None, ["bad", "bad"]), ({"count": 2}, None, ["new|other", "new|other"]), ({"check": "exact"}, None, [None, None]),
                   ({"by": "domain", "otherwise": {"given": "domain"}}, None, ["new", "z"])],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "turn", "shown"), [(kind, *case) for kind, cases in CONTEXTS.items() for case in cases])
def test_context(kind: str, fields: dict[str, Any], turn: int | None, shown: list[str | None]) -> None:
    answers = ANSWERS if turn is None else ANSWERS.at(turn)
    assert build("context", kind, **fields).texts({None: answers}, Judge()) == shown


def test_texts_of_a_turn() -> None:
    assert ANSWERS.at(0).texts == ["one", "three"] and ANSWERS.at(1).texts == ["two", ""]


# --- environments


class Ground:
    turns = {"result": "[{result}]", "observation": "<{result}>", "revise": "{verdict}:{attempt}", "critique": "{feedback}", "right": "yes", "wrong": "no",
             "user": "say {attempt}", "message": "({message})", "call": "c", "call_end": "#"}  # fmt: skip

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        return float(text == check)

    def feedback(self, text: str, prompt: Prompt) -> str:
        return f"about {text}"

    def tool(self, name: str, text: str, prompt: Prompt) -> str:
        return f"{name}({text})"

    def user(self, text: str, turn: int, prompt: Prompt) -> str | None:
        return None if text == "content" else f"turn {turn}"

    def shards(self, prompt: Prompt, count: int) -> list[str]:
        return ["s1", "s2"][:count]


def told(kind: str, fields: dict[str, Any], said: str, before: tuple[tuple[str, str], ...] = (), called: bool = False, finished: bool = True) -> str | None:
    environment: Environment = build("environment", kind, **fields)
    episode = Episode("open", (*(own for own, _ in before), said), tuple(reply for _, reply in before))
    return environment.reply(episode, called, finished, Prompt("p", "open"), Ground())


ONE = (("u", "v"),)
ACTION = {"tool": "sum", "answers": "turn", "until": "goal"}
ENVIRONMENTS: dict[str, list[tuple[dict[str, Any], dict[str, Any], str | None]]] = {
    "single_turn": [({}, {"said": "x"}, None)],
    "scripted_turns": [
        ({"say": ("revise",)}, {"said": "x"}, "no:x"), ({"say": ("revise",), "check": "x"}, {"said": "x", "finished": False}, "yes:x"),
        ({"say": ("revise",)}, {"said": "x", "before": ONE}, None), ({"say": ("revise", "critique")}, {"said": "x", "before": ONE}, "about x"),
        ({"say": ("revise",), "until": "x"}, {"said": "x"}, None), ({"shards": 2}, {"said": "x"}, "s2"), ({"shards": 2}, {"said": "x", "before": ONE}, None)],
    "tool": [
        ({"tool": "sum"}, {"said": "x#", "called": True}, "[sum(x#)]"), ({"tool": "sum"}, {"said": "x#", "called": True, "before": ONE}, "[sum(uvx#)]"),
        ({"tool": "sum"}, {"said": "x"}, None), (ACTION, {"said": "x"}, "<sum(x)>"), (ACTION, {"said": "goal"}, None),
        (ACTION, {"said": "x", "finished": False}, None)],
    "simulated_user": [
        ({}, {"said": "x"}, "(turn 0)"), ({}, {"said": "content"}, None), ({"by": "teacher"}, {"said": "x"}, "say x"),
        ({"by": "teacher", "until": "x"}, {"said": "x"}, None)],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "state", "reply"), [(kind, *case) for kind, cases in ENVIRONMENTS.items() for case in cases])
def test_environment(kind: str, fields: dict[str, Any], state: dict[str, Any], reply: str | None) -> None:
    assert told(kind, fields, **state) == reply


@pytest.mark.parametrize(("kind", "fields", "message"), [
    ("single_turn", {"turns": 2.0}, "has one turn"), ("scripted_turns", {}, "either say"), ("scripted_turns", {"say": ("a",), "shards": 2}, "either say"),
    ("tool", {"tool": "t", "until": "x"}, "drop until"), ("tool", {"tool": "t", "turns": 0.5}, "turns must")])  # fmt: skip
def test_environments_refuse(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build("environment", kind, **fields)


def test_what_is_judged_and_where_calls_end() -> None:
    calls, actions = build("environment", "tool", tool="t"), build("environment", "tool", tool="t", answers="turn")
    assert (calls.judged, calls.calls) == ("all", True) and (actions.judged, actions.calls) == ("last_turn", False)
    assert build("environment", "scripted_turns", shards=2).opening(Prompt("p", "s1s2"), Ground()) == "s1"


REWARDS = {"turn_state": [test_turn_state], "turn_judge": [test_turn_judge]}
assert int(Role.REPLY) == 3  # the arrays above
