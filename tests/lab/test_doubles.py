"""The doubles of streams that change another one, of given labels, of stretches given back and of other tokenizers, against plain loops."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from tests.lab.brute import Array, Brute, softmax
from tests.lab.test_engine import bench_of
from zoo.components.alignments import Tokens
from zoo.components.base import Context, kinds
from zoo.entry import MethodEntry
from zoo.lab import laws
from zoo.lab.claims import claim_of
from zoo.lab.doubles import DOUBLES, EXEMPT, SORTS, verified
from zoo.lab.engine import Bench
from zoo.lab.report import study
from zoo.lab.synthetic import LOG_RATIO, direct, entry_of, score_function
from zoo.lab.tokenizers import vocabularies
from zoo.lab.world import World, world_of

HINT = {"fields": ("hint",), "template": "hint"}
CORRECT = {"rewards": {"correct": "verifier"}}


def gradient(entry: MethodEntry, world: World) -> tuple[Bench, Any, Array, Brute]:
    bench, tables, brute = bench_of(entry, world)
    return bench, tables, bench.measure(tables).gradient, brute


def test_a_reread_stream_is_read_in_its_context() -> None:
    """The student writes without, reads with; a scorer without a context reads what the student reads, `plain` the bare prompt."""
    rollouts = {"main": "student", "seen": {"author": "reread", "of": "main", "context": HINT}}
    for teacher, shifted in (({"kind": "external"}, True), ({"kind": "external", "context": {"template": "plain"}}, False)):
        entry = entry_of({**direct("forward_kl"), "on": "seen"}, rollouts=rollouts, teachers={"teacher": teacher})
        _, tables, found, brute = gradient(entry, world_of(3, 3))
        seen = Context.model_validate(HINT)
        p = softmax((tables.student + tables.context_table(seen)).numpy())
        q = softmax((tables.logits("teacher") + (tables.context_table(seen, "teacher") if shifted else 0.0)).numpy())
        np.testing.assert_allclose(found, brute.visits()[:, None] * (p - q), rtol=0, atol=1e-14)
        assert np.abs(p - brute.p).max() > 0.05


def test_a_stream_and_its_rereading_share_their_texts() -> None:
    """A pair of one text read twice is a pair of equal texts, not of two independent ones."""
    rollouts = {"main": "student", "seen": {"author": "reread", "of": "main", "context": HINT}}
    term = {"term": "log_prob_loss", "loss": {"kind": "dpo", "beta": 0.5}, "chosen": "seen", "rejected": "main"}
    bench = Bench(entry_of(term, rollouts=rollouts), world_of(3, 2))
    found = bench.laws(bench.tables())
    assert found["seen"].outcomes == len(bench.world.texts)
    np.testing.assert_array_equal(found["seen"].token_RT, found["main"].token_RT)
    assert claim_of(bench, bench.tables(), 0).holds


@pytest.mark.parametrize("supervise", ["all", "edit"])
def test_an_edited_text_states_its_own_verdict(supervise: str) -> None:
    """Cut where the first token stands, the mark, the verdict's token, the stop; what was the student's own stays so."""
    world = world_of(3, 3)
    rollouts = {"main": "student", "edited": {"author": "edited", "of": "main", "put": "outcome", "supervise": supervise}}
    bench, tables, found, brute = gradient(entry_of({"term": "likelihood", "on": "edited"}, rollouts=rollouts), world)
    verdict = dict(zip(world.texts, verified(world, "answer"), strict=True))
    wanted, learned = np.zeros_like(brute.p), 0.0
    for text, m in brute.texts():
        body = text[:-1] if text[-1] == world.stop else text
        kept = body[: body.index(0)] if 0 in body else body
        edited = (*kept, 0, 1 if verdict[text] else 0, world.stop)[:3]
        same = next((t for t in range(min(len(text), len(edited))) if text[t] != edited[t]), min(len(text), len(edited)))
        weight = np.array([1.0 if supervise == "all" or t >= same else 0.0 for t in range(len(edited))])
        wanted -= m * brute.score(edited, weight)
        learned += m * weight.any()
    np.testing.assert_allclose(found, wanted / learned, rtol=0, atol=1e-14)
    assert claim_of(bench, tables, 0).holds


def test_labels_lie_beside_the_text() -> None:
    """Scheduled sampling: each token the label's or the student's by half; the likelihood of the label of that index."""
    stream = {"author": "mixture", "of": {"gold": 0.5, "student": 0.5}, "per": "token"}
    entry = entry_of({**direct("forward_kl"), "teacher": "gold"}, rollouts={"main": stream}, teachers={"gold": "labels"})
    bench = Bench(entry, world_of(3, 2))
    tables = bench.tables()
    brute = Brute(tables.student.numpy(), tables.student.numpy(), 3, 2)
    given, wanted, length = softmax(tables.data("dataset", "solution")), np.zeros_like(brute.p), 0.0
    for gold, mass in brute.texts(given):
        for text, _ in brute.texts():
            m = mass
            for t, token in enumerate(text):
                label = gold[min(t, len(gold) - 1)]
                m *= 0.5 * brute.p[brute.at[text[:t]], token] + 0.5 * (token == label)
            for t in range(len(text)):
                label = gold[min(t, len(gold) - 1)]
                wanted[brute.at[text[:t]]] += m * (brute.p[brute.at[text[:t]]] - np.eye(3)[label])
            length += m * len(text)
    assert length > 1.0
    np.testing.assert_allclose(bench.measure(tables).gradient, wanted, rtol=0, atol=1e-13)
    assert claim_of(bench, tables, 0).holds


def given_back(brute: Brute, returns: int) -> dict[tuple[int, ...], float]:
    """Window 1, stretch 1, by hand: after two tokens with fresh statistics a surprise above their mean plus `deviations` gives it back."""
    found: dict[tuple[int, ...], float] = defaultdict(float)

    def surprise(text: tuple[int, ...], t: int) -> float:
        return -float(np.log(brute.q[brute.at[text[:t]], text[t]]))

    def over(text: tuple[int, ...]) -> bool:
        return len(text) == brute.T or text[-1:] == (brute.V - 1,)

    def student(text: tuple[int, ...], mass: float, begun: int, left: int) -> None:
        if over(text):
            found[text] += mass
            return
        seen = [surprise(text, t) for t in range(begun, len(text))]
        if len(seen) > 2 and seen[-1] > np.mean(seen[:-1]) + 0.5 * np.std(seen[:-1]):
            if left == 0:
                found[text] += mass
                return
            for v in range(brute.V):
                then = (*text[:-1], v)
                m = mass * brute.q[brute.at[text[:-1]], v]
                if over(then):
                    found[then] += m
                else:
                    student(then, m, len(then), left - 1)
            return
        for v in range(brute.V):
            student((*text, v), mass * brute.p[brute.at[text], v], begun, left)

    student((), 1.0, 0, returns)
    return found


def test_stretches_are_given_back() -> None:
    verify = {"kind": "window", "window": 1, "deviations": 0.5, "give": 1, "returns": 2}
    entry = entry_of(direct("forward_kl"), rollouts={"main": {"author": "interleaved", "per": "span", "verify": verify}})
    _, _, found, brute = gradient(entry, world_of(3, 4))
    visits, texts = np.zeros(len(brute.states)), given_back(brute, 2)
    assert sum(texts.values()) == pytest.approx(1.0, abs=1e-12)
    for text, m in texts.items():
        for t in range(len(text)):
            visits[brute.at[text[:t]]] += m
    np.testing.assert_allclose(found, visits[:, None] * (brute.p - brute.q), rtol=0, atol=1e-13)
    assert np.abs(visits - brute.visits()).max() > 0.01  # the rule did something


class TestTokenizers:
    """The student has a, b and ab, the teacher a, b and ba."""

    def spans(self, kind: str, entry: dict[str, Any]) -> Bench:
        teachers = {"teacher": {"kind": "external", "alignment": {"kind": kind, **entry}}}
        return Bench(entry_of(direct("forward_kl", support="full"), teachers=teachers), world_of(4, 3))

    def test_texts_are_split_anew(self) -> None:
        known = vocabularies(4)
        assert known.teacher.split(b"abab") == [0, 2, 1]
        assert [ids.tolist() for ids in known.shared] == [[0, 1, 3], [0, 1, 3]]
        bench = self.spans("byte_spans", {"columns": {"kind": "event", "tau": 1.0}})
        tables = bench.tables()
        law = bench.laws(tables)["main"]
        pairing = bench._split("teacher", bench.method.aligned["teacher"], law, tables).pairing
        row = next(r for r, t in enumerate(law.token_RT.tolist()) if t == [2, 0, 3])  # "ab" "a" stop = "a" "ba" stop
        first = int((law.state_RT[:row] >= 0).sum())
        mine = [(a - first, b - first, d - c) for (a, b, c, d), s in zip(pairing.span_G4.tolist(), pairing.sequence_G.tolist(), strict=True) if s == row]
        assert mine == [(0, 2, 2), (2, 3, 1)]

    def test_the_loss_of_spans(self) -> None:
        """The binary event loss of each span, from both tables by hand: q log(q/p) + (1 - q) log((1 - q)/(1 - p)) at e^(l - 1e-6)."""
        from zoo.lab.tokenizers import LONGEST, teacher_world

        bench = self.spans("byte_spans", {"columns": {"kind": "event", "tau": 1.0}})
        tables = bench.tables()
        other, world = teacher_world(4), bench.world
        table = other.table("foreign:teacher:").log_softmax(-1).numpy()
        brute = Brute(tables.student.numpy(), tables.student.numpy(), 4, 3)
        alignment, known = bench.method.aligned["teacher"], vocabularies(4)
        assert LONGEST == 5

        def loss(b: Brute) -> float:
            total = 0.0
            for text, m in brute.texts():
                mine = Tokens(text, tuple(known.student.pieces[i] or b"" for i in text), text[-1] == world.stop)
                ids = [*known.teacher.split(b"".join(mine.words)), *([3] if mine.stopped else [])]
                theirs = Tokens(tuple(ids), tuple(known.teacher.pieces[i] or b"" for i in ids), mine.stopped)
                for a, e, c, d in alignment.spans(mine, theirs):
                    own = sum(np.log(b.p[b.at[text[:t]], text[t]]) for t in range(a, e)) - 1e-6
                    their = sum(table[other.states.index(tuple(ids[:t])), ids[t]] for t in range(c, d)) - 1e-6
                    total += m * (np.exp(their) * (their - own) + (1 - np.exp(their)) * np.log((1 - np.exp(their)) / (1 - np.exp(own))))
            return total

        slope = brute.differentiate(loss, np.log(brute.p), np.log(brute.p))
        np.testing.assert_allclose(bench.measure(tables).gradient, slope, rtol=0, atol=1e-8)

    def test_with_the_student_s_own_tokens_the_teacher_rests(self) -> None:
        found = study(self.spans("prefix_cover", {}).entry.model_copy(update={"fixed_point": "teacher"}))
        assert found.ok and found.fixed is not None and found.fixed.retold and found.fixed.zero
        assert "had it the student's tokens" in found.fixed.found


@pytest.mark.parametrize("credit", ["return_to_go", "immediate", {"kind": "discounted", "gamma": 0.5}])
def test_a_group_s_mean_as_a_baseline(credit: Any) -> None:
    """The answer is one of the group, so its own share of the mean is lost: the formula, and for an outcome (G - 1) / G."""
    rollouts = {"main": {"author": "student", "group": 3}}
    entry = entry_of(score_function(credit, reward="correct", baseline="group_mean"), rollouts=rollouts, **CORRECT)
    bench = Bench(entry, world_of(3, 2))
    claim = claim_of(bench, bench.tables(), 0)
    assert claim.against == "equal" and claim.holds and claim.bias < 1e-12
    if credit == "return_to_go":
        alone = Bench(entry_of(score_function(credit, reward="correct"), **CORRECT), world_of(3, 2))
        whole = alone.measure(alone.tables()).gradient
        np.testing.assert_allclose(bench.measure(bench.tables()).gradient, 2 / 3 * whole, rtol=0, atol=1e-14)


def test_laws_too_large_to_enumerate_are_drawn() -> None:
    """Groups of eight at V = 3, T = 4 are more than 10^5 multisets: seeded draws, the same each time, with their error."""
    entry = entry_of(score_function({"kind": "group", "divide": "none"}), rollouts={"main": {"author": "student", "group": 8}})
    bench = Bench(entry, world_of(3, 3), group=8)
    tables = bench.tables()
    law = bench.laws(tables)["main"]
    assert law.outcomes == laws.DRAWS and 0 < law.error < 0.02
    measured = bench.measure(tables)
    assert measured.error == law.error
    np.testing.assert_array_equal(measured.gradient, bench.measure(tables).gradient)
    exact = Bench(entry_of(score_function("return_to_go")), world_of(3, 3))
    wanted = 7 / 8 * exact.measure(exact.tables()).gradient
    assert np.linalg.norm(measured.gradient - wanted) < 0.1 * np.linalg.norm(wanted)


def test_pairs_too_many_to_enumerate_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = {"a": "teacher", "b": "student"}
    term = {"term": "log_prob_loss", "loss": {"kind": "dpo", "beta": 0.5}, "chosen": "a", "rejected": "b"}
    bench = Bench(entry_of(term, rollouts=rollouts), world_of(3, 3))
    exact = bench.measure(bench.tables()).gradient
    monkeypatch.setattr(laws, "MOST", 10)
    drawn = bench.measure(bench.tables())
    assert drawn.error > 0 and 0 < np.linalg.norm(drawn.gradient - exact) < 0.1 * np.linalg.norm(exact)


def test_an_expected_reward_of_any_kind_has_a_formula() -> None:
    rewards = {"correct": "verifier", "short": {"kind": "structure", "at_most": 1}, "both": {"kind": "sum", "of": {"correct": 1.0, "short": 0.5}}}
    bench = Bench(entry_of(score_function("return_to_go", reward="both"), rewards=rewards), world_of(4, 3))
    claim = claim_of(bench, bench.tables(), 0)
    assert claim.says.startswith("(c) the expected reward, sum") and claim.holds


@pytest.mark.parametrize("slot", ["rollout", "teacher", "weights_of", "verify", "alignment", "environment", "learner", "context", "reward", "term"])
def test_every_kind_has_a_double_or_is_exempt_by_name(slot: str) -> None:
    """A new kind of stream or scorer is not in the lab until somebody says what stands for it."""
    told = {**DOUBLES, **EXEMPT}
    whole = slot in told and slot not in ("rollout", "teacher", "weights_of")
    formulas = {"divergence", "likelihood", "policy_gradient", "log_prob_loss"} if slot == "term" else set()
    assert [kind for kind in kinds(slot) if f"{slot}.{kind}" not in told and not whole and kind not in formulas] == []
    assert set(SORTS) == set(EXEMPT) and set(SORTS.values()) <= {"representation", "environment", "text only"}


def test_a_context_shifts_each_model_in_its_own_way() -> None:
    """Else the effect of a context on two models would be the same, and their contrast a constant of the state."""
    bench = Bench(entry_of({**score_function("immediate"), "reward": LOG_RATIO}), world_of(3, 2))
    tables, seen = bench.tables(), Context.model_validate(HINT)
    assert torch.equal(tables.context_table(seen), tables.context_table(seen, ""))
    assert not torch.equal(tables.context_table(seen), tables.context_table(seen, "teacher"))
