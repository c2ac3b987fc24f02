"""The one extra forward pass of a diagnosis: which teacher is the reference, and the columns of each token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.components.supports.kinds import OneSide, TopK
from zoo.components.teachers import Carried, SelfTeacher
from zoo.components.terms.base import TokenTerm, unique
from zoo.harness.bank import LABELS, Bank, ScorerKey
from zoo.harness.cuts import chunks_of
from zoo.harness.diagnose_tokens import student_columns, teacher_columns
from zoo.harness.models import LoadedPair
from zoo.harness.scoring import Scored, chunk_view, hidden_states
from zoo.method import Method, Prepared
from zoo.statistics import Kl
from zoo.views import LogitView

REFERENCE = "diagnosis"  # the pair's teacher where the entry has none of its own
STUDENT = "student"


@dataclass(frozen=True)
class Scorers:
    """Who is compared with the student on a stream: the entry's own teacher, and the reference (the same, unless it is the student itself)."""

    own: str | None
    reference: str | None
    bank: Bank


def scorers_of(method: Method, bank: Bank, stream: str, plain: str | None) -> Scorers:
    """The entry's own teacher with a law over the student's vocabulary, and the reference: that teacher, or the pair's teacher `plain` where the
    entry has none or is its own. Nothing that they read is charged."""
    bare = replace(bank, scored=Counter())
    terms = [term for _, term in method.terms if stream in term.streams()]
    read = unique(s for term in terms for s in (*term.update_scorers(), *term.scorers(method.entry.rewards)))
    usable = [name for name in read if name in method.entry.teachers and all(_has_law(method, bank, part) for part in method.with_target_inputs([name]))]
    others = [name for name in usable if not isinstance(method.entry.teachers[name], SelfTeacher)]
    own = next(iter([*others, *usable]), None)
    if others:
        return Scorers(own, own, bare)
    return replace(plain_scorers(bank, plain), own=own)


def plain_scorers(bank: Bank, plain: str | None) -> Scorers:
    """The pair's teacher `plain` alone, who sees the prompts as they are, whatever the entry's own teachers see or teach."""
    bare = replace(bank, scored=Counter())
    if plain is None:
        return Scorers(None, None, bare)
    models = {**bare.models, plain: bare.pair.teachers[plain]}
    return Scorers(None, REFERENCE, replace(bare, keys={**bare.keys, REFERENCE: ScorerKey(plain)}, models=models))


def plain_teacher(pair: LoadedPair) -> str | None:
    """The pair's first teacher with the student's vocabulary."""
    mine = pair.tokenizer.get_vocab()
    return next((name for name in pair.teachers if name not in pair.tokenizers or pair.tokenizers[name].get_vocab() == mine), None)


def _has_law(method: Method, bank: Bank, name: str) -> bool:
    key = bank.keys.get(name)
    known = key is not None and key.alignment is None and not key.weights.startswith(LABELS)
    return known and name not in bank.endpoints and not isinstance(method.entry.teachers.get(name), Carried)


@torch.no_grad()
def token_columns(method: Method, scorers: Scorers, stream: str, scored: Scored, parts: Sequence[Prepared], share: float) -> dict[str, Any]:
    """All columns of the supervised tokens of some sequences, in the order of the flattened mask. `share` is what a token weighs in a plain mean over
    the step's tokens of the stream, by which weights are divided."""
    rollout, bank = scored.context.rollout, scorers.bank
    mask_BT = rollout.mask_BT
    names = [STUDENT, *(name for name in (scorers.own, scorers.reference) if name is not None)]
    wanted = [name for name in method.with_target_inputs(names) if name not in scored.hidden]
    hidden = {**scored.hidden, **hidden_states(bank, wanted, rollout)}
    part = _main(method, parts)
    token_N, stop_ids = rollout.response_BT[mask_BT], _stops(bank)
    pieces: list[dict[str, Tensor]] = []
    for chunk in chunks_of(len(token_N), max(bank.chunk_tokens // 2, 1), hidden):
        view = chunk_view(method, bank, token_N[chunk], {name: states[chunk] for name, states in hidden.items()})
        found = student_columns(view, stop_ids)
        if scorers.reference is not None:
            found |= teacher_columns(view, scorers.reference, stop_ids, _support(method, stream))
        if scorers.own is not None:
            found["kl_own"] = found["kl"] if scorers.own == scorers.reference else Kl(STUDENT, scorers.own).compute(view)
        if part is not None:
            found |= _signal(method, view, part, mask_BT, chunk)
        pieces.append(found)
    columns: dict[str, Any] = {name: _numpy(torch.cat([piece[name] for piece in pieces])) for name in pieces[0]}
    kind = None if part is None else "advantage" if "advantage" in part.columns else "loss"
    return {
        **_places(scored),
        **columns,
        "support_own": np.full(len(token_N), _support(method, stream) is not None),
        "weight": np.full(len(token_N), np.nan, np.float32) if part is None else _numpy(part.scale_BT[mask_BT] / share),
        "signal": np.full(len(token_N), kind, dtype=object),
    }


def _places(scored: Scored) -> dict[str, Any]:
    """Where each token stands, which it is, and how it was written."""
    rollout = scored.context.rollout
    mask_BT = rollout.mask_BT.to("cpu")
    row_N, position_N = (each.numpy() for each in mask_BT.nonzero(as_tuple=True))
    return {
        "row": row_N,
        "position": position_N.astype(np.int32),
        "token": rollout.response_BT.to("cpu")[mask_BT].numpy().astype(np.int32),
        "author": rollout.author_BT.to("cpu")[mask_BT].numpy().astype(np.int8),
        "logp_behaviour": _numpy(rollout.behaviour_logp_BT[rollout.mask_BT]),
        "logp_sampled": _numpy(rollout.student_logp_BT[rollout.mask_BT]),
    }


def _main(method: Method, parts: Sequence[Prepared]) -> Prepared | None:
    """The part whose signal is logged: the first with an advantage, else the first that is no anchor, else the first."""
    ranked = sorted(parts, key=lambda p: ("advantage" not in p.columns, method.entry.objective[p.term].role == "anchor"))
    return next(iter(ranked), None)


def _signal(method: Method, view: LogitView, part: Prepared, mask_BT: Tensor, chunk: slice) -> Mapping[str, Tensor]:
    """The raw signal of each token: its advantage, or its loss before weights; nothing for terms about whole sequences."""
    term = method.entry.objective[part.term]
    columns_N = {name: column_BT[mask_BT][chunk] for name, column_BT in part.columns.items()}
    if "advantage" in columns_N:
        return {"value": columns_N["advantage"]}
    if part.value is not None or not isinstance(term, TokenTerm):
        return {}
    return {"value": term.token_loss(view, columns_N)}


def _support(method: Method, stream: str) -> Any:
    """The set of tokens that the entry compares, where it is read off the two distributions."""
    found = (getattr(term, "support", None) for _, term in method.terms if stream in term.streams())
    return next((support for support in found if isinstance(support, TopK | OneSide)), None)


def _stops(bank: Bank) -> Tensor:
    return torch.tensor([i for i in bank.pair.stop_ids if i < bank.pair.vocab_size], dtype=torch.long, device=bank.device)


def _numpy(value: Tensor) -> Any:
    return value.detach().float().cpu().numpy()
