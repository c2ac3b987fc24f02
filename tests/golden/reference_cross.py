"""Cards on teachers with a tokenizer of their own: what is paired, and which entries of two vocabularies are compared.

Notation: q the student, p the teacher; a pair (S, T) holds the student's places S and the teacher's T that stand for each other. Texts are compared by their
characters, here single bytes; the stop of one side is paired with that of the other. `open:` marks what the card leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .fixture import Fixture, Loss, Terms
from .fixture_cross import OTHERS, STUDENT, TEACHER
from .numerics import Array, kl, log_mix, log_softmax, token_mean
from .reference_cross_pairs import Pair, same_bytes, same_walk
from .reference_direct import nll

K = 3  # in place of 50, 100 and 8192 columns
SHARED = [(i, TEACHER.index(piece)) for i, piece in enumerate(STUDENT) if piece in TEACHER]
MINE, THEIRS = ([pair[side] for pair in SHARED] for side in (0, 1))
OWN_MINE = [i for i in range(len(STUDENT)) if i not in MINE]
OWN_THEIRS = [j for j in range(len(TEACHER)) if j not in THEIRS]


class Row(NamedTuple):
    """One response: log-laws of both sides (n, 7) and (m, 9), and their tokens."""

    q: Array
    p: Array
    mine: tuple[int, ...]
    theirs: tuple[int, ...]

    @property
    def words(self) -> tuple[list[str], list[str]]:
        """The texts of both sides' tokens."""
        return [STUDENT[i] for i in self.mine], [TEACHER[j] for j in self.theirs]

    def chance(self, pair: Pair) -> tuple[float, float]:
        """The log-probability of a pair's text under both, by the chain rule."""
        return sum(self.q[t, self.mine[t]] for t in pair[0]), sum(self.p[u, self.theirs[u]] for u in pair[1])

    def last(self, pair: Pair) -> tuple[Array, Array]:
        """log of p_last(v) times the probabilities of the pair's earlier tokens, for both sides."""
        own, their = self.chance((pair[0][:-1], pair[1][:-1]))
        return self.q[pair[0][-1]] + own, self.p[pair[1][-1]] + their


def rows(fixture: Fixture, name: str, student_BTV: Array) -> list[Row]:
    """The responses of a stream."""
    stream, log_q = fixture[name], log_softmax(student_BTV)
    found = []
    for i, (length, other) in enumerate(zip(stream.mask_BT.sum(axis=1), OTHERS[name], strict=True)):
        found.append(Row(log_q[i, :length], other.logp, tuple(stream.response_BT[i, :length].tolist()), other.ids))
    return found


def l1(one: Array, other: Array) -> float:
    """sum_i |exp(one) - exp(other)| in descending order, the shorter side filled up with zeros."""
    width = max(len(one), len(other))
    filled = [np.pad(np.sort(np.exp(side))[::-1], (0, width - len(side))) for side in (one, other)]
    return float(np.abs(filled[0] - filled[1]).sum())


def likelihood(fixture: Fixture, name: str, student_BTV: Array, weight: float = 1.0) -> float:
    """Cross-entropy of the text's tokens, their mean."""
    return weight * token_mean(nll(fixture[name], student_BTV), fixture[name].mask_BT)


def per_response(values: Callable[[Row], list[float]], all_rows: list[Row]) -> float:
    """Mean over what is paired in a response, then over the responses."""
    return float(np.mean([np.mean(values(row)) for row in all_rows]))


def uld(fixture: Fixture, *, lam: float = 1.5) -> Loss:
    """CE + 1.5 mean_{t <= min} sum_i |sorted q - sorted p|, k-th token with k-th token, mean over the batch (2402.12030, audited); no stop skipped (entry)."""

    def values(row: Row) -> list[float]:
        return [l1(one, other) for one, other in zip(row.q, row.p, strict=False)]

    def loss(student: Mapping[str, Array]) -> Terms:
        data = student["data"]
        return {"likelihood": likelihood(fixture, "data", data), "rank": lam * per_response(values, rows(fixture, "data", data))}

    return loss


def multilevel_ot(fixture: Fixture, *, alpha: float = 0.15, eps: float = 0.1, rounds: int = 10) -> Loss:
    """CE + 0.15 ( HAD + 0.1 SL + 0.1 SD ) on the K columns of most summed probability (2412.14528, audited).

    z / (std_v(z) + 1e-4), softmax; columns ordered by their probability summed over the response, one order a side; HAD = mean_t sum_i |s - q|,
    SL = mean_t sum_i q log(q / s) (cross-entropy less the teacher's entropy), SD = 0.001 <P, W>, W the L1 between positions, P = exp(-W / 0.1) after 10
    rounds of rows, then columns, differentiated.
    open: the std (n - 1); the release's order is the batch's and its SL and SD count padding (entry: neither); how SD adds up over the batch (the mean).
    """

    def columns(log: Array) -> Array:
        z = log / (log.std(axis=-1, ddof=1, keepdims=True) + 1e-4)
        law = np.exp(log_softmax(z))
        return np.asarray(law[:, np.argsort(-law.sum(axis=0), kind="stable")[:K]])

    def parts(row: Row) -> tuple[float, float, float]:
        n = min(len(row.q), len(row.p))
        s, q = columns(row.q[:n]), columns(row.p[:n])
        cost = np.abs(s[:, None] - q[None]).sum(axis=-1)
        plan = np.exp(-cost / eps)
        for _ in range(rounds):
            plan = plan / plan.sum(axis=1, keepdims=True)
            plan = plan / plan.sum(axis=0, keepdims=True)
        return float(np.abs(s - q).sum(axis=1).mean()), float((q * np.log(q / s)).sum(axis=1).mean()), 0.001 * float((plan * cost).sum())

    def loss(student: Mapping[str, Array]) -> Terms:
        had, sl, sd = np.mean([parts(row) for row in rows(fixture, "data", student["data"])], axis=0)
        return {"likelihood": likelihood(fixture, "data", student["data"]), "had": alpha * had, "sl": alpha * 0.1 * sl, "sd": alpha * 0.1 * sd}

    return loss


def alm(fixture: Fixture, *, tau: float = 100.0) -> Loss:
    """Whether a chunk is written or not: KL of the two outcomes at e^(l / 100), mean over chunks (2503.20083, audited), l a chunk's log-probability less 1e-6.

    Binary KL in place of binary CE: the same gradient (entry). The shortest chunks, nothing merged or added (entry).
    """

    def value(row: Row, pair: Pair) -> float:
        own, their = (np.exp((chance - 1e-6) / tau) for chance in row.chance(pair))
        return float(their * np.log(their / own) + (1.0 - their) * np.log((1.0 - their) / (1.0 - own)))

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"chunks": float(np.mean([value(row, pair) for row in rows(fixture, "data", student["data"]) for pair in same_bytes(*row.words)]))}

    return loss


def gold(fixture: Fixture) -> Loss:
    """(1/G) sum_g of the L1 of sorted rows P_g(v) = p_last(v) prod earlier p_k(y_k), mean over the batch (TRL's GOLD, audited; the `bayesian` merge)."""

    def values(row: Row) -> list[float]:
        return [l1(*row.last(pair)) for pair in same_bytes(*row.words)]

    return lambda student: {"rank": per_response(values, rows(fixture, "main", student["main"]))}


def gold_hybrid(fixture: Fixture, *, matched: float = 0.5, beta: float = 0.5) -> Loss:
    """GOLD's rows, tokens of both vocabularies by a JSD that nothing normalises, the others by rank; half and half (entry; TRL: the matched share of V_T)."""

    def jsd(row: Row, pair: Pair) -> float:
        own, their = row.last(pair)
        log_q, log_p = own[MINE], their[THEIRS]
        log_m = log_mix(beta, log_p, log_q)
        return float(beta * kl(log_p, log_m) + (1.0 - beta) * kl(log_q, log_m))

    def rest(row: Row, pair: Pair) -> float:
        own, their = row.last(pair)
        return l1(own[OWN_MINE], their[OWN_THEIRS])

    def loss(student: Mapping[str, Array]) -> Terms:
        found = rows(fixture, "main", student["main"])
        return {
            "matched": matched * per_response(lambda row: [jsd(row, pair) for pair in same_bytes(*row.words)], found),
            "rest": (1.0 - matched) * per_response(lambda row: [rest(row, pair) for pair in same_bytes(*row.words)], found),
        }

    return loss


def simct(fixture: Fixture) -> Loss:
    """KL(q || p) over shared tokens and the segment itself, by the tokens of the text (2605.07711, audited).

    A segment's row is its first place; where it has more than one token on a side it is a further unit of score (1/k) sum_j log p(v_j); both sides
    normalised over all units. Units of other segments left out (release: -1e9), scores by log-probabilities (paper) and not raw logits (release).
    """

    def value(row: Row, pair: Pair) -> float:
        chance = row.chance(pair)
        unit = [[chance[side] / len(pair[side])] if len(pair[0]) > 1 or len(pair[1]) > 1 else [] for side in (0, 1)]
        own, their = np.append(row.q[pair[0][0], MINE], unit[0]), np.append(row.p[pair[1][0], THEIRS], unit[1])
        return float(kl(log_softmax(own), log_softmax(their)))

    def loss(student: Mapping[str, Array]) -> Terms:
        found = rows(fixture, "main", student["main"])
        total = sum(value(row, pair) for row in found for pair in same_walk(*row.words))
        return {"units": total / sum(len(row.mine) for row in found)}

    return loss


def simple_ctkd(fixture: Fixture) -> Loss:
    """KL(q || p) of both sides renormalised on the shared tokens, where equal texts are followed by equal tokens, by the tokens of the text (2603.01875)."""

    def loss(student: Mapping[str, Array]) -> Terms:
        found = rows(fixture, "main", student["main"])
        total = 0.0
        for row in found:
            for mine, theirs in same_bytes(*row.words):
                if len(mine) == len(theirs) == 1:
                    total += float(kl(log_softmax(row.q[mine[0], MINE]), log_softmax(row.p[theirs[0], THEIRS])))
        return {"shared": total / sum(len(row.mine) for row in found)}

    return loss
