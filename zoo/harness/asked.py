"""What rewards ask of others about whole answers: checks of the task, the prompt's fields, unit tests, reward models, judges, discriminators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.components.contexts import Answers
from zoo.components.rewards import Answered, Consensus, Elsewhere, Judge, Learned, Match, RewardModel, SequenceReward, UnitTests
from zoo.errors import ZooError
from zoo.harness.bank import Bank, response_hidden
from zoo.harness.contexts import made_prompts
from zoo.harness.endpoint.judging import judged_by
from zoo.harness.foreign import foreign
from zoo.harness.sandbox import Limits
from zoo.harness.sandbox.outside import tests_passed
from zoo.statistics import TokenContext
from zoo.tensors import Author, Rollout


@dataclass(frozen=True)
class Asking:
    """One stream's answers as texts, and everything that can be asked about them. `others` are the streams that a judge may be shown."""

    bank: Bank
    rollout: Rollout
    texts: Sequence[str]
    others: Mapping[str, Rollout]

    def __call__(self, what: str | SequenceReward) -> Tensor:
        """A check's verdicts, or a reward, (B,).

        Raises:
            ZooError: what is asked for is not there, or cannot answer.
        """
        if isinstance(what, str):
            scores = [self.bank.pair.verify(what, text, prompt) for text, prompt in zip(self.texts, self.rollout.prompts, strict=True)]
            return torch.tensor(scores, device=self.rollout.mask_BT.device)
        answer: Callable[[Asking, Any], Tensor] = ANSWERS[type(what)]
        return answer(self, what)

    def field(self, name: str) -> list[str]:
        """A field of each prompt."""
        if lacking := [p.id for p in self.rollout.prompts if name not in p.fields]:
            raise ZooError(f"prompt '{lacking[0]}' has no field '{name}', which a reward compares the answer with; name another field")
        return [p.fields[name] for p in self.rollout.prompts]


def matched(asking: Asking, reward: Match) -> Tensor:
    """1 where the answer is the field, else 0."""
    same = equal_math if reward.how == "math" else str.__eq__
    parts = [reward.part(text) for text in asking.texts]
    return torch.tensor([float(part is not None and same(part, gold.strip())) for part, gold in zip(parts, asking.field(reward.field), strict=True)])


def equal_math(said: str, gold: str) -> bool:
    """Whether math-verify holds two expressions for equal.

    Raises:
        ZooError: math-verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError:
        raise ZooError("how: math needs math-verify: pip install 'opd-zoo[math]', or use how: exact") from None
    # Its own time limits use signals, which only a main thread has; answers are short.
    return bool(verify(parse(gold, parsing_timeout=None), parse(said, parsing_timeout=None), timeout_seconds=None))


def tested(asking: Asking, reward: UnitTests) -> Tensor:
    """The share of the prompt's tests that the answer passes."""
    limits = Limits(seconds=reward.seconds, memory_bytes=reward.memory_mb << 20)
    allowed = bool(getattr(asking.bank.pair, "untrusted_code", False))
    tests = [[part for part in text.split("\n\n") if part.strip()] for text in asking.field(reward.field)]
    return torch.tensor([tests_passed(reward.code(text), own, limits, without_walls=allowed) for text, own in zip(asking.texts, tests, strict=True)])


def classified(asking: Asking, reward: RewardModel) -> Tensor:
    """A reward model's score of each answer."""
    pair = asking.bank.pair
    if reward.model not in pair.reward_models:
        raise ZooError(f"pair '{pair.spec.id}' has no reward model '{reward.model}'; declare it under reward_models, or use another reward")
    return pair.reward_models[reward.model].scores([p.text for p in asking.rollout.prompts], asking.texts)


def discriminated(asking: Asking, reward: Learned) -> Tensor:
    """The discriminator's score, as it is now."""
    scores_B: Tensor = asking.bank.discriminators[reward.learner].scores(asking.rollout)
    return scores_B.detach()


def agreed(asking: Asking, reward: Consensus) -> Tensor:
    """1 where an answer is its group's most frequent one."""
    parts, groups = [reward.part(text) for text in asking.texts], asking.rollout.group_B.tolist()
    votes = {group: Counter(part for part, own in zip(parts, groups, strict=True) if own == group and part is not None) for group in set(groups)}
    best = {group: found.most_common(1)[0] if found else (None, 0) for group, found in votes.items()}
    return torch.tensor([float(part == best[g][0] and best[g][1] >= reward.at_least) for part, g in zip(parts, groups, strict=True)])


def found_elsewhere(asking: Asking, reward: Elsewhere) -> Tensor:
    """What another stream's text of the same row, or of its group, has."""
    source = asking.others[reward.on]
    if len(source) != len(asking.rollout):
        raise ZooError(f"a reward reads stream '{reward.on}' row by row, which has another number of answers; give it the same group and share")
    texts = asking.bank.judge.texts(source)
    answers = [Answered(*each) for each in zip(texts, source.mask_BT.sum(1).tolist(), source.finished_B.tolist(), strict=True)]
    found_B = reward.reward.measure(answers, {}, Asking(asking.bank, source, texts, asking.others)).to(torch.float32)
    return found_B if reward.scope == "sequence" else TokenContext(source).group_mean(found_B.to(source.group_B.device))


def judged(asking: Asking, reward: Judge) -> Tensor:
    """What a judge says of each answer; a sequence without a context has 0."""
    bank, rollout = asking.bank, asking.rollout
    own = own_tokens(bank, reward.by)
    if reward.ask == "likelihood":
        ids = _answers(asking, own)
        shown = rollout if reward.context is None else replace(rollout, prompts=_shown(asking, reward))
        plain = reward.context is None and own is None
        before = rollout.prompt_ids if plain else [tuple(bank.pair.format_prompt(p, reward.context, own)) for p in shown.prompts]
        total_B = text_logp(bank, reward.by, before, ids)
        return (total_B / torch.tensor([max(len(row), 1) for row in ids], device=total_B.device)).exp()
    prompts = _shown(asking, reward)
    endpoint = bank.endpoints.get(reward.by)
    if endpoint is not None:
        questions = [bank.pair.question(p, reward.context) for p in prompts]
        return judged_by(endpoint, questions, reward, bank.pair.words, rollout.group_B.tolist()).to(rollout.mask_BT.device)
    before = [tuple(bank.pair.format_prompt(p, reward.context, own)) for p in prompts]
    words = [bank.pair.words["right"], bank.pair.words["wrong"]] if reward.ask == "verdict" else [str(i) for i in range(reward.scale + 1)]
    tokenizer = bank.pair.tokenizer if own is None else bank.pair.tokenizers[own]
    encoded = [list(tokenizer.encode(word, add_special_tokens=False)) for word in words]
    logp_BW = torch.stack([text_logp(bank, reward.by, before, [ids] * len(before)) for ids in encoded], 1)
    share_BW = logp_BW.softmax(-1)
    said_B = share_BW[:, 0] if reward.ask == "verdict" else (share_BW * torch.arange(reward.scale + 1, device=share_BW.device)).sum(-1) / reward.scale
    # Groups of nearly equal judgements are compared, and how the batch was cut must not decide between them.
    return said_B.round(decimals=4)


def own_tokens(bank: Bank, name: str) -> str | None:
    """The pair's name of a judge that has tokens of its own; None for one that has the student's."""
    source = bank.keys[name].weights
    return source if foreign(bank.pair, source) else None


def _answers(asking: Asking, own: str | None) -> list[list[int]]:
    """The answers in a judge's tokens, with the stop where the writer set it."""
    rollout = asking.rollout
    if own is None:
        return [row[mask].tolist() for row, mask in zip(rollout.response_BT, rollout.written_BT, strict=True)]
    tokenizer = asking.bank.pair.tokenizers[own]
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in asking.texts]
    return [[*row, *([tokenizer.eos_token_id] if done else [])] for row, done in zip(rows, rollout.finished_B.tolist(), strict=True)]


ANSWERS: dict[type[SequenceReward], Callable[[Asking, Any], Tensor]] = {
    Match: matched,
    UnitTests: tested,
    RewardModel: classified,
    Learned: discriminated,
    Consensus: agreed,
    Elsewhere: found_elsewhere,
    Judge: judged,
}


def _shown(asking: Asking, reward: Judge) -> Any:
    """The prompts with what the judge's context shows of the answers."""
    context, rollout = reward.context, asking.rollout
    assert context is not None
    streams = {part.stream for outer in context.made for part in outer.alternatives()}
    answers: dict[str | None, Answers] = {None: Answers(rollout.prompts, asking.texts, rollout.group_B.tolist())}
    for name in streams - {None}:
        if len(asking.others[name]) != len(rollout):
            raise ZooError(f"a judge reads stream '{name}' row by row, which has another number of answers; give it the same group and share")
        answers[name] = asking.bank.judge.answers(asking.others[name])
    return made_prompts(rollout.prompts, [(context, context)], answers, asking.bank.judge)


@torch.no_grad()
def text_logp(bank: Bank, name: str, before: Sequence[tuple[int, ...]], texts: Sequence[Sequence[int]]) -> Tensor:
    """Sum of the log-probabilities of given tokens behind given prompts under one of the entry's scorers, (B,)."""
    width = max((len(ids) for ids in texts), default=0)
    found_B = torch.zeros(len(texts), device=bank.device)
    if not width:
        return found_B
    model, own = bank.models[bank.keys[name].weights], own_tokens(bank, name)
    size = bank.pair.vocab_size if own is None else len(bank.pair.tokenizers[own])
    pad = bank.pair.pad_id if own is None else 0  # masked, so any token of its own
    rows = [[*ids, *[pad] * (width - len(ids))] for ids in texts]
    ids_BT = torch.tensor(rows, device=bank.device)
    mask_BT = torch.arange(width, device=bank.device) < torch.tensor([len(ids) for ids in texts], device=bank.device)[:, None]
    zero_BT = torch.zeros(mask_BT.shape, device=bank.device)
    group_B = torch.zeros(len(texts), dtype=torch.long, device=bank.device)
    given = Rollout((), tuple(before), ids_BT, mask_BT, mask_BT.long() * int(Author.DATASET), zero_BT, zero_BT, group_B, group_B.bool())
    per_batch = max(1, bank.micro_tokens // (max(map(len, before)) + width))
    for start in range(0, len(texts), per_batch):
        at = range(start, min(start + per_batch, len(texts)))
        part = replace(given, prompts=(None,) * len(texts)).rows(at)  # type: ignore[arg-type]
        with bank.precision():
            state_NH = response_hidden(model, part.prompt_ids, part, pad)
            logits_NV = model.get_output_embeddings()(state_NH)[:, :size]
        logp_N = logits_NV.float().log_softmax(-1).gather(-1, part.response_BT[part.mask_BT][:, None])[:, 0]
        row_N = part.mask_BT.nonzero()[:, 0] + start
        found_B.index_add_(0, row_N, logp_N)
        bank.charge(name, len(row_N))
    return found_B
