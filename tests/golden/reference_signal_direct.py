"""Further signals of survey A, those that are differentiated directly: rewritten, informed, bounded and preferred text.

Notation as in `reference_direct`: p the teacher, which for a self-teacher reads more than the student, q the student; forward KL(p || q), reverse KL(q || p).
Gates and weights are taken at rollout time (`old`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, Mask, entropy, generalized_jsd, kl, log_softmax, per_sequence, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll, sum_then_mean
from .reference_outcome_policy import mark
from .reference_self_policy import pass_rate


def divergence(
    fixture: Fixture, *, kind: str = "reverse", model: str = "self", stream_name: str = "main", reduce: Reduce = token_mean, scale: float = 1.0
) -> Loss:
    """One divergence to one teacher on one stream: forward, reverse, or the JSD at 1/2."""
    stream = fixture[stream_name]
    log_p = stream.logp(model)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student[stream_name])
        value_BT = {"forward": lambda: kl(log_p, log_q), "reverse": lambda: kl(log_q, log_p), "jsd": lambda: generalized_jsd(log_p, log_q, 0.5)}[kind]()
        return {"divergence": scale * reduce(value_BT, stream.mask_BT)}

    return loss


def summed(*builds: Loss) -> Loss:
    """The sum of losses, term by term."""
    return lambda student: {f"{i}.{name}": value for i, build in enumerate(builds) for name, value in build(student).items()}


def chosen(stream: Stream) -> Mask:
    """One sequence of each group: among its right ones that with the highest mean log-probability under the student, (B,)."""
    score_B = np.where(stream.reward_B > 0.5, per_sequence(stream.sampled("old"), stream.mask_BT), -np.inf)
    kept_B = np.zeros(len(score_B), dtype=bool)
    for group in np.unique(stream.group_B):
        members = np.flatnonzero((stream.group_B == group) & (stream.reward_B > 0.5))
        kept_B[members[score_B[members].argmax()] if len(members) else []] = True
    return kept_B


def brts(fixture: Fixture, *, lam: float = 10.0) -> Loss:
    """Reverse KL on the student's text + 10 forward KL on one teacher text a prompt, sums over tokens (2605.09725; the score is a reconstruction).

    Selected: right, and of those the one likeliest to the student; where none of `theirs` is right, from those of a teacher with the ground truth, `data`.
    open: the mean over prompts; taken (entry): over those of each tier by itself. A prompt without a right candidate is no part of it.
    """
    own = divergence(fixture, model="teacher", reduce=sum_then_mean)

    failed_B = pass_rate(fixture["theirs"]) == 0.0

    def branch(name: str, kept_B: Mask) -> Loss:
        stream = fixture[name]
        log_p = stream.logp("teacher")
        if not kept_B.any():
            return lambda student: {"chosen": 0.0}
        return lambda student: {"chosen": lam * sum_then_mean(kl(log_p, log_softmax(student[name]))[kept_B], stream.mask_BT[kept_B])}

    return summed(own, branch("theirs", chosen(fixture["theirs"])), branch("data", chosen(fixture["data"]) & failed_B))


def csd(fixture: Fixture) -> Loss:
    """1/2 sum_{u,v} w_u w_v (d_v - d_u)^2, d the gap of the logits, w = sg[q] (2509.25837; of the card's weights the mode-seeking one), token mean (open)."""
    stream = fixture["main"]
    weight = np.exp(stream.logp("student"))
    target = stream.logits["teacher"]

    def loss(student: Mapping[str, Array]) -> Terms:
        d = student["main"] - target
        pairs = weight[..., :, None] * weight[..., None, :] * (d[..., :, None] - d[..., None, :]) ** 2
        return {"divergence": token_mean(0.5 * pairs.sum(axis=(-2, -1)), stream.mask_BT)}

    return loss


def sequence_logp(stream: Stream, student_BTV: Array) -> Array:
    """sum_t log q(y_t), (B,)."""
    return np.asarray(np.where(stream.mask_BT, -nll(stream, student_BTV), 0.0).sum(axis=1))


def margin(stream: Stream, student_BTV: Array, reference: str) -> Array:
    """log q(y) - log p_ref(y), (B,)."""
    return sequence_logp(stream, student_BTV) - np.where(stream.mask_BT, stream.sampled(reference), 0.0).sum(axis=1)


def dudi(fixture: Fixture, *, alpha: float = 0.5, lam: float = 0.5, eta: float = 0.1) -> Loss:
    """alpha SPIN + (1 - lam) forward KL on gold text + lam forward KL to the teacher shown a verbaliser, on the student's text (2606.04694); sums over tokens.

    SPIN: log(1 + exp(-g)), g = eta (margin(gold) - margin(past)) against the student of a round ago. open: alpha, lam, eta, the mean over sequences.
    """
    gold, past = fixture["data"], fixture["theirs"]
    off = divergence(fixture, kind="forward", model="teacher", stream_name="data", reduce=sum_then_mean, scale=1.0 - lam)
    on = divergence(fixture, kind="forward", model="second", reduce=sum_then_mean, scale=lam)

    def spin(student: Mapping[str, Array]) -> Terms:
        gap_B = eta * (margin(gold, student["data"], "reference") - margin(past, student["theirs"], "reference"))
        return {"spin": alpha * float(np.log1p(np.exp(-gap_B)).mean())}

    return summed(spin, off, on)


def iris(fixture: Fixture, *, alpha: float = 2.0, eta: float = 0.1) -> Loss:
    """Two tilted risks (2604.20933, a reconstruction): (1/alpha) log E[exp(-alpha u+)] + (1/alpha) log E[exp(alpha u-)], u = eta margin against the last round.

    y+ gold (`data`), y- the last round's own text (`theirs`). open: eta, and alpha's rule (taken: 2 at the start, in a straight line to 0.1).
    """
    gold, own = fixture["data"], fixture["theirs"]

    def loss(student: Mapping[str, Array]) -> Terms:
        u, v = eta * margin(gold, student["data"], "self"), eta * margin(own, student["theirs"], "self")
        return {"risk": float((np.log(np.exp(-alpha * u).mean()) + np.log(np.exp(alpha * v).mean())) / alpha)}

    return loss


def vpd(fixture: Fixture, *, beta: float = 0.1) -> Loss:
    """A critic that reads critiques learns right from wrong, and the student follows it (2605.15113).

    E: -E_right log sigmoid(r) - E_wrong log sigmoid(-r), r = beta log( q_phi(y | C) / pS(y) ); M: sum_t KL(pS || q_phi(. | C)). The critic is the student as it
    reads the feedback: `theirs` holds its reading of right texts, `data` of wrong ones, pairs with either verdict wrong being left out. open: beta; the card's
    shift delta is left out (entry).
    """
    right, wrong = fixture["theirs"], fixture["data"]
    kept_B = (right.reward_B > 0.5) & (wrong.reward_B < 0.5)

    def critic(student: Mapping[str, Array]) -> Terms:
        good_B, bad_B = beta * margin(right, student["theirs"], "reference"), beta * margin(wrong, student["data"], "reference")
        return {"critic": float((np.log1p(np.exp(-good_B)) + np.log1p(np.exp(bad_B)))[kept_B].mean())}

    return summed(critic, divergence(fixture, reduce=sum_then_mean))


def msd(fixture: Fixture) -> Loss:
    """Reverse KL to the self that reads the translation, weighed by certainty and surprise (2605.02971; weights a reconstruction), mean per response.

    w_t = exp(-H(p)) (1 - q(y_t)), divided by its mean. open: top-K for the entropy (taken: the vocabulary), whose mean is 1 (the response's).
    """
    stream = fixture["main"]
    log_p = stream.logp("self")
    weight_BT = np.exp(-entropy(log_p)) * (1.0 - np.exp(stream.sampled("old")))
    weight_BT = weight_BT / per_sequence(weight_BT, stream.mask_BT)[:, None]
    return lambda student: {"divergence": sequence_mean(weight_BT * kl(log_softmax(student["main"]), log_p), stream.mask_BT)}


def copsd(fixture: Fixture, *, cap: float = 0.05) -> Loss:
    """mean_t sum_v min(p log(p/q), 0.05), p the initial student shown translation and solution (2605.09548, code). open: mean over tokens of the batch."""
    stream = fixture["main"]
    log_p = stream.logp("self")
    return lambda student: {"divergence": token_mean(np.minimum(np.exp(log_p) * (log_p - log_softmax(student["main"])), cap).sum(axis=-1), stream.mask_BT)}


def critique_distill(fixture: Fixture) -> Loss:
    """(1/|S_e|) sum over rollouts whose critique passes of sum_t KL(q || p(. | critique)) (2606.00424).

    Taken (entry): each rollout by a judge's mark of its critique over the mean mark; marks of 0 and 1 are the card's filter.
    """
    stream = fixture["main"]
    log_p, weight_B = stream.logp("self"), mark(stream) / mark(stream).mean()
    return lambda student: {"divergence": sum_then_mean(weight_B[:, None] * kl(log_softmax(student["main"]), log_p), stream.mask_BT)}


def mgsd(fixture: Fixture) -> Loss:
    """Reverse KL to the self that reads the symbolic state, weighed by the gap (2606.06076, all reconstructed): 1 + JSD of both views, mean per response."""
    stream = fixture["main"]
    log_p = stream.logp("self")
    weight_BT = 1.0 + generalized_jsd(log_p, stream.logp("old"), 0.5)
    return lambda student: {"divergence": sequence_mean(weight_BT * kl(log_softmax(student["main"]), log_p), stream.mask_BT)}


def sgsd(fixture: Fixture, *, tau: float = 1.0, neutral: float = 0.05, cap: float = 3.0) -> Loss:
    """Pulled to, or pushed from, a skilled view by a bounded loss (2605.28791, code): rho mean_t l(D_t), D = sg[log p(y)] - log q(y).

    l(D) = log 2 - log(1 + exp(-D^2 / (2 tau))); a = mean_t clip(D), rho = v sign(a), v = +1 where the verifier passes, else -1, and 0 where |a| <= 0.05, each D
    inside a held within 3. One view of the card's eight.
    """
    stream = fixture["main"]
    mean_B = per_sequence(np.clip(stream.sampled("self") - stream.sampled("old"), -cap, cap), stream.mask_BT)
    rho_B = np.where(stream.reward_B > 0.5, 1.0, -1.0) * np.sign(mean_B) * (np.abs(mean_B) > neutral)

    def loss(student: Mapping[str, Array]) -> Terms:
        d_BT = stream.sampled("self") + nll(stream, student["main"])
        return {"bounded": sequence_mean(rho_B[:, None] * (np.log(2.0) - np.log1p(np.exp(-(d_BT**2) / (2.0 * tau)))), stream.mask_BT)}

    return loss


def ar_opd(fixture: Fixture, *, lam: float = 1.0, clip: float = 5.0, full: str = "self", part: str = "elsewhere") -> Loss:
    """Reverse KL to an anchored residual, p_part exp(lam clip(log p_full - log p_part, -5, 5)) normalised (2606.10385, code; direction SDFT's, not verified).

    The card sums over tokens; taken: their mean (entry).
    """
    stream = fixture["main"]
    residual = np.clip(stream.logp(full) - stream.logp(part), -clip, clip)
    log_p = log_softmax(stream.logp(part) + lam * residual)
    return lambda student: {"divergence": token_mean(kl(log_softmax(student["main"]), log_p), stream.mask_BT)}


def nca(fixture: Fixture, *, mu: float = 0.5) -> Loss:
    """Context distillation, and the student that reads the context held where it stands without it (2606.11627): + mu mean_t KL(sg[q(. | x)] || q(. | c, x)).

    `theirs` holds the reading in the context, `peer` there the live student without it. open: mu (0.5), the first term's form (reverse KL).
    """
    return summed(divergence(fixture), divergence(fixture, kind="forward", model="peer", stream_name="theirs", scale=mu))


def rosd(fixture: Fixture, *, k: int = TOP_K) -> Loss:
    """JSD at 1/2 to the initial self shown a sibling and a reflection, on the student's top-k and one entry for the rest (2605.28014, code), whole answers.

    k = 3 (100); the suffix mask is the entry's declared omission; open: mean over the batch's tokens.
    """
    stream = fixture["main"]
    ids_BTK = top_k(stream.logp("old"), k)

    def bucketed(log_BTV: Array) -> Array:
        log_BTK = pick(log_BTV, ids_BTK)
        return np.concatenate([log_BTK, np.log1p(-np.exp(log_BTK).sum(axis=-1, keepdims=True))], axis=-1)

    log_p = bucketed(stream.logp("self"))
    return lambda student: {"divergence": token_mean(generalized_jsd(log_p, bucketed(log_softmax(student["main"])), 0.5), stream.mask_BT)}


def furthest(value_BT: Array, mask_BT: Mask, share: float) -> Mask:
    """The `share` of each response's tokens with the largest values, rounded up."""
    kept_BT = np.zeros_like(mask_BT)
    for i, inside_T in enumerate(mask_BT):
        own = np.flatnonzero(inside_T)
        kept_BT[i, own[np.argsort(-value_BT[i, own], kind="stable")[: int(np.ceil(share * len(own) - 1e-9))]]] = True
    return kept_BT


def paint(fixture: Fixture, *, share: float = 0.2, eta: float = 0.1, cap: float = 0.05, signed: bool = False) -> Loss:
    """Clipped forward KL to the half-told self, on mismatched positions moved a little to the student (2604.26573, interpolation a reconstruction).

    Entry v: min(p (log p - log q), tau), mean per response; where |H(p) - H(q)| is largest, log p~ = (1 - eta) log p + eta log q + const.
    open: tau (0.05), eta (0.1), the share of positions (a fifth of the response, rounded up).
    """
    stream = fixture["main"]
    gap_BT = entropy(stream.logp("self")) - entropy(stream.logp("old"))
    moved_BT = furthest(gap_BT if signed else np.abs(gap_BT), stream.mask_BT, share)
    eased = log_softmax((1.0 - eta) * stream.logp("self") + eta * stream.logp("student"))
    log_p = np.where(moved_BT[..., None], eased, stream.logp("self"))
    return lambda student: {"divergence": sequence_mean(np.minimum(np.exp(log_p) * (log_p - log_softmax(student["main"])), cap).sum(axis=-1), stream.mask_BT)}


def opsa(fixture: Fixture, *, window: float = 32.0, floor: float = 0.1, fall: float | None = None) -> Loss:
    """sum_t w(t) KL(p || q), w 1 before token 32, then falling in a straight line to 0.1 (2605.15239, a re-implementation). open: the line's length (32)."""
    stream = fixture["main"]
    log_p = stream.logp("self")
    past_T = np.arange(stream.mask_BT.shape[1]) - window
    weight_T = np.clip(1.0 - (1.0 - floor) * past_T / (window if fall is None else fall), floor, 1.0)
    return lambda student: {"divergence": sum_then_mean(weight_T * kl(log_p, log_softmax(student["main"])), stream.mask_BT)}


def opcod(fixture: Fixture) -> Loss:
    """Reverse KL to the self told by a peer, on prompts where the student is not always right (2606.14368; the gate is the entry's), token mean over all."""
    stream = fixture["main"]
    log_p = stream.logp("self")
    rate_B = np.array([stream.reward_B[stream.group_B == g].mean() for g in stream.group_B])
    return lambda student: {"divergence": token_mean((rate_B < 1.0)[:, None] * kl(log_softmax(student["main"]), log_p), stream.mask_BT)}
