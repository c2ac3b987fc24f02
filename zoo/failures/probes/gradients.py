"""Gradients of the student beside a run: the policy gradient against the divergence itself (FM06), and teachers against each other (FM27).

Both are taken with `torch.autograd.grad` over parameters chosen once, so that no gradient is left behind: an expectation that holds for the whole
gradient holds for each coordinate, and a few million of them tell as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from zoo.components.credits import Immediate
from zoo.components.rollouts import Replay, in_order
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.entry import MethodEntry
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.scene import Scene
from zoo.harness.bank import Bank
from zoo.harness.scoring import Scored, chunk_view, hidden_states, score
from zoo.method import Method, Prepared
from zoo.statistics import kl_NV
from zoo.tensors import Rollout

LARGEST = 4_000_000  # coordinates that are looked at


def chosen(model: Any) -> list[nn.Parameter]:
    """Trained parameters, spread over the depth, of `LARGEST` coordinates at most (one tensor at least)."""
    every = sorted((p for p in model.parameters() if p.requires_grad), key=lambda p: p.numel())
    if sum(p.numel() for p in every) <= LARGEST:
        return every
    found, size = list[nn.Parameter](), 0
    for p in every:
        if found and size + p.numel() > LARGEST:
            break
        found.append(p)
        size += p.numel()
    return found


def streams_of(scene: Scene, method: Method) -> dict[str, Rollout]:
    """One batch of every stream of the method, written with the probe's own noise and charged to nobody."""
    engine = scene.engine
    if engine is None or scene.bank is None:
        raise NotMeasured("a method is needed, and there is none")
    if any(isinstance(stream, Replay) for stream in method.streams.values()):
        raise NotMeasured("a stream is replayed, and a probe must not write into its buffer")
    if scene.bank.endpoints:
        raise NotMeasured("an endpoint is asked, which costs")
    before, wrote = engine.generated_tokens, engine.wrote.copy()
    found: dict[str, Rollout] = {}
    for name, stream in in_order(method.streams):
        prompts = scene.prompts("train", max(scene.sizes.gradient // stream.group, scene.sizes.micro_batches))
        found[name] = engine.rollout(
            stream, prompts, max_new_tokens=scene.new_tokens, seed_axes=(*scene.axes, "gradient", name), progress=scene.progress, sources=found
        ).to(scene.device)  # fmt: skip
    engine.generated_tokens, engine.wrote = before, wrote
    return found


def uncharged(bank: Bank) -> Bank:
    """The same models with accounts of their own."""
    return replace(bank, scored=type(bank.scored)(), explored=type(bank.explored)())


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
    """<g_PG, g_dir> / |g_dir|^2 with its standard error over micro-batches (delete-one jackknife); NaN where g_dir is 0."""

    value: float
    stderr: float


def slope_of(dots_MM: Tensor, squares_MM: Tensor) -> Slope:
    """The slope from the Gram matrices of M micro-batches' gradients: <g_PG_i, g_dir_j> and <g_dir_i, g_dir_j>.

    value = sum dots / sum squares. Leaving out micro-batch m leaves out its row and column in both.
    """
    dots, squares, count = dots_MM.double(), squares_MM.double(), len(dots_MM)
    if float(squares.sum()) <= 0:
        return Slope(float("nan"), float("nan"))
    left_M = torch.stack([_without(dots, m) / _without(squares, m) for m in range(count)])
    variance = (count - 1) / count * (left_M - left_M.mean()).square().sum()
    return Slope(float(dots.sum() / squares.sum()), float(variance.sqrt()))


def _without(gram_MM: Tensor, m: int) -> Tensor:
    return gram_MM.sum() - gram_MM[m].sum() - gram_MM[:, m].sum() + gram_MM[m, m]


def slope(scene: Scene) -> pd.DataFrame:
    """One row for each policy-gradient term whose reward reads a teacher: `term`, `slope`, `stderr`, `cosine` of the two gradients, `tokens`,
    `static` (its advantage ignores the written token). The direct gradient is that of KL(student || teacher) with the term's own gates, weights
    and denominator, so an unshaped immediate log-ratio has slope 1, and a divergence used as an advantage 0."""
    if scene.entry is None or scene.bank is None:
        raise NotMeasured("the method has no policy-gradient term here")
    method, bank = Method(scene.entry, scene.progress), uncharged(scene.bank)
    static, teacher_of = state_only(scene.entry), {i: _teacher(t, scene) for i, t in method.terms if isinstance(t, PolicyGradientTerm)}
    wanted = {i: name for i, name in teacher_of.items() if name is not None}
    if not wanted:
        raise NotMeasured("no policy-gradient term of the method reads a teacher's probabilities")
    streams = streams_of(scene, method)
    scored = {name: score(method, bank, name, streams[name], _alone, 0, streams) for name in streams if name in method.learned}
    parts = [part for part in method.prepare({name: one.context for name, one in scored.items()}) if part.term in wanted]
    rows = [_row(scene, method, bank, scored[part.stream], part, wanted[part.term]) for part in parts]
    return pd.DataFrame([{**row, "static": row["term"] in static} for row in rows])


def _alone(value: Tensor) -> Tensor:
    return value


def _teacher(term: PolicyGradientTerm, scene: Scene) -> str | None:
    """The scorer that the term's reward compares the student with."""
    assert scene.entry is not None and scene.bank is not None
    names = [name for each in term.advantages() for name in each.resolved_reward(scene.entry.rewards).scorers()]
    named = [n for n in names if n in scene.entry.teachers and n in scene.bank.keys and scene.bank.keys[n].alignment is None]
    return next(iter(named), None)


def _row(scene: Scene, method: Method, bank: Bank, scored: Scored, part: Prepared, teacher: str) -> dict[str, Any]:
    """The slope of one term on one stream."""
    parameters, rollout = chosen(bank.models["student"]), scored.context.rollout
    count = min(scene.sizes.micro_batches, len(rollout))
    both: list[tuple[Tensor, Tensor]] = []
    for m in range(count):
        rows = [i for i in range(len(rollout)) if i * count // len(rollout) == m and bool(rollout.mask_BT[i].any())]
        if rows:
            both.append(_pair(method, bank, scored.rows(rows), part.rows(rows), teacher, parameters))
    policy_MP, direct_MP = (torch.stack(side) for side in zip(*both, strict=True))
    found = slope_of(policy_MP @ direct_MP.T, direct_MP @ direct_MP.T)
    whole = policy_MP.sum(0), direct_MP.sum(0)
    cosine = float(torch.nn.functional.cosine_similarity(*whole, dim=0))
    return {"term": part.term, "stream": part.stream, "slope": found.value, "stderr": found.stderr, "cosine": cosine, "tokens": rollout.tokens,
            "micro_batches": len(both)}  # fmt: skip


def _pair(method: Method, bank: Bank, scored: Scored, part: Prepared, teacher: str, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Both gradients of one micro-batch, flattened, from one forward pass."""
    rollout = scored.context.rollout
    states = hidden_states(bank, [teacher], rollout)
    place_N = rollout.mask_BT.flatten().nonzero()[:, 0]
    with torch.enable_grad():
        with bank.precision():
            hidden_NH = bank.hidden("student", rollout)
        view = chunk_view(method, bank, rollout.response_BT[rollout.mask_BT], {**scored.hidden, **states, "student": hidden_NH})
        policy, _ = method.chunk_loss([part], view, lambda value_BT: value_BT.flatten()[place_N])
        direct = (part.scale_BT.flatten()[place_N] * kl_NV(view.logp_NV("student"), view.logp_NV(teacher).detach())).sum()
        return _flat(policy, parameters, keep=True), _flat(direct, parameters)


def _flat(loss: Tensor, parameters: Sequence[nn.Parameter], keep: bool = False) -> Tensor:
    gradients = torch.autograd.grad(loss, list(parameters), retain_graph=keep, allow_unused=True)
    return torch.cat(
        [torch.zeros(p.numel(), device=p.device) if g is None else g.detach().flatten().float() for g, p in zip(gradients, parameters, strict=True)]
    )


def conflict(scene: Scene) -> pd.DataFrame:
    """One row for each two teachers, and for each teacher with itself: `left`, `right`, `cosine` between the gradients of mean KL(student ||
    teacher) of one on even and of the other on odd answers (and the other way round), `answers`. Each teacher is compared on the answers that it
    is asked about; the cosine with itself is what chance leaves of 1."""
    if scene.entry is None or scene.bank is None:
        raise NotMeasured("the method has one teacher, or none")
    bank, method = uncharged(scene.bank), Method(scene.entry, scene.progress)
    names = _several(scene, bank)
    streams = streams_of(scene, method)
    rollout = next(rollout for name, rollout in streams.items() if name in method.learned)
    parameters, halves = chosen(bank.models["student"]), dict[str, list[Tensor]]()
    for name in names:
        asked = sorted(bank.routes.rows(name, rollout))
        asked = [i for i in asked if bool(rollout.mask_BT[i].any())]
        if len(asked) >= 4:
            halves[name] = [_direct(method, bank, rollout.rows(asked[k::2]), name, parameters) for k in (0, 1)]
    if len(halves) < 2:
        raise NotMeasured("fewer than two teachers are asked about the probe's answers")
    pairs = [*((name, name) for name in halves), *combinations(halves, 2)]
    return pd.DataFrame([{"left": a, "right": b, "cosine": _crossed(halves, a, b), "answers": len(rollout)} for a, b in pairs])


def _several(scene: Scene, bank: Bank) -> list[str]:
    """Teachers with different weights or contexts that read the student's tokens."""
    assert scene.entry is not None
    found: dict[Any, str] = {}
    for name in scene.entry.teachers:
        key = bank.keys.get(name)
        if key is None or key.alignment is not None or key.weights not in bank.models or key.weights == "student":
            continue
        if key.context is None or not key.context.made:
            found.setdefault(key, name)
    if len(found) < 2:
        raise NotMeasured("the method has one teacher, or none")
    return list(found.values())


def _direct(method: Method, bank: Bank, rollout: Rollout, teacher: str, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gradient of the mean KL(student || teacher) over a batch's tokens."""
    states = hidden_states(bank, [teacher], rollout)
    with torch.enable_grad():
        with bank.precision():
            hidden_NH = bank.hidden("student", rollout)
        view = chunk_view(method, bank, rollout.response_BT[rollout.mask_BT], {**states, "student": hidden_NH})
        return _flat(kl_NV(view.logp_NV("student"), view.logp_NV(teacher).detach()).mean(), parameters)


def _crossed(halves: Mapping[str, Sequence[Tensor]], left: str, right: str) -> float:
    cosine = partial(torch.nn.functional.cosine_similarity, dim=0)
    return float(torch.stack([cosine(halves[left][0], halves[right][1]), cosine(halves[left][1], halves[right][0])]).mean())
