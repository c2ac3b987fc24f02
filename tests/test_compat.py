"""Each compatibility rule fires, with its reason and remedy, where one thing in a legal entry is changed; and on nothing legal."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zoo import alignment_rules, asked_rules, compat, context_rules, explore_rules, movement_rules, turn_rules
from zoo.compat import pair_problems, problems
from zoo.entry import MethodEntry

CONTRAST = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
RIGHT = {"kind": "reward", "name": "correct", "above": 0.5}
ABOUT: dict[str, Any] = {
    "id": "x", "name": "X", "paper": {}, "evidence": {"level": "inferred", "source": "a test"}, "fixed_point": "none", "anchor": "trained",
}  # fmt: skip
# Two terms, a value head and a verifier: a place for every part that the rules read.
BASE: dict[str, Any] = {
    "rollouts": {"main": {"author": "student", "group": 4, "reuse": {"minibatches": 2}}, "theirs": {"author": "teacher", "group": 4}},
    "teachers": {"teacher": {"kind": "external"}},
    "rewards": {"correct": {"kind": "verifier"}},
    "learners": {"value": "value_head"},
    "objective": [
        {"term": "policy_gradient", "reward": CONTRAST, "credit": "immediate", "ratio": ["ppo_clip"], "reduce": "token_mean"},
        {"term": "divergence", "divergence": "reverse_kl", "support": {"kind": "teacher_topk", "k": 4, "mass": "tail_bucket"}, "gates": [RIGHT],
         "reduce": "token_mean"},
        {"term": "policy_gradient", "reward": "correct", "credit": "gae", "reduce": "token_mean"},
        {"term": "log_prob_loss", "loss": "orpo", "chosen": "theirs", "rejected": "main", "keep_rejected": [{**RIGHT}]},
    ],
}  # fmt: skip


def changed(changes: dict[str, Any]) -> MethodEntry:
    """The base entry with the value at each dotted path replaced (None removes it)."""
    data = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        inner: Any = data
        for part in parts:
            inner = inner[part]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return MethodEntry.model_validate(ABOUT | tuples(data))


def tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


FIRST, SECOND, THIRD, FOURTH = (f"objective.{i}" for i in range(4))
STATE = {"kind": "state_divergence"}
HINT = {"fields": ["hint"], "template": "hint"}
RATE = {"kind": "pass_rate", "name": "correct"}
# rule: [(what is changed, the whole message)]
RULES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "unknown_names": [
        ({f"{FIRST}.on": "mian"}, "objective[0]: stream 'mian' is not under rollouts; did you mean 'main'?"),
        ({f"{FOURTH}.chosen": "thers"}, "objective[3]: stream 'thers' is not under rollouts; did you mean 'theirs'?"),
        ({f"{SECOND}.teacher": "techer"}, "objective[1]: scorer 'techer' is not under teachers; did you mean 'teacher'?"),
        ({f"{FIRST}.reward": {"kind": "contrast", "of": {"taecher": 1}}}, "objective[0]: scorer 'taecher' is not under teachers; did you mean 'teacher'?"),
        ({"teachers.teacher.target": {"kind": "delta", "minus": "bse"}, "teachers.base": "external"},
         "teachers.teacher.target: 'bse' is not under teachers; did you mean 'base'?"),
        ({f"{THIRD}.reward": "corect"}, "objective[2]: reward 'corect' is not under rewards; did you mean 'correct'?"),
        ({f"{SECOND}.gates.0.name": "corect"}, "objective[1]: reward 'corect' is not under rewards; did you mean 'correct'?"),
        ({f"{FOURTH}.keep_rejected.0.name": "corect"}, "objective[3]: reward 'corect' is not under rewards; did you mean 'correct'?"),
        ({"rollouts.theirs.teacher": "teachre"}, "rollouts.theirs: 'teachre' is not under teachers; did you mean 'teacher'?"),
    ],
    "reserved_names": [
        ({"teachers.reference": "external"}, "teachers.reference: 'reference' is reserved for the initial student; use another name"),
        ({"teachers.behaviour": "student"}, "teachers.behaviour: 'behaviour' is reserved for whoever wrote the token; use another name"),
        ({"teachers.student": {"kind": "student", "context": HINT}},
         "teachers.student is the student being trained: set weights: live, without a target, or use another name"),
        ({"teachers.reference": {"kind": "student", "weights": {"ema": 0.9}}},
         "teachers.reference is the initial student: set weights: initial, or use another name"),
    ],
    "black_box_probabilities": [
        ({"teachers.teacher.access": "black_box"},
         "objective[0] reads probabilities of 'teacher', a black-box teacher that gives only texts; "
         "learn from its texts (likelihood, log_prob_loss), or set access: white_box"),
        ({"teachers.closed": {"kind": "external", "access": "black_box"}, "rollouts.theirs": {"author": "switch", "then": "closed", "group": 4}},
         "rollouts.theirs needs next-token probabilities of the black-box teacher 'closed'; use author: teacher or a mixture per sequence"),
    ],
    "sampled_divergence": [
        ({f"{SECOND}.divergence": "k1", f"{SECOND}.support": "sampled"},
         "objective[1]: k1 differentiated directly has no teacher gradient (its expectation is 0); use k2, or a policy_gradient term"),
        ({f"{SECOND}.divergence": "forward_kl", f"{SECOND}.support": "sampled"},
         "objective[1]: a forward generator on the sampled token alone is no estimate of forward_kl; use k3, whose gradient is the forward KL's"),
        ({f"{SECOND}.support": "sampled"},
         "objective[1]: a reverse generator on the sampled token alone is no estimate of reverse_kl; use k2, or a policy_gradient term"),
        ({f"{SECOND}.divergence": "k2"}, "objective[1]: k2 is a function of the sampled token; set support: sampled"),
        ({f"{SECOND}.divergence": "total_variation", f"{SECOND}.support": "sampled"},
         "objective[1]: the entry on the sampled token alone is no estimate of total_variation; use a policy_gradient term with shaping w_f"),
    ],
    "spread_candidates": [
        ({f"{FIRST}.routing": {"kind": "student_topk", "k": 4}, f"{FIRST}.ratio": None, f"{FIRST}.reward": "correct", "rewards.correct": {"kind": "verifier"}},
         "objective[0]: routing student_topk pushes tokens that were not written, so their reward must be a contrast of scorers, "
         "written in the term and without 'behaviour'"),
        ({f"{FIRST}.routing": {"kind": "student_topk", "k": 4}},
         "objective[0]: routing student_topk pushes tokens that were not written, so their old probabilities are not kept and a ratio would be 1; drop ratio"),
        ({f"{FIRST}.routing": {"kind": "multi_sample", "n": 4}, f"{FIRST}.baseline": "kl"},
         "objective[0]: routing multi_sample pushes tokens that were not written, so credit must be immediate, baseline none, "
         "and no shaping may read the batch"),
    ],
    "chained_targets": [
        ({"teachers.teacher.target": {"kind": "extrapolate", "lambda": 1.2, "base": "second"},
          "teachers.second": {"kind": "external", "target": {"kind": "interpolate", "t": 0.5}}},
         "teachers.teacher.target reads 'second', whose own target reads student; drop one of the two targets"),
    ],
    "whole_vocabulary": [
        ({f"{SECOND}.divergence": "adaptive_kl"}, "objective[1]: adaptive_kl is defined on the whole vocabulary; set support: full"),
        ({f"{SECOND}.divergence": "decoupled"}, "objective[1]: decoupled is defined on the whole vocabulary; set support: full"),
    ],
    "truncated_mass": [
        ({f"{SECOND}.support.mass": None},
         "objective[1]: a truncated support leaks mass (with a reverse KL the student moves to P_S = Q_S/e); "
         "set mass: renormalise, tail_bucket or detach, or mass: raw to ask for it by name"),
        ({f"{SECOND}.support.mass": "detach", f"{SECOND}.divergence": "forward_kl"},
         "objective[1]: mass: detach is defined for reverse_kl only; use renormalise or tail_bucket with forward_kl"),
    ],
    "null_advantage": [
        ({f"{FIRST}.reward": STATE},
         "objective[0]: a divergence value does not depend on the written token, so as an immediate advantage its expected gradient is 0 (D.6); "
         "use a divergence term, or a contrast reward"),
        ({f"{FIRST}.reward": STATE, f"{FIRST}.credit": {"kind": "discounted", "gamma": 0}}, "its expected gradient is 0 (D.6)"),
        ({f"{FIRST}.reward": STATE, f"{FIRST}.credit": {"kind": "k_step", "k": 1}}, "its expected gradient is 0 (D.6)"),
    ],
    "compared_answers": [
        ({f"{THIRD}.credit": "group", f"{THIRD}.on": "alone", "rollouts.alone": "student", "learners": {}},
         "objective[2]: credit group compares answers to one prompt, but rollouts.alone has group 1; set group to 2 or more"),
        ({f"{THIRD}.credit": "leave_one_out", f"{THIRD}.on": "alone", "rollouts.alone": "student", "learners": {}},
         "objective[2]: credit leave_one_out compares answers"),
        ({f"{FIRST}.baseline": "group_mean", f"{FIRST}.on": "alone", "rollouts.alone": "student"},
         "objective[0]: baseline group_mean compares answers to one prompt, but rollouts.alone has group 1"),
    ],
    "value_head": [
        ({"learners.value": None}, "objective[2]: credit gae needs a value head named 'value'; declare it: learners: {value: {kind: value_head}}"),
        ({f"{THIRD}.credit": {"kind": "gae", "value": "critic"}}, "declare it: learners: {critic: {kind: value_head}}"),
        ({f"{FIRST}.baseline": {"kind": "value", "value": "critic"}}, "objective[0]: baseline value needs a value head named 'critic'"),
    ],
    "known_part": [
        ({f"{THIRD}.credit": {"kind": "gae", "known": "teacher"}},
         "objective[2]: credit gae with known: teacher takes -KL(student || teacher) for the mean of the reward, which must then be"),
    ],
    "foreign_tokens": [
        ({f"{FIRST}.on": "theirs", f"{FIRST}.ratio": []},
         "objective[0]: rollouts.theirs holds tokens that the student did not write, so the policy gradient needs behaviour log-probabilities: "
         "add ratio importance, mixture_importance or shaped (behaviour: one), or a gate author: student"),
        ({"rollouts.main.context": HINT, f"{FIRST}.ratio": []}, "rollouts.main holds tokens that the student did not write"),
    ],
    "idle_ratio": [
        ({"rollouts.main.reuse": {"minibatches": 1}}, "objective[0]: with one minibatch per rollout every ratio is 1; set rollouts.main.reuse, or drop ratio"),
    ],
    "zero_signal": [
        ({"teachers.twin": {"kind": "student", "weights": "live"}, f"{SECOND}.teacher": "twin"},
         "teachers.twin is the live student in the student's own context, so its signal is 0; give it a context, other weights or a target"),
        ({f"{SECOND}.teacher": "student"}, "objective[1]: the student is compared with itself, so the signal is 0; name another teacher"),
    ],
    "unused_parts": [
        ({"rollouts.extra": "dataset"}, "rollouts.extra is written but no term reads it; remove it or name it with `on:`"),
        ({"teachers.extra": "external"}, "teachers.extra is declared but nothing reads it; remove it"),
        ({"rewards.extra": "verifier"}, "rewards.extra is declared but nothing reads it; remove it"),
        ({"learners.extra": "value_head"}, "learners.extra is declared but nothing reads it; remove it"),
    ],
    "warped_sampling": [
        ({"rollouts.main.top_p": 0.9},
         "objective[0]: rollouts.main samples from a truncated or tempered distribution; set temperature and top_p to 1, or add ratio: [importance]"),
        ({"rollouts.main.temperature": {"schedule": "linear", "start": 1, "end": 0.5}},
         "objective[2]: rollouts.main samples from a truncated or tempered distribution"),
        ({"rollouts.main.temperature": 0.7, f"{SECOND}.divergence": "k2", f"{SECOND}.support": "sampled"},
         "objective[1]: rollouts.main samples from a truncated or tempered distribution; set temperature and top_p to 1, or compare on another support"),
    ],
    "labelled_k3": [
        ({f"{SECOND}.divergence": "k3", f"{SECOND}.support": "sampled"},
         "objective[1]: direct k3 descends the FORWARD KL; use k2 for the reverse KL, or role: anchor where it only holds the student"),
    ],
    "ignored_shaping": [
        ({f"{SECOND}.shaping": [{"kind": "clip", "at": 5}]},
         "objective[1]: shaping clip acts on where: advantage, which a divergence term lacks; set where: entry or token"),
        ({f"{FIRST}.shaping": [{"kind": "soft_log", "where": "entry"}]},
         "objective[0]: shaping soft_log acts on where: entry, which a policy_gradient term lacks; set where: advantage"),
        ({SECOND: {"term": "likelihood", "shaping": [{"kind": "clip", "at": 5, "where": "token"}], "reduce": "sum"}},
         "objective[1]: shaping clip acts on where: token, which a likelihood term lacks; remove it"),
        ({f"{SECOND}.shaping": [{"kind": "whiten", "where": "token"}]},
         "objective[1]: shaping whiten reads the whole batch's advantages; use it with where: advantage in a policy_gradient term"),
    ],
    "ignored_gate": [
        ({f"{SECOND}.gates": [{"kind": "advantage", "above": 0}]},
         "objective[1]: gate advantage reads an advantage, and only a policy_gradient term has one; use another gate"),
        ({f"{FOURTH}.keep_rejected": [{"kind": "advantage", "above": 0}]}, "objective[3]: gate advantage reads an advantage"),
    ],
    "ignored_ratio": [
        ({f"{FIRST}.routing": "teacher"}, "objective[0]: tokens that routing teacher redirects carry no ratio; drop ratio, or use routing: sampled"),
    ],
    "sequence_rewards": [
        ({f"{FIRST}.reward": {"kind": "verifier"}}, "objective[0]: reward verifier is measured on whole answers; declare it under rewards and name it here"),
        ({"rewards.ratio": CONTRAST, f"{SECOND}.gates.0.name": "ratio"},
         "objective[1]: reward reads a sequence's result, but rewards.ratio is given per token; name a verifier"),
    ],
    "group_statistics": [
        ({"rollouts.alone": "student", f"{SECOND}.on": "alone", f"{SECOND}.weights": [{"kind": "pass_rate", "name": "correct"}]},
         "objective[1]: pass_rate reads the pass rate of a group, but rollouts.alone has group 1; set group to 2 or more"),
        ({"rollouts.alone": "student", f"{SECOND}.on": "alone", f"{SECOND}.gates.0.scope": "group"}, "objective[1]: reward reads the pass rate of a group"),
    ],
    "behaviour_distribution": [
        ({f"{SECOND}.teacher": "behaviour"},
         "objective[1]: of 'behaviour' only the written token's probability is known, which a contrast reward reads; name another scorer here"),
        ({f"{FIRST}.baseline": {"kind": "kl", "teacher": "behaviour"}}, "objective[0]: of 'behaviour' only the written token's probability is known"),
        ({f"{SECOND}.weights": [{"kind": "perplexity", "of": "behaviour"}]}, "objective[1]: of 'behaviour' only the written token's probability is known"),
        ({"rollouts.theirs.teacher": "behaviour"}, "rollouts.theirs: 'behaviour' is no model; name the student or a teacher"),
    ],
    "unknown_probabilities": [
        ({"rollouts.theirs": {"author": "dataset", "group": 4}, f"{FIRST}.on": "theirs", f"{FIRST}.ratio": ["importance"]},
         "objective[0]: ratio importance divides by the writer's probability, which is unknown for the given texts of rollouts.theirs; "
         "use ratio shaped (behaviour: one), or a gate author: student"),
        ({f"{FIRST}.on": "theirs", f"{FIRST}.ratio": ["importance", "ppo_clip"]},
         "objective[0]: ratio ppo_clip reads the student's probability at writing, but it did not take part in all of rollouts.theirs; "
         "use ratio importance, or a gate author: student"),
        ({"rollouts.theirs": {"author": "dataset", "group": 4}, f"{FIRST}.on": "theirs", f"{FIRST}.ratio": ["shaped"],
          f"{FIRST}.reward": {"kind": "contrast", "of": {"teacher": 1, "behaviour": -1}}},
         "objective[0]: the reward reads 'behaviour', unknown for the given texts of rollouts.theirs; use student, or another stream"),
    ],
    "reward_parts": [
        ({"rewards.both": {"kind": "sum", "of": {"correct": 1.0, "brief": 1.0}}}, "rewards.both: reward 'brief' is not under rewards"),
        ({"rewards.gap": CONTRAST, "rewards.both": {"kind": "sum", "of": {"correct": 1.0, "gap": 1.0}}},
         "rewards.both: 'gap' is given per token, and rewards of whole answers are summed here; advantages are summed by `plus`"),
        ({"rewards.both": {"kind": "sum", "of": {"correct": 1.0, "both": 1.0}}}, "rewards: "),
    ],
    "drawn_names": [
        ({"rollouts.main.prompts": {"kind": "pass_rate", "name": "corect"}},
         "rollouts.main.prompts: reward 'corect' is not under rewards; did you mean 'correct'?"),
        ({"rollouts.main.prompts": {"kind": "delta", "name": "correct", "against": "thers"}},
         "rollouts.main.prompts: stream 'thers' is not under rollouts; did you mean 'theirs'?"),
    ],
    "drawn_prompts": [
        ({"rollouts.main.prompts": RATE, "rollouts.theirs.prompts": {**RATE, "floor": 0}},
         "rollouts.main and rollouts.theirs draw prompts in two ways, and a step has one set of prompts; keep one prompts"),
        ({"rewards.ratio": CONTRAST, "rollouts.main.prompts": {**RATE, "name": "ratio"}},
         "rollouts.main.prompts reads whole answers, but rewards.ratio is given per token; name a verifier"),
        ({"rollouts.text": "corpus", "rollouts.main.prompts": {"kind": "delta", "name": "correct", "against": "text"}},
         "rollouts.main.prompts: 'text' does not answer the step's prompts (author corpus); name another stream"),
        ({"rollouts.main.prompts": {"kind": "delta", "name": "correct", "against": "main"}},
         "rollouts.main.prompts compares the stream with itself; name another stream"),
        ({"rollouts.alone": {"author": "student", "prompts": RATE}, f"{SECOND}.on": "alone"},
         "rollouts.alone.prompts reads the pass rate of a group, but the stream has group 1; set group to 2 or more"),
    ],
    "pairs_of_streams": [
        ({f"{FOURTH}.chosen": "main"}, "objective[3]: chosen and rejected are both 'main', so every preference is 0; name two streams"),
        ({"rollouts.theirs.group": 2}, "objective[3]: 'theirs' and 'main' are compared one to one; give rollouts.main the same group and share"),
    ],
}  # fmt: skip
CASES = [(rule, changes, message) for rule, cases in RULES.items() for changes, message in cases]


def test_the_base_entry_is_legal() -> None:
    assert problems(changed({})) == []


@pytest.mark.parametrize(("rule", "changes", "message"), CASES, ids=[f"{rule}-{message[:40]}" for rule, _, message in CASES])
def test_rule(rule: str, changes: dict[str, Any], message: str) -> None:
    found = changed(changes)
    own = next(function for function in (*compat.NAMES, *compat.RULES) if function.__name__ == rule)
    assert [text for text in own(found) if message in text], list(own(found))
    assert [text for text in problems(found) if message in text]
    assert list(own(changed({}))) == []


def test_every_rule_is_tested() -> None:
    modules = (alignment_rules, asked_rules, context_rules, explore_rules, movement_rules, turn_rules)  # each has a test module of its own
    elsewhere = [rule for module in modules for rule in (*getattr(module, "NAMES", ()), *module.RULES)]
    assert set(RULES) == {rule.__name__ for rule in (*compat.NAMES, *compat.RULES) if rule not in elsewhere}


LEGAL: dict[str, dict[str, Any]] = {
    "a black-box teacher writes texts": {"teachers.closed": {"kind": "external", "access": "black_box"}, "rollouts.theirs.teacher": "closed"},
    "raw mass by name": {f"{SECOND}.support.mass": "raw"},
    "k2 on the sampled token": {f"{SECOND}.divergence": "k2", f"{SECOND}.support": "sampled"},
    "k3 as an anchor": {f"{SECOND}.divergence": "k3", f"{SECOND}.support": "sampled", f"{SECOND}.role": "anchor"},
    "k3 to the start": {f"{SECOND}.divergence": "k3", f"{SECOND}.support": "sampled", f"{SECOND}.teacher": "reference"},
    "a state's value as a return": {f"{FIRST}.reward": STATE, f"{FIRST}.credit": "return_to_go"},
    "others' tokens with their probability": {f"{FIRST}.on": "theirs", f"{FIRST}.ratio": ["importance"]},
    "others' tokens without it, labelled": {f"{FIRST}.on": "theirs", f"{FIRST}.ratio": ["shaped"]},
    "the student's tokens among others'": {
        "rollouts.theirs": {"author": "mixture", "of": {"student": 1, "dataset": 1}, "per": "sequence", "group": 4},
        f"{FIRST}.on": "theirs", f"{FIRST}.gates": [{"kind": "author", "is": "student"}],
    },
    "a mixture's tokens with the mixture's probability": {
        "rollouts.theirs": {"author": "mixture", "of": {"student": 1, "teacher": 1}, "per": "token", "group": 4}, f"{FIRST}.on": "theirs",
        f"{FIRST}.ratio": ["mixture_importance", "ppo_clip"],
    },
    "tempered sampling with importance": {"rollouts.main.temperature": 0.7, f"{FIRST}.ratio": ["importance"], f"{THIRD}.ratio": ["importance"]},
    "a shaped ratio at the first step": {"rollouts.main.reuse": {"minibatches": 1}, f"{FIRST}.ratio": ["shaped"]},
    "a live teacher with a hint": {"teachers.twin": {"kind": "student", "weights": "live", "context": HINT}, f"{SECOND}.teacher": "twin"},
    "a live teacher with a target": {
        "teachers.twin": {"kind": "student", "weights": "live", "target": {"kind": "temperature", "tau": 0.5}}, f"{SECOND}.teacher": "twin",
    },
    "the student with a hint of its own": {"teachers.student": {"kind": "student", "weights": "live", "context": HINT}, f"{SECOND}.teacher": "student"},
    "shapings in their places": {f"{FIRST}.shaping": ["whiten"], f"{SECOND}.shaping": [{"kind": "clip", "at": 1, "where": "entry"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_what_no_rule_refuses(name: str) -> None:
    assert problems(changed(LEGAL[name])) == []


def test_an_untrained_anchor_has_no_problems() -> None:
    assert problems(MethodEntry.model_validate({**ABOUT, "anchor": "student"})) == []


PAIR: dict[str, Any] = {"templates": ["hint"], "fields": ["hint", "solution"], "teachers": ["teacher"], "checks": ["answer"], "same_vocabulary": True}


@pytest.mark.parametrize(
    ("changes", "pair", "message"),
    [
        ({"teachers.teacher.context": {**HINT, "fields": ["hnt"]}}, {},
         "teachers.teacher.context needs the prompt field 'hnt', which this pair's prompts lack; did you mean 'hint'?"),
        ({"rollouts.main.context": {**HINT, "fields": ["solutions"]}}, {},
         "rollouts.main.context needs the prompt field 'solutions', which this pair's prompts lack; did you mean 'solution'?"),
        ({"teachers.teacher.context": {**HINT, "template": "hnt"}}, {},
         "teachers.teacher.context.template 'hnt' is not among the pair's contexts; did you mean 'hint'?"),
        ({"teachers.teacher.model": "techer"}, {}, "teachers.teacher.model 'techer' is no teacher of this pair; did you mean 'teacher'?"),
        ({"rewards.correct.check": "anwser"}, {}, "rewards.correct.check 'anwser' is not among the task's checks; did you mean 'answer'?"),
        ({"teachers.closed": {"kind": "external", "access": "black_box"}, "rollouts.theirs.teacher": "closed"}, {"same_vocabulary": False},
         "teachers.teacher: student and teacher have different vocabularies, so an alignment is needed; set teachers.teacher.alignment, or choose a pair with "
         "one tokenizer"),
    ],
)  # fmt: skip
def test_pair_problems(changes: dict[str, Any], pair: dict[str, Any], message: str) -> None:
    assert pair_problems(changed({}), **PAIR) == []
    assert pair_problems(changed(changes), **{**PAIR, **pair}) == [message]


def test_a_pair_that_cannot_say_is_not_asked() -> None:
    entry = changed({"teachers.teacher.context": {**HINT, "fields": ["anything"]}, "rewards.correct.check": "any"})
    assert pair_problems(entry, **{**PAIR, "fields": None, "checks": None}) == []


def test_texts_need_no_common_vocabulary() -> None:
    entry = changed({"teachers.closed": {"kind": "external", "access": "black_box"}, "rollouts.theirs.teacher": "closed", f"{FIRST}.reward": "correct",
                     f"{SECOND}.teacher": "reference", "teachers.teacher": None})  # fmt: skip
    assert problems(entry) == []
    assert pair_problems(entry, **{**PAIR, "same_vocabulary": False}) == []
