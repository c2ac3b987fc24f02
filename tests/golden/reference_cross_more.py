"""Further cards on teachers with a tokenizer of their own: mapped and projected columns, covered prefixes, preferences by spans.

Notation as in `reference_cross`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np

from .fixture import Fixture, Loss, Terms
from .fixture_cross import STOP, STUDENT, STUDENT_CUTS, TEACHER, TEACHER_CUTS
from .numerics import Array, kl, log_softmax
from .reference_cross import K, Row, likelihood, rows
from .reference_cross_pairs import Pair, nearest_columns, same_bytes, warped


def cdm(fixture: Fixture, *, threshold: float = 0.1, a: float = 0.5) -> Loss:
    """(1 - a) CE + a KL(p || q) on both sides' top K and their counterparts, at places that time warping pairs (2502.11104, audited).

    Teacher's laws of one student token pooled by the mean of their logarithms (entry). open: a's mean (over the student's tokens), the temperature (none).
    """

    def cells(row: Row, old: Row) -> list[tuple[Array, list[int], list[int]]]:
        """The teacher's pooled law at each of the student's places, and the columns on both sides, all found without gradient."""
        found = []
        for t, places in enumerate(warped(old.q, row.p, *row.words)):
            pooled = log_softmax(row.p[places].mean(axis=0))
            pairs = nearest_columns(row.q[t], pooled, STUDENT, TEACHER, k=K, threshold=threshold)
            found.append((pooled, [mine for mine, _ in pairs], [theirs for _, theirs in pairs]))
        return found

    now, old = (rows(fixture, "data", fixture["data"].logits[model]) for model in ("student", "old"))
    fixed = [cells(*both) for both in zip(now, old, strict=True)]

    def loss(student: Mapping[str, Array]) -> Terms:
        data = student["data"]
        mapped = np.mean([
            float(kl(log_softmax(pooled[theirs]), log_softmax(row.q[t, mine]))) if mine else 0.0
            for row, places in zip(rows(fixture, "data", data), fixed, strict=True)
            for t, (pooled, mine, theirs) in enumerate(places)
        ])  # fmt: skip
        return {"likelihood": likelihood(fixture, "data", data, 1.0 - a), "mapped": a * float(mapped)}

    return loss


def xtok_likelihood(fixture: Fixture) -> Loss:
    """KL(P_T || q) of the teacher's law over the student's next token (2512.14954, a reconstruction), token mean, on `data`.

    One cover: the last teacher cut at or before the place; with the student tokens r begun since, P(u) is the mass of teacher tokens that the student cuts
    into r, u, ... over that of all that go on behind r. A cut inside a student's token says nothing (open; the token counts in the mean).
    """
    cuts = [(STUDENT.index(STOP),) if piece == STOP else tuple(STUDENT.index(part) for part in STUDENT_CUTS.get(piece, (piece,))) for piece in TEACHER]

    def law(row: Row, t: int) -> Array | None:
        mine, theirs = row.words
        begins = [[0, *accumulate(len(word) for word in words)] for words in (mine, theirs)]
        u = max(u for u in range(len(theirs)) if begins[1][u] <= begins[0][t] and (begins[1][u] < begins[0][t] or (theirs[u] == STOP) == (mine[t] == STOP)))
        if begins[1][u] not in begins[0]:
            return None
        begun = row.mine[begins[0].index(begins[1][u]) : t]
        mass = np.zeros(len(STUDENT))
        for v, parts in enumerate(cuts):
            if parts[: len(begun)] == begun and len(parts) > len(begun):
                mass[parts[len(begun)]] += np.exp(row.p[u, v])
        return mass / mass.sum()

    def loss(student: Mapping[str, Array]) -> Terms:
        values = []
        for row in rows(fixture, "data", student["data"]):
            for t in range(len(row.mine)):
                target = law(row, t)
                if target is None:
                    values.append(0.0)
                    continue
                some = target > 0.0
                values.append(float((target[some] * (np.log(target[some]) - row.q[t, some])).sum()))
        return {"covered": float(np.mean(values))}

    return loss


def ctpd(fixture: Fixture, *, beta: float = 0.1) -> Loss:
    """-log sigmoid( beta [ r(y+) - r(y-) ] ), r = sum over spans of log q - log p of their texts, each span's weight 1 (2601.11865; entry).

    y+ the given text, y- the student's own of the same row where it is wrong; mean over the kept pairs.
    """
    wrong = fixture["main"].reward_B < 0.5

    def gains(name: str, student: Mapping[str, Array]) -> Array:
        chances = [[row.chance(pair) for pair in same_bytes(*row.words)] for row in rows(fixture, name, student[name])]
        return np.array([sum(own - their for own, their in chance) for chance in chances])

    return lambda student: {"preference": float(np.log1p(np.exp(-beta * (gains("data", student) - gains("main", student))))[wrong].mean())}


def xtoken_pkl(fixture: Fixture) -> Loss:
    """CE + KL( T[top k] || (q W)[top k] ), mean over aligned chunks (2605.21699), T's K best of each row.

    W: shared tokens whole, others in equal parts to the teacher's pieces (shares open). A chunk's row is that of GOLD's merge (open).
    A teacher token that no student token maps to is held at 1e-30 (entry).
    """
    spread = np.zeros((len(STUDENT), len(TEACHER)))
    for i, piece in enumerate(STUDENT):
        parts = TEACHER_CUTS.get(piece, (piece,))
        for part in parts:
            spread[i, TEACHER.index(part)] = 1.0 / len(parts)

    def value(row: Row, pair: Pair) -> float:
        own, their = row.last(pair)
        best = np.argsort(-their, kind="stable")[:K]
        return float((np.exp(their[best]) * (their[best] - np.log(np.maximum(np.exp(own) @ spread, 1e-30)[best]))).sum())

    def loss(student: Mapping[str, Array]) -> Terms:
        values = [value(row, pair) for row in rows(fixture, "data", student["data"]) for pair in same_bytes(*row.words)]
        return {"likelihood": likelihood(fixture, "data", student["data"]), "projected": float(np.mean(values))}

    return loss
