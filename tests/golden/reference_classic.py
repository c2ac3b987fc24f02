"""White-box distillation of whole distributions, from ImitKD to DP-OPD: what the cards of 2015 to 2026 add to `reference_direct`.

Notation as in `reference_direct`: p teacher, q current student, both on the prefix s_t; N the response tokens of the batch.
What a paper detaches on rollouts that serve one step is taken from `old`, which is then the student itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Terms
from .numerics import Array, generalized_jsd, kl, log_mix, log_softmax, pick, sequence_mean, token_mean, top_k, total_variation
from .reference_direct import Reduce, nll


def imitkd(fixture: Fixture, *, optimal: bool = False) -> Loss:
    """Imitation of the teacher on a batch of either author (2009.07253), for a batch that the student wrote.

    L_full = (1/N) sum_t KL(p || q), the card's cross-entropy without the teacher's entropy (a constant: the card says so itself).
    Variant `optimal`: L_opt = -(1/N) sum_t log q(v*_t), v*_t the teacher's argmax.
    open: the card sums over t and names no mean; taken: token mean.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    best_BT1 = top_k(log_p, 1)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        values_BT = -pick(log_q, best_BT1)[..., 0] if optimal else kl(log_p, log_q)
        return {"divergence": token_mean(values_BT, stream.mask_BT)}

    return loss


def scheduled_sampling(fixture: Fixture) -> Loss:
    """Likelihood of the gold token of the same index on a prefix that mixes gold and sampled tokens (1506.03099).

    L = -(1/N) sum_t log q(gold_t | x, u_<t): u the stream `main`, gold_t the label of index t, whatever u_t is.
    open: sum or mean over t; taken: token mean.
    """
    stream = fixture["main"]

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        return {"likelihood": token_mean(-pick(log_q, stream.gold_BT[..., None])[..., 0], stream.mask_BT)}

    return loss


def f_distill(fixture: Fixture, *, divergence: str = "tvd", b: float = 0.5) -> Loss:
    """Sequence f-divergences taken apart into per-step terms (2307.15190): `main` the student's text, `theirs` the teacher's.

    kl: mean_t KL(p || q) on `theirs`; rkl: mean_t KL(q || p) on `main`;
    js: b mean_t KL(q || M) on `main` + (1 - b) mean_t KL(p || M) on `theirs`, M = b q + (1 - b) p in both, differentiated;
    tvd: half of mean_t TV(p, q) on either.
    Normalisation: each term over the tokens of its own stream before the mixing (audit).
    open: whether M's q is differentiated; taken: yes, as every other mixture of the card's time.
    """
    own, theirs = fixture["main"], fixture["theirs"]
    log_p_own, log_p_theirs = own.logp("teacher"), theirs.logp("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q_own, log_q_theirs = log_softmax(student["main"]), log_softmax(student["theirs"])
        halves = {
            "kl": lambda: (None, kl(log_p_theirs, log_q_theirs)),
            "rkl": lambda: (kl(log_q_own, log_p_own), None),
            "js": lambda: (
                b * kl(log_q_own, log_mix(b, log_q_own, log_p_own)),
                (1.0 - b) * kl(log_p_theirs, log_mix(b, log_q_theirs, log_p_theirs)),
            ),
            "tvd": lambda: (0.5 * total_variation(log_p_own, log_q_own), 0.5 * total_variation(log_p_theirs, log_q_theirs)),
        }[divergence]()
        parts = zip(("own", "theirs"), halves, (own, theirs), strict=True)
        return {name: token_mean(values_BT, stream.mask_BT) for name, values_BT, stream in parts if values_BT is not None}

    return loss


def akl(fixture: Fixture, *, mu: float = 0.5, stream_name: str = "data") -> Loss:
    """Forward and reverse KL weighed by the gap in the teacher's head and in its tail (2404.02657).

    Head: tokens by falling p whose inclusive cumulative mass is at most mu, the first always; g = sum |p - sg[q]| over head or tail;
    L = (1/N) sum_t [ g_head KL(p || q) + g_tail KL(q || p) ] / (g_head + g_tail), on `data`. Normalisation: token mean (card).
    """
    stream = fixture[stream_name]
    log_p, p, q = stream.logp("teacher"), np.exp(stream.logp("teacher")), np.exp(stream.logp("student"))
    order_BTV = np.argsort(-p, axis=-1, kind="stable")
    head_BTV = np.take_along_axis(p, order_BTV, -1).cumsum(-1) <= mu
    head_BTV[..., 0] = True
    gap_BTV = np.take_along_axis(np.abs(p - q), order_BTV, -1)
    share_BT = np.where(head_BTV, gap_BTV, 0.0).sum(-1) / gap_BTV.sum(-1)

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student[stream_name])
        return {"divergence": token_mean(share_BT * kl(log_p, log_q) + (1.0 - share_BT) * kl(log_q, log_p), stream.mask_BT)}

    return loss


def atkd(fixture: Fixture, *, lam: float = 0.2, lower_median: bool = False) -> Loss:
    """Target and remainder of the KL apart, easy tokens without the target part (2402.11890).

    TCKD = KL of the two-point laws (y_t, rest); NCKD = KL(p^ || q^) of the laws without y_t; UNC_t = 1 - p(y_t);
    easy: UNC below its median over the batch's tokens; L = lam mean_easy NCKD + (1 - lam) mean_hard (TCKD + NCKD), on `data`, lam = 0.2.
    open: the median of an even number of tokens; taken: halfway between the middle two. `lower_median`: the lower of the two.
    """
    stream = fixture["data"]
    log_p, chosen_BTV = stream.logp("teacher"), np.eye(stream.logits["teacher"].shape[-1])[stream.response_BT] > 0
    uncertainty_BT = 1.0 - np.exp(stream.sampled("teacher"))
    ranked = np.sort(uncertainty_BT[stream.mask_BT])
    median = ranked[(len(ranked) - 1) // 2] if lower_median else np.median(ranked)
    easy_BT, hard_BT = stream.mask_BT & (uncertainty_BT < median), stream.mask_BT & (uncertainty_BT >= median)

    def parts(log_a: Array, log_b: Array) -> tuple[Array, Array]:
        rest_a, rest_b = (log_softmax(np.where(chosen_BTV, -1e9, log)) for log in (log_a, log_b))
        one_a, one_b = ((np.exp(log) * chosen_BTV).sum(-1) for log in (log_a, log_b))
        target = one_a * np.log(one_a / one_b) + (1.0 - one_a) * np.log((1.0 - one_a) / (1.0 - one_b))
        return target, np.where(chosen_BTV, 0.0, np.exp(rest_a) * (rest_a - rest_b)).sum(-1)

    def loss(student: Mapping[str, Array]) -> Terms:
        target_BT, rest_BT = parts(log_p, log_softmax(student["data"]))
        return {"easy": lam * token_mean(rest_BT, easy_BT), "hard": (1.0 - lam) * token_mean(target_BT + rest_BT, hard_BT)}

    return loss


def taid(fixture: Fixture, *, t: float = 0.4) -> Loss:
    """Forward KL to a law between the detached student and the teacher (2501.16937), at the share t of its first step.

    target = softmax( (1 - t) sg[z_S] + t z_T ); L = (1/N) sum_t KL(target || q) on `data`, the card's cross-entropy without the target's entropy
    (a constant of the step). Normalisation: token mean (card). t = 0.4: `t_start`, before the first update of the adaptive share.
    """
    stream = fixture["data"]
    target = log_softmax((1.0 - t) * stream.logits["student"] + t * stream.logits["teacher"])

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": token_mean(kl(target, log_softmax(student["data"])), stream.mask_BT)}

    return loss


def forward_kl(fixture: Fixture, *, stream_name: str = "main", reduce: Reduce = token_mean) -> Loss:
    """mean_t KL(p || q), unwarped, full vocabulary.

    SKD (2410.11325): on the interleaved text, token mean (audit); the student's sampling temperature is no part of it.
    AdaSwitch (2510.07842): on the whole switched text, (1/T) sum_t for each response; open: the mean over responses; taken: over the batch.
      The second reading takes the mean over all tokens: variant `token_mean`.
    Minitron (2407.14679): on corpus text, (1/T) sum_t; open: the mean over texts; taken: token mean, as all its texts are equally long.
    """
    stream = fixture[stream_name]
    log_p = stream.logp("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": reduce(kl(log_p, log_softmax(student[stream_name])), stream.mask_BT)}

    return loss


def selectkd(fixture: Fixture, *, k: int = 5, beta: float = 0.1, reduce: Reduce = sequence_mean, stream_name: str = "main") -> Loss:
    """Divergence where the student's proposal is accepted by the teacher (2510.24021), the greedy top-k verification.

    V_t = 1 if argmax q is among the teacher's k most probable tokens, else beta; L = (1/T) sum_t sg[V_t] KL(p || q): divided by all
    tokens of the response, accepted or not (card).
    open: k and beta (not found); taken: 5 and 0.1 (entry); variant `top_3`: 3 and 0.3. open: the mean over responses; taken: over the batch.
    """
    stream = fixture[stream_name]
    log_p = stream.logp("teacher")
    accepted_BT = (top_k(log_p, k) == top_k(stream.logp("old"), 1)).any(-1)
    weight_BT = np.where(accepted_BT, 1.0, beta)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": reduce(weight_BT * kl(log_p, log_softmax(student[stream_name])), stream.mask_BT)}

    return loss


def adakd(fixture: Fixture, *, c: float = 0.5, ratio: float = 1.0, lower_median: bool = False) -> Loss:
    """Reverse KL at a temperature per token, on the hardest tokens (2510.11615).

    s_t = Hellinger(p, q) = |sqrt p - sqrt q| / sqrt 2; S: the top `ratio` of the batch's tokens by s (1 at the start of training);
    T_t = exp( -0.5 tanh( log( s_t / median_S s ) ) ); L = mean over S of T_t^2 KL(q^T || p^T), both tempered by T_t; s and T_t detached (card's note).
    open: the median of an even number; taken: halfway between the middle two. open: how many tokens a share of N is; rounded up.
    """
    stream = fixture["data"]
    gap_BTV = np.exp(0.5 * stream.logp("teacher")) - np.exp(0.5 * stream.logp("student"))
    score_BT = np.sqrt((gap_BTV**2).sum(-1) / 2.0)
    ranked = np.sort(score_BT[stream.mask_BT])[::-1][: int(np.ceil(ratio * stream.mask_BT.sum() - 1e-9))]
    kept_BT = stream.mask_BT & (score_BT >= ranked[-1])
    median = ranked[len(ranked) // 2] if lower_median else np.median(ranked)
    temperature_BT = np.exp(-c * np.tanh(np.log(score_BT / median)))
    log_p = log_softmax(stream.logits["teacher"] / temperature_BT[..., None])

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["data"] / temperature_BT[..., None])
        return {"divergence": token_mean(temperature_BT**2 * kl(log_q, log_p), kept_BT)}

    return loss


def distillspec(fixture: Fixture, *, reduce: Reduce = sequence_mean) -> Loss:
    """Total variation between draft and target on the draft's text (2310.08461): 1 - TV is the acceptance rate.

    L = E (1/T) sum_t TV(p, q) on `main`, TV = half the L1 distance. The card tunes D per task; taken: TVD, its matched objective.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": reduce(total_variation(log_p, log_softmax(student["main"])), stream.mask_BT)}

    return loss


def abkd(fixture: Fixture, *, a: float = 0.2, b: float = 0.7, lm_coef: float = 1.0) -> Loss:
    """The alpha-beta divergence on the data set, likelihood on the corpus (2505.04560).

    D = -(1/(a b)) sum_v [ p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b) ], a = 0.2, b = 0.7; L = mean_t D on `data` + 1.0 mean_t -log q(y_t) on `corpus`.
    Normalisation: token mean (card); the corpus term over its own tokens, as in `distillm`, whose scripts these are.
    """
    stream, corpus = fixture["data"], fixture["corpus"]
    p = np.exp(stream.logp("teacher"))

    def loss(student: Mapping[str, Array]) -> Terms:
        q = np.exp(log_softmax(student["data"]))
        entry_BTV = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
        return {
            "divergence": token_mean(-entry_BTV.sum(-1) / (a * b), stream.mask_BT),
            "corpus": lm_coef * token_mean(nll(corpus, student["corpus"]), corpus.mask_BT),
        }

    return loss


def offline_opkd(fixture: Fixture, *, k: int = TOP_K, with_label: bool = True) -> Loss:
    """Forward KL on the teacher's top-k and the written token, both sides renormalised there (2509.26497, a reconstruction).

    K_t = top-k of p, and y_t; L = mean_t KL(p' || q') on `main`, text that an earlier student wrote. The bracketed label term is left out.
    open: k (not found), 3 here; the mean: token mean.
    """
    stream = fixture["main"]
    ids_BTK = top_k(stream.logp("teacher"), k)
    inside_BTV = np.zeros(stream.logits["teacher"].shape, dtype=np.bool_)
    np.put_along_axis(inside_BTV, ids_BTK, True, axis=-1)
    if with_label:
        np.put_along_axis(inside_BTV, stream.response_BT[..., None], True, axis=-1)
    log_p = log_softmax(np.where(inside_BTV, stream.logits["teacher"], -1e9))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(np.where(inside_BTV, student["main"], -1e9))
        return {"divergence": token_mean(np.where(inside_BTV, np.exp(log_p) * (log_p - log_q), 0.0).sum(-1), stream.mask_BT)}

    return loss


def dp_opd(fixture: Fixture, *, beta: float = 0.5) -> Loss:
    """GKD's JSD per continuation (2604.04461): l_i = (1/T_i) sum_t JSD(p || q), mean over the batch; the clip and the noise are the update's.

    open: beta (not found); taken: 0.5, GKD's.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"divergence": sequence_mean(generalized_jsd(log_p, log_softmax(student["main"]), beta), stream.mask_BT)}

    return loss
