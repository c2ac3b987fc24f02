"""Columns for which models are run further: branches read in one pass, futures written by two models, what they cost, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_kit import LOG_RATIO, REVERSE_KL, TEACHER, made, read_pair, trainer_of

from zoo import explore_rules
from zoo.compat import pair_problems, problems
from zoo.components.gates.ahead import transport_cost
from zoo.components.rewards.ahead import standing, sureness
from zoo.components.rollouts import Student
from zoo.errors import ZooError
from zoo.harness.explore import Tree, tree_states
from zoo.harness.models import LoadedPair
from zoo.harness.native import unsupported
from zoo.harness.train import Trainer
from zoo.lab.engine import Bench
from zoo.lab.world import world_of
from zoo.method import Method
from zoo.seeds import seed_for, uniforms
from zoo.statistics import Explored, TokenContext

UNCERTAIN = {"kind": "share", "of": {"kind": "entropy"}, "share": 0.4}
AHEAD = {"kind": "lookahead", "k": 3, "within": UNCERTAIN}
FUTURES = {"kind": "continuation_match", "within": UNCERTAIN, "window": 5}
LOOKING = {"rollout": {"author": "student"}, **TEACHER, "objective": [{**LOG_RATIO, "plus": [{"reward": AHEAD, "coefficient": 0.5}]}]}
FILTERED = {"rollout": {"author": "student"}, **TEACHER, "objective": [{**REVERSE_KL, "gates": [FUTURES]}]}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def judged(body: dict[str, Any], pair: LoadedPair, **changes: Any) -> tuple[Trainer, TokenContext]:
    """One batch, written and scored."""
    trainer = trainer_of(made("trial", **body), pair, **changes)
    method = Method(trainer.entry, 0.0)
    return trainer, trainer.judge(method, trainer.write(method))["main"].context


def column(context: TokenContext) -> tuple[Any, torch.Tensor]:
    [(statistic, found_BT)] = [(s, c) for s, c in context.columns.items() if isinstance(s, Explored)]
    return statistic, found_BT


@torch.no_grad()
def after(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what follows one text, read by itself."""
    return model(torch.tensor([ids])).logits[0, -1, :40].log_softmax(-1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("by", ["confidence", "negative_entropy"])
def test_branches_read_in_one_pass_are_texts_read_alone(pair: LoadedPair, by: Any) -> None:
    body = {**LOOKING, "objective": [{**LOG_RATIO, "plus": [{"reward": {**AHEAD, "by": by}}]}]}
    _, context = judged(body, pair)
    statistic, found_BT = column(context)
    rollout, kept_BT = context.rollout, statistic.within.keep(context, None)
    assert 0 < int(kept_BT.sum()) < rollout.tokens and not found_BT[~kept_BT].any()
    stopped = 0
    for b, t in kept_BT.nonzero().tolist():
        before, written = [*rollout.prompt_ids[b], *rollout.response_BT[b, :t].tolist()], int(rollout.response_BT[b, t])
        if written in pair.stop_ids:
            stopped += 1
            assert found_BT[b, t] == 0.0
            continue
        law_V = after(pair.student, before)
        law_V[list(pair.stop_ids)] = -torch.inf
        others = [sureness(after(pair.teachers["teacher"], [*before, v])[None], by) for v in law_V.topk(3).indices.tolist()]
        own = sureness(after(pair.teachers["teacher"], [*before, written])[None], by)
        assert float(found_BT[b, t]) == pytest.approx(float(standing(own, torch.stack(others, 1), 1e-6)), abs=1e-5)
    assert stopped, "a stop token was among them"


def test_branches_do_not_depend_on_the_split(pair: LoadedPair) -> None:
    whole, alone = (column(judged(LOOKING, pair, micro_tokens=m, chunk_tokens=c)[1])[1] for m, c in ((4000, 999), (1, 3)))
    assert float((whole - alone).abs().max()) < 1e-6 and bool(whole.any())


def test_branches_and_the_text_again_are_the_teacher_s_budget(pair: LoadedPair) -> None:
    plain = judged({**LOOKING, "objective": [LOG_RATIO]}, pair)[0].spent.teacher_tokens
    trainer, context = judged(LOOKING, pair)
    kept_BT = column(context)[0].within.keep(context, None)
    again = int(context.rollout.written_BT[kept_BT.any(1)].sum())
    assert trainer.spent.teacher_tokens == plain + again + 3 * int(kept_BT.sum())


def greedy(model: Any, ids: list[int], stops: tuple[int, ...], length: int) -> list[int]:
    found: list[int] = []
    while len(found) < length and not (found and found[-1] in stops):
        found.append(int(after(model, [*ids, *found]).argmax()))
    return found


def test_futures_are_what_both_models_write(pair: LoadedPair) -> None:
    trainer, context = judged(FILTERED, pair)
    statistic, found_BT = column(context)
    table = torch.nn.functional.normalize(pair.teachers["teacher"].get_input_embeddings().weight.detach(), dim=-1)
    rollout, kept_BT, tokens, teacher = context.rollout, statistic.within.keep(context, None), 0, 0
    for b, t in kept_BT.nonzero().tolist():
        before = [*rollout.prompt_ids[b], *rollout.response_BT[b, :t].tolist()]
        one, two = (greedy(model, before, pair.stop_ids, 5) for model in (pair.teachers["teacher"], pair.student))
        tokens, teacher = tokens + len(one) + len(two), teacher + len(one)
        cost_MN = 1.0 - table[one] @ table[two].T
        every = [torch.ones(1, n, dtype=torch.bool) for n in cost_MN.shape]
        assert float(found_BT[b, t]) == pytest.approx(float(transport_cost(cost_MN[None], *every)), abs=1e-5)
    assert trainer.spent.generated_tokens == rollout.tokens + tokens
    trainer.accounts.after_step({})
    assert trainer.accounts.figures()["teacher"] == {"scored_tokens": rollout.tokens, "written_tokens": teacher}
    gate = trainer.entry.objective[0].gates[0]
    dropped_BT = context.mask_BT & ~gate.keep(context, None)
    assert int(dropped_BT.sum()) >= int(0.3 * int(kept_BT.sum())) > 0 and not bool((dropped_BT & ~kept_BT).any())


AUDITED: dict[str, Any] = {
    "rollout": {"author": "student"}, "teachers": {"teacher": {"kind": "external", "access": "black_box"}},
    "objective": [{"term": "likelihood", "gates": [{"kind": "entropy_chunks", "count": 2, "size": 3, "part": "chunks"}], "reduce": "sum",
                   "weights": [{"kind": "continuation_match", "count": 2, "size": 3, "samples": 3}]}],
}  # fmt: skip


def distance(one: str, other: str) -> int:
    """Edits between two texts, by recursion."""
    if not one or not other:
        return len(one) + len(other)
    return min(distance(one[1:], other) + 1, distance(one, other[1:]) + 1, distance(one[1:], other[1:]) + (one[0] != other[0]))


def test_a_chunk_is_held_against_what_the_teacher_writes_in_its_place(pair: LoadedPair) -> None:
    """The teacher is put to each beginning by itself, with the same noise; nothing depends on the batch."""
    trainer, context = judged(AUDITED, pair)
    statistic, found_BT = column(context)
    rollout, kept_BT = context.rollout, statistic.within.keep(context, None)
    assert bool(kept_BT.any()) and not found_BT[~kept_BT].any()
    asked = 0
    for b, t in kept_BT.nonzero().tolist():
        given = rollout.response_BT[b, :t].tolist()
        seed, wanted = seed_for("resemblance", rollout.prompts[b].id, rollout.version, *given), 0.0
        own = trainer.bank.judge.text(rollout.response_BT[b, t : t + 3].tolist())
        for sample in range(3):
            ids, drawn = [*rollout.prompt_ids[b], *given], uniforms([seed], 3, stream=sample)[0].tolist()
            said: list[int] = []
            while len(said) < 3 and not (said and said[-1] in pair.stop_ids):
                cumulative = after(pair.teachers["teacher"], [*ids, *said]).exp().cumsum(-1)
                said.append(min(int((cumulative <= drawn[len(said)]).sum()), 39))
            asked += len(said)
            text = trainer.bank.judge.text(said)
            wanted += 1.0 - distance(own, text) / max(len(own), len(text), 1)
        assert float(found_BT[b, t]) == pytest.approx(wanted, abs=1e-9)
    assert trainer.bank.explored_tokens == asked and trainer.spent.teacher_tokens == 0, "texts alone are read"
    again = column(judged(AUDITED, pair, micro_tokens=1, chunk_tokens=3)[1])[1]
    assert torch.equal(found_BT, again)
    assert next(row["grad_norm"] for row in trainer_of(made("trial", **AUDITED), pair).iterate()) > 0


def test_the_student_s_own_future_is_no_distance(pair: LoadedPair) -> None:
    """Against its own live weights under another name every window is the same one."""
    body = {**FILTERED, "teachers": {"teacher": {"kind": "external"}, "same": {"kind": "student", "weights": "live"}}}
    body["objective"] = [{**REVERSE_KL, "gates": [{**FUTURES, "teacher": "same"}]}]
    found_BT = column(judged(body, pair)[1])[1]
    assert float(found_BT.abs().max()) < 1e-3


def test_the_lab_looks_behind_every_token() -> None:
    """The double of the reward against loops over the tables."""
    everywhere = {**AHEAD, "k": 2, "within": {"kind": "position", "at_least": 0}}
    bench = Bench(made("trial", **{**LOOKING, "objective": [{**LOG_RATIO, "plus": [{"reward": everywhere}]}]}), world_of(4, 3))
    tables, world = bench.tables(), bench.world
    laws = bench.laws(tables)
    context = bench.context("main", laws["main"], tables, lambda value: value, [])
    found_RT, law = column(context)[1].numpy(), laws["main"]
    p, q = tables.student.detach().log_softmax(-1).numpy(), tables.logits("teacher").detach().softmax(-1).numpy().max(-1)
    for r, t in zip(*np.nonzero(law.state_RT >= 0), strict=True):
        state, token = law.state_RT[r, t], law.token_RT[r, t]
        behind = world.children[state]
        wanted = 0.0
        if behind[token] >= 0:
            best = [q[behind[v]] for v in np.argsort(-p[state]) if v != world.stop][:2]
            wanted = (q[behind[token]] - np.mean(best)) / (np.std(best) + 1e-6)
        assert found_RT[r, t] == pytest.approx(wanted, abs=1e-9)


HINT = {"fields": ["hint"], "template": "hint"}
STEERED = {"kind": "student", "weights": {"kind": "steered", "toward": HINT, "strength": 0.7, "depth": 0.4, "prompts": 5}}
ON_VOTES = {**REVERSE_KL, "teacher": "steered", "support": {"kind": "voted", "size": 4, "top": 3, "prompts": 6, "mass": "raw"}}
SAFE = {"rollout": {"author": "student"}, "teachers": {"steered": STEERED}, "objective": [ON_VOTES]}


def test_a_steered_teacher_adds_one_direction_behind_one_block(pair: LoadedPair) -> None:
    """Against hidden states that transformers gives: the mean difference of two readings, added to those of the first of two blocks."""
    trainer = trainer_of(made("trial", **SAFE), pair)
    model, prompts = trainer.bank.models["steered:steered"], pair.task.prompts("train")[:5]
    context = trainer.entry.teachers["steered"].weights.toward  # type: ignore[attr-defined]
    states = []
    for shown in (context, None):
        rows = [torch.tensor([pair.format_prompt(prompt, shown)]) for prompt in prompts]
        with torch.no_grad():
            states.append(torch.stack([pair.student(ids, output_hidden_states=True).hidden_states[1][0, -1] for ids in rows]).mean(0))
    with torch.no_grad():
        plain, moved = (m(torch.tensor([[5, 6, 7, 8]]), output_hidden_states=True).hidden_states for m in (pair.student, model))
    torch.testing.assert_close(moved[0], plain[0])
    torch.testing.assert_close(moved[1] - plain[1], (0.7 * (states[0] - states[1])).expand(1, 4, -1), rtol=1e-9, atol=1e-12)
    assert bool((moved[2] - plain[2]).abs().amax() > 1e-3)
    assert not any(p.requires_grad for p in model.parameters()) and unsupported(model) is not None


def test_a_steered_teacher_needs_a_direction_and_its_fields(pair: LoadedPair) -> None:
    plain = {**STEERED, "weights": {**STEERED["weights"], "toward": {"fields": ["content"], "template": "canonical"}}}  # type: ignore[dict-item]
    with pytest.raises(ZooError, match="template 'canonical' shows the prompts as they are"):
        trainer_of(made("trial", **{**SAFE, "teachers": {"steered": plain}}), pair)
    lacking = {**STEERED, "weights": {**STEERED["weights"], "toward": {"fields": ["rubric"], "template": "hint"}}}  # type: ignore[dict-item]
    entry = made("trial", **{**SAFE, "teachers": {"steered": lacking}})
    found = pair_problems(entry, templates=pair.spec.contexts, fields=["hint"], teachers=["teacher"], checks=["answer"], same_vocabulary=True)
    assert any(line.startswith("teachers.steered.weights.toward needs the prompt field 'rubric'") for line in found)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"toward": {"made": ["feedback"], "template": "feedback"}}, "toward is shown before anything is written"),
        ({"toward": {"template": "plain"}}, "toward is shown before anything is written"),
        ({"toward": HINT, "strength": 0.0}, "strength 0 adds nothing"),
        ({"toward": HINT, "depth": 0.0}, "greater than 0"),
        ({"toward": HINT, "prompts": 0}, "greater than or equal to 1"),
    ],
)
def test_refusals_of_steering(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made("trial", **{**SAFE, "teachers": {"steered": {"kind": "student", "weights": {"kind": "steered", **bad}}}})


def test_votes_are_those_of_the_initial_student_s_answers(pair: LoadedPair) -> None:
    trainer = trainer_of(made("trial", **SAFE), pair)
    models, votes, tokens = (trainer.bank.models["steered:steered"], pair.student), [0] * 40, 0
    answers = trainer.engine.rollout(Student(), trainer.prompts[:6], max_new_tokens=8, seed_axes=("trial", 0, "votes"))
    for row in range(len(answers)):
        written = answers.response_BT[row, answers.mask_BT[row]].tolist()
        tokens += len(written)
        for t in range(len(written)):
            one, other = (after(model, [*answers.prompt_ids[row], *written[:t]]) for model in models)
            for v in (one - other).topk(3).indices.tolist():
                votes[v] += 1
    wanted = sorted(range(40), key=lambda v: (-votes[v], v))[:4]
    assert trainer.entry.objective[0].support.ids == tuple(sorted(wanted))  # type: ignore[attr-defined]
    assert (trainer.spent.generated_tokens, trainer.spent.teacher_tokens) == (tokens, tokens)
    again = trainer_of(made("trial", **SAFE), pair)
    again.accounts.load_state_dict({"tokens": {"steered:steered": {"scored_tokens": 7, "written_tokens": 0}}})
    again.accounts.after_step({})
    trainer.accounts.after_step({})
    figures = [each.accounts.figures()["steered:steered"]["scored_tokens"] for each in (trainer, again)]
    assert figures == [tokens, 7], "a run that goes on has paid for its votes"
    [row] = list(trainer.iterate())[:1]
    assert row["grad_norm"] > 0


def test_the_lab_votes_by_how_often_a_state_is_visited() -> None:
    world = world_of(4, 3)
    bench = Bench(made("trial", **SAFE), world)
    tables = bench.tables()
    b, q = (tables.logits(name).detach().log_softmax(-1).numpy() for name in ("reference", "steered"))
    votes = np.zeros(4)
    for state, prefix in enumerate(world.states):
        chance = np.prod([np.exp(b[world.states.index(prefix[:t]), v]) for t, v in enumerate(prefix)])
        votes[np.argsort(b[state] - q[state])[:3]] += chance
    support = bench.entry.objective[0].support  # type: ignore[attr-defined]
    assert support.ids == tuple(sorted(np.argsort(-votes, kind="stable")[:2])) and bench.changes == ["voted.size 4 -> 2"]


ROUTED = {"one": {"kind": "external"}, "teacher": {"kind": "route", "of": {"add": "one"}}}
AGAIN = {"kind": "scripted_turns", "say": ["again"], "turns": 2}
ASKED = {"verdict": {"kind": "reward", "name": "right", "above": 0.5}, "advantage": {"kind": "advantage", "above": 0}}
CASES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "plain_models": [
        ({**FILTERED, "teachers": ROUTED},
         "objective[0]: gate continuation_match runs 'teacher' further, which is no single model; name an external model, a learner or the student's lineage"),
        ({**LOOKING, "teachers": {"teacher": {"kind": "external", "target": {"kind": "temperature", "tau": 2.0}}}},
         "objective[0]: reward lookahead reads 'teacher' as it is, without its target; drop the target, or name a teacher without one"),
        ({**FILTERED, "teachers": {"teacher": {"kind": "external", "alignment": "prefix_cover"}}},
         "objective[0]: gate continuation_match puts the student's tokens to 'teacher', which has another tokenizer; name a teacher without an alignment"),
        ({**LOOKING, "rollout": {"author": "student", "environment": AGAIN}},
         "objective[0]: reward lookahead goes on from states of a text, and rollouts.main is a dialogue, in which an environment answers; "
         "drop the environment"),
    ],
    "measured_gates": [
        ({**LOOKING, "objective": [{**LOG_RATIO, "plus": [{"reward": {**AHEAD, "within": ASKED["advantage"]}}]}]},
         "objective[0]: gate advantage can't choose the tokens of reward lookahead; use one that compares a measure of the token"),
        ({**FILTERED, "rewards": {"right": "verifier"}, "objective": [{**REVERSE_KL, "gates": [{**FUTURES, "within": ASKED["verdict"]}]}]},
         "objective[0]: gate reward can't choose the tokens of gate continuation_match; use one that compares a measure of the token"),
        ({**FILTERED, "objective": [{**REVERSE_KL, "gates": [{**FUTURES, "within": FUTURES}]}]},
         "objective[0]: gate continuation_match can't choose the tokens of gate continuation_match; use one that compares a measure of the token"),
    ],
    "votes": [
        ({**SAFE, "objective": [{**ON_VOTES, "support": {**ON_VOTES["support"], "base": "behaviour"}}]},
         "objective[0]: support voted compares two scorers, and 'behaviour' has no law; use base: reference"),
        ({**SAFE, "objective": [{**ON_VOTES, "support": {**ON_VOTES["support"], "base": "steered"}}]},
         "objective[0]: support voted compares 'steered' with itself; set base to another scorer, such as reference"),
        ({**FILTERED, "teachers": {"teacher": {"kind": "external", "alignment": "prefix_cover"}}, "objective": [{**ON_VOTES, "teacher": "teacher"}]},
         "objective[0]: support voted is on the student's vocabulary, and 'teacher' has another tokenizer; name a teacher without an alignment"),
        ({**FILTERED, "teachers": {"teacher": {"kind": "student", "weights": "live", "context": {"made": ["feedback"], "template": "feedback"}}},
          "objective": [{**ON_VOTES, "teacher": "teacher"}]},
         "objective[0]: support voted is chosen before anything is written, and 'teacher' is shown made parts; show it fields alone"),
    ],
    "behind_itself": [
        ({**FILTERED, "objective": [{**REVERSE_KL, "gates": [{**FUTURES, "teacher": "student"}]}]},
         "objective[0]: gate continuation_match compares the student's future with its own, which is no distance; name another teacher"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("rule", "body", "message"), [(rule, *case) for rule, cases in CASES.items() for case in cases])
def test_refusals(rule: str, body: dict[str, Any], message: str) -> None:
    entry = made("case", **body)
    assert message in list(getattr(explore_rules, rule)(entry))
    assert message in problems(entry)


def test_what_is_sound_is_not_refused() -> None:
    named = {**LOOKING, "rewards": {"ahead": AHEAD}, "objective": [{**LOG_RATIO, "plus": [{"reward": "ahead"}]}]}
    assert [problems(made("case", **body)) for body in (LOOKING, FILTERED, named, SAFE)] == [[], [], [], []]


def test_every_rule_is_tested() -> None:
    assert {rule.__name__ for rule in explore_rules.RULES} == set(CASES)


def test_a_window_of_attention_is_refused(pair: LoadedPair) -> None:
    config = pair.teachers["teacher"].config
    tree = Tree([3, 4, 5], [2], [[6, 7]])
    assert [tuple(s.shape) for s in tree_states(pair.teachers["teacher"], [tree], 0)[0]] == [(1, 24), (1, 2, 24)]
    config.layer_types = ["sliding_attention", "full_attention"]
    try:
        with pytest.raises(ZooError, match="needs full attention in every layer"):
            tree_states(pair.teachers["teacher"], [replace(tree)], 0)
    finally:
        del config.layer_types
