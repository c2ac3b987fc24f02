"""Byte heads and a teacher's law over bytes, against plain numpy and a search through the whole vocabulary."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.compat import problems
from zoo.components.alignments import Pairing, Tokens, Vocabularies, Vocabulary
from zoo.harness.spelling import STOP, SYMBOLS, Heads, Spelling

from .compose import entry_of
from .six import Array, build, tensor

OWN = Vocabulary((b"ab", b"c", b"abc", "é".encode(), None, b"a"), 4, lambda text: [])
THEIR = Vocabulary((b"a", b"bc", b"abc", b"b", b"c", b"ca", "é".encode()[:1], "é".encode()[1:], None, b"ab"), 8, lambda text: [])
KNOWN = Vocabularies(OWN, THEIR)
_random = np.random.RandomState(12)
STATES, WEIGHT = _random.standard_normal((9, 3)), _random.standard_normal((2, 3, SYMBOLS))
LOGITS = _random.standard_normal((12, 10))


def normal(x: Array) -> Array:
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def tokens(vocabulary: Vocabulary, ids: list[int]) -> Tokens:
    return Tokens(tuple(ids), tuple(vocabulary.pieces[i] or b"" for i in ids), bool(ids) and ids[-1] == vocabulary.stop)


def heads(count: int = 2) -> Heads:
    made = Heads(build("learner", "byte_heads", heads=count), 3, tensor(WEIGHT))
    with torch.no_grad():
        made.weight_JHB.copy_(tensor(WEIGHT[:count]))
    return made


def spelling(mine: list[int], theirs: list[int] | None = None) -> Spelling:
    shown: tuple[Any, ...] = (heads(), torch.tensor(mine), tensor(STATES[: len(mine)]).requires_grad_(), OWN.pieces, OWN.stop)
    if theirs is None:
        return Spelling(*shown)
    alignment, one, other = build("alignment", "byte_prefix"), tokens(OWN, mine), tokens(THEIR, theirs)
    spans = alignment.spans(one, other)
    begun = [alignment.begun(one, other, span) for span in spans]
    pairing = Pairing(alignment, KNOWN, torch.tensor(theirs), torch.tensor(spans), torch.zeros(len(spans), dtype=torch.long), begun)
    return Spelling(*shown, pairing, tensor(LOGITS[: len(theirs)]))


def law(row: int, before: bytes) -> Array:
    """The card's formula by a search through all tokens."""
    q, found, total = np.exp(normal(LOGITS[row])), np.zeros(SYMBOLS), 0.0
    for v, piece in enumerate(THEIR.pieces):
        if v == THEIR.stop and not before:
            found[STOP] += q[v]
            total += q[v]
        elif piece and piece.startswith(before):
            total += q[v]
            if len(piece) > len(before):
                found[piece[len(before)]] += q[v]
    return found / total


MINE, THEIRS = [0, 2, 5, 3, 1, 4], [0, 3, 0, 1, 0, 6, 7, 4, 8]  # ab abc a é c stop, and a b a bc a C3 A9 c stop


def test_each_byte_is_read_behind_the_teachers_token_so_far() -> None:
    at = spelling(MINE, THEIRS)
    # Of "abc" the third byte is beyond the two heads; "bc" is one token of the teacher's, so of "abc" the b begins a token.
    expected = [(0, b""), (1, b""), (2, b""), (3, b""), (4, b""), (5, b""), (6, b""), (7, b""), (8, b"")]
    _, found = at.there(1.0)
    np.testing.assert_allclose(found.exp().numpy(), np.stack([law(*each) for each in expected]), atol=1e-12)
    assert at.places("teacher")[0].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 5]


def test_a_byte_within_a_teachers_token() -> None:
    mine, theirs = [5, 0, 1, 4], [2, 3, 4, 8]  # a ab c: the teacher has no such text
    assert build("alignment", "byte_prefix").spans(tokens(OWN, mine), tokens(THEIR, theirs)) == [(0, 1, 0, 1), (3, 4, 3, 4)], "up to the first difference"
    at = spelling([0, 1, 4], [2, 8])  # ab c against abc
    _, found = at.there(1.0)
    np.testing.assert_allclose(found.exp().numpy(), np.stack([law(0, b""), law(0, b"a"), law(0, b"ab"), law(1, b"")]), atol=1e-12)
    assert law(0, b"ab").sum() < 1 - 1e-3, "the mass of tokens that end right there is in the denominator alone"


def test_heads_against_plain_numpy() -> None:
    at = spelling(MINE, THEIRS)
    student, _ = at.there(1.0)
    rows = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (5, 0)]
    np.testing.assert_allclose(student.detach().numpy(), np.stack([normal(STATES[n] @ WEIGHT[j]) for n, j in rows]), atol=1e-12)
    grown = torch.autograd.grad(student.exp().square().sum(), [at.own_NH, at.heads.weight_JHB])
    assert all(bool(g.abs().sum() > 0) for g in grown), "the heads' losses reach the student"
    assert at.fit() == 0.0


def test_the_bytes_themselves_cost_their_mean_cross_entropy() -> None:
    at = spelling([0, 3, 1, 4])
    student, exact = at.there(1.0)
    loss = (exact.exp() * (exact - student)).sum(-1)
    spelled = {0: b"ab", 1: "é".encode(), 2: b"c", 3: [STOP]}
    expected = [np.mean([-normal(STATES[n] @ WEIGHT[j])[byte] for j, byte in enumerate(text)]) for n, text in spelled.items()]  # type: ignore[arg-type]
    np.testing.assert_allclose(loss.detach().numpy(), expected, atol=1e-9)
    assert at.places("teacher")[0].tolist() == [0, 1, 2, 3]
    nothing = Spelling(heads(), torch.tensor([1, 9]), tensor(STATES[:2]), {1: b"c", 9: None}, 4)  # type: ignore[dict-item]
    assert nothing.places("teacher")[0].tolist() == [0], "a token without bytes teaches no head"


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_byte_lies_in_the_token_at_which_it_is_read(data: Any) -> None:
    text = b"".join(data.draw(st.lists(st.sampled_from([b"a", b"bc", b"abc", b"b", b"c", b"ca"]), max_size=8)))

    def cut(vocabulary: Vocabulary) -> list[int] | None:
        ids, rest = [], text
        while rest:
            fits = [i for i, piece in enumerate(vocabulary.pieces) if piece and rest.startswith(piece)]
            if not fits:
                return None
            ids.append(data.draw(st.sampled_from(fits)))
            rest = rest[len(vocabulary.pieces[ids[-1]] or b"") :]
        return [*ids, vocabulary.stop]

    mine, theirs = cut(OWN), cut(THEIR)
    if mine is None or theirs is None:
        return
    one, other, alignment = tokens(OWN, mine), tokens(THEIR, theirs), build("alignment", "byte_prefix")
    spans = alignment.spans(one, other)
    assert [s[0] for s in spans] == list(range(len(mine)))
    starts = [0, *accumulate(len(piece) for piece in other.words)]
    at = 0
    for span in spans[:-1]:
        begun = alignment.begun(one, other, span)
        for k in range(len(one.words[span[0]])):
            j, size = span[2] + begun[2 * k], begun[2 * k + 1]
            assert span[2] <= j < span[3] and starts[j] + size == at and size < len(other.words[j])
            at += 1


def test_continuations_are_found_without_a_search() -> None:
    for before in (b"", b"a", b"ab", b"abc", b"c", b"x"):
        ids, byte = KNOWN.continuing(before)
        wanted = {v: (piece[len(before)] if len(piece) > len(before) else 257) for v, piece in enumerate(THEIR.pieces) if piece and piece.startswith(before)}
        assert dict(zip(ids.tolist(), byte.tolist(), strict=True)) == {**wanted, **({} if before else {THEIR.stop: 256})}


TERM = {"term": "divergence", "teacher": "heard", "divergence": "forward_kl", "reduce": "token_mean"}
TEACHERS = {"teacher": {"kind": "external", "alignment": "byte_prefix"}, "heard": {"kind": "byte_law", "learner": "bytes"}}
BYTES = {"bytes": {"kind": "byte_heads"}}


def said(objective: Any = None, **sections: Any) -> str:
    return " | ".join(problems(entry_of(objective or [TERM], **{"teachers": TEACHERS, "learners": BYTES, **sections})))


def test_bytes_are_for_byte_heads() -> None:
    assert said() == ""
    labels = {"heard": {"kind": "byte_labels", "learner": "bytes"}}
    assert said(teachers=labels) == ""
    assert "declare it: learners: {bytes: {kind: byte_heads}}" in said(learners={"bytes": {"kind": "dual_projector"}})
    assert "set teachers.teacher.alignment: byte_prefix" in said(teachers={**TEACHERS, "teacher": {"kind": "external"}})
    assert "which no temperature bends" in said([{**TERM, "temperature": 2.0}])
    assert "read them through a teacher of kind byte_law" in said(
        [{"term": "likelihood", "reduce": "token_mean"}], teachers={"teacher": TEACHERS["teacher"]}, learners={}
    )
    with pytest.raises(ValueError, match="reads hidden states"):
        build("teacher", "byte_labels", learner="bytes").combine(lambda name: torch.zeros(1, 1), torch.zeros(1))


REFERENCES: dict[str, dict[str, Any]] = {
    "alignment": {"byte_prefix": test_each_byte_is_read_behind_the_teachers_token_so_far},
    "learner": {"byte_heads": test_heads_against_plain_numpy},
    "teacher": {"byte_law": test_a_byte_within_a_teachers_token, "byte_labels": test_the_bytes_themselves_cost_their_mean_cross_entropy},
}
