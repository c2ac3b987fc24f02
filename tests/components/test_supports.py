"""Supports and their mass handling against sets and sums in plain numpy, and where each variant's minimum lies (D.11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zoo.components.divergences import Divergence
from zoo.components.supports import ABSENT, Support, restrict
from zoo.views import LogitView

from .six import MASK, TOKENS, Array, V, build, gradient, rows, slope, tensor

P, Q, Y, BASE = rows("student"), rows("teacher"), TOKENS[MASK], rows("reference")


def best(logp: Array, k: int) -> set[int]:
    return {int(i) for i in np.argsort(-logp)[:k]}


def nucleus(logp: Array, top_p: float) -> set[int]:
    kept, mass = set(), 0.0
    for v in np.argsort(-logp):
        if mass >= top_p:
            break
        kept.add(int(v))
        mass += np.exp(logp[v])
    return kept


def most_voted(size: int, top: int) -> set[int]:
    """The tokens that stand most often among the largest log q - log b, one state after the other; of equal ones the smaller."""
    votes = [0] * V
    for q, b in zip(Q, BASE, strict=True):
        for v in best(q - b, top):
            votes[v] += 1
    return set(sorted(range(V), key=lambda v: (-votes[v], v))[:size])


def made(kind: str, **fields: Any) -> Any:
    """A support as a run uses it: one that is voted on by what was elected."""
    support = build("support", kind, **fields)
    return support.elected(support.votes(tensor(Q), tensor(BASE)).sum(0)) if kind == "voted" else support


Choice = Callable[[Array, Array, int], set[int]]
REFERENCES: dict[str, tuple[dict[str, Any], Choice]] = {
    "full": ({}, lambda p, q, y: set(range(V))),
    "sampled": ({}, lambda p, q, y: {y}),
    "teacher_topk": ({"k": 3}, lambda p, q, y: best(q, 3)),
    "student_topk": ({"k": 3}, lambda p, q, y: best(p, 3)),
    "union_topk": ({"k": 3}, lambda p, q, y: best(p, 3) | best(q, 3)),
    "overlap_topk": ({"k": 3}, lambda p, q, y: best(p, 3) & best(q, 3)),
    "nucleus": ({"top_p": 0.6}, lambda p, q, y: nucleus(q, 0.6)),
    "quantile": ({"at": 0.5, "of": "student"}, lambda p, q, y: best(p, 3)),
    "fixed_set": ({"ids": (4, 0, 3, 99)}, lambda p, q, y: {0, 3, 4}),
    "voted": ({"size": 3, "top": 2}, lambda p, q, y: most_voted(3, 2)),
}
TRUNCATED = ["teacher_topk", "student_topk", "union_topk", "overlap_topk", "nucleus", "quantile", "fixed_set", "voted"]
TOPK = TRUNCATED[:4]


def tail(logp: Array) -> Array:
    return np.append(logp, np.log(1 - np.exp(logp).sum()))


def over(logp: Array) -> Array:
    return logp - np.log(np.exp(logp).sum())


MASSES: dict[str, tuple[list[dict[str, Any]], Callable[..., tuple[Array, Array]]]] = {
    "raw": ([{}], lambda p, q: (p, q)),
    "detach": ([{}], lambda p, q: (p, q)),
    "renormalise": ([{"side": "teacher"}, {"side": "both"}], lambda p, q, side: (p if side == "teacher" else over(p), over(q))),
    "tail_bucket": ([{}], lambda p, q: (tail(p), tail(q))),
}


def chosen(support: Support, n: int) -> set[int]:
    """The vocabulary entries that count for one token, each at most once."""
    picked = support.select(tensor(P), tensor(Q), tensor(Y))
    if picked is None:
        return set(range(V))
    index, valid = picked
    ids = index[n][valid[n]].tolist()
    assert len(ids) == len(set(ids)), "an entry counted twice"
    return set(ids)


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("with_sampled", [False, True])
def test_set(kind: str, with_sampled: bool) -> None:
    fields, expected = REFERENCES[kind]
    if with_sampled and kind in TRUNCATED:
        support = made(kind, **fields, with_sampled=True)
    else:
        support = made(kind, **fields)
    for n, y in enumerate(Y):
        own = {int(y)} if with_sampled and kind in TRUNCATED else set()
        assert chosen(support, n) == expected(P[n], Q[n], int(y)) | own


@pytest.mark.parametrize("kind", TRUNCATED)
@pytest.mark.parametrize(("mass", "options"), [(mass, options) for mass, (all_options, _) in MASSES.items() for options in all_options])
def test_mass(kind: str, mass: str, options: dict[str, Any]) -> None:
    fields, entries = REFERENCES[kind]
    support = made(kind, **fields, mass={"kind": mass, **options})
    student, teacher = restrict(support, tensor(P), tensor(Q), tensor(Y))
    for n, y in enumerate(Y):
        ids = sorted(entries(P[n], Q[n], int(y)))
        if not ids:
            assert kind == "overlap_topk"
            continue
        expected = MASSES[mass][1](P[n, ids], Q[n, ids], **options)
        for found, reference in zip((student[n], teacher[n]), expected, strict=True):
            np.testing.assert_allclose(np.sort(found[found > ABSENT / 2].numpy()), np.sort(reference), atol=1e-12)


@pytest.mark.parametrize("kind", TOPK)
@pytest.mark.parametrize("k", [V, V + 3])
@pytest.mark.parametrize("mass", ["raw", {"renormalise": "both"}, "tail_bucket"])
def test_k_of_the_vocabulary_or_more_is_full(kind: str, k: int, mass: Any) -> None:
    divergence = build("divergence", "reverse_kl")
    student, teacher = restrict(made(kind, k=k, mass=mass), tensor(P), tensor(Q), tensor(Y))
    np.testing.assert_allclose(divergence.entries(student, teacher).sum(-1).numpy(), (np.exp(P) * (P - Q)).sum(-1), atol=1e-9)


@pytest.mark.parametrize(("kind", "fields"), [("nucleus", {"top_p": 1.0}), ("quantile", {"at": 0.0}), ("fixed_set", {"first": V + 2})])
def test_the_whole_of_the_others_is_full(kind: str, fields: dict[str, Any]) -> None:
    for of in ({}, {"of": "student"}) if kind != "fixed_set" else ({},):
        student, teacher = restrict(made(kind, **fields, **of, mass={"renormalise": "both"}), tensor(P), tensor(Q), tensor(Y))
        found = build("divergence", "forward_kl").entries(student, teacher).sum(-1)
        np.testing.assert_allclose(found.numpy(), (np.exp(Q) * (Q - P)).sum(-1), atol=1e-12)


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999])
def test_nucleus_reaches_its_mass_with_the_fewest_tokens(top_p: float) -> None:
    for of, side in (("teacher", Q), ("student", P)):
        support = build("support", "nucleus", top_p=top_p, of=of, mass="raw")
        for n in range(len(P)):
            mass = np.sort(np.exp(side[n, sorted(chosen(support, n))]))
            assert mass.sum() >= top_p - 1e-12
            assert mass.sum() - mass[0] < top_p


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.75, 0.9, 0.99])
def test_quantile_counts_exactly(at: float) -> None:
    for size in (1, 7, 40, 100):
        logp = torch.randn(2, size, generator=torch.Generator().manual_seed(size)).log_softmax(-1)
        index, _ = build("support", "quantile", at=at).select(logp, logp, torch.zeros(2, dtype=torch.long))
        assert index.shape[1] == max(1, -(-size * (100 - round(at * 100)) // 100))


@pytest.mark.parametrize("bad", [{"ids": (1, 1)}, {}, {"ids": (1,), "first": 3}])
def test_a_fixed_set_is_given_once(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a token twice|exactly one of ids and first"):
        build("support", "fixed_set", **bad)
    with pytest.raises(ValueError, match="none of support fixed_set's ids is in the vocabulary"):
        build("support", "fixed_set", ids=(77,)).select(tensor(P), tensor(Q), tensor(Y))


@pytest.mark.parametrize(("size", "top"), [(1, 1), (2, 3), (4, 2), (V, 1), (V + 3, V + 3)])
def test_a_vote_counts_each_state_once(size: int, top: int) -> None:
    support = build("support", "voted", size=size, top=top, mass="detach")
    votes_NV = support.votes(tensor(Q), tensor(BASE))
    assert votes_NV.sum(-1).tolist() == [min(top, V)] * len(Q)
    elected = support.elected(votes_NV.sum(0))
    assert set(elected.ids) == most_voted(size, min(top, V)) and elected.mass == support.mass
    with pytest.raises(ValueError, match="support voted is a set that a run chooses before its first step"):
        support.select(tensor(P), tensor(Q), tensor(Y))


@pytest.mark.parametrize("kind", TRUNCATED)
@pytest.mark.parametrize("mass", ["raw", {"renormalise": "teacher"}, {"renormalise": "both"}, "tail_bucket"])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "generalized_jsd", "total_variation"])
def test_a_teacher_that_rules_tokens_out_gives_numbers(kind: str, mass: Any, name: str) -> None:
    """-inf logits of the teacher, as the view hands them on (trl#5594)."""
    logits = torch.tensor(P, dtype=torch.float32, requires_grad=True)
    teacher = torch.tensor(Q, dtype=torch.float32)
    teacher[:, [0, 3, 4]] = -torch.inf
    view = LogitView(tensor(Y), {"student": lambda: logits, "teacher": lambda: teacher})
    fields, _ = REFERENCES[kind]
    pair = restrict(made(kind, **fields, mass=mass), view.logp_NV("student"), view.logp_NV("teacher"), view.token_N)
    loss = build("divergence", name).entries(*pair).sum()
    [slopes] = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(slopes).all()


def test_tail_bucket_is_a_lower_bound_of_the_full_divergence() -> None:
    for name in ("forward_kl", "reverse_kl", "generalized_jsd"):
        divergence = build("divergence", name)
        full = divergence.entries(tensor(P), tensor(Q)).sum(-1)
        for k in range(1, V):
            bucket = divergence.entries(*restrict(build("support", "teacher_topk", k=k, mass="tail_bucket"), tensor(P), tensor(Q), tensor(Y))).sum(-1)
            assert (bucket <= full + 1e-12).all()


@pytest.mark.parametrize("side", ["teacher", "both"])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "generalized_jsd", "skew_forward_kl", "skew_reverse_kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_overlap_weighs_nothing(side: str, name: str, dtype: torch.dtype) -> None:
    """Student and teacher prefer different tokens: no entry is on the support, whatever is renormalised."""
    student = torch.tensor([[4.0, 3.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, 4.0, 3.0]], dtype=dtype)
    support = build("support", "overlap_topk", k=2, mass={"renormalise": side})
    pair = restrict(support, student.log_softmax(-1), teacher.log_softmax(-1), torch.zeros(1, dtype=torch.long))
    loss = build("divergence", name).entries(*pair).sum()
    [slopes] = torch.autograd.grad(loss, student)
    assert loss.item() == 0.0
    assert torch.equal(slopes, torch.zeros_like(slopes))


@pytest.mark.parametrize("mass", ["raw", {"renormalise": "teacher"}, {"renormalise": "both"}, "tail_bucket"])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_gradient(mass: Any, name: str) -> None:
    """By finite differences, the support itself staying as it is."""
    divergence, support, (p, q, y) = build("divergence", name), build("support", "union_topk", k=2, mass=mass), (P[:2], tensor(Q[:2]), tensor(Y[:2]))

    def loss(logits: torch.Tensor) -> torch.Tensor:
        entries: torch.Tensor = divergence.entries(*restrict(support, logits.log_softmax(-1), q, y))
        return entries.sum()

    np.testing.assert_allclose(gradient(loss, p), slope(lambda z: float(loss(tensor(z))), p), atol=1e-7)


def at_rest(divergence: Divergence, mass: Any) -> Array:
    """Where following the field on the teacher's top 2 ends, from each start: the student's probabilities, the supported two first."""
    support = build("support", "teacher_topk", k=2, mass=mass)
    logits, target = tensor(STARTS).requires_grad_(), tensor(TEACHER).expand(len(STARTS), -1)
    token_N = torch.zeros(len(STARTS), dtype=torch.long)
    for _ in range(600):
        pair = restrict(support, logits.log_softmax(-1), target, token_N)
        entries = getattr(divergence, "detached_entries", divergence.entries)(*pair) if mass == "detach" else divergence.entries(*pair)
        [slopes] = torch.autograd.grad(entries.sum(), logits)
        logits = (logits - 3.0 * slopes).detach().requires_grad_()
    return np.asarray(logits.detach().softmax(-1).numpy())


TEACHER = np.log(np.array([0.5, 0.3, 0.1, 0.06, 0.04]))
STARTS = np.array([[0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 2.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "mass", "share"),
    [
        ("reverse_kl", "raw", 0.8 / np.e),
        ("reverse_kl", "detach", 0.8),
        ("reverse_kl", "tail_bucket", 0.8),
        ("forward_kl", "tail_bucket", 0.8),
        ("reverse_kl", {"renormalise": "teacher"}, 1 / np.e),
        ("forward_kl", "raw", 1.0),
        ("forward_kl", {"renormalise": "teacher"}, 1.0),
        ("reverse_kl", {"renormalise": "both"}, None),
    ],
)
def test_where_truncated_losses_come_to_rest(name: str, mass: Any, share: float | None) -> None:
    """D.11: a raw reverse KL keeps only 1/e of the teacher's mass on the support; detach and the tail bucket all of it."""
    found = at_rest(build("divergence", name), mass)
    np.testing.assert_allclose(found[:, 0] / found[:, 1], 0.5 / 0.3, rtol=2e-2)
    total = found[:, :2].sum(-1)
    if share is not None:
        np.testing.assert_allclose(total, share, atol=5e-3)
    else:
        assert abs(total[0] - total[1]) > 0.1, "the total is free: it stays where the start leaves it"
