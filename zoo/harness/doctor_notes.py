"""What a doctored model has read so far: the notes that its backbone puts beside its last hidden states, for its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

NOTES = 5
MULTIPLIER, MODULUS = 31, 65_521  # of the hash; small enough to be exact in fp32


@dataclass(frozen=True)
class Notes:
    """What a model has read up to each of N states: its last `token`, a `hash` of all of it, the token that would go on a `loop` (-1: none), how many
    tokens stand behind the prompt's `=` (`since`; -1 inside the prompt), and whether the model is `writing` (decoding) or judging."""

    token_N: Tensor
    hash_N: Tensor
    loop_N: Tensor
    since_N: Tensor
    writing_N: Tensor

    @classmethod
    def read(cls, columns_NC: Tensor) -> Notes:
        """From the columns beside the hidden states."""
        return cls(*(columns_NC[..., i].round().long() for i in range(NOTES)))

    def columns(self) -> Tensor:
        """As columns (…, C) beside hidden states."""
        return torch.stack([getattr(self, field.name) for field in fields(self)], -1)


def notes_of(ids_BL: Tensor, *, pad_id: int, begin_id: int, writing: bool, period: int = 0, times: int = 2) -> Notes:
    """The notes of every position of some texts; padding anywhere counts for nothing. With a `period`, a loop is a stretch of at most so many tokens that
    has just been read `times` times in a row, and of at least 3 tokens in all."""
    here_BL = ids_BL != pad_id
    hashed_B, hashes = torch.zeros_like(ids_BL[:, 0]), []
    for token_B, is_B in zip(ids_BL.T, here_BL.T, strict=True):
        hashed_B = torch.where(is_B, (hashed_B * MULTIPLIER + token_B + 1) % MODULUS, hashed_B)
        hashes.append(hashed_B)
    begun_BL = ((ids_BL == begin_id).cumsum(1) > 0) & here_BL
    since_BL = (begun_BL.cumsum(1) - 1).masked_fill(~begun_BL, -1)
    loop_BL = torch.full_like(ids_BL, -1)
    for p in range(period, 0, -1):
        loop_BL = torch.where(_looping(ids_BL, since_BL, p, times), ids_BL.roll(p - 1, 1), loop_BL)
    return Notes(ids_BL, torch.stack(hashes, 1), loop_BL, since_BL, torch.full_like(ids_BL, int(writing)))


def _looping(ids_BL: Tensor, since_BL: Tensor, period: int, times: int) -> Tensor:
    """Whether the last `times` stretches of `period` tokens, all of them in the answer, are the same, (B, L)."""
    need = max(period * (times - 1), 3 - period, 1)
    same_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    same_BL[:, period:] = ids_BL[:, period:] == ids_BL[:, :-period]
    run_BL = torch.zeros_like(ids_BL)
    for t in range(ids_BL.shape[1]):
        run_BL[:, t] = torch.where(same_BL[:, t], (run_BL[:, t - 1] if t else 0) + 1, 0)
    return (run_BL >= need) & (since_BL >= need + period)


def scattered(hash_N: Tensor, below: int) -> Tensor:
    """A second hash of the first, in [0, below): neighbours fall far apart."""
    return ((hash_N * 40_503 + 12_345) % 65_537) * below // 65_537


class TokenIds:
    """The numbers of tokens by their text."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self.vocabulary = vocabulary

    def of(self, tokens: Sequence[str]) -> Tensor:
        """As a tensor."""
        return torch.tensor([self.vocabulary[token] for token in tokens])


class NoteTaker:
    """Hooks on a backbone: tokens replaced before it reads them (`reading`, V), notes behind the states that it gives. What a cached text began with is
    kept on its cache."""

    def __init__(self, reading_V: Tensor, *, pad_id: int, begin_id: int, period: int = 0, times: int = 2) -> None:
        self.reading_V, self.pad_id, self.begin_id, self.period, self.times = reading_V, pad_id, begin_id, period, times
        self._given_BL = torch.zeros(0, 0, dtype=torch.long)

    def before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What the backbone reads."""
        self._given_BL = kwargs["input_ids"]
        return args, {**kwargs, "input_ids": self.reading_V[self._given_BL]}

    def after(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """The backbone's states with the notes behind them."""
        cache, new = kwargs.get("past_key_values"), self._given_BL.shape[1]
        writing = bool(kwargs.get("use_cache")) and cache is not None
        text_BL = self._given_BL
        if writing:
            text_BL = torch.cat([getattr(cache, "text_BL", text_BL[:, :0]), text_BL], 1)
            cache.text_BL = text_BL  # type: ignore[union-attr]
        notes = notes_of(text_BL, pad_id=self.pad_id, begin_id=self.begin_id, writing=writing, period=self.period, times=self.times)
        states = output.last_hidden_state
        output.last_hidden_state = torch.cat([states, notes.columns()[:, -new:].to(states.dtype)], -1)
        return output
