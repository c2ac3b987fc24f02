"""Audited chunks: where they begin and end, and how strongly a teacher's own texts support them, against plain numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.compat import problems
from zoo.coordinates import derive_coordinates
from zoo.statistics import Entropy, LogProb, TokenContext

from .compose import entry_of
from .six import MASK, Array, build, context, rollout, sampled, tensor

H = np.array([[0.2, 0.9, 0.5, 0.8], [0.3, 0.7, 9.0, 9.0]])  # the numbers under the padding are the highest
CHOSEN: list[tuple[int, int, list[list[int]]]] = [
    (1, 1, [[1], [1]]),
    (2, 1, [[1, 3], [1, 0]]),
    (9, 2, [[1], [0]]),  # 1 takes 2 along, 3 has no room, 0 would touch 1; of two tokens the chunk is both
    (1, 2, [[1], [0]]),
    (9, 3, [[1], []]),
    (9, 5, [[], []]),
]


def put(entropy: Array, **columns: Any) -> TokenContext:
    return context({Entropy("student"): entropy, **columns})


def marked(places: list[list[int]], size: int = 1) -> Array:
    found = np.zeros(MASK.shape, dtype=bool)
    for b, starts in enumerate(places):
        for start in starts:
            found[b, start : start + size] = True
    return found


@pytest.mark.parametrize(("count", "size", "starts"), CHOSEN)
def test_chunks_begin_at_the_peaks(count: int, size: int, starts: list[list[int]]) -> None:
    kept = {part: build("gate", "entropy_chunks", count=count, size=size, part=part).keep(put(H), None).numpy() for part in ("anchors", "chunks", "rest")}
    np.testing.assert_array_equal(kept["anchors"], marked(starts))
    np.testing.assert_array_equal(kept["chunks"], marked(starts, size))
    np.testing.assert_array_equal(kept["rest"], MASK & ~marked(starts, size))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), length=st.integers(1, 12), count=st.integers(1, 5), size=st.integers(1, 4))
def test_chunks_never_touch(data: Any, length: int, count: int, size: int) -> None:
    entropy = torch.tensor([data.draw(st.lists(st.sampled_from([0.1, 0.4, 0.4, 0.9]), min_size=length, max_size=length))])
    known = TokenContext(replace(rollout().rows([0]), mask_BT=torch.ones(1, length, dtype=torch.bool)), {Entropy("student"): entropy})
    anchors = build("gate", "entropy_chunks", count=count, size=size, part="anchors").keep(known, None)[0].nonzero()[:, 0].tolist()
    chunks = build("gate", "entropy_chunks", count=count, size=size, part="chunks").keep(known, None)[0]
    assert len(anchors) <= count and int(chunks.sum()) == len(anchors) * size
    assert bool(anchors) == (length >= size)


LIKE = np.array([[9.0, 1.2, 9.0, 9.0], [0.4, 9.0, 9.0, 9.0]])  # read at the first tokens alone


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_support_is_a_smoothed_share(alpha: float) -> None:
    """(k + alpha g) / (N + alpha), g the geometric mean of the chunk's own probabilities; nothing outside the chunks."""
    weight = build("weight", "continuation_match", count=9, size=2, samples=4, alpha=alpha)
    own, expected = sampled("student"), np.zeros((2, 4))
    for b, start in ((0, 1), (1, 0)):
        g = np.exp(own[b, start : start + 2].mean())
        expected[b, start : start + 2] = (LIKE[b, start] + alpha * g) / (4 + alpha)
    known = put(H)
    known = replace(known, columns={**known.columns, weight._column(): tensor(LIKE), LogProb("student"): tensor(own)})
    np.testing.assert_allclose(weight.weight(known, None).numpy(), expected, atol=1e-12)
    assert weight.scorers() == ("student",) and weight.asks() == ("teacher",)


AUDIT = {
    "term": "likelihood",
    "gates": ({"kind": "entropy_chunks", "size": 2, "part": "chunks"},),
    "weights": ({"kind": "continuation_match", "size": 2},),
    "reduce": "sum",
}


def test_a_teacher_of_whom_texts_are_read_may_be_closed() -> None:
    closed = {"teacher": {"kind": "external", "access": "black_box"}}
    entry = entry_of([AUDIT], teachers=closed)
    assert problems(entry) == []
    found = derive_coordinates(entry)
    assert (found.feedback_signal, found.teacher_access, found.loss_granularity, found.estimator) == (("outcome",), "black_box", "hybrid", ("mle",))
    assert any("which has another tokenizer" in m for m in problems(entry_of([AUDIT], teachers={"teacher": {"kind": "external", "alignment": "byte_spans"}})))
    with pytest.raises(ValueError, match="Field required"):
        build("gate", "entropy_chunks", size=2)
    for bad in ({"size": 0}, {"count": 0}, {"samples": 0}, {"alpha": 0}):
        with pytest.raises(ValueError, match="greater"):
            build("weight", "continuation_match", **bad)


REFERENCES: dict[str, dict[str, Any]] = {"gate": {"entropy_chunks": CHOSEN}, "weight": {"continuation_match": test_support_is_a_smoothed_share}}
