"""States carried between two models: both learners against plain numpy, in both spaces, with their gradients and what they refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.compat import problems
from zoo.components.alignments import Pairing, Tokens, Vocabularies, Vocabulary
from zoo.components.gates.plain import Agreement
from zoo.harness.dual import Attention, Crossing, Dual

from .compose import entry_of
from .six import MASK, Array, build, context, tensor

_random = np.random.RandomState(8)
SMALL, LARGE = 3, 4
OWN_HEAD, THEIR_HEAD = _random.standard_normal((6, SMALL)), _random.standard_normal((7, LARGE))
OWN_IN, THEIR_IN = _random.standard_normal((6, SMALL)), _random.standard_normal((7, LARGE))

SHARED = ([0, 1, 2, 3, 5], [1, 0, 2, 4, 6])  # the student's 4 and the teacher's 3 and 5 are their own
H, G = _random.standard_normal((6, 2 * SMALL)), _random.standard_normal((5, 2 * LARGE))  # last states, and embeddings of what was read behind them
TOKENS, THEIRS = np.array([0, 3, 5, 1, 2, 4]), np.array([1, 4, 6, 0, 2])


def model(head: Array, inputs: Array) -> Any:
    holder = {"head": SimpleNamespace(weight=tensor(head)), "in": SimpleNamespace(weight=tensor(inputs))}
    return SimpleNamespace(get_output_embeddings=lambda: holder["head"], get_input_embeddings=lambda: holder["in"])


STUDENT, TEACHER = model(OWN_HEAD, OWN_IN), model(THEIR_HEAD, THEIR_IN)
NOBODY = Vocabulary((), 0, lambda text: [])


def crossing(bridge: Any, spans: list[tuple[int, int, int, int]], sequences: list[int]) -> Crossing:
    pairing = Pairing(build("alignment", "whole_response"), Vocabularies(NOBODY, NOBODY), torch.tensor(THEIRS), torch.tensor(spans), torch.tensor(sequences))
    return Crossing(bridge, torch.tensor(TOKENS), tensor(H).requires_grad_(), tensor(G), pairing)


def normal(x: Array) -> Array:
    return np.asarray(x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True))


def dual() -> Dual:
    return Dual(build("learner", "dual_projector"), STUDENT, TEACHER, tuple(torch.tensor(ids) for ids in SHARED), (6, 7))  # type: ignore[arg-type]


PAIRS = [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3), (4, 5, 3, 4), (5, 6, 4, 5)]


def test_a_projector_begins_at_the_least_squares_map_of_the_heads() -> None:
    """P is the P that brings P W_S^T nearest to W_T^T on the tokens of both, and back goes the like map of the student."""
    bridge = dual()
    mine, theirs = OWN_HEAD[SHARED[0]], THEIR_HEAD[SHARED[1]]
    expected = np.linalg.lstsq(mine, theirs, rcond=None)[0].T
    np.testing.assert_allclose(bridge.maps["teacher_to_student"].detach().numpy(), expected, atol=1e-12)
    at = crossing(bridge, PAIRS, [0] * 5)
    back = np.linalg.lstsq(theirs, mine, rcond=None)[0].T
    rows, _, _ = (part.numpy() for part in bridge.rows(at))
    np.testing.assert_allclose(bridge.there(at)[0].detach().numpy(), H[rows][:, :SMALL] @ back @ THEIR_HEAD.T, atol=1e-12)


def test_a_projector_against_plain_numpy() -> None:
    bridge = dual()
    with torch.no_grad():
        bridge.maps["teacher_to_student"].add_(0.3)
    weight = bridge.maps["teacher_to_student"].detach().numpy()
    at = crossing(bridge, PAIRS, [0] * 5)
    a, c = np.array(PAIRS)[:, 0], np.array(PAIRS)[:, 2]
    theirs = G[:, :LARGE] @ THEIR_HEAD.T
    best = {1: 0, 0: 1, 2: 2, 4: 3, 6: 5}  # the teacher's ids as the student's
    known = np.array([int(t) in best for t in theirs[c].argmax(-1)])
    assert 0 < known.sum() < 5, "a best token that the student lacks drops its position"
    a, c = a[known], c[known]
    towards = np.array([best[int(t)] for t in theirs[c].argmax(-1)])
    seen = np.zeros((6, 6))
    seen[a] = G[c][:, :LARGE] @ weight @ OWN_HEAD.T
    np.testing.assert_allclose(at.seen_logits().numpy(), seen, atol=1e-12)
    assert at.places("student")[0].tolist() == at.places("teacher")[0].tolist() == a.tolist()
    agrees = np.zeros(6)
    agrees[a] = seen[a].argmax(-1) == towards
    assert at.agrees_N().tolist() == agrees.tolist()
    assert float(at.fit().detach()) == pytest.approx(-normal(seen[a])[np.arange(len(a)), towards].sum(), abs=1e-12)
    student, teacher = at.there(2.0)
    np.testing.assert_allclose(teacher.numpy(), normal(theirs[c] / 2.0), atol=1e-12)
    (slope,) = torch.autograd.grad(student.exp().square().sum(), at.own_NH, retain_graph=True)
    assert slope[a].abs().sum() > 0 and slope[[i for i in range(6) if i not in a]].abs().sum() == 0
    assert torch.autograd.grad(at.fit(), [at.own_NH, bridge.maps["teacher_to_student"]], allow_unused=True)[0] is None, "its own loss never reaches the student"
    assert not at.seen_logits().requires_grad, "nor does the student's loss reach it"


def test_without_an_alignment_every_row_meets_its_own() -> None:
    ids = torch.arange(6)
    bridge = Dual(build("learner", "dual_projector"), STUDENT, model(THEIR_HEAD[:6], THEIR_IN[:6]), (ids, ids), (6, 6))
    at = Crossing(bridge, torch.tensor(TOKENS), tensor(H), tensor(np.concatenate([G, G[:1]])), None)
    assert at.places("student")[0].tolist() == list(range(6))
    assert at.there(1.0)[0].shape == (6, 6)


def test_attention_against_plain_numpy() -> None:
    """Two responses, of four tokens against three and two against two; nothing of one is seen by the other."""
    bridge = Attention(build("learner", "cross_attention"), STUDENT, TEACHER, (6, 7), ("a", 1))
    maps = {name: value.detach().numpy() for name, value in bridge.maps.items()}
    spans = [*((i, i + 1, 0, 3) for i in range(4)), *((i, i + 1, 3, 5) for i in range(4, 6))]
    at = crossing(bridge, spans, [0] * 4 + [1] * 2)
    seen, there, stands = np.zeros((6, 6)), [], []
    for mine, theirs in ((range(4), range(3)), (range(4, 6), range(3, 5))):
        m, t = list(mine), list(theirs)
        own = np.concatenate([H[m][:, SMALL:], OWN_IN[TOKENS[m]]], -1)
        target = THEIR_IN[THEIRS[t]]
        their = np.concatenate([G[t][:, LARGE:], target], -1)
        scores = own @ maps["query"] @ (their / their.std(ddof=1)).T / np.sqrt(2 * LARGE)
        last = G[t][:, :LARGE]
        values = (last / last.std(ddof=1) + target / target.std(ddof=1)) @ maps["teacher_to_student"]
        seen[m] = np.exp(normal(scores)) @ values @ OWN_HEAD.T
        there.append(np.exp(normal(scores.T)) @ (H[m][:, :SMALL] @ maps["student_to_teacher"]) @ THEIR_HEAD.T)
        stands += [m[j * len(m) // len(t)] for j in range(len(t))]
    np.testing.assert_allclose(at.seen_logits().numpy(), seen, atol=1e-10)
    student, teacher = at.there(1.0)
    np.testing.assert_allclose(student.detach().numpy(), normal(np.concatenate(there)), atol=1e-10)
    np.testing.assert_allclose(teacher.numpy(), normal(G[:, :LARGE] @ THEIR_HEAD.T), atol=1e-10)
    assert at.places("teacher")[0].tolist() == stands
    assert at.places("student")[0].tolist() == list(range(6))
    assert float(at.fit().detach()) == pytest.approx(-normal(seen)[np.arange(6), TOKENS].sum(), abs=1e-9)
    slope, _ = torch.autograd.grad(student.exp().square().sum(), [at.own_NH, bridge.maps["student_to_teacher"]])
    assert slope[:, :SMALL].abs().sum() > 0 and slope[:, SMALL:].abs().sum() == 0, "embeddings are read, not moved"


def test_what_a_carrier_learned_can_be_saved_and_restored() -> None:
    bridge, other = dual(), dual()
    crossing(bridge, PAIRS, [0] * 5).fit().backward()  # type: ignore[no-untyped-call]
    start = bridge.maps["teacher_to_student"].detach().clone()
    bridge.after_step({})
    assert not torch.equal(bridge.maps["teacher_to_student"], start)
    other.load_state_dict(bridge.state_dict())
    assert torch.equal(other.maps["teacher_to_student"], bridge.maps["teacher_to_student"])
    assert other.optimizer.state_dict()["state"].keys() == bridge.optimizer.state_dict()["state"].keys()


def test_every_token_with_the_whole_response() -> None:
    mine, theirs = Tokens((0, 1, 2), (b"a", b"b", b"")), Tokens((3, 4), (b"ab", b""))
    alignment = build("alignment", "whole_response")
    assert alignment.spans(mine, theirs) == [(0, 1, 0, 2), (1, 2, 0, 2), (2, 3, 0, 2)]
    assert alignment.spans(mine, Tokens((), ())) == []
    assert alignment.sequences and not alignment.written


def test_agreement_keeps_what_the_column_says() -> None:
    column = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    gate = build("gate", "agreement", of="seen")
    assert gate.keep(context({Agreement("seen"): column}), None).numpy()[MASK].tolist() == [True, False, False, True, False, True]
    assert gate.scorers() == ("seen",)


TERM = {"term": "divergence", "teacher": "seen", "divergence": "forward_kl", "reduce": "token_mean"}
TEACHERS = {"teacher": {"kind": "external"}, "seen": {"kind": "projected", "learner": "bridge"}}
BRIDGE = {"bridge": {"kind": "dual_projector"}}
THERE = {**TEACHERS, "seen": {"kind": "projected", "learner": "bridge", "space": "teacher"}}


def said(objective: Any = None, **sections: Any) -> str:
    return " | ".join(problems(entry_of(objective or [TERM], **{"teachers": TEACHERS, "learners": BRIDGE, **sections})))


def aligned(**alignment: Any) -> dict[str, Any]:
    return {**TEACHERS, "teacher": {"kind": "external", "alignment": alignment}}


def test_what_carries_and_what_is_carried_has_to_fit() -> None:
    assert said() == ""
    assert said(teachers=THERE) == ""
    assert said(teachers=aligned(kind="byte_spans", only="single")) == ""
    assert said(teachers=aligned(kind="whole_response"), learners={"bridge": {"kind": "cross_attention"}}) == ""
    assert "'bridge' is no learner that carries states" in said(learners={})
    assert "'bridge' is no learner that carries states" in said(learners={"bridge": {"kind": "value_head"}})
    lineage = {**TEACHERS, "teacher": {"kind": "student", "weights": {"ema": 0.9}}}
    assert "no other model with open weights" in said(teachers=lineage)
    assert "no other model with open weights" in said(teachers={**TEACHERS, "teacher": {"kind": "external", "access": "black_box"}})
    assert "pairs single tokens" in said(teachers=aligned(kind="byte_spans"))
    assert "reads whole responses; set teachers.teacher.alignment: whole_response" in said(learners={"bridge": {"kind": "cross_attention"}})
    plain = [{**TERM, "teacher": "teacher"}]
    assert "pairs everything with everything" in said(plain, teachers={"teacher": {"kind": "external", "alignment": "whole_response"}}, learners={})


def test_the_teachers_space_is_for_a_divergence_alone() -> None:
    gated = [{**TERM, "gates": ({"kind": "teacher_entropy", "teacher": "seen", "above": 1.0},)}]
    assert "reads the law of 'seen' over the student's vocabulary" in said(gated, teachers=THERE)
    assert said(gated) == ""
    assert "which a plain divergence with support: full can do" in said([{**TERM, "support": {"kind": "teacher_topk", "k": 2, "mass": "raw"}}], teachers=THERE)
    assert "at one temperature" in said([{**TERM, "temperature_by": {"kind": "perplexity"}}], teachers=THERE)
    bent = {**THERE, "seen": {**THERE["seen"], "target": {"kind": "temperature", "tau": 2.0}}}
    assert "drop target" in said(teachers=bent)
    assert "gate agreement compares a projected teacher with itself" in said([{**TERM, "gates": ({"kind": "agreement", "of": "teacher"},)}])


def test_a_projected_teacher_is_made_of_states() -> None:
    with pytest.raises(ValueError, match="reads hidden states"):
        build("teacher", "projected", learner="bridge").combine(lambda name: torch.zeros(1, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="has no context of its own"):
        build("teacher", "projected", learner="bridge", context={"fields": ("hint",), "template": "hint"})


REFERENCES: dict[str, dict[str, Any]] = {
    "alignment": {"whole_response": test_every_token_with_the_whole_response},
    "gate": {"agreement": test_agreement_keeps_what_the_column_says},
    "learner": {"dual_projector": test_a_projector_against_plain_numpy, "cross_attention": test_attention_against_plain_numpy},
    "teacher": {"projected": test_a_projected_teacher_is_made_of_states},
}
