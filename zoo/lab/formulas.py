"""The formula behind each kind of term: the words of the claim, how it is compared, and the reference; or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.lab import references as ref
from zoo.lab import texts
from zoo.lab.measured import Measured
from zoo.lab.texts import DIFFERENCES, STEP
from zoo.lab.world import Array
from zoo.views import LogitView

if TYPE_CHECKING:
    from zoo.lab.claims import Against, TermReferences

Expected = tuple[str, "Against | None", "Array | None"]
RATIOS = ("importance", "mixture_importance", "ppo_clip", "one_sided", "uncorrected")
STATE_ONLY = ("none", "kl", "batch_mean", "optimal", "value")  # baselines that leave the mean as it is
OWN_SHARE = ("group_mean", "sequence_mean")  # those that hold a share of the answer's own advantage
CREDITS = ("immediate", "return_to_go", "discounted", "k_step", "gae", "group", "leave_one_out")


def nothing(at: TermReferences, *reasons: str) -> Expected:
    """A term that is measured and claims nothing."""
    at.altered.extend(reasons)
    return "measured only", None, None


def direct(at: TermReferences, term: Any, found: Measured) -> Expected:
    """(a) of the term's own divergence: by the formula of table A.3 where it has one, else by differences of its value."""
    part, kind = term.divergence.model_dump(), term.divergence.kind
    teacherless = getattr(term.divergence, "teacherless", False)
    if not teacherless and not at.has_law(term.teacher):
        return _without_law(at, term, found)
    plain = not term.shaping and term.support.kind in ("full", "sampled")
    if not plain or teacherless:
        return _by_differences(at, term)
    p_SV, q_SV = np.exp(at.logp("student", term.temperature)), np.exp(at.logp(term.teacher, term.temperature))
    scale = (term.temperature if term.rescale else 1.0 / term.temperature) if term.temperature != 1.0 else 1.0
    if part.get("detach_mixture"):
        skew = part["skew"]
        wanted = ref.field(at.weight, p_SV, np.log((1 - skew) * q_SV / p_SV + skew))
        return f"(a) the field of {kind} with its mixture held fixed", "equal", np.asarray(scale * wanted)
    if term.support.kind == "sampled":
        weight = ref.divergence_weight(kind, part, q_SV / p_SV)
        if weight is None or term.temperature != 1.0:
            return _by_differences(at, term)
        names = {"k2": "the per-state reverse KL", "k3": "the per-state forward KL"}
        return f"(a) {names.get(kind, kind)}, frozen states", "equal", at.mean(weight)
    known = ref.divergence_field(at.weight, p_SV, q_SV, kind, part)
    return _by_differences(at, term) if known is None else (f"(a) per-state {kind}, frozen states", "equal", np.asarray(scale * known))


def _without_law(at: TermReferences, term: Any, found: Measured) -> Expected:
    """A teacher that is a given text, or has tokens of its own."""
    if not at.tables.given(term.teacher):
        says = f"(a) its own value on the teacher's tokens ({term.divergence.kind}), texts held fixed, by differences"
        return says, "parallel", texts.of_rows(at, found)
    plain = term.divergence.kind == "forward_kl" and term.support.kind == "full" and term.temperature == 1.0 and not term.shaping
    if not plain or at.law.label_RT is None:
        return nothing(at, f"{term.divergence.kind} to a given text: no formula in the lab")
    return "the gradient of the labels' cross-entropy", "equal", texts.of_labels(at)


def preference(at: TermReferences, term: Any, found: Measured) -> Expected:
    """The mean loss of pairs by differences."""
    return f"the gradient of its mean loss ({term.loss.kind}), pairs held fixed, by differences", "parallel", texts.of_pairs(at, term, found)


def _by_differences(at: TermReferences, term: Any) -> Expected:
    """The gradient of the mean loss of each state by central differences, states and written tokens held fixed."""
    if _stops_gradients(term):
        return nothing(at, f"{term.divergence.kind} on {term.support.kind}: a field with parts held fixed, the gradient of no value")
    states, vocabulary = at.p.shape
    state_N = torch.arange(states).repeat_interleave(vocabulary)
    token_N = torch.arange(vocabulary).repeat(states)
    counts_N = torch.from_numpy(at.counts.reshape(-1))
    base_SV, wanted = at.tables.student.detach(), np.zeros_like(at.p)
    fixed = at.bench.view_at(state_N, token_N, at.tables)
    for v in range(vocabulary):
        for factor, offset in DIFFERENCES:
            moved_SV = base_SV.clone()
            moved_SV[:, v] += offset * STEP
            view = _Moved(at.bench.view_at(state_N, token_N, at.tables, moved_SV[state_N]), fixed)
            with torch.no_grad():
                loss_S = (term.token_loss(view, {}) * counts_N).reshape(states, vocabulary).sum(-1)
            wanted[:, v] += factor * loss_S.numpy() / STEP
    shape = f" on {term.support.kind}" if term.support.kind != "full" else ""
    return f"(a) its own per-state value ({term.divergence.kind}{shape}) by differences", "parallel", wanted


def _stops_gradients(term: Any) -> bool:
    mass = getattr(getattr(term.support, "mass", None), "kind", None)
    weighs = "student" in (getattr(term.divergence, "a", None), getattr(term.divergence, "b", None))  # a pair weight, without gradient
    return mass == "detach" or weighs or term.divergence.kind in ("adaptive_kl", "entrywise_kl")


class _Moved(LogitView):
    """The student after a step, and every other scorer as before it: a target that reads the student has no gradient through it."""

    def __init__(self, moved: LogitView, fixed: LogitView) -> None:
        self.__dict__.update(moved.__dict__)
        self._moved, self._before = moved, fixed

    def logp_NV(self, scorer: str, temperature: float = 1.0) -> Tensor:
        return (self._moved if scorer == "student" else self._before).logp_NV(scorer, temperature)


def policy_gradient(at: TermReferences, term: Any, found: Measured) -> Expected:
    """A score function's mean, from its reward, credit, shaping and the law of its tokens."""
    rewards = at.bench.entry.rewards
    reward = term.resolved_reward(rewards)
    if getattr(reward, "state_only", False) and term.credit.estimator() == "pg_immediate":
        return "exactly zero: a quantity of the state alone (D.6)", "null", None
    reward_SV, name = _reward(at, reward, term, found)
    if reward_SV is None:
        own = f"{name}: what a token gets depends on its whole span"
        return nothing(at, own if reward.kind == "contrast" else f"reward {reward.kind}: depends on what is written later, no formula in the lab")
    unknown = [f"ratio {r.kind}" for r in term.ratio if r.kind not in RATIOS]
    unknown += [f"baseline {term.baseline.kind}"] if term.baseline.kind not in (*STATE_ONLY, *OWN_SHARE) else []
    if unknown:
        return nothing(at, *(f"{part}: no formula in the lab" for part in unknown))
    if term.routing.kind != "sampled":
        return _routed(at, term, reward_SV)
    return _credited(at, term, reward_SV, name)


def _reward(at: TermReferences, reward: Any, term: Any, found: Measured) -> tuple[Array | None, str]:
    if reward.kind == "contrast":
        if not all(at.has_law(scorer) for scorer in reward.of):
            return None, "a scorer with tokens of its own"
        part = reward.model_dump()
        own = part["of"].get("student", part["of"].get("behaviour", 0.0))
        plain = part["map"] == "log" and own == -1 and len(part["of"]) == 2
        return ref.contrast(part, {s: at.logp(s) for s in part["of"]}), "reverse KL" if plain else "contrast reward"
    if reward.per_sequence and isinstance(term.reward, str):
        values_SV = at.bench.text_values(term.reward)
        if values_SV is not None:
            return values_SV, reward.kind
    return texts.measured_reward(at, term, found), f"{reward.kind} as it is given"


def _credited(at: TermReferences, term: Any, reward_SV: Array, name: str) -> Expected:
    """Advantage by credit, then shapings, then the mean."""
    credit, world, kind = term.credit, at.bench.world, term.credit.kind
    later = [s for s in term.shaping if s.where == "advantage"]
    if kind not in CREDITS:
        return nothing(at, f"credit {kind}: no formula in the lab")
    if any(s.kind == "whiten" and getattr(s, "among", "batch") != "batch" for s in later):
        return nothing(at, "whitening within each response: no formula in the lab")
    if credit.estimator() == "pg_immediate" and term.baseline.kind not in OWN_SHARE:
        advantage_SV, against, says = reward_SV, "equal", f"(a) per-state {name}, frozen states"
        for shaping in later:
            if shaping.kind == "whiten":
                against = "parallel"
                continue
            bent = ref.shaped(advantage_SV, shaping.model_dump())
            if bent is None or term.baseline.kind != "none":
                return nothing(at, f"shaping {shaping.kind}: no formula in the lab")
            advantage_SV, says = bent, f"{says}, advantage after {shaping.kind}"
        return says, against, at.mean(advantage_SV)  # type: ignore[return-value]
    if not at.on_policy and (later or kind in ("group", "leave_one_out") or term.baseline.kind != "none"):
        return nothing(at, f"credit {kind} on a stream that others write")
    if bad := [s.kind for s in later if s.kind != "whiten"]:
        return nothing(at, f"shaping {bad[0]} of a return: no formula in the lab")
    if getattr(credit, "per_length", False):
        return nothing(at, "a return divided by its length: no formula in the lab")
    if kind in ("group", "leave_one_out"):
        return _group(at, term, reward_SV, name, "parallel" if later or kind == "group" else "equal")
    gamma, start = float(getattr(credit, "gamma", 1.0)), getattr(credit, "start", "this")
    steps = 1.0 if kind == "immediate" else float(credit.k) if kind == "k_step" else ref.MOST
    values_SV = ref.action_values(world, at.reached if at.on_policy else at.behaviour, reward_SV, gamma, steps)
    if start == "next":
        values_SV = values_SV - reward_SV
    whole = _whole(at, term, name)
    if gamma < 1.0 or steps < world.horizon or start == "next":
        whole = f"the {credit.estimator()} field of the {name}, the gradient of no scalar (D.5)"
    wanted = at.mean(values_SV)
    if term.baseline.kind in OWN_SHARE:
        share = 1.0 if term.baseline.kind == "sequence_mean" else at.law.outcomes / len(at.law)
        whole += f", less {share:g} of each answer's own mean"
        wanted = wanted + share * texts.own_share(at.law, at.p, texts.credited(at.law, reward_SV, gamma, steps, start))
    return whole, "parallel" if later else "equal", wanted


def _whole(at: TermReferences, term: Any, name: str) -> str:
    """What the whole return's gradient is."""
    if name in ("reverse KL", "contrast reward"):
        return f"(b) sequence {name}"
    if name.endswith("as it is given"):
        return f"the whole text's {name}, held fixed"
    return "(c) the expected reward" if name == "verifier" else f"(c) the expected reward, {name}"


def _group(at: TermReferences, term: Any, reward_SV: Array, name: str, against: Against) -> Expected:
    wanted = ref.field(at.weight, at.p, ref.action_values(at.bench.world, at.reached, reward_SV))
    whole, two = _whole(at, term, name), len(np.unique(_ends(at, reward_SV))) <= 2
    if getattr(term.credit, "per_length", False):
        return nothing(at, "group credit of an answer's mean reward: no formula in the lab")
    if term.credit.kind == "group" and term.credit.divide == "std" and not (two and whole.startswith("(c)")):
        return nothing(at, f"{whole} only where rewards have two values: the group's standard deviation weighs groups differently")
    factor = ", up to a factor" if against == "parallel" else ""
    return f"{whole}{factor}", against, wanted


def _ends(at: TermReferences, reward_SV: Array) -> Array:
    """The rewards of texts, from those of their last tokens."""
    children = at.bench.world.children
    return np.asarray(reward_SV[children < 0])


def _routed(at: TermReferences, term: Any, reward_SV: Array) -> Expected:
    """The mean of the D.10 rule: a positive advantage as sampled, a negative one moved from the token to rho."""
    kinds = ("teacher", "teacher_topk", "counterfactual")
    if term.routing.kind == "student_topk" and not (term.shaping or term.ratio) and term.baseline.kind == "none":
        top_SV = np.argsort(np.argsort(-at.p, axis=-1, kind="stable"), axis=-1) < term.routing.k
        rho_SV = np.where(top_SV, at.p, 0.0)
        rho_SV = rho_SV / rho_SV.sum(-1, keepdims=True)
        pushed_SV = rho_SV * reward_SV
        says = "(a) of the reverse KL on the student's k best with its log-ratio held fixed, over their mass (D.11)"
        return says, "equal", at.weight[:, None] * (at.p * pushed_SV.sum(-1, keepdims=True) - pushed_SV)
    if term.routing.kind not in kinds or term.credit.kind != "immediate" or term.credit.estimator() != "pg_immediate" or term.shaping or term.ratio:
        return nothing(at, f"routing {term.routing.kind} with credit {term.credit.kind}: no formula in the lab")
    q_SV = np.exp(at.logp(term.routing.teacher))
    advantage_SV = reward_SV + (ref.state_kl(at.p, q_SV)[:, None] if term.baseline.kind == "kl" else 0.0)
    if term.baseline.kind == "batch_mean":
        return nothing(at, "a batch mean decides which tokens are redirected")
    wanted = ref.routed_field(at.counts, at.p, q_SV, advantage_SV, term.routing.model_dump())
    return f"the mean of the D.10 rule with routing {term.routing.kind}, not a reverse KL's", "equal", wanted
