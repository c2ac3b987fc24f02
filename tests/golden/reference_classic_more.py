"""Further white-box distillation: rankings, preferences, K-step returns and budgets.

Notation as in `reference_direct`; quantities of a rollout that serves one step are taken from `old`, which is then the student.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import TOP_K, Fixture, Loss, Stream, Terms
from .numerics import Array, Mask, entropy, generalized_jsd, kl, log_softmax, pessimistic, pick, sequence_mean, token_mean, top_k
from .reference_direct import Reduce, nll


def ketchup_return(stream: Stream, *, steps: int, centred: str = "teacher") -> Array:
    """Returns over strides of `steps` from the centred teacher logits read as Q, (B, T); 0 under the padding.

    R_t = Q(s_t, y_t) - max_a Q(s_{min(t + K, last)}, a) before the last token, Q(s_t, y_t) at it (after the end the value is 0: audit, trap a);
    G_t = R_t + R_{t+K} + ... within the response, and the last token's R where the stride misses it. "Last" is each response's own (trap b).
    """
    q_BTV = stream.logits[centred] - stream.logits[centred].mean(axis=-1, keepdims=True)
    chosen_BT = np.take_along_axis(q_BTV, stream.response_BT[..., None], axis=-1)[..., 0]
    return_BT = np.zeros_like(chosen_BT)
    for i, length in enumerate(stream.mask_BT.sum(axis=1)):
        last = int(length) - 1
        reward = [chosen_BT[i, t] - q_BTV[i, min(t + steps, last)].max() for t in range(last)] + [chosen_BT[i, last]]
        for t in range(last + 1):
            visited = sorted({*range(t, last + 1, steps), last})
            return_BT[i, t] = sum(reward[at] for at in visited)
    return return_BT


def ketchup(fixture: Fixture, *, steps: int = 2, cap: float = 50.0) -> Loss:
    """REINFORCE on K-step returns of the teacher's logits (2504.19024).

    L = -(1/N) sum_t sg[ clip( q(y_t) G_t / c, -50, 50 ) ] log q(y_t) on `main`, c = 1, K = 2 (the card's value for XSum); q(y_t) of the rollout.
    Normalisation: token mean (card). A constant added to a state's logits changes nothing: Q is centred.
    """
    stream = fixture["main"]
    weight_BT = np.clip(np.exp(stream.sampled("old")) * ketchup_return(stream, steps=steps), -cap, cap)

    def loss(student: Mapping[str, Array]) -> Terms:
        return {"policy": token_mean(weight_BT * nll(stream, student["main"]), stream.mask_BT)}

    return loss


def delta_kd(fixture: Fixture, *, a: float = 1.0, lam: float = 0.5) -> Loss:
    """Likelihood, and forward KL to the raw student shifted by the teacher's fine-tuning (2509.14526).

    pi*(v) ~ p_ft(v) (q_raw(v) / p_raw(v))^a: p_ft `teacher`, p_raw `base`, q_raw the initial student;
    L = lam mean_t -log q(y_t) + (1 - lam) mean_t KL(pi* || q) on `data`. Token mean (card).
    open: a and lam (not reported).
    """
    stream = fixture["data"]
    target = log_softmax(stream.logp("teacher") + a * (stream.logp("reference") - stream.logp("base")))

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "likelihood": lam * token_mean(nll(stream, student["data"]), stream.mask_BT),
            "divergence": (1.0 - lam) * token_mean(kl(target, log_softmax(student["data"])), stream.mask_BT),
        }

    return loss


def opener(stream: Stream, share: float, model: str = "old") -> Mask:
    """Positions before the first at which the response's running student entropy reaches `share` of its total."""
    entropy_BT = np.where(stream.mask_BT, entropy(stream.logp(model)), 0.0)
    running_BT = entropy_BT.cumsum(axis=1)
    return np.asarray(stream.mask_BT & (running_BT < share * running_BT[:, -1:]))


def tsd_kd(fixture: Fixture, *, k: int = TOP_K, beta: float = 0.9, a_ind: float = 0.1, share: float = 0.1, opening: float = 0.1) -> Loss:
    """Entropy-gap weighted JSD, a ranking of the student's candidates by the teacher, entropy minimisation (2603.13260).

    direct: mean_t sigmoid( H(q) - H(p) ) JSD_0.9(p || q), weight detached;
    indirect: 0.1 mean over opener positions of -sum_k [ z(c_k) - log sum_{j >= k} exp z(c_j) ]: c the student's top-k by falling teacher logit, z student
      logits (their centring cancels), the suffix form (card's note); openers t < t*, t* where the response's entropy reaches 10 % of its total;
    entropy: mean of H(q), differentiated, over the batch's tokens with H(q) >= its 0.1 quantile (linear between order statistics).
    open: t* per response (the release flattens the batch); taken: per response. k = 3 (card: 10). In four tokens no position lies
      before the first tenth, so the published opening leaves that term at 0 here; variant `opening_half` takes half of the entropy.
    """
    stream = fixture["main"]
    log_p = stream.logp("teacher")
    weight_BT = 1.0 / (1.0 + np.exp(entropy(log_p) - entropy(stream.logp("old"))))
    candidates = top_k(stream.logp("old"), k)
    by_teacher = np.argsort(-pick(log_p, candidates), axis=-1, kind="stable")
    ranked_BTK = np.take_along_axis(candidates, by_teacher, axis=-1)
    opener_BT = opener(stream, opening)
    old_entropy_BT = entropy(stream.logp("old"))
    uncertain_BT = stream.mask_BT & (old_entropy_BT >= np.quantile(old_entropy_BT[stream.mask_BT], share))

    def loss(student: Mapping[str, Array]) -> Terms:
        log_q = log_softmax(student["main"])
        z = pick(log_q, ranked_BTK)
        suffix = np.log(np.exp(z)[..., ::-1].cumsum(axis=-1))[..., ::-1]
        ranking_BT = -(z - suffix).sum(axis=-1)
        return {
            "direct": token_mean(weight_BT * generalized_jsd(log_p, log_q, beta), stream.mask_BT),
            "indirect": a_ind * token_mean(ranking_BT, opener_BT) if opener_BT.any() else 0.0,
            "entropy": token_mean(entropy(log_q), uncertain_BT),
        }

    return loss


def okd(fixture: Fixture, *, a: float = 1.0) -> Loss:
    """The student's half of distillation from a teacher that adapts (2409.12512, a reconstruction): CE(y, q) + a KL(sg[p_phi] || q) on `data`.

    p_phi is the teacher with its online module, which `teacher` stands for. open: a (not found), the mean (token mean).
    """
    stream = fixture["data"]
    log_p = stream.logp("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "likelihood": token_mean(nll(stream, student["data"]), stream.mask_BT),
            "divergence": a * token_mean(kl(log_p, log_softmax(student["data"])), stream.mask_BT),
        }

    return loss


def sequence_logp(stream: Stream, student_BTV: Array) -> Array:
    """sum_t log q(y_t) over each response, (B,)."""
    return np.asarray(-np.where(stream.mask_BT, nll(stream, student_BTV), 0.0).sum(axis=1), dtype=np.float64)


def warmup_preference(fixture: Fixture, *, b: float = 0.1) -> Loss:
    """First stage of Warmup-Distill (2502.11766, a reconstruction): teacher-edited text `theirs` preferred to the student's own `main`.

    L = mean over pairs of -log sigmoid( b [ log q(y+)/q_ref(y+) - log q(y-)/q_ref(y-) ] ), sums over tokens, q_ref the initial student.
    open: b (not found); taken: 0.1, DPO's own.
    """
    chosen, rejected = fixture["theirs"], fixture["main"]
    reference = sequence_logp(chosen, chosen.logits["reference"]) - sequence_logp(rejected, rejected.logits["reference"])

    def loss(student: Mapping[str, Array]) -> Terms:
        margin_B = sequence_logp(chosen, student["theirs"]) - sequence_logp(rejected, student["main"]) - reference
        return {"preference": float(np.log1p(np.exp(-b * margin_B)).mean())}

    return loss


def budgeted_reward(stream: Stream, *, d: float, n: float, cumulative: bool = False) -> Array:
    """R where the KL cost stays within d, else -(n + C(s_T)), (B,); the cost is the response's mean KL(q || p)."""
    cost_BT = np.where(stream.mask_BT, kl(stream.logp("old"), stream.logp("teacher")), 0.0)
    length_B = stream.mask_BT.sum(axis=1)
    spent_B = cost_BT.sum(axis=1) / (1.0 if cumulative else length_B)
    last_B = cost_BT[np.arange(len(length_B)), length_B - 1]
    return np.where(spent_B <= d, stream.reward_B, -(n + last_B))


def cmdp_kd(fixture: Fixture, *, d: float = 0.35, n: float = 10.0, clip: float = 0.2, ddof: int = 1, eps: float = 1e-4, reduce: Reduce = sequence_mean) -> Loss:
    """GRPO on a reward that a budget of KL to the teacher overrules (2509.22921).

    R^ = R where mean_t KL(q || p) <= 0.35, else -(n + C(s_T)), C(s_T) the KL at the last state; A_i = (R^_i - mean) / (std + 1e-4) in the group;
    L = mean_i mean_t max( -rho_t A_i, -clip(rho_t, 0.8, 1.2) A_i ) on `main`, everything but rho_t from rollout time.
    The card's mean over tokens is "the reading under which d = 0.35 makes sense". open: n (not found), the clip range (GRPO's),
    the std's degree of freedom (as in `grpo`). The explicit-dependence term (the differentiated KL) has no formula in the card and is left out.
    """
    stream = fixture["main"]
    reward_B = budgeted_reward(stream, d=d, n=n)
    advantage_BT = np.broadcast_to(((reward_B - reward_B.mean()) / (reward_B.std(ddof=ddof) + eps))[:, None], stream.mask_BT.shape)
    old_BT = stream.sampled("old")

    def loss(student: Mapping[str, Array]) -> Terms:
        ratio_BT = np.exp(-nll(stream, student["main"]) - old_BT)
        return {"policy": reduce(pessimistic(ratio_BT, advantage_BT, clip), stream.mask_BT)}

    return loss


def training_wheels(fixture: Fixture, *, steps: int = 2, with_value: bool = True) -> Loss:
    """Path consistency with a learned value on any text (2502.17717, a reconstruction); without the budgeted calls of the teacher.

    C_t = -V(s_t) + V(s_{t+d}) + sum_{i < d} [ log p(y_{t+i}) - log q(y_{t+i}) ], cut at the response's end, where V = 0; L = (1/N) sum_t C_t^2 / 2 on `main`.
    q is differentiated, V held: it learns from the same loss, beside the student. open: d (not found); `with_value` False: V = 0.
    """
    stream = fixture["main"]
    lengths = stream.mask_BT.sum(axis=1).astype(int)
    teacher_BT = stream.sampled("teacher")

    def loss(student: Mapping[str, Array]) -> Terms:
        gap_BT = teacher_BT + nll(stream, student["main"])
        path_BT = np.zeros_like(gap_BT)
        for i, length in enumerate(lengths):
            value = np.append(stream.value_BT[i, :length], 0.0) if with_value else np.zeros(length + 1)
            for t in range(length):
                end = min(t + steps, length)
                path_BT[i, t] = -value[t] + value[end] + gap_BT[i, t:end].sum()
        return {"consistency": token_mean(0.5 * path_BT**2, stream.mask_BT)}

    return loss


def distill_step_by_step(fixture: Fixture, *, a: float = 0.5) -> Loss:
    """Likelihood of the label (`data`) and of the teacher's rationale (`theirs`), each under its own task prefix (2305.02301).

    L = a mean_t CE(label) + (1 - a) mean_t CE(rationale), a = 0.5. open: the mean; taken: token mean, as a T5 trainer does.
    """
    label, rationale = fixture["data"], fixture["theirs"]

    def loss(student: Mapping[str, Array]) -> Terms:
        return {
            "label": a * token_mean(nll(label, student["data"]), label.mask_BT),
            "rationale": (1.0 - a) * token_mean(nll(rationale, student["theirs"]), rationale.mask_BT),
        }

    return loss
