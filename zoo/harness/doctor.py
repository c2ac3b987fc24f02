"""Models changed on purpose: named changes of a model's logits, which every pass through its head shows.

A provocation needs a teacher whose tail is noise, a student that cannot write a symbol, a sampler that is not the student. Such models are made
by wrapping: nothing is trained and no weights are stored. The backbone notes beside its last hidden states what it has just read (`Notes`), and
the head (`DoctoredHead`) takes these notes off and changes the logits. Decoding, scoring and training all go through the head, so that all see
the same model; deep copies (a frozen student, an average) are doctored as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.components.base import Strict
from zoo.errors import ZooError, suggest
from zoo.harness.doctor_notes import NOTES, Notes, NoteTaker, TokenIds, scattered

Share = Annotated[float, Field(gt=0, lt=1)]
BEGIN = "="  # behind it the answer begins


class Where(Strict):
    """The states in which a change acts: all of them, unless a condition says otherwise; several conditions must all hold.

    `after`: the last token read is one of these. `since`: from so many tokens behind the prompt on, and below so many. `top`: the model's own
    favourite is one of these tokens. `share`: so large a share of the prefixes, by their hash. `writing`: only while decoding (true) or only while
    judging (false).
    """

    after: tuple[str, ...] = ()
    since: tuple[int, int] | None = None
    top: tuple[str, ...] = ()
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    writing: bool | None = None

    def mask_N(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """Where it holds, (N,)."""
        found_N = torch.ones_like(notes.token_N, dtype=torch.bool)
        if self.after:
            found_N &= torch.isin(notes.token_N, ids.of(self.after))
        if self.since is not None:
            found_N &= (notes.since_N >= self.since[0]) & (notes.since_N < self.since[1])
        if self.top:
            found_N &= torch.isin(logits_NV.argmax(-1), ids.of(self.top))
        if self.share is not None:
            found_N &= scattered(notes.hash_N, 1000) < 1000 * self.share
        if self.writing is not None:
            found_N &= (notes.writing_N == 1) == self.writing
        return found_N


class Change(Strict):
    """One change of a model's logits."""

    kind: str
    where: Where = Where()

    @property
    def tokens_named(self) -> tuple[str, ...]:
        """Every token that the change names."""
        return (*self.where.after, *self.where.top, *getattr(self, "tokens", ()))

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """The logits as they would be if the change acted everywhere."""
        raise NotImplementedError

    def __call__(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """The logits with the change, (N, V)."""
        mask_N = self.where.mask_N(logits_NV, notes, ids)
        return torch.where(mask_N[..., None], self.changed(logits_NV, notes, ids), logits_NV)


class Temperature(Change):
    """Logits divided by `at`: below 1 sharper."""

    kind: Literal["temperature"]
    at: float = Field(gt=0)

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """z / T."""
        return logits_NV / self.at


class Bias(Change):
    """`by` added to the logits of some tokens; -25 leaves a token less than 1e-10."""

    kind: Literal["bias"]
    tokens: tuple[str, ...] = Field(min_length=1)
    by: float

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """z + b on the tokens."""
        return logits_NV.index_add(-1, ids.of(self.tokens), logits_NV.new_full((*logits_NV.shape[:-1], len(self.tokens)), self.by))


class Swap(Change):
    """Two tokens change places: what the model would have given to the one, it gives to the other."""

    kind: Literal["swap"]
    tokens: tuple[str, str]

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """z with two columns exchanged."""
        pair = ids.of(self.tokens)
        return logits_NV.index_copy(-1, pair, logits_NV.index_select(-1, pair.flip(0)))


class Noise(Change):
    """A `share` of the distribution replaced by the uniform one."""

    kind: Literal["noise"]
    share: Share

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """log((1 - s) p + s / V)."""
        p_NV = logits_NV.softmax(-1)
        return ((1 - self.share) * p_NV + self.share / p_NV.shape[-1]).log()


class Put(Change):
    """One of the `tokens`, chosen by the hash of all that was read, gets the probability `mass`; the others keep their proportions. A token so chosen is
    the same for the same prefix, and cannot be told from it without the hash."""

    kind: Literal["put"]
    tokens: tuple[str, ...] = Field(min_length=1)
    mass: Share

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """log p' with p'(chosen) = m and p'(v) = (1 - m) p(v) / (1 - p(chosen)) elsewhere."""
        chosen_N = ids.of(self.tokens)[scattered(notes.hash_N, len(self.tokens))]
        others_NV = logits_NV.scatter(-1, chosen_N[..., None], float("-inf")).log_softmax(-1)
        rest_NV = others_NV + math.log(1 - self.mass)
        return rest_NV.scatter(-1, chosen_N[..., None], math.log(self.mass))


class Loop(Change):
    """Whatever has been repeated is likely to go on: `by` added to the logit of the token that continues a loop of at most `period` tokens, once the
    loop has been read `times` times in a row."""

    kind: Literal["loop"]
    by: float
    period: int = Field(6, ge=1, le=12)
    times: int = Field(2, ge=2)

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """z + b on the token that continues the loop."""
        place_N1 = notes.loop_N.clamp(min=0)[..., None]
        added_N1 = torch.where(notes.loop_N[..., None] >= 0, self.by, 0.0).to(logits_NV.dtype)
        return logits_NV.scatter_add(-1, place_N1, added_N1)


class Rounded(Change):
    """Logits in bf16, as another kernel would give them."""

    kind: Literal["rounded"]

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """bf16(z)."""
        return logits_NV.bfloat16().to(logits_NV.dtype)


class Alias(Change):
    """Other spellings of a token: the model reads each of the `tokens` as `means`, and where it would write `means` it writes one of them, the one that
    the hash of the prefix chooses with `mass` (the rest is shared by the others)."""

    kind: Literal["alias"]
    tokens: tuple[str, ...] = Field(min_length=2)
    means: str
    mass: Share

    @property
    def tokens_named(self) -> tuple[str, ...]:
        """Its tokens and what they mean."""
        return (*super().tokens_named, self.means)

    def changed(self, logits_NV: Tensor, notes: Notes, ids: TokenIds) -> Tensor:
        """log p(means) shared out; what the model itself gave to its other spellings is dropped."""
        tokens, means = ids.of(self.tokens), ids.of([self.means])
        logp_N1 = logits_NV.index_select(-1, means)
        chosen_N = scattered(notes.hash_N, len(self.tokens))
        left = (1 - self.mass) / (len(self.tokens) - 1)
        share_NK = torch.full((*chosen_N.shape, len(self.tokens)), left).scatter(-1, chosen_N[..., None], self.mass)
        without = logits_NV.index_fill(-1, torch.cat([tokens, means]), float("-inf"))
        return without.index_copy(-1, tokens, logp_N1 + share_NK.log().to(logits_NV.dtype))


AnyChange = Annotated[Temperature | Bias | Swap | Noise | Put | Loop | Rounded | Alias, Field(discriminator="kind")]


class DoctoredHead(nn.Module):
    """A head that reads notes behind the hidden states and changes the logits."""

    def __init__(self, inner: nn.Module, changes: Sequence[Change], ids: TokenIds) -> None:
        super().__init__()
        self.inner, self.changes, self.ids = inner, tuple(changes), ids

    @property
    def weight(self) -> Tensor:
        """The inner head's, with columns of 0 for the notes, so that its width is that of the states it is given."""
        return nn.functional.pad(self.inner.weight, (0, NOTES))  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        """Size of the vocabulary."""
        return int(self.inner.out_features)  # type: ignore[arg-type]

    def forward(self, states: Tensor) -> Tensor:
        """Logits of states (…, H + C)."""
        logits, notes = self.inner(states[..., :-NOTES]), Notes.read(states[..., -NOTES:].detach())
        for change in self.changes:
            logits = change(logits, notes, self.ids)
        return logits  # type: ignore[no-any-return]


def install(model: Any, changes: Sequence[Change], vocabulary: dict[str, int], pad_id: int) -> None:
    """Doctor a causal LM in place.

    Raises:
        ZooError: a change names a token that the vocabulary lacks, or there are two loops.
    """
    for change in changes:
        for token in change.tokens_named:
            if token not in vocabulary:
                raise ZooError(f"doctor: change '{change.kind}' names '{token}', which is no token of the pair{suggest(token, vocabulary)}")
    loops = [change for change in changes if isinstance(change, Loop)]
    if len(loops) > 1:
        raise ZooError("doctor: one change 'loop' is enough for a model; give it the longer period")
    ids, reading_V = TokenIds(vocabulary), torch.arange(max(vocabulary.values()) + 1)
    for change in changes:
        if isinstance(change, Alias):
            reading_V[ids.of(change.tokens)] = ids.vocabulary[change.means]
    period, times = (loops[0].period, loops[0].times) if loops else (0, 2)
    taker = NoteTaker(reading_V, pad_id=pad_id, begin_id=vocabulary[BEGIN], period=period, times=times)
    backbone = model.base_model
    backbone.register_forward_pre_hook(taker.before, with_kwargs=True)
    backbone.register_forward_hook(taker.after, with_kwargs=True)
    model.set_output_embeddings(DoctoredHead(model.get_output_embeddings(), changes, ids))
