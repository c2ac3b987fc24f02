"""Scoring: what each scorer thinks of the tokens of a stream, and the student's gradient, in chunks of tokens.

Backbones run on micro-batches of like length; heads and everything after them on chunks of supervised tokens, so no
`tokens x vocabulary` tensor is ever held whole. The head's part of the backward pass runs chunk by chunk as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.components.rewards import Answered, SequenceReward, TurnJudge
from zoo.components.targets import with_inputs
from zoo.harness.alignment import Foreign, paired
from zoo.harness.asked import Asking
from zoo.harness.bank import LABELS, MIX, Bank, ScorerKey, bank_for, response_hidden
from zoo.harness.bridges import crossings_of, fits
from zoo.harness.contexts import TaskJudge, absent, made_prompts
from zoo.harness.cuts import Supervised, chunks, chunks_of, micro_batches, sent
from zoo.harness.explore import explored
from zoo.harness.heads import plain_head
from zoo.harness.kept_states import comes_again, keys_of, remember
from zoo.harness.labels import labels_N, point_mass
from zoo.harness.models import LoadedPair
from zoo.harness.turn_judges import judged_turns
from zoo.harness.turns import rewards_of_turns
from zoo.method import Method, Prepared, annotate_at
from zoo.statistics import LogProb, Statistic, TokenContext
from zoo.tensors import Rollout
from zoo.views import LogitView

UNLEARNED = 2  # how many times as many tokens a pass without gradient takes at once: it keeps no layer's activations

__all__ = ["Bank", "Scored", "ScorerKey", "backward", "bank_for", "hidden_states", "refreshed", "response_hidden", "score"]


@dataclass
class Scored:
    """A stream's batch with its columns, and the hidden states without gradient that the update will read again, as of `version`
    optimizer steps."""

    context: TokenContext
    hidden: dict[str, Any]
    version: int = 0

    def rows(self, index: Sequence[int]) -> Scored:
        """The same for some of the sequences."""
        rollout, at = self.context.rollout, torch.as_tensor(list(index), dtype=torch.long, device=self.context.rollout.mask_BT.device)
        flat = Supervised.of(rollout).rows_of(index)
        context = TokenContext(
            rollout.rows(index),
            {s: column[at] for s, column in self.context.columns.items()},
            {name: reward[at] for name, reward in self.context.rewards.items()},
            self.context.total,
            {scorer: absent_B[at] for scorer, absent_B in self.context.absent.items()},
            {name: reward_BT[at] for name, reward_BT in self.context.turn_rewards.items()},
        )
        return Scored(context, {name: h[flat.to(h.device)] for name, h in self.hidden.items()}, self.version)


@torch.no_grad()
def score(
    method: Method,
    bank: Bank,
    stream: str,
    rollout: Rollout,
    total: Callable[[Tensor], Tensor],
    version: int = 0,
    others: Mapping[str, Rollout] | None = None,
) -> Scored:
    """Rewards, columns and hidden states of one stream, without gradient, after `version` optimizer steps. `others` are the streams
    whose texts the scorers' contexts may show."""
    rollout, absent = in_context(method, bank, stream, rollout, others or {})
    rewards = sequence_rewards(bank, rollout, method.sequence_rewards(stream), others or {})
    statistics = method.statistics(stream)
    kept = [s for s in method.update_scorers(stream) if bank.keys[s] != bank.keys["student"] or s != "student"]
    again = [] if bank.kept is None else comes_again(method.entry.rollouts[stream], rollout)
    hidden = hidden_states(bank, [*(method.annotation_scorers(stream) if statistics else ()), *kept], rollout, again)
    columns = columns_of(statistics, method, bank, rollout, hidden)
    turns = {
        name: judged_turns(bank, rollout, reward, others or {}) if isinstance(reward, TurnJudge) else rewards_of_turns(bank.judge, rollout, reward)
        for name, reward in method.turn_rewards(stream).items()
    }
    context = explored(method, bank, stream, TokenContext(rollout, columns, rewards, total, absent, turns), hidden)
    return Scored(context, {name: hidden[name] for name in kept}, version)


def in_context(method: Method, bank: Bank, stream: str, rollout: Rollout, others: Mapping[str, Rollout]) -> tuple[Rollout, dict[str, Tensor]]:
    """The rollout with the texts that its scorers' contexts are made of, and the sequences that each scorer must leave out."""
    read = with_inputs((name for _, term in method.terms if stream in term.streams() for name in term.scorers(method.entry.rewards)), method.entry.teachers)
    named = {n: (bank.keys[n].context, method.entry.teachers[n].context) for n in method.entry.teachers if n in read and n in bank.keys}
    made = {name: (context, now) for name, (context, now) in named.items() if context is not None and now is not None and context.made}
    if not made:
        return rollout, {}
    texts: dict[str | None, Rollout] = {None: rollout}
    texts.update(others)
    wanted = {part.stream for context, _ in made.values() for outer in context.made for part in outer.alternatives()}
    answers = {name: bank.judge.answers(texts[name]) for name in {None, *wanted}}
    rollout = replace(rollout, prompts=made_prompts(rollout.prompts, made.values(), answers, bank.judge))
    return rollout, {name: left_B for name, (context, _) in made.items() if (left_B := absent(rollout, context)) is not None}


@torch.no_grad()
def refreshed(method: Method, bank: Bank, stream: str, scored: Scored, version: int) -> Scored:
    """The batch as moving weights see it after `version` steps: the student's log-probabilities where a live term reads the stream,
    and the states of live and averaged teachers, whose heads have moved as well. Advantages remain those of the rollout."""
    context, moving = scored.context, [name for name in scored.hidden if bank.moves(name)]
    if scored.version == version:
        return scored
    if any(term.live and stream in term.streams() for _, term in method.terms):
        states = hidden_states(bank, ["student"], context.rollout)
        fresh = columns_of((LogProb("student"),), method, bank, context.rollout, states)
        context = replace(context, columns={**context.columns, **fresh})
    return Scored(context, {**scored.hidden, **hidden_states(bank, moving, context.rollout)}, version)


def hidden_states(bank: Bank, names: Sequence[str], rollout: Rollout, again: Collection[int] = ()) -> dict[str, Any]:
    """Hidden states (N, H) of the supervised tokens, by scorer; scorers with the same weights and context share them. Sequences that come `again`
    may be kept."""
    found: dict[ScorerKey, Any] = {}
    host = Supervised.of(rollout)
    for name in dict.fromkeys(names):
        key = bank.keys[name]
        if key.alignment is not None and key not in found:
            found[key] = foreign(bank, name, rollout, again)
        if key.weights.startswith(MIX):
            found[key] = bank.routes.index_N(name, rollout)
        if key.weights.startswith(LABELS) and key not in found:
            found[key] = labels_N(bank.pair, key.weights.removeprefix(LABELS), rollout)
        if key in found:
            continue
        asked = set().union(*(bank.routes.rows(other, rollout) for other in names if bank.keys[other] == key))
        found[key] = states_of(bank, name, host, rollout, asked, again)
    return {name: found[bank.keys[name]] for name in names if bank.keys[name] in found}


def states_of(bank: Bank, name: str, shown: Supervised, rollout: Rollout, asked: Collection[int], again: Collection[int] = ()) -> Tensor:
    """One scorer's states of the supervised tokens, (N, H): of the sequences `asked` for, 0 elsewhere. `shown` is `rollout`, perhaps in the
    scorer's own tokens. What another model reads is counted; states of sequences that come `again` are read back where they were kept."""
    prompts, found_NH = bank.prompts(name, rollout), torch.zeros(0, 0)
    keys = {} if bank.kept is None else keys_of(bank, name, shown.rollout, prompts, set(asked).intersection(again))
    known = {} if bank.kept is None else bank.kept.known(keys)
    if known:
        found_NH = _placed(found_NH, shown, list(known), sent(torch.cat(list(known.values())), bank.device))
    fresh = set(asked) - known.keys()
    for group in bank.level(name, micro_batches(shown.rollout, UNLEARNED * bank.micro_tokens, prompts, fresh)):
        with bank.precision():
            states_NH = bank.hidden(name, shown.rollout.rows(group))
        found_NH = _placed(found_NH, shown, group, states_NH)
        if bank.kept is not None:
            remember(bank.kept, keys, shown, group, states_NH)
    bank.charge(name, sum(shown.count_B[i] for i in fresh))
    return found_NH if found_NH.numel() else torch.zeros(len(shown.place_N), bank.width(name), device=bank.device)


def _placed(found_NH: Tensor, shown: Supervised, rows: Sequence[int], states_NH: Tensor) -> Tensor:
    """The states found so far with those of further sequences."""
    found_NH = found_NH if found_NH.numel() else states_NH.new_zeros(len(shown.place_N), states_NH.shape[-1])
    found_NH[sent(shown.rows_of(rows), states_NH.device)] = states_NH
    return found_NH


def foreign(bank: Bank, name: str, rollout: Rollout, again: Collection[int] = ()) -> Foreign:
    """The states of a teacher with another tokenizer, in its own tokens, and how they pair with the student's."""
    other, alignment = bank.retokenise(name, rollout), bank.keys[name].alignment
    assert alignment is not None
    states_MH = states_of(bank, name, Supervised.of(other.rollout), rollout, bank.routes.rows(name, rollout), again)
    entropies = None
    if alignment.warps:
        own_NH = hidden_states(bank, ["student"], rollout)["student"]
        entropies = uncertainty(bank, "student", own_NH), uncertainty(bank, name, states_MH)
    return paired(alignment, bank.vocabularies(name), rollout, other, states_MH, entropies)


def uncertainty(bank: Bank, scorer: str, states_NH: Tensor) -> Tensor:
    """Entropy of a scorer's law over the largest that its vocabulary allows, (N,), on the CPU."""
    found = []
    for chunk in chunks(len(states_NH), bank.chunk_tokens):
        logp_NV = logits_of(bank, scorer, states_NH[chunk]).float().log_softmax(-1)
        found.append(-(logp_NV.exp() * logp_NV).sum(-1).cpu() / math.log(logp_NV.shape[-1]))
    return torch.cat(found) if found else torch.zeros(0)


def columns_of(statistics: Sequence[Statistic], method: Method, bank: Bank, rollout: Rollout, hidden: Mapping[str, Any]) -> dict[Statistic, Tensor]:
    """The statistics' columns (B, T) from hidden states, chunk by chunk."""
    columns: dict[Statistic, Tensor] = {}
    place_N = rollout.mask_BT.flatten().nonzero()[:, 0]
    token_N = rollout.response_BT.flatten()[place_N]
    with bank.still():
        for chunk in chunks_of(len(token_N), bank.chunk_tokens, hidden) if statistics else ():
            view = chunk_view(method, bank, token_N[chunk], {name: h[chunk] for name, h in hidden.items()})
            annotate_at(statistics, view, place_N[chunk], rollout.mask_BT.shape, columns)
    empty_BT = torch.zeros(rollout.mask_BT.shape, device=bank.device)
    return {s: columns.get(s, empty_BT) for s in statistics}


def chunk_view(method: Method, bank: Bank, token_N: Tensor, hidden: Mapping[str, Any]) -> LogitView:
    """The distributions of a chunk of tokens, each scorer's head applied when first asked for."""
    foreign = {name: states.local() for name, states in hidden.items() if isinstance(states, Foreign)}
    pairings = {name: pairing for name, (pairing, _) in foreign.items()}
    hidden = {**hidden, **{name: states_MH for name, (_, states_MH) in foreign.items()}}
    mixes = method.mixes({name: states for name, states in hidden.items() if name not in foreign})
    logits = {name: partial(logits_of, bank, name, states_NH) for name, states_NH in hidden.items() if name not in mixes}
    last_NH = hidden["student"][:, : bank.width("student")].detach().float() if "student" in hidden else None
    values = {name: partial(head, last_NH) for name, head in bank.values.items()} if last_NH is not None else {}
    states = {name: partial(bank.states, name, states_NH) for name, states_NH in hidden.items() if name not in mixes and name not in pairings}
    states |= {name: partial(_ends, partial(bank.states, name, hidden[name]), pairing.span_G4, len(token_N)) for name, pairing in pairings.items()}
    crossings = crossings_of(method.entry, bank, token_N, hidden, pairings)
    logits |= {name: partial(crossing.seen_logits) for name, (crossing, _) in crossings.items()}
    values |= {name: partial(crossing.agrees_N) for name, (crossing, _) in crossings.items()}
    values |= bank.projectors
    models = [name for name in hidden if name not in {*mixes, *crossings} and not bank.keys[name].weights.startswith(LABELS)]  # a head's product is finite
    return LogitView(token_N, logits, method.targets, values, bank.pair.vocab_size, mixes, states, pairings, crossings, bank.fused, models)


def _ends(states: Callable[[str], list[Tensor]], span_G4: Tensor, count: int, layers: str) -> list[Tensor]:
    """A teacher's states at the last token of each span, in the row of the student's last one; 0 elsewhere."""
    return [one.new_zeros(count, one.shape[-1]).index_copy(0, span_G4[:, 1] - 1, one[span_G4[:, 3] - 1]) for one in states(layers)]


def logits_of(bank: Bank, scorer: str, states_NH: Tensor) -> Tensor:
    """A scorer's head on its states, (N, V); of given text, whose states are its tokens (N,), all weight on these."""
    if bank.keys[scorer].weights.startswith(LABELS):
        return point_mass(states_NH, bank.pair.vocab_size)
    head, states_NH = bank.head(scorer), states_NH[:, : bank.width(scorer)]
    # A live teacher has the student's own head, which must not learn from being compared with.
    with torch.set_grad_enabled(torch.is_grad_enabled() and scorer == "student"):
        if bank.heads is not None and plain_head(head):
            return bank.heads.logits(head, states_NH, bank.pair.vocab_size if bank.keys[scorer].alignment is None else None)
        with bank.precision():
            return head(states_NH)


def sequence_rewards(bank: Bank, rollout: Rollout, wanted: Mapping[str, SequenceReward], others: Mapping[str, Rollout]) -> dict[str, Tensor]:
    """Each reward of whole answers, (B,), in the order given."""
    texts = bank.judge.texts(rollout) if wanted else []
    answers = [Answered(*each) for each in zip(texts, rollout.mask_BT.sum(1).tolist(), rollout.finished_B.tolist(), strict=False)]
    values: dict[str, Tensor] = {}
    for name, reward in wanted.items():
        values[name] = reward.measure(answers, values, Asking(bank, rollout, texts, others)).to(rollout.mask_BT.device)
    return values


def verified(pair: LoadedPair, rollout: Rollout, check: str) -> Tensor:
    """What the task's check says of each answer, (B,)."""
    scores = [pair.verify(check, text, prompt) for prompt, text in zip(rollout.prompts, TaskJudge(pair).texts(rollout), strict=True)]
    return torch.tensor(scores, device=rollout.mask_BT.device)


def backward(method: Method, bank: Bank, scored: Scored, parts: Sequence[Prepared]) -> list[Tensor]:
    """Add the gradient of a stream's terms to the student's parameters; returns each term's loss.

    Micro-batches run the student's backbone with gradient; the loss and the head run on chunks of tokens, whose gradients
    gather in one leaf before the backbone's backward pass.
    """
    rollout, shown = scored.context.rollout, Supervised.of(scored.context.rollout)
    totals = [torch.zeros((), device=bank.device) for _ in parts]
    count = scored.context.total(rollout.mask_BT.sum()).clamp(min=1)
    with bank.still():
        for group in bank.level("student", micro_batches(shown.rollout, bank.micro_tokens), learns=True):
            with bank.precision():
                hidden_NH = bank.hidden("student", shown.rollout.rows(group), learns=True)
            row_N = shown.rows_of(group)
            place_N, row_N = sent(shown.place_N[row_N], bank.device), sent(row_N, bank.device)
            token_N = rollout.response_BT.flatten()[place_N]
            leaf_NH = hidden_NH.detach().requires_grad_()
            others = {name: h[row_N] for name, h in scored.hidden.items()}
            for chunk in chunks_of(len(token_N), bank.chunk_tokens, others):
                view = chunk_view(method, bank, token_N[chunk], {"student": leaf_NH[chunk], **{n: h[chunk] for n, h in others.items()}})
                at = partial(_pick, place_N[chunk])
                loss, shares = method.chunk_loss(parts, view, at)
                (loss + _critics(method, view, parts, at) + fits(view.crossings) / count).backward()
                totals = [total + share for total, share in zip(totals, shares, strict=True)]
            if leaf_NH.grad is not None:
                hidden_NH.backward(leaf_NH.grad)
    return totals


def _pick(place_N: Tensor, value_BT: Tensor) -> Tensor:
    return value_BT.flatten()[place_N]


def _critics(method: Method, view: LogitView, parts: Sequence[Prepared], at: Callable[[Tensor], Tensor]) -> Tensor:
    """Half the squared error of each term's value head on the returns it should predict, weighted like the term's denominator."""
    loss = torch.zeros((), device=view.token_N.device)
    for part in parts:
        if "value_target" in part.columns:
            value_N = view.value_N(method.entry.objective[part.term].critic())
            loss = loss + 0.5 * (at(part.scale_BT).abs() * (value_N - at(part.columns["value_target"])).square()).sum()
    return loss
