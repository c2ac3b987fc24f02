"""Alignments and their columns on two small vocabularies, against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zoo.components.alignments import Pairing, Rows, Tokens, Vocabularies, Vocabulary
from zoo.components.base import Slot
from zoo.components.divergences import Sinkhorn

# Student: letters. Teacher: two merged tokens, and no "c" of its own.
STUDENT = Vocabulary((b"a", b"b", b"c", None), 3, lambda text: ["abc".index(chr(byte)) for byte in text])
TEACHER = Vocabulary((b"b", b"ab", b"a", b"ca", None), 4, lambda text: [{b"a": 2, b"b": 0}[text]] if text in (b"a", b"b") else [])
KNOWN = Vocabularies(STUDENT, TEACHER)
MINE = Tokens((0, 1, 2, 0, 1, 3), (b"a", b"b", b"c", b"a", b"b", b""), True)  # a b c a b stop
THEIRS = Tokens((1, 3, 0, 4), (b"ab", b"ca", b"b", b""), True)
P = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
Q = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(-1)
p, q = P.numpy(), Q.numpy()
SPANS = [(0, 2, 0, 1), (2, 4, 1, 2), (4, 5, 2, 3), (5, 6, 3, 4)]
OWN = np.array([p[0, 0] + p[1, 1], p[2, 2] + p[3, 0], p[4, 1], p[5, 3]])
THEIR = np.array([q[0, 1], q[1, 3], q[2, 0], q[3, 4]])

ALIGNMENTS: dict[str, Any] = {
    "byte_spans": SPANS,
    "running_text": [(0, 5, 0, 3), (5, 6, 3, 4)],  # the only text token that both have behind equal texts is the last b
    "positions": [(k, k + 1, k, k + 1) for k in range(4)],
    "dtw": None,  # below
    "prefix_cover": [(0, 1, 0, 1), (1, 2, 0, 1), (2, 3, 1, 2), (3, 4, 1, 2), (4, 5, 2, 3), (5, 6, 3, 4)],
}


def normal(x: Any) -> Any:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def rows(**fields: Any) -> tuple[Any, Rows]:
    alignment = Slot("alignment").validate(fields)
    spans = alignment.spans(MINE, THEIRS)
    begun = [alignment.begun(MINE, THEIRS, span) for span in spans]
    pairing = Pairing(alignment, KNOWN, torch.tensor(THEIRS.ids), torch.tensor(spans), torch.zeros(len(spans), dtype=torch.long), begun)
    return alignment, Rows(pairing, P.clone().requires_grad_(), Q, torch.tensor(MINE.ids))


@pytest.mark.parametrize("kind", [kind for kind, spans in ALIGNMENTS.items() if spans])
def test_spans(kind: str) -> None:
    assert Slot("alignment").validate(kind).spans(MINE, THEIRS) == ALIGNMENTS[kind]


def test_shared_ids_are_those_of_equal_bytes_and_the_stops() -> None:
    assert [ids.tolist() for ids in KNOWN.shared] == [[0, 1, 3], [2, 0, 4]]
    assert [ids.tolist() for ids in KNOWN.unshared] == [[2], [1, 3]]
    assert KNOWN.following(()).tolist() == [1, 0, 0, 2, 3]
    assert KNOWN.following((0,)).tolist() == [-1, 1, -1, -1, -1]
    dense = KNOWN.spread(4).to_dense().tolist()
    assert dense == [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], "c is no text of the teacher's"


def last_rows() -> tuple[Any, Any]:
    """The rows of byte spans merged at the last token: its law plus what the earlier tokens cost."""
    mine = np.stack([p[1] + p[0, 0], p[3] + p[2, 2], p[4], p[5]])
    return mine, q


def ranked() -> tuple[Any, Any]:
    mine, theirs = last_rows()
    return np.concatenate([-np.sort(-mine, -1), np.full((4, 1), -1e4)], -1), -np.sort(-theirs, -1)


def shared() -> tuple[Any, Any]:
    mine, theirs = last_rows()
    return normal(mine[:, [0, 1, 3]]), normal(theirs[:, [2, 0, 4]])


def units() -> tuple[Any, Any]:
    """First rows, and for spans of several tokens the mean log-probability of the span."""
    first, wide = p[[0, 2, 4, 5]][:, [0, 1, 3]], np.array([True, True, False, False])
    mine = np.concatenate([first, np.where(wide, OWN / [2, 2, 1, 1], -1e4)[:, None]], -1)
    theirs = np.concatenate([q[:, [2, 0, 4]], np.where(wide, THEIR, -1e4)[:, None]], -1)
    return normal(mine), normal(theirs)


def event() -> tuple[Any, Any]:
    x, y = (OWN - 1e-6) / 2.0, (THEIR - 1e-6) / 2.0
    return np.stack([x, np.log(1 - np.exp(x))], -1), np.stack([y, np.log(1 - np.exp(y))], -1)


def joint() -> tuple[Any, Any]:
    """Positions 0 to 3, columns by summed probability."""
    mine, theirs = p[:4], q[:4]
    return mine[:, np.argsort(-np.exp(mine).sum(0))[:2]], theirs[:, np.argsort(-np.exp(theirs).sum(0))[:2]]


def projected() -> tuple[Any, Any]:
    mine, theirs = last_rows()
    mapped = np.exp(mine) @ KNOWN.spread(4).to_dense().double().numpy()
    top = np.argsort(-theirs, -1)[:, :2]
    return np.log(np.maximum(np.take_along_axis(mapped, top, -1), 1e-30)), np.take_along_axis(theirs, top, -1)


def top_mapped() -> tuple[Any, Any]:
    """With k the whole vocabulary and threshold 0 only equal bytes map: each pair twice, once in either direction."""
    mine, theirs = last_rows()
    pairs = [(0, 2), (1, 0), (3, 4)] * 2
    return normal(np.stack([mine[:, i] for i, _ in pairs], -1)), normal(np.stack([theirs[:, j] for _, j in pairs], -1))


COLUMNS: dict[str, tuple[dict[str, Any], Callable[[], tuple[Any, Any]]]] = {
    "rank": ({"kind": "byte_spans", "columns": "rank"}, ranked),
    "shared": ({"kind": "byte_spans", "columns": "shared"}, shared),
    "units": ({"kind": "byte_spans", "merge": "first", "columns": "units"}, units),
    "event": ({"kind": "byte_spans", "columns": {"kind": "event", "tau": 2.0}}, event),
    "joint_rank": ({"kind": "positions", "columns": {"kind": "joint_rank", "k": 2, "standardise": False}}, joint),
    "projected": ({"kind": "byte_spans", "columns": {"kind": "projected", "k": 2}}, projected),
    "top_mapped": ({"kind": "byte_spans", "columns": {"kind": "top_mapped", "threshold": 0.0}}, top_mapped),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_hold_what_their_formula_says(kind: str) -> None:
    fields, reference = COLUMNS[kind]
    alignment, given = rows(**fields)
    student_GK, teacher_GK = alignment.compared(given)
    wanted = [np.sort(side, -1) if kind == "top_mapped" else side for side in reference()]
    found = [side.detach().sort(-1).values if kind == "top_mapped" else side.detach() for side in (student_GK, teacher_GK)]
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-9, atol=1e-12)
    student_GK.clamp(min=-50).exp().sum().backward()
    assert torch.isfinite(given.student_NV.grad).all()


def test_time_warping_pairs_like_with_like_and_means_over_its_cells() -> None:
    alignment = Slot("alignment").validate({"kind": "dtw", "columns": "shared"})
    same = alignment.spans(MINE, MINE)
    assert same == [(i, i + 1, i, i + 1) for i in range(6)]
    spans = alignment.warped(Tokens((0,), (b"a",)), Tokens((2, 0), (b"a", b"b")), [1.0], [1.0, 1.0])
    assert spans == [(0, 1, 0, 2)], "one token of the student's meets both"
    pairing = Pairing(alignment, KNOWN, torch.tensor([2, 0]), torch.tensor(spans), torch.zeros(1, dtype=torch.long))
    _, pooled = alignment.own_rows(Rows(pairing, P[:1], Q[:2], torch.tensor([0])))
    np.testing.assert_allclose(pooled.numpy(), normal(q[:2].mean(0, keepdims=True)))


def test_a_cover_sums_the_teachers_tokens_that_go_on_as_the_student_does() -> None:
    alignment, given = rows(kind="prefix_cover")
    law = alignment.law_GV(given).exp().numpy()
    t = np.exp(q)
    np.testing.assert_allclose(law[0], [t[0, 1] + t[0, 2], t[0, 0], t[0, 3], t[0, 4]])
    np.testing.assert_allclose(law[1], [0, 1, 0, 0], atol=1e-12)  # behind "a", only "ab" goes on
    np.testing.assert_allclose(alignment.shared_N(given).detach().exp().numpy()[[0, 5]], [law[0, 0], law[5, 3]])


def test_sinkhorn_against_plain_numpy() -> None:
    s, t = np.exp(p[:3]), np.exp(q[:3, :4])
    cost = np.abs(s[:, None] - t[None]).sum(-1)
    plan = np.exp(-cost / 0.1)
    for _ in range(10):
        plan = plan / plan.sum(1, keepdims=True)
        plan = plan / plan.sum(0, keepdims=True)
    divergence = Sinkhorn()
    found = divergence.over_sequences(P[:3], Q[:3, :4], torch.zeros(3, dtype=torch.long))
    np.testing.assert_allclose(found[:, 0].numpy(), (plan * cost).sum(1))
    two = divergence.over_sequences(torch.cat([P[:3], P[3:5]]), torch.cat([Q[:3, :4], Q[1:3, :4]]), torch.tensor([0, 0, 0, 1, 1]))
    torch.testing.assert_close(two[:3], found, msg="another sequence is out of reach")
