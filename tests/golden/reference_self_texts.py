"""Cards of self-distillation that raise the likelihood of texts, chosen, weighted or preferred to others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import Fixture, Loss, Terms
from .numerics import Array, Mask, entropy, per_sequence, sequence_mean, token_mean
from .reference_classic_more import sequence_logp
from .reference_direct import Reduce, nll


def chosen(fixture: Fixture, kept_B: Mapping[str, Mask | None], *, reduce: Reduce = token_mean) -> Loss:
    """-log pS of the kept texts of each stream, each stream its own mean over them; None keeps all."""

    def loss(student: Mapping[str, Array]) -> Terms:
        found = {}
        for name, kept in kept_B.items():
            stream, rows = fixture[name], slice(None) if kept is None else np.flatnonzero(kept)
            found[name] = reduce(nll(stream, student[name])[rows], stream.mask_BT[rows])
        return found

    return loss


def right(fixture: Fixture, *names: str, also: tuple[str, ...] = ()) -> Loss:
    """Likelihood of right answers, mean over their tokens: on_policy_sft (2602.13407, own texts within the cap, all of the fixture's are), and

    rft (2308.01825): own samples of the first student, and the original data (`also`); the card pools both in one set, the entry takes two means and says so.
    sdzero's first phase (2604.12002): right revisions, from the bare prompt and in their context, summed over the same tuples.
    """
    kept: dict[str, Mask | None] = {name: fixture[name].reward_B > 0.5 for name in names}
    return chosen(fixture, {**kept, **dict.fromkeys(also)})


def star(fixture: Fixture, *, pooled: bool = False) -> Loss:
    """Right answers, and right hinted ones `theirs` read without the hint to prompts that failed without it (2203.14465, audited).

    `pooled`, variant `card`: one set, so one mean. Taken, as the entry declares: a mean over each kind.
    """
    stream, hinted = fixture["main"], fixture["theirs"]
    kept_B = {"main": stream.reward_B > 0.5, "theirs": (hinted.reward_B > 0.5) & (stream.reward_B < 0.5)}
    if not pooled:
        return chosen(fixture, {name: kept for name, kept in kept_B.items() if kept.any()})
    kept = {name: fixture[name].mask_BT & rows[:, None] for name, rows in kept_B.items()}

    def loss(student: Mapping[str, Array]) -> Terms:
        total = sum(nll(fixture[name], student[name])[kept_BT].sum() for name, kept_BT in kept.items())
        return {"likelihood": float(total / sum(kept_BT.sum() for kept_BT in kept.values()))}

    return loss


def ssd(fixture: Fixture, *, drop: float = 0.1) -> Loss:
    """(1/|y|) sum_t -log pS of the first student's tempered texts `theirs`, without the shortest tenth (2604.01193, audited).

    The card measures characters over the whole set; here tokens over the batch (entry): above the batch's 0.1 quantile.
    """
    length_B = fixture["theirs"].mask_BT.sum(axis=1)
    return chosen(fixture, {"theirs": length_B > np.quantile(length_B, drop)}, reduce=sequence_mean)


def dasd(fixture: Fixture, *, share: float = 0.5) -> Loss:
    """Likelihood of the teacher's texts `theirs` that it finds far likelier than the student does (2601.09088); the mean over kept tokens.

    The card counts sentences; open: the rule and how many are kept; taken: the half with the largest mean log-ratio (entry).
    The last stage: `chosen`, all tokens, those that the student began included.
    """
    stream = fixture["theirs"]
    score_B = per_sequence(stream.sampled("teacher") - stream.sampled("old"), stream.mask_BT)
    return chosen(fixture, {"theirs": score_B >= np.sort(score_B)[-int(np.ceil(share * len(score_B)))]})


def ddt(fixture: Fixture, *, b: float = 1.0, bounds: tuple[float, float] = (0.1, 2.0)) -> Loss:
    """IDFT (2602.12222): -mean_t sg[pS(x_t)^g_t] log pS(x_t) on `data`, g = clip(exp(-phi / b), 0.1, 2), phi = log pS(x_t) + H(pS)."""
    stream = fixture["data"]
    own_BT = stream.sampled("student")
    power_BT = np.clip(np.exp(-(own_BT + entropy(stream.logp("student"))) / b), *bounds)
    weight_BT = np.exp(power_BT * own_BT)
    return lambda student: {"likelihood": token_mean(weight_BT * nll(stream, student["data"]), stream.mask_BT)}


def preferred(fixture: Fixture, *, winner: str, loser: str, beta: float = 0.1, hinge: bool = False) -> Loss:
    """-log sigmoid( beta [ log pS(y+)/p'(y+) - log pS(y-)/p'(y-) ] ), sums over tokens, mean over pairs, p' the other view or iterate (`self`).

    pbsd (2605.05040): y+ `theirs` written with the privileged context, which p' sees, y- `main`; beta 0.1 a guess. spin (2401.01335, audited): y+ `data`,
    y- `theirs` of the previous iterate p'; beta 0.1 in the first three; variant `hinge`: max(0, 1 - z).
    """
    better, worse = fixture[winner], fixture[loser]
    anchor_B = sequence_logp(better, better.logits["self"]) - sequence_logp(worse, worse.logits["self"])

    def loss(student: Mapping[str, Array]) -> Terms:
        z_B = beta * (sequence_logp(better, student[winner]) - sequence_logp(worse, student[loser]) - anchor_B)
        return {"preference": float((np.maximum(0.0, 1.0 - z_B) if hinge else np.log1p(np.exp(-z_B))).mean())}

    return loss
