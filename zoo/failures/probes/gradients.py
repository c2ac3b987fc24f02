"""Gradients of the student beside a run, and teachers against each other (FM27).

They are taken with `torch.autograd.grad` over parameters chosen once, so that no gradient is left behind: an expectation that holds for the whole
gradient holds for each coordinate, and a few million of them tell as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from zoo.components.rollouts import Replay, in_order
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.scene import Scene
from zoo.harness.bank import Bank
from zoo.harness.scoring import chunk_view, hidden_states
from zoo.method import Method
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


def flat(loss: Tensor, parameters: Sequence[nn.Parameter], keep: bool = False) -> Tensor:
    """A loss's gradient as one vector, without touching any `.grad`; 0 where a parameter takes no part."""
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
        return flat(kl_NV(view.logp_NV("student"), view.logp_NV(teacher).detach()).mean(), parameters)


def _crossed(halves: Mapping[str, Sequence[Tensor]], left: str, right: str) -> float:
    cosine = partial(torch.nn.functional.cosine_similarity, dim=0)
    return float(torch.stack([cosine(halves[left][0], halves[right][1]), cosine(halves[left][1], halves[right][0])]).mean())
