"""Learners: what is trained beside the student, with an objective and an optimizer of its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zoo.components.base import Component, Slot, component


class Learner(Component):
    """Base of all learners."""

    def streams(self) -> tuple[str, ...]:
        """Streams that it learns from, written and kept while it does although no term reads them."""
        return ()


@component("learner")
class ValueHead(Learner):
    """A linear critic on the student's last hidden state, without gradient into the student; it regresses the returns that
    the credit's advantages imply (advantage + value)."""

    kind: Literal["value_head"] = "value_head"
    learning_rate: float = Field(1e-3, gt=0)


class Model(Learner):
    """Base of models that learn beside the student, on the same sequences, by terms of their own. In these `student` is the learner itself and
    `pupil` the entry's student, as it is now."""

    model: str = "teacher"
    objective: tuple[Annotated[Any, Slot("term")], ...] = Field(min_length=1)
    learning_rate: float = Field(1e-3, gt=0)


@component("learner")
class Peer(Model):
    """A copy of one of the pair's models that learns beside the student, on the same sequences, by terms of its own; `model: student` is a branch
    of the student's own initial weights (CoPD 2604.27083)."""

    kind: Literal["peer"] = "peer"


@component("learner")
class SoftPrompt(Model):
    """`length` learned embeddings before the prompt of one of the pair's models, whose own weights stay (2104.08691; PromptKD 2402.12842). They
    begin as the embeddings of the text `init`, repeated or cut to the length, else of tokens drawn from the vocabulary. It scores, and does not
    write."""

    kind: Literal["soft_prompt"] = "soft_prompt"
    length: int = Field(ge=1)
    init: str | None = None


@component("learner")
class TeacherAdapter(Model):
    """A low-rank module on one of the pair's models, whose own weights stay (2106.09685; peft, optional extra `peft`); its terms are written
    as those of a peer."""

    kind: Literal["adapter"] = "adapter"
    module: Annotated[Any, Slot("adapter")]


@component("learner")
class Projector(Learner):
    """Linear maps from the student's hidden states to a teacher's, one for each layer that a representation term reads; trained by that
    term's own loss."""

    kind: Literal["projector"] = "projector"
    learning_rate: float = Field(5e-4, gt=0)


class Bridge(Learner):
    """Base of learners that carry hidden states between the student and one teacher, for teachers of kind projected. What such a learner is
    trained by is its own: neither its loss nor its step reaches the student."""

    learning_rate: float = Field(5e-4, gt=0)


@component("learner")
class DualProjector(Bridge):
    """P (d_T, d_S), from the teacher's last state to the student's space, trained by the cross-entropy of softmax(h_T P W_S^T) on the teacher's
    own best token (DSKD v2 2504.11426); begins at W_T^T pinv(W_S^T). Back goes W_S^T pinv(W_T^T), computed anew each step, without parameters.

    W are the output heads, of tokens that both vocabularies have. Positions whose best token the student's vocabulary lacks say nothing.
    """

    kind: Literal["dual_projector"] = "dual_projector"


@component("learner")
class CrossAttention(Bridge):
    """Each student token reads the teacher's states of the whole response by attention, and the reverse (DSKD-CMA 2406.17328), trained by the
    cross-entropy of the projected teacher on the written token.

    With e = [input embedding; target embedding] and s the scores (e_S W_q) (e_T / std)^T / sqrt(2 d_T): the teacher in the student's space is
    softmax_j(s) ((h_T + e_target) / std W_t) W_S^T, the student in the teacher's softmax_i(s^T) (h_S W_s) W_T^T. A position looks at later ones.
    """

    kind: Literal["cross_attention"] = "cross_attention"


@component("learner")
class ByteHeads(Learner):
    """Linear heads on the student's last state: head j predicts the j-th byte of the next token (BLD 2604.07466), of 256 and a stop. They learn by the
    divergences that read them, whose gradient reaches the student as well, and are left behind after training; they begin at 0."""

    kind: Literal["byte_heads"] = "byte_heads"
    heads: int = Field(10, ge=1)
    learning_rate: float = Field(5e-4, gt=0)


@component("learner")
class Discriminator(Learner):
    """A copy of the initial student with a linear score D(x, y) on the state behind the last token it reads, trained by Bradley-Terry to tell
    `real` texts from `fake` ones: -log sigmoid(D(x, y_real) - D(x, y_fake)), mean over the pairs (GAD 2511.10643). `real` may have fewer
    answers to a prompt than `fake`, which they are then paired with in turn. `span` is the share of each text that it reads (PRISM
    2604.28123 has one for each of two parts). It learns from the step's texts behind the student, and is never frozen."""

    kind: Literal["discriminator"] = "discriminator"
    real: str
    fake: str = "main"
    span: tuple[float, float] = (0.0, 1.0)
    learning_rate: float = Field(1e-4, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Discriminator:
        if not 0.0 <= self.span[0] < self.span[1] <= 1.0:
            raise ValueError("span must be two increasing shares of the text, each in [0, 1]")
        if self.real == self.fake:
            raise ValueError(f"real and fake are both '{self.real}'; name two streams")
        return self

    def streams(self) -> tuple[str, ...]:
        return (self.real, self.fake)
