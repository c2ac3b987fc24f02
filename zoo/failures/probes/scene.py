"""What probes look at: a student, the teacher of its method, a task, and fixed prompts with noise of their own.

Nothing here moves anything: no gradient is left behind, no random stream of a run is read, and nothing is charged to its accounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zoo.components.rollouts.decoded import Student, Teacher
from zoo.components.targets import with_inputs
from zoo.components.teachers import Labels
from zoo.entry import MethodEntry
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.parts import Reader, Seen, Sizes, Texts
from zoo.harness.bank import Bank, response_hidden
from zoo.harness.cuts import chunks, micro_batches
from zoo.harness.decode import by_length
from zoo.harness.models import LoadedPair, stop_ids_of
from zoo.harness.pieces import Request, requests
from zoo.harness.writers import Writers
from zoo.seeds import uniforms
from zoo.tensors import Prompt, Rollout
from zoo.views import FLOOR

__all__ = ["Reader", "Scene", "Seen", "Sizes", "Texts", "scene_of_entry", "scene_of_pair", "teacher_of"]

MADE = ("student", "initial", "ema:", "copy:", "learner:", "steered:")  # weights that are the student's own, of some time


@dataclass
class Scene:
    """Models, task and sizes of one look. `bank` and `entry` are there for probes of a method, and missing for a pair alone."""

    pair: LoadedPair
    student: Reader
    teacher: Reader | None
    new_tokens: int
    axes: tuple[str | int, ...] = ("probe",)
    sizes: Sizes = field(default_factory=Sizes)
    entry: MethodEntry | None = None
    bank: Bank | None = None
    engine: Any = None
    micro_tokens: int = 16384
    chunk_tokens: int = 1024
    progress: float = 0.0
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    # --- prompts ------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.student.model.parameters()).device  # type: ignore[no-any-return]

    def prompts(self, split: str, count: int) -> list[Prompt]:
        """Prompts of a split, spread over it, the same at every look and in every run on the task."""
        every = self.pair.task.prompts(split)
        step = max(len(every) // count, 1)
        return [replace(prompt, id=f"{prompt.id}@{i * step}") for i, prompt in enumerate(every[::step][:count])]

    @property
    def check(self) -> str:
        """The task's check of a right answer."""
        checks = self.pair.task.checks
        return "answer" if "answer" in checks else checks[0]

    def shown(self, reader: Reader, prompt: Prompt) -> list[int]:
        """What a model reads before an answer."""
        return list(self.pair.format_prompt(prompt, reader.context, reader.native))

    def needs_teacher(self) -> Reader:
        """The teacher, or NotMeasured."""
        if self.teacher is None:
            raise NotMeasured("no teacher here reads the student's tokens")
        if self.teacher.context is not None and self.teacher.context.made:
            raise NotMeasured("the teacher's context is made of the run's own texts")
        return self.teacher

    # --- writing ------------------------------------------------------------------------------------------------------

    @cached_property
    def writers(self) -> Writers:
        """Decoders of this look alone."""
        models = {reader.name: reader.model for reader in (self.student, self.teacher) if reader is not None}
        return Writers(
            models, pad_id=self.pair.pad_id, stop_ids=self.pair.stop_ids, vocab_size=self.pair.vocab_size, max_batch=self.sizes.decode_batch, native=False
        )

    def write(
        self,
        reader: Reader,
        prompts: Sequence[Prompt],
        *axes: str | int,
        group: int = 1,
        temperature: float = 1.0,
        heads: Sequence[Sequence[int]] | None = None,
    ) -> Texts:
        """`group` answers to each prompt behind given beginnings, one for each prompt; noise by `axes`, the prompt's id and the place in the group."""
        wanted = requests(prompts, group, (*self.axes, *axes))
        begun = [tuple(heads[r.group]) if heads is not None else () for r in wanted]
        rows: list[Any] = [None] * len(wanted)
        policy = Student(temperature=temperature) if reader.name == "student" else Teacher(teacher=reader.name, temperature=temperature)
        shown = [[*self.shown(reader, request.prompt), *head] for request, head in zip(wanted, begun, strict=True)]
        for chunk in by_length(shown, self.sizes.decode_batch):
            limit = max(self.new_tokens - min(len(begun[i]) for i in chunk), 1)
            self._chunk(policy, reader, [wanted[i] for i in chunk], [shown[i] for i in chunk], limit, rows, chunk)
        ids = [(*head, *written)[: self.new_tokens] for head, (written, _, _) in zip(begun, rows, strict=True)]
        stopped = [end and len(head) + len(written) <= self.new_tokens for head, (written, end, _) in zip(begun, rows, strict=True)]
        logp = tuple(tuple(each) for _, _, each in rows)
        return Texts(tuple(r.prompt for r in wanted), tuple(ids), tuple(stopped), logp, tuple(map(len, begun)))

    def _chunk(
        self,
        policy: Student | Teacher,
        reader: Reader,
        wanted: Sequence[Request],
        shown: Sequence[Sequence[int]],
        limit: int,
        rows: list[Any],
        at: Sequence[int],
    ) -> None:
        uniform_TUB = uniforms([request.seed for request in wanted], limit).T[:, None]
        written = self.writers.write(policy, {reader.name: shown}, uniform_TUB, score_student=False)
        counts = written.mask_BT.sum(1).tolist()
        for i, ids, count, done, logp in zip(
            at, written.response_BT.tolist(), counts, written.finished_B.tolist(), written.behaviour_logp_BT.tolist(), strict=True
        ):
            rows[i] = ids[:count], done, logp[:count]

    def text(self, ids: Sequence[int]) -> str:
        """An answer's text, stop tokens left out."""
        return self.pair.decode([i for i in ids if i not in self.pair.stop_ids])

    def right(self, texts: Texts, check: str | None = None) -> list[float]:
        """The task's verdict on each answer."""
        return [self.pair.verify(check or self.check, self.text(ids), prompt) for ids, prompt in zip(texts.ids, texts.prompts, strict=True)]

    def kept(self, key: Any, make: Any) -> Any:
        """Something that several probes of one look share."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def answers(self) -> Texts:
        """K answers of the student to each of the probe's training prompts."""
        found: Texts = self.kept("answers", lambda: self.write(self.student, self.prompts("train", self.sizes.prompts), "answers", group=self.sizes.rollouts))
        return found

    def verdicts(self) -> list[float]:
        """Which of them are right."""
        found: list[float] = self.kept("verdicts", lambda: self.right(self.answers()))
        return found

    def release(self) -> None:
        """Free what decoding holds."""
        if "writers" in self.__dict__:
            self.writers.release()

    # --- reading ------------------------------------------------------------------------------------------------------

    def precision(self) -> AbstractContextManager[Any]:
        """As the run's own scoring does."""
        return torch.autocast("cuda", dtype=torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def rollout(self, texts: Texts) -> Rollout:
        """The answers as a batch whose every token is supervised."""
        width, pad, device = max(map(len, texts.ids), default=0), self.pair.pad_id, self.device
        response_BT = torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in texts.ids], device=device).reshape(len(texts), width)
        mask_BT = torch.arange(width, device=device) < torch.tensor([len(ids) for ids in texts.ids], device=device)[:, None]
        blank_BT = torch.zeros(mask_BT.shape, device=device)
        return Rollout(
            prompts=texts.prompts, prompt_ids=tuple(tuple(self.shown(self.student, prompt)) for prompt in texts.prompts), response_BT=response_BT,
            mask_BT=mask_BT, author_BT=torch.zeros_like(response_BT), behaviour_logp_BT=blank_BT, student_logp_BT=blank_BT,
            group_B=torch.arange(len(texts), device=device), finished_B=torch.tensor(texts.finished, device=device),
        )  # fmt: skip

    @torch.no_grad()
    def laws(self, readers: Mapping[str, Reader], texts: Texts, places: Mapping[int, Sequence[int]] | None = None) -> Iterator[Seen]:
        """Each reader's log-probabilities at the tokens of the answers, in chunks; `places` names the positions wanted, by answer."""
        rollout = self.rollout(texts)
        if places is not None:
            mask_BT = torch.zeros_like(rollout.mask_BT)
            for row, wanted in places.items():
                mask_BT[row, list(wanted)] = True
            rollout = replace(rollout, mask_BT=mask_BT)
        for group in micro_batches(rollout, self.micro_tokens):
            part = rollout.rows(group)
            shown = {name: [tuple(self.shown(reader, prompt)) for prompt in part.prompts] for name, reader in readers.items()}
            with self.precision():
                states = {name: response_hidden(reader.model, shown[name], part, self.pair.pad_id) for name, reader in readers.items()}
            at = part.mask_BT.nonzero()
            row_N, position_N, token_N = torch.tensor(group, device=at.device)[at[:, 0]], at[:, 1], part.response_BT[part.mask_BT]
            for chunk in chunks(len(token_N), self.chunk_tokens):
                logp = {name: self.logp_NV(reader, states[name][chunk]) for name, reader in readers.items()}
                yield Seen(row_N[chunk], position_N[chunk], token_N[chunk], logp)

    def logp_NV(self, reader: Reader, states_NH: Tensor) -> Tensor:
        """Log-probabilities over the shared vocabulary."""
        with self.precision():
            logits_NV = reader.model.get_output_embeddings()(states_NH)[:, : self.pair.vocab_size]
        return (logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()).log_softmax(-1).clamp(min=FLOOR)

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids of special tokens, stop tokens among them."""
        tokenizer = self.pair.tokenizer
        named = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset({*tokenizer.all_special_ids, *named, *self.pair.stop_ids})

    @cached_property
    def stops(self) -> tuple[int, ...]:
        """Tokens that either side declares to end an answer."""
        theirs: tuple[int, ...] = ()
        if self.teacher is not None and not self.teacher.own and hasattr(self.teacher.model, "generation_config"):
            theirs = stop_ids_of(self.teacher.model, self.pair.tokenizer)
        return tuple(dict.fromkeys(i for i in (*self.pair.stop_ids, *theirs) if i < self.pair.vocab_size))


def scene_of_pair(pair: LoadedPair, new_tokens: int, **more: Any) -> Scene:
    """The pair alone: its student against its first teacher, if that reads the student's tokens."""
    student = Reader("student", pair.student, own=True)
    return Scene(pair, student, _first_teacher(pair), new_tokens, **more)


def _first_teacher(pair: LoadedPair) -> Reader | None:
    for name, model in pair.teachers.items():
        if pair.tokenizers[name].get_vocab() == pair.tokenizer.get_vocab():
            return Reader("teacher" if name == "student" else name, model)
    return None


def scene_of_entry(entry: MethodEntry, bank: Bank, new_tokens: int, **more: Any) -> Scene:
    """A method on its pair: the first teacher that its objective reads, in the context in which it does; the pair's own where it reads none."""
    student = Reader("student", bank.models["student"], own=True)
    teacher = teacher_of(entry, bank) or _first_teacher(bank.pair)
    return Scene(bank.pair, student, teacher, new_tokens, entry=entry, bank=bank, micro_tokens=bank.micro_tokens, chunk_tokens=bank.chunk_tokens, **more)


def teacher_of(entry: MethodEntry, bank: Bank) -> Reader | None:
    """The first teacher with weights that read the student's tokens."""
    read = with_inputs((s for term in entry.objective for s in term.scorers(entry.rewards)), entry.teachers)
    for name in read:
        key = bank.keys.get(name)
        if name not in entry.teachers or key is None or key.alignment is not None or key.weights not in bank.models:
            continue
        if isinstance(entry.teachers[name], Labels) or (key.context is not None and key.context.per == "turn"):
            continue
        return Reader(name, bank.models[key.weights], key.context, own=key.weights.startswith(MADE))
    return None
