"""Teachers: named scorers. Which weights, in which context, through which transform of the distribution."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from zoo.components.base import Component, Context, Slot, component


class Weights(Component):
    """Which weights of the student's lineage a self-teacher has."""


@component("weights_of")
class InitialWeights(Weights):
    """As before the first step (with LoRA: the adapter switched off)."""

    kind: Literal["initial"] = "initial"


@component("weights_of")
class LiveWeights(Weights):
    """As they are now."""

    kind: Literal["live"] = "live"


@component("weights_of")
class EmaWeights(Weights):
    """w <- decay w + (1 - decay) student, after every step."""

    kind: Literal["ema"] = "ema"
    shorthand = "decay"
    decay: float = Field(ge=0, lt=1)


@component("weights_of")
class PeriodicWeights(Weights):
    """A copy of the student, made anew after `every` optimizer steps, or (`rounds`) at each of so many equal parts of the run."""

    kind: Literal["periodic"] = "periodic"
    every: int | None = Field(None, ge=1)
    rounds: int | None = Field(None, ge=2)

    @model_validator(mode="after")
    def _one(self) -> PeriodicWeights:
        if (self.every is None) == (self.rounds is None):
            raise ValueError("give one of every (optimizer steps) and rounds (equal parts of the run)")
        return self


@component("weights_of")
class GatedWeights(Weights):
    """A copy of the student, made anew when all tests hold (2606.03532): `every` steps since the last copy; the running mean of `measure`
    (decay `smooth`) above its best value at a copy by more than `margin`; `tail` (a measure that must not grow), if given, at most `limit`."""

    kind: Literal["gated"] = "gated"
    measure: str
    every: int = Field(10, ge=1)
    smooth: float = Field(0.9, ge=0, lt=1)
    margin: float = Field(0.0, ge=0)
    tail: str | None = None
    limit: float = 1.0


@component("weights_of")
class SteeredWeights(Weights):
    """The initial weights and a direction: h + strength d behind the block at the share `depth` of all blocks (at least the first), d the mean of
    h at the last token of the first `prompts` training prompts shown in the context `toward`, less its mean for the same prompts shown plain.

    SafeSteer 2606.02530 adds a direction of refusal, whose construction (harmful prompts less harmless ones) is inferred; here one set of
    prompts is read in two ways. The direction is measured once, before the first step.
    """

    kind: Literal["steered"] = "steered"
    toward: Context
    strength: float = 1.0
    depth: float = Field(0.5, gt=0, le=1)
    prompts: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _before_the_run(self) -> SteeredWeights:
        if self.toward.made or not self.toward.fields or self.toward.per == "turn":
            raise ValueError("toward is shown before anything is written: name fields of the prompt, without made parts, per: sequence")
        if self.strength == 0:
            raise ValueError("strength 0 adds nothing; use weights: initial")
        return self


@component("weights_of")
class SnapshotWeights(Weights):
    """Copies of the student made and kept at `count` equal parts of the run up to `until`; from then on each step draws one of them, so that the
    texts of many steps come from their mixture (1/T) sum_k p_k (TMS 2602.03073). Before, the initial student."""

    kind: Literal["snapshots"] = "snapshots"
    count: int = Field(ge=2)
    until: float = Field(gt=0, lt=1)


class Teacher(Component):
    """Base of all teachers. `lineage` marks weights reachable from this run's student, `given` scorers that are no model but given text, `carried`
    those that a learner brings together with the student's hidden states."""

    lineage: ClassVar[bool] = False
    given: ClassVar[bool] = False
    carried: ClassVar[bool] = False
    context: Context | None = None
    target: Annotated[Any, Slot("target")] | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """Other teachers that it is made of."""
        return ()


class Composite(Teacher):
    """Scorers made of other teachers, each with its own context and target."""

    @model_validator(mode="after")
    def _no_context(self) -> Composite:
        if self.context is not None:
            raise ValueError("has no context of its own; give one to its members")
        return self

    def combine(self, logp: Callable[[str], Tensor], index_N: Tensor) -> Tensor:
        """Normalised log-probabilities (N, V) from those of the members; `index_N` says where each token is routed."""
        raise NotImplementedError


@component("teacher")
class Route(Composite):
    """One of several teachers, by a field of the prompt: `of` maps the field's values to teachers, `otherwise` serves all others. With `specialists` the
    pair's models that no other teacher names are added, each for the value that it is called by."""

    kind: Literal["route"] = "route"
    by: str = "domain"
    of: dict[str, str] = {}
    otherwise: str | None = None
    specialists: bool = Field(False, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _some(self) -> Route:
        if not self.of and not (self.specialists and self.otherwise):
            raise ValueError("name teachers under of, or set specialists: true and otherwise, for pairs that have none")
        return self

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.of.values(), *([self.otherwise] if self.otherwise else [])]))

    def chosen(self, fields: Mapping[str, str]) -> str:
        """The teacher of a prompt with these fields."""
        value = fields.get(self.by)
        name = self.of.get(value, self.otherwise) if value is not None else self.otherwise
        if name is None:
            raise ValueError(f"no teacher for {self.by} '{value}': name one under of, or set otherwise")
        return name

    def combine(self, logp: Callable[[str], Tensor], index_N: Tensor) -> Tensor:
        found: Tensor | None = None
        present = set(index_N.tolist())  # the one wait for the device: a teacher that serves none of these tokens is not asked
        for place, name in enumerate(self.members):
            if place in present:
                mine_NV = logp(name)
                found = mine_NV if found is None else torch.where((index_N == place)[:, None], mine_NV, found)
        return logp(self.members[0]) if found is None else found


@component("teacher")
class Ensemble(Composite):
    """Several teachers as one, with shares w that sum to 1: the mixture sum_i w_i q_i (`mean: probability`), the normalised geometric mean
    exp(sum_i w_i log q_i) (`log_probability`, a product of experts), or the plain product exp(sum_i log q_i), normalised (`product`)."""

    kind: Literal["ensemble"] = "ensemble"
    of: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=2)
    mean: Literal["probability", "log_probability", "product"] = "probability"

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(self.of)

    def combine(self, logp: Callable[[str], Tensor], index_N: Tensor) -> Tensor:
        total = sum(self.of.values())
        if self.mean == "probability":
            return torch.stack([logp(name) + math.log(share / total) for name, share in self.of.items()]).logsumexp(0)
        power = {name: 1.0 if self.mean == "product" else share / total for name, share in self.of.items()}
        return torch.stack([power[name] * logp(name) for name in self.of]).sum(0).log_softmax(-1)


class Carried(Composite):
    """Scorers that a learner brings together with hidden states, which log-probabilities alone do not give."""

    carried = True
    learner: str

    def combine(self, logp: Callable[[str], Tensor], index_N: Tensor) -> Tensor:
        raise ValueError(f"a teacher of kind {self.kind} reads hidden states, which log-probabilities alone do not give")  # type: ignore[attr-defined]


@component("teacher")
class ByteLaw(Carried):
    """A teacher's law over the next byte, against the student's byte heads (BLD 2604.07466): for a divergence alone, one row for each byte of the
    student's token; T(x | r) = sum of T(v) over its tokens v that begin with r x, over those that begin with r, at its last token that
    ends before the byte, r being the bytes since. The stop is a symbol of its own."""

    kind: Literal["byte_law"] = "byte_law"
    of: str = "teacher"

    @property
    def members(self) -> tuple[str, ...]:
        return (self.of,)


@component("teacher")
class ByteLabels(Carried):
    """The bytes of the written token, against the student's byte heads (BLD 2604.07466); under forward KL their mean cross-entropy."""

    kind: Literal["byte_labels"] = "byte_labels"
    given = True


@component("teacher")
class Projected(Carried):
    """A teacher's hidden states carried over to the student by a learner, or the student's to the teacher (DSKD 2406.17328, 2504.11426).

    `space: student` is the law softmax(P(h_T) W_S^T) over the student's vocabulary, the student's head W_S and the learner's map P held fixed,
    and can be read as any teacher's. `space: teacher` compares the student there, softmax(P'(h_S) W_T^T) with gradient, with the teacher's own
    law, over the teacher's vocabulary: for a divergence alone.
    """

    kind: Literal["projected"] = "projected"
    of: str = "teacher"
    space: Literal["student", "teacher"] = "student"

    @property
    def members(self) -> tuple[str, ...]:
        return (self.of,)


@component("teacher")
class External(Teacher):
    """Another model, one of the pair's teachers. `access: black_box` promises that only its texts are read; `alignment` says how its tokens and
    vocabulary meet the student's where it has another tokenizer."""

    kind: Literal["external"] = "external"
    model: str = "teacher"
    access: Literal["white_box", "black_box"] = "white_box"
    alignment: Annotated[Any, Slot("alignment")] | None = None


@component("teacher")
class Endpoint(External):
    """A model behind an OpenAI-compatible endpoint that the pair declares by the name `model`; it gives texts, scores and judgements, and no
    probabilities. A pair without that endpoint lets its own model of that name write and judge in its place."""

    kind: Literal["endpoint"] = "endpoint"  # type: ignore[assignment]
    access: Literal["black_box"] = "black_box"


@component("teacher")
class Labels(Teacher):
    """A point mass on the given answer's token of the same index, whatever stands before it; on the stop token from the answer's end on. As a
    target under forward KL it is the likelihood of the label; in a mixture per token it is the given answer (scheduled sampling 1506.03099)."""

    kind: Literal["labels"] = "labels"
    field: str = "solution"
    given = True

    @model_validator(mode="after")
    def _alone(self) -> Labels:
        if self.context is not None:
            raise ValueError("labels are read from the prompt's field, not by a model; drop context")
        return self


@component("teacher")
class LearnedTeacher(Teacher):
    """A learner (a peer, or one of the pair's models with an adapter), as it is now."""

    kind: Literal["learner"] = "learner"
    learner: str


@component("teacher")
class SelfTeacher(Teacher):
    """The student itself, with other weights, another context, or both."""

    kind: Literal["student"] = "student"
    weights: Annotated[Weights, Slot("weights_of")] = InitialWeights()
    lineage = True
