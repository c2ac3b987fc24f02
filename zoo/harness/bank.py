"""The models behind an entry's scorers: which weights in which context, and the states from which their distributions follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from zoo.components.alignments import Alignment, Vocabularies, Vocabulary
from zoo.components.base import Context
from zoo.components.learners import Model
from zoo.components.targets import with_inputs
from zoo.components.teachers import Composite, Endpoint, External, Labels, LearnedTeacher, SelfTeacher
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.harness.adapters import learner_model
from zoo.harness.alignment import Retokenised, prompts_for, retokenise
from zoo.harness.contexts import TaskJudge
from zoo.harness.cuts import sent
from zoo.harness.fused import CompiledLayers, Fused
from zoo.harness.heads import NarrowHeads, chunk_tokens_for
from zoo.harness.kept_states import KeptStates
from zoo.harness.layers import Layers, layers_of
from zoo.harness.lean import LeanLayers
from zoo.harness.models import LoadedPair
from zoo.harness.pieces_of import vocabulary_of
from zoo.harness.recompute import recomputed
from zoo.harness.routes import Routes, routes_of
from zoo.harness.sharding import InStep
from zoo.harness.steering import STEERED, steered
from zoo.harness.turns import at_turn, by_turn
from zoo.tensors import Rollout

MIX = "mix:"  # key of a scorer that is made of others and has no weights
LEARNER = "learner:"
LABELS = "labels:"  # key of given text, behind it the field that holds it
MOVING = ("ema:", "copy:", LEARNER)  # keys of weights that move with the steps


@dataclass(frozen=True)
class ScorerKey:
    """Which weights in which context; scorers with one key are computed once."""

    weights: str
    context: Context | None = None
    alignment: Alignment | None = None


@dataclass
class Bank:
    """The models behind an entry's scorer names. `models` is keyed by weights: student, initial, ema:NAME, copy:NAME, or a teacher's name."""

    pair: LoadedPair
    models: dict[str, Any]
    keys: dict[str, ScorerKey]
    micro_tokens: int
    chunk_tokens: int
    layers: Layers = field(default_factory=Layers)
    routes: Routes = field(default_factory=lambda: Routes({}, {}))
    values: dict[str, Any] = field(default_factory=dict)
    projectors: dict[str, Any] = field(default_factory=dict)
    scored_tokens: int = 0
    scored: Counter[str] = field(default_factory=Counter)  # the same by model, since the last step
    explored_tokens: int = 0  # written by any model for columns alone
    explored: Counter[str] = field(default_factory=Counter)  # the same by model, since the last step
    writers: Any = None  # of zoo.harness.explore
    discriminators: dict[str, Any] = field(default_factory=dict)
    endpoints: dict[str, Any] = field(default_factory=dict)
    heads: NarrowHeads | None = None  # where autocast would round the logits
    fused: Fused | None = None  # where compiling pays
    compiled: CompiledLayers | None = None  # likewise
    lean: LeanLayers | None = None  # on a GPU
    recompute: bool = False  # activation checkpointing
    kept: KeptStates | None = None  # where the comparison asks for it
    in_step: InStep | None = None
    _vocabularies: dict[str, Vocabularies] = field(default_factory=dict)

    def charge(self, scorer: str, tokens: int) -> None:
        """Count what a scorer read, unless it is the student or its beginning."""
        weights = self.keys[scorer].weights
        if weights not in ("student", "initial"):
            self.scored_tokens += tokens
            self.scored[weights] += tokens

    def moves(self, scorer: str) -> bool:
        """Whether a scorer's weights change from step to step."""
        weights = self.keys[scorer].weights
        return weights == "student" or weights.startswith(MOVING)

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.models["student"].parameters()).device  # type: ignore[no-any-return]

    def precision(self) -> AbstractContextManager[Any]:
        """bf16 autocast on CUDA, without cuDNN's attention; nothing on a CPU."""
        return narrow() if self.device.type == "cuda" else nullcontext()

    def still(self) -> AbstractContextManager[None]:
        """While it lasts nobody moves weights, so that what products read of heads is made once."""
        return nullcontext() if self.heads is None else self.heads

    def level(self, scorer: str, groups: Sequence[list[int]], learns: bool = False) -> Iterable[list[int]]:
        """The micro-batches that go through a scorer's model, with gradient if it `learns`. One that is sharded is passed equally often by all processes."""
        return groups if self.in_step is None else self.in_step.level(self.models[self.keys[scorer].weights], groups, learns)

    def hidden(self, scorer: str, rollout: Rollout, learns: bool = False) -> Tensor:
        """Last hidden states (N, H) at the positions that predict the supervised tokens, in the order of the flattened mask; the states of
        further layers that some term reads are columns behind them. Of a pass that `learns`, a backward pass follows."""
        weights, context = self.keys[scorer].weights, self.keys[scorer].context
        if context is not None and context.per == "turn":
            rollout = by_turn(rollout, context)
            shown: Sequence[tuple[int, ...]] = [tuple(self.pair.format_prompt(prompt, context)) for prompt in rollout.prompts]
        else:
            shown = self.prompts(scorer, rollout)
        with self._faster(weights), self._recomputing(weights, learns):
            return response_hidden(self.models[weights], shown, rollout, self.pair.pad_id, self.layers.wanted.get(weights, ()))

    def _faster(self, weights: str) -> AbstractContextManager[None]:
        """Compiled or lean layers for the student and models of its kind or the pair's; others may have hooks in theirs."""
        usual = weights in ("student", "initial") or weights in self.pair.teachers or weights.startswith(MOVING[:2])
        layers = self.compiled or self.lean
        return nullcontext() if layers is None or not usual else layers.within(self.models[weights])

    def _recomputing(self, weights: str, learns: bool) -> AbstractContextManager[None]:
        return recomputed(self.models[weights], self.precision) if self.recompute and learns else nullcontext()

    def width(self, scorer: str) -> int:
        """Size of a scorer's hidden states."""
        return int(self.models[self.keys[scorer].weights].get_output_embeddings().weight.shape[1])

    def states(self, scorer: str, states_NH: Tensor, layers: str) -> list[Tensor]:
        """The chosen layers' part of a scorer's states, in fp32 at least."""
        split = self.layers.split(states_NH, layers, self.width(scorer))
        return [one if one.dtype == torch.float64 else one.float() for one in split]

    def prompts(self, scorer: str, rollout: Rollout) -> Sequence[tuple[int, ...]]:
        """What a scorer reads before each response; of one that reads turns apart, before the first."""
        context = self.keys[scorer].context
        if context is not None and context.per == "turn":
            return [tuple(self.pair.format_prompt(at_turn(p, context, 0), context)) for p in rollout.prompts]
        if self.keys[scorer].alignment is not None:
            return prompts_for(self.pair, self.keys[scorer].weights, context, rollout)
        return rollout.prompt_ids if context is None else [tuple(self.pair.format_prompt(p, context)) for p in rollout.prompts]

    def retokenise(self, scorer: str, rollout: Rollout) -> Retokenised:
        """The responses in the tokens of a scorer with another tokenizer."""
        name = self.keys[scorer].weights
        return retokenise(rollout, self.pair.tokenizers[name], self.vocabularies(scorer), self.pair.stop_ids, self.pair.pad_id)

    def vocabularies(self, scorer: str) -> Vocabularies:
        """The student's vocabulary and a scorer's."""
        name = self.keys[scorer].weights
        if name not in self._vocabularies:
            mine, theirs = (vocabulary_of(tokenizer) for tokenizer in (self.pair.tokenizer, self.pair.tokenizers[name]))
            same = mine.stop == theirs.stop and self.pair.tokenizer.get_vocab() == self.pair.tokenizers[name].get_vocab()
            self._vocabularies[name] = Vocabularies(mine, theirs, same)
        return self._vocabularies[name]

    @cached_property
    def spelled(self) -> Vocabulary:
        """The student's tokens as bytes."""
        return vocabulary_of(self.pair.tokenizer)

    @cached_property
    def judge(self) -> TaskJudge:
        """What is asked about answers."""
        return TaskJudge(self.pair)

    def head(self, scorer: str) -> Callable[[Tensor], Tensor]:
        """Hidden states (N, H) to logits (N, V)."""
        return self.models[self.keys[scorer].weights].get_output_embeddings()  # type: ignore[no-any-return]


def bank_for(entry: MethodEntry, pair: LoadedPair, *, micro_tokens: int, chunk_tokens: int, restored: Mapping[str, Any] | None = None) -> Bank:
    """Load or copy the models an entry's scorers need, and no others."""
    models: dict[str, Any] = {"student": pair.student, **dict(restored or {})}
    keys = {"student": ScorerKey("student"), "reference": ScorerKey("initial")}
    endpoints: dict[str, Any] = {}
    read = {s for term in entry.objective for s in term.scorers(entry.rewards)} | {s for t in entry.objective for s in _reference(t)}
    read.update(with_inputs(read, entry.teachers))
    for name, teacher in entry.teachers.items():
        if isinstance(teacher, External):
            keys[name] = ScorerKey(teacher.model, teacher.context, teacher.alignment)
            if isinstance(teacher, Endpoint) and teacher.model in pair.endpoints:
                endpoints[name] = pair.endpoints[teacher.model]
            elif teacher.model in pair.teachers:
                models[teacher.model] = pair.teachers[teacher.model]
            else:
                raise ZooError(f"teachers.{name}: pair '{pair.spec.id}' has no model '{teacher.model}' of its own; use kind: endpoint, or another pair")
        elif isinstance(teacher, SelfTeacher):
            kind = teacher.weights.kind  # type: ignore[attr-defined]
            weights = {"live": "student", "initial": "initial", "ema": f"ema:{name}", "steered": f"{STEERED}{name}"}.get(kind, f"copy:{name}")
            keys[name] = ScorerKey(weights, teacher.context)
            read.add(name)
        elif isinstance(teacher, LearnedTeacher):
            keys[name] = ScorerKey(f"{LEARNER}{teacher.learner}", teacher.context)
        elif isinstance(teacher, Composite):
            keys[name] = ScorerKey(f"{MIX}{name}")
        elif isinstance(teacher, Labels):
            keys[name] = ScorerKey(f"{LABELS}{teacher.field}")
    models |= {f"{LEARNER}{name}": learner_model(spec, pair, name) for name, spec in entry.learners.items() if isinstance(spec, Model)}
    dtype = torch.bfloat16 if next(pair.student.parameters()).is_cuda else None
    for name in read:
        if name in keys and keys[name].weights == "initial" and "initial" not in models:
            models["initial"] = pair.frozen_student(dtype)
        if name in keys and keys[name].weights.startswith(STEERED):
            models[keys[name].weights] = steered(entry.teachers[name].weights, pair, dtype)  # type: ignore[attr-defined]
        if name in keys and keys[name].weights.startswith(MOVING) and keys[name].weights not in models:
            models[keys[name].weights] = pair.frozen_student()
    layers = layers_of(entry, models, {name: key.weights for name, key in keys.items()})
    heads = None if dtype is None else NarrowHeads(dtype)
    chunk_tokens = chunk_tokens_for(pair.student.get_output_embeddings().out_features, chunk_tokens)
    return Bank(pair, models, keys, micro_tokens, chunk_tokens, layers, routes_of(entry), endpoints=endpoints, heads=heads,
                in_step=None if pair.split is None else InStep(pair.split))  # fmt: skip


def _reference(term: Any) -> tuple[str, ...]:
    return ("reference",) if getattr(getattr(term, "loss", None), "needs_reference", False) else ()


@contextmanager
def narrow() -> Iterator[None]:
    """bf16 autocast on CUDA. cuDNN plans attention anew for each shape, 45 ms forward and 150 ms backward on an H100's host, and nearly every
    micro-batch has a shape of its own: more than half of a step of SmolLM2-135M. FlashAttention plans nothing."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def response_hidden(model: Any, prompts: Sequence[Sequence[int]], rollout: Rollout, pad_id: int, layers: Sequence[int] = ()) -> Tensor:
    """Run a backbone over prompt + response, padded on the right (causal attention never sees it), and pick the states that
    predict supervised tokens, (N, H). Response positions line up whatever the prompt's length."""
    device = next(model.parameters()).device
    rollout = rollout.to("cpu")
    size_B1 = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    total_B1 = size_B1 + rollout.written_BT.sum(1, keepdim=True)
    width = int(total_B1.max())
    place_L = torch.arange(width)
    ids_BL = torch.full((len(prompts), width), pad_id)
    ids_BL[place_L < size_B1] = torch.tensor(list(chain.from_iterable(prompts)))
    ids_BL[(place_L >= size_B1) & (place_L < total_B1)] = rollout.response_BT[rollout.written_BT]
    given = model.base_model(input_ids=sent(ids_BL, device), use_cache=False, output_hidden_states=bool(layers))
    hidden_BLH = torch.cat([given.last_hidden_state, *(given.hidden_states[layer] for layer in layers)], -1) if layers else given.last_hidden_state
    at = rollout.mask_BT.nonzero()
    flat_N = at[:, 0] * width + size_B1[at[:, 0], 0] - 1 + at[:, 1]
    return hidden_BLH.flatten(0, 1).index_select(0, sent(flat_N, device))
