"""What a judge makes of each turn of a dialogue."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.components.contexts import Answers
from zoo.components.rewards import Judge, TurnJudge
from zoo.harness.asked import own_tokens, text_logp
from zoo.harness.bank import Bank
from zoo.harness.contexts import lacks, made_prompts
from zoo.harness.endpoint.judging import judged_by
from zoo.harness.turns import at_turn, at_turn_ends, turn_counts
from zoo.tensors import Prompt, Rollout


def judged_turns(bank: Bank, rollout: Rollout, reward: TurnJudge, others: Mapping[str, Rollout]) -> Tensor:
    """A judge's marks on the last supervised token of each turn, (B, T)."""
    context, judge = reward.context, bank.judge
    answers: dict[str | None, Answers] = {None: judge.answers(rollout)}
    for name in {part.stream for outer in context.made for part in outer.alternatives()} - {None}:
        answers[name] = judge.answers(others[str(name)])
    prompts = made_prompts(rollout.prompts, [(context, context)], answers, judge)
    places = [(b, turn) for b, count in enumerate(turn_counts(rollout)) for turn in range(count) if not lacks(prompts[b], context, turn)]
    shown = [at_turn(prompts[b], context, turn) for b, turn in places]
    told = reward.marks(_right(bank, reward, shown)) if shown else []
    values = [[0.0] * count for count in turn_counts(rollout)]
    for (b, turn), mark in zip(places, told, strict=True):
        values[b][turn] = mark
    return at_turn_ends(values, rollout)


def _right(bank: Bank, reward: TurnJudge, shown: list[Prompt]) -> list[float]:
    """The judge's probability that each is right, its verdict where it is an endpoint."""
    pair, endpoint = bank.pair, bank.endpoints.get(reward.by)
    if endpoint is not None:
        asked = Judge(by=reward.by, ask="verdict", context=reward.context)
        verdict_B = judged_by(endpoint, [pair.question(p, reward.context) for p in shown], asked, pair.words, list(range(len(shown))))
        return [float(value) for value in verdict_B]
    own = own_tokens(bank, reward.by)
    tokenizer = pair.tokenizer if own is None else pair.tokenizers[own]
    before = [tuple(pair.format_prompt(p, reward.context, own)) for p in shown]
    words = [list(tokenizer.encode(pair.words[word], add_special_tokens=False)) for word in ("right", "wrong")]
    logp_BW = torch.stack([text_logp(bank, reward.by, before, [ids] * len(before)) for ids in words], 1)
    # Rounded, as in other judgements: how the batch was cut must not decide a vote.
    return [float(p) for p in logp_BW.softmax(-1)[:, 0].double().round(decimals=4)]
