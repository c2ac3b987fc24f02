"""A policy gradient against the gradient of the divergence itself (FM06).

    slope = <g_PG, g_dir> / |g_dir|^2

on the same states: g_dir is the gradient of sum_t scale_t KL(p_t || q_t) with the term's own gates, weights and denominator (scale), g_PG the term's.
The written token's noise is most of what a few thousand sampled tokens show, since log-ratios have heavy tails, so g_PG is taken in expectation: in
each state tokens are drawn again, R at even quantiles of the student's law, and all columns that the term reads are computed for them. An
immediate log-ratio has slope 1; a function of the state alone has 0 (catalogue D.6 and 5.4).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from zoo.components.credits import Immediate
from zoo.components.rollouts.sampling import inverse_cdf
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.entry import MethodEntry
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.gradients import chosen, flat, streams_of, uncharged
from zoo.failures.probes.scene import Scene
from zoo.harness.bank import Bank
from zoo.harness.scoring import Scored, chunk_view, hidden_states, score
from zoo.method import Method, annotate
from zoo.seeds import seed_for, uniforms
from zoo.statistics import Explored, LogProb, Statistic, TokenContext, kl_NV
from zoo.views import LogitView

DRAWS = 16


def state_only(entry: MethodEntry) -> list[int]:
    """The static check: terms whose whole advantage is a reward that ignores the written token, under immediate credit. A function of the state
    is a baseline, so its expected gradient is 0 (D.6)."""
    found = []
    for i, term in enumerate(entry.objective):
        if isinstance(term, PolicyGradientTerm) and all(
            each.resolved_reward(entry.rewards).state_only and isinstance(each.credit, Immediate) for each in term.advantages()
        ):
            found.append(i)
    return found


@dataclass(frozen=True)
class Slope:
    """The slope with its standard error over micro-batches (delete-one jackknife); NaN where g_dir is 0."""

    value: float
    stderr: float


def slope_of(dots_MM: Tensor, squares_MM: Tensor) -> Slope:
    """The slope from the Gram matrices of M micro-batches' gradients: <g_PG_i, g_dir_j> and <g_dir_i, g_dir_j>.

    value = sum dots / sum squares. Leaving out micro-batch m leaves out its row and column in both.
    """
    dots, squares, count = dots_MM.double(), squares_MM.double(), len(dots_MM)
    if float(squares.sum()) <= 0 or count < 2:
        return Slope(float("nan"), float("nan"))
    left_M = torch.stack([_without(dots, m) / _without(squares, m) for m in range(count)])
    variance = (count - 1) / count * (left_M - left_M.mean()).square().sum()
    return Slope(float(dots.sum() / squares.sum()), float(variance.sqrt()))


def _without(gram_MM: Tensor, m: int) -> Tensor:
    return gram_MM.sum() - gram_MM[m].sum() - gram_MM[:, m].sum() + gram_MM[m, m]


def slope(scene: Scene) -> pd.DataFrame:
    """One row for each policy-gradient term whose reward reads a teacher: `term`, `stream`, `slope`, `stderr`, `cosine` of the two gradients,
    `tokens`, `static` (its advantage ignores the written token)."""
    if scene.entry is None or scene.bank is None:
        raise NotMeasured("a method is needed, and there is none")
    method, bank = Method(scene.entry, scene.progress), uncharged(scene.bank)
    static, wanted = state_only(scene.entry), {i: name for i, term in method.terms if (name := _teacher(term, scene)) is not None}
    if not wanted:
        raise NotMeasured("no policy-gradient term of the method reads a teacher's probabilities")
    streams = streams_of(scene, method)
    scored = {name: score(method, bank, name, streams[name], _alone, 0, streams) for name in streams if name in method.learned}
    rows = []
    for index, teacher in wanted.items():
        alone = copy.copy(method)
        alone.terms = tuple(each for each in method.terms if each[0] == index)
        name = method.entry.objective[index].on
        rows.append({"term": index, "stream": name, **_measured(scene, alone, bank, scored, name, teacher), "static": index in static})
    return pd.DataFrame(rows)


def _alone(value: Tensor) -> Tensor:
    return value


def _teacher(term: Any, scene: Scene) -> str | None:
    """The scorer that a policy-gradient term's reward compares the student with."""
    assert scene.entry is not None and scene.bank is not None
    if not isinstance(term, PolicyGradientTerm):
        return None
    names = [name for each in term.advantages() for name in each.resolved_reward(scene.entry.rewards).scorers()]
    named = [n for n in names if n in scene.entry.teachers and n in scene.bank.keys and scene.bank.keys[n].alignment is None]
    return next(iter(named), None)


def _measured(scene: Scene, method: Method, bank: Bank, scored: dict[str, Scored], name: str, teacher: str) -> dict[str, Any]:
    """The slope of the one term of a method on one stream; groups of a prompt stay together."""
    parameters, rollout = chosen(bank.models["student"]), scored[name].context.rollout
    groups = sorted(set(rollout.group_B.tolist()))
    count = min(scene.sizes.micro_batches, len(groups))
    both: list[tuple[Tensor, Tensor]] = []
    for m in range(count):
        mine = {group for k, group in enumerate(groups) if k * count // len(groups) == m}
        rows = [i for i, group in enumerate(rollout.group_B.tolist()) if group in mine and bool(rollout.mask_BT[i].any())]
        if rows:
            others = {other: part.context for other, part in scored.items() if other != name}
            both.append(_pair(method, bank, scored[name].rows(rows), others, name, teacher, parameters, seed_for(*scene.axes, "slope", m)))
    policy_MP, direct_MP = (torch.stack(side) for side in zip(*both, strict=True))
    found = slope_of(policy_MP @ direct_MP.T, direct_MP @ direct_MP.T)
    cosine = float(torch.nn.functional.cosine_similarity(policy_MP.sum(0), direct_MP.sum(0), dim=0))
    return {"slope": found.value, "stderr": found.stderr, "cosine": cosine, "tokens": rollout.tokens, "micro_batches": len(both)}


def _pair(
    method: Method,
    bank: Bank,
    scored: Scored,
    others: dict[str, TokenContext],
    name: str,
    teacher: str,
    parameters: Sequence[nn.Parameter],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Both gradients of one micro-batch, flattened, from one forward pass."""
    rollout, statistics = scored.context.rollout, [s for s in method.statistics(name) if not isinstance(s, Explored)]
    read = [n for n in dict.fromkeys([teacher, *method.annotation_scorers(name), *method.update_scorers(name)]) if n != "student"]
    states, place_N = hidden_states(bank, read, rollout), rollout.mask_BT.flatten().nonzero()[:, 0]
    with torch.enable_grad():
        with bank.precision():
            hidden_NH = bank.hidden("student", rollout)
        view = chunk_view(method, bank, rollout.response_BT[rollout.mask_BT], {**scored.hidden, **states, "student": hidden_NH})
        kl_N = kl_NV(view.logp_NV("student"), view.logp_NV(teacher).detach())
        start_N = uniforms([seed], len(place_N))[0].to(kl_N.device)
        policy = direct = torch.zeros((), device=kl_N.device)
        for draw in range(DRAWS):
            # The token at an even quantile of the student's law, from a random start of this state's own.
            token_N = inverse_cdf(view.logp_NV("student").detach(), (draw + start_N) / DRAWS)
            drawn = _drawn(view, token_N)
            context = _rewritten(scored.context, drawn, statistics)
            for part in method.prepare({**others, name: context}):
                if part.stream == name:
                    policy = policy + method.chunk_loss([part], drawn, lambda value_BT: value_BT.flatten()[place_N])[0] / DRAWS
                    direct = direct + (part.scale_BT.flatten()[place_N] * kl_N).sum() / DRAWS
        if not policy.requires_grad or not direct.requires_grad:
            raise NotMeasured("the term acts on none of the probe's tokens")
        return flat(policy, parameters, keep=True), flat(direct, parameters)


def _drawn(view: LogitView, token_N: Tensor) -> LogitView:
    """The same distributions with other written tokens."""
    other = copy.copy(view)  # shares what is computed, not what was written
    other.token_N = token_N
    return other


def _rewritten(context: TokenContext, view: LogitView, statistics: Sequence[Statistic]) -> TokenContext:
    """A batch's context as if other tokens had been written in its states; rewards of whole answers stay."""
    rollout, columns = context.rollout, dict[Statistic, Tensor]()
    with torch.no_grad():
        annotate(statistics, view, rollout.mask_BT, slice(None), columns)
        token_BT, logp_BT = rollout.response_BT.clone(), torch.zeros_like(rollout.student_logp_BT)
        token_BT[rollout.mask_BT] = view.token_N
        logp_BT[rollout.mask_BT] = LogProb("student").compute(view).to(logp_BT.dtype)
    rewritten = replace(rollout, response_BT=token_BT, student_logp_BT=logp_BT, behaviour_logp_BT=logp_BT)
    return replace(context, rollout=rewritten, columns={**context.columns, **columns})
