"""Leakage control: what a scorer with a context knows from *this* prompt's context, and not from any context of the same shape.

For each scorer with a context, on the written tokens y of a stream, in nats per token:

    own      = mean of log q(y | own context) - log q(y | no context)
    shuffled = mean of log q(y | another prompt's context) - log q(y | no context)

A teacher that only takes up the form of its context has the same of both; what `own` has beyond `shuffled` came through the context itself, a
solution that is copied say. (The privileged-information surveys warn of it; the control is the usual permutation of a covariate.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zoo.components.base import ABSENT, Context
from zoo.harness.bank import LABELS, MIX, Bank, ScorerKey
from zoo.harness.scoring import Scored, columns_of, hidden_states
from zoo.method import Method
from zoo.statistics import LogProb
from zoo.tensors import Prompt, Rollout


def leakage(method: Method, bank: Bank, scored: Mapping[str, Scored], total: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """The columns `leak.SCORER.own.STREAM` and `leak.SCORER.shuffled.STREAM`; a scorer without a context has none. Sequences that have no
    context, or no other prompt beside them, are left out; NaN where none is left."""
    found: dict[str, float] = {}
    for stream, part in scored.items():
        rollout = part.context.rollout
        for name in _with_context(method, bank, stream):
            context = bank.keys[name].context
            assert context is not None
            swapped, kept_B = shuffled(rollout, context)
            logp = [_written(method, bank, name, one) for one in (rollout, swapped)]
            plain_BT = _plain(method, bank, name, rollout)
            mask_BT = rollout.mask_BT & kept_B[:, None]
            count = total(mask_BT.sum().double())
            for label, logp_BT in zip(("own", "shuffled"), logp, strict=True):
                summed = total(torch.where(mask_BT, logp_BT - plain_BT, torch.zeros_like(plain_BT)).double().sum())
                found[f"leak.{name}.{label}.{stream}"] = float(summed / count) if float(count) else float("nan")
    return found


def shuffled(rollout: Rollout, context: Context) -> tuple[Rollout, Tensor]:
    """The rollout with each sequence's context taken from the next sequence that answers another prompt and has one, cyclically; and which
    sequences took part (B,)."""
    keys = [*context.fields, *(context.key(part) for part in context.made)]
    usable = [all(prompt.fields.get(key, ABSENT) != ABSENT for key in keys) for prompt in rollout.prompts]
    prompts, kept = list[Prompt](), list[bool]()
    for row, prompt in enumerate(rollout.prompts):
        donor = _donor(rollout.prompts, usable, row) if usable[row] else None
        kept.append(donor is not None)
        prompts.append(prompt if donor is None else replace(prompt, fields={**prompt.fields, **{key: donor.fields[key] for key in keys}}))
    return replace(rollout, prompts=tuple(prompts)), torch.tensor(kept, device=rollout.mask_BT.device)


def _donor(prompts: Sequence[Prompt], usable: Sequence[bool], row: int) -> Prompt | None:
    order = [*range(row + 1, len(prompts)), *range(row)]
    return next((prompts[i] for i in order if usable[i] and prompts[i].text != prompts[row].text), None)


def _with_context(method: Method, bank: Bank, stream: str) -> list[str]:
    """Scorers of a stream's terms that read it in a context of whole sequences, in the student's tokens."""
    read = method.with_target_inputs(s for _, t in method.terms if stream in t.streams() for s in t.scorers(method.entry.rewards))
    keys = {name: bank.keys[name] for name in read if name in bank.keys}
    return [
        name for name, key in keys.items()
        if key.context is not None and (key.context.fields or key.context.made) and key.context.per == "sequence" and key.alignment is None
        and not key.weights.startswith((MIX, LABELS))
    ]  # fmt: skip


def _written(method: Method, bank: Bank, name: str, rollout: Rollout) -> Tensor:
    """Log-probabilities (B, T) of the written tokens, before any target transform."""
    bare = replace(bank, scored=type(bank.scored)())  # a diagnostic is charged to nobody
    [logp_BT] = columns_of((LogProb(name),), _untransformed(method, name), bare, rollout, hidden_states(bare, [name], rollout)).values()
    return logp_BT


def _plain(method: Method, bank: Bank, name: str, rollout: Rollout) -> Tensor:
    """The same of the scorer without its context."""
    keys = {**bank.keys, name: ScorerKey(bank.keys[name].weights)}
    return _written(method, replace(bank, keys=keys), name, rollout)


def _untransformed(method: Method, name: str) -> Method:
    teachers = {**method.entry.teachers}
    if name in teachers:
        teachers[name] = teachers[name].model_copy(update={"target": None})
    return Method(method.entry.model_copy(update={"teachers": teachers}))
