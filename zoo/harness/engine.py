"""The reference rollout engine: plain, exact, and able to serve every kind of stream. Fast engines are compared with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from zoo.components.base import Context
from zoo.components.contexts import Answers
from zoo.components.rollouts import (
    Continued,
    Corpus,
    Dataset,
    Edited,
    Interleaved,
    Mixture,
    Policy,
    Replay,
    Reread,
    Stream,
    Teacher,
    When,
    WindowVerify,
)
from zoo.components.rollouts.base import TeacherWarp
from zoo.components.teachers import Labels
from zoo.errors import ZooError, suggest
from zoo.harness.contexts import TaskJudge, lacks, made_prompts
from zoo.harness.decode import by_length
from zoo.harness.endpoint.texts import columns_of
from zoo.harness.outsiders import Outsiders
from zoo.harness.pieces import LENGTH_DRAW, FormatPrompt, Heads, Request, requests
from zoo.harness.replay import ReplayBuffer, concatenate
from zoo.harness.shadow import Shadows
from zoo.harness.vllm import VllmOptions
from zoo.harness.writers import Writers
from zoo.seeds import seed_for, uniforms
from zoo.tensors import Author, Prompt, Rollout

AUTHOR_DRAW = 1 << 16
TEXT_DRAW, REST_DRAW = AUTHOR_DRAW + 1, LENGTH_DRAW + 1


def left_out(rollout: Rollout, skipped: Sequence[bool]) -> Rollout:
    """The rollout with some of its sequences unsupervised."""
    return replace(rollout, mask_BT=rollout.mask_BT & ~torch.tensor(list(skipped), device=rollout.mask_BT.device)[:, None])


class ReferenceEngine(Outsiders):
    """Writes the sequences of any stream with the student and the named teachers.

    `format_prompt` turns a prompt, with or without an author's context, into token ids; `stop_ids[0]` is appended to given
    texts. With `decode_dtype` (bf16, say) a model kept in fp32 (the student, teachers that move with it) decodes through a copy of that type, refreshed in
    place before every rollout (`Shadows`).
    `generated_tokens` counts what was decoded so far, by any author.
    """

    def __init__(
        self,
        student: Any,
        teachers: Mapping[str, Any],
        tokenizer: Any,
        *,
        format_prompt: FormatPrompt,
        stop_ids: Sequence[int],
        pad_id: int,
        vocab_size: int,
        max_batch: int = 256,
        decode_dtype: torch.dtype | None = None,
        corpus: Sequence[str] | None = None,
        judge: TaskJudge | None = None,
        native: bool = True,
        vllm: VllmOptions | None = None,
    ) -> None:
        self.student, self.teachers, self.tokenizer, self.format_prompt = student, dict(teachers), tokenizer, format_prompt
        self.stop_ids, self.pad_id, self.corpus, self.judge = tuple(stop_ids), pad_id, corpus, judge
        self.endpoints = {}
        self.interpreters = {}
        self.generated_tokens = 0
        self.wrote = Counter()  # by teacher, since the last step
        self._shadows = Shadows(student, self.teachers, decode_dtype)
        how: dict[str, Any] = {"max_batch": max_batch, "native": native, "vllm": vllm, "masters": self._shadows.masters}
        self.writers = Writers(self._shadows.writing, pad_id=pad_id, stop_ids=stop_ids, vocab_size=vocab_size, **how)
        self._sources: dict[str, Rollout] = {}

    def serves(self, stream: Stream) -> bool:
        """Whether this engine writes such a stream: all of them."""
        return isinstance(stream, Policy | Dataset | Corpus | Mixture | Replay | Continued | Edited | Reread)

    def whole_student(self) -> Any:
        """The student as it is now, in one piece and in the type it decodes in."""
        self._shadows.refresh("student")
        return self._shadows.writing["student"]

    def release(self) -> None:
        """Free the caches and graphs that are kept between rollouts."""
        self.writers.release()

    def rollout(
        self,
        stream: Stream,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        seed_axes: Sequence[str | int],
        version: int = 0,
        memory: ReplayBuffer | None = None,
        progress: float = 0.0,
        sources: Mapping[str, Rollout] | None = None,
        earlier: Sequence[int] | None = None,
    ) -> Rollout:
        """`stream.group` responses to each prompt, next to each other, on the student's device.

        `seed_axes` name the noise (comparison, seed index, purpose, stream, step); rows add their own axes. `version` is the number
        of optimizer steps so far. A `replay` stream needs its `memory` and the run's `progress`; any number of the stream
        that follows a schedule must be resolved before. `sources` are the streams of this iteration that the stream reads, row by row; `earlier` is
        how often each prompt came before in the batch of which this is one process's part.

        Raises:
            ZooError: a teacher, a prompt field, a source or the buffer is missing.
        """
        if isinstance(stream, Replay):
            return self._replay(stream, prompts, max_new_tokens, tuple(seed_axes), version, memory, progress)
        self._shadows.refresh(*stream.reads)
        wanted, found = requests(prompts, stream.group, seed_axes, earlier), {name: (sources or {}).get(name) for name in stream.sources}
        if unlike := [name for name, source in found.items() if source is None or len(source) != len(wanted)]:
            raise ZooError(f"a stream of author '{stream.author}' reads stream '{unlike[0]}' row by row, which must be written before, to the same prompts")
        self._sources = {name: source for name, source in found.items() if source is not None}
        limit = stream.horizon(max_new_tokens)
        written = self._where_due(stream, wanted, limit) if isinstance(stream.when, When) else self._write(stream, wanted, limit)
        self.writers.rest()
        return replace(written, version=version)

    def _where_due(self, stream: Stream, wanted: Sequence[Request], limit: int) -> Rollout:
        """The rows that another stream's answers call for; the others are there, and empty."""
        assert isinstance(stream.when, When)
        if self.judge is None:
            raise ZooError("a stream that waits for another one's answers asks the pair's task; pass judge= to the engine")
        other, judge, check = self._sources[stream.when.of], self.judge, getattr(stream.when, "check", "answer")
        passed = [judge.verify(check, text, prompt) for text, prompt in zip(judge.texts(other), other.prompts, strict=True)]
        due = stream.when.due(passed, other.group_B.tolist())
        rows = {True: [i for i, yes in enumerate(due) if yes], False: [i for i, yes in enumerate(due) if not yes]}
        parts = [self._write(stream, [wanted[i] for i in rows[True]], limit)] if rows[True] else []
        if rows[False]:
            left = [wanted[i] for i in rows[False]]
            empty = columns_of([[] for _ in left], limit, self.pad_id, self.student.device)
            parts.append(self._rollout(left, [self.format_prompt(request.prompt, None) for request in left], **empty))
        return self._in_order(parts, [*rows[True], *rows[False]])

    def _write(self, stream: Stream, wanted: Sequence[Request], limit: int) -> Rollout:
        if isinstance(stream, Continued):
            return self._continue(stream, wanted, limit)
        if stream.environment is not None:
            return self._episodes(stream, wanted, limit)
        if isinstance(stream, Edited):
            return self._edit(stream, wanted, limit)
        if isinstance(stream, Reread):
            return self._reread(stream, wanted)
        if isinstance(stream, Mixture) and stream.per != "token":
            return self._by_author(stream, wanted, limit)
        if isinstance(stream, Dataset | Corpus):
            return self._given(stream, wanted, limit)
        if isinstance(stream, Interleaved) and isinstance(stream.verify, WindowVerify):
            return self._backtrack(stream, stream.verify, wanted, limit)
        if isinstance(stream, Policy):
            return self._decode(stream, wanted, limit)
        raise ZooError(f"the reference engine can't write a stream of author '{stream.author}'")

    def _by_author(self, stream: Mixture, wanted: Sequence[Request], limit: int) -> Rollout:
        """Each author writes the responses that fell to it."""
        drawn = uniforms([request.seed for request in wanted], 1, stream=AUTHOR_DRAW)[:, 0].tolist()
        names = [stream.author_at(request.member, uniform) for request, uniform in zip(wanted, drawn, strict=True)]
        rows = {name: [i for i, author in enumerate(names) if author == name] for name in dict.fromkeys(names)}
        parts = [self._write(stream.part(name), [wanted[i] for i in at], limit) for name, at in rows.items()]
        return self._in_order(parts, [i for at in rows.values() for i in at])

    def _in_order(self, parts: Sequence[Rollout], order: Sequence[int]) -> Rollout:
        """Parts put together, their row k going to place `order[k]`."""
        return concatenate(parts, pad_id=self.pad_id).rows(sorted(range(len(order)), key=order.__getitem__))

    def _decode(
        self, stream: Stream, wanted: Sequence[Request], limit: int, heads: Heads = None, piece: int = 0, stops: Sequence[int] | None = None
    ) -> Rollout:
        """Let the stream's models write, in micro-batches of like prompts; with `heads`, behind these beginnings of the responses, as the
        `piece`-th piece of them with noise of its own. `stops` are tokens that end it, where they are others than the pair's."""
        assert isinstance(stream, Policy)
        wanted, skipped = self._in_context(stream, wanted)
        if isinstance(stream, Teacher) and stream.teacher in self.endpoints:
            return left_out(self._asked(stream, wanted, limit, heads), skipped)
        plain, after = [self.format_prompt(request.prompt, None) for request in wanted], REST_DRAW + 8 * piece if heads else 0
        if isinstance(stream, Teacher) and stream.teacher in self.interpreters:
            return left_out(self._rollout(wanted, plain, **self._interpreted(stream, wanted, limit, heads, after, stops)), skipped)
        shown = {name: self._labels(name, wanted, heads) or self._shown(self._context_of(stream, name), wanted, plain, heads) for name in stream.reads}
        longest = max(shown.values(), key=lambda rows: sum(map(len, rows)))
        chunks, parts = by_length(longest, self.writers.batch(stream, stops)), []
        for chunk in chunks:
            seeds = [wanted[i].seed for i in chunk]
            uniform_TUB = torch.stack([uniforms(seeds, limit, stream=after + draw).T for draw in range(stream.draws)], 1)
            prompts = {name: [rows[i] for i in chunk] for name, rows in shown.items()}
            written = self.writers.write(stream, prompts, uniform_TUB, stop_ids=stops, score_student=stream.context is None)
            self._count(stream, int(written.mask_BT.sum()), int((written.author_BT == int(Author.TEACHER)).sum()))
            parts.append(self._rollout([wanted[i] for i in chunk], [plain[i] for i in chunk], **vars(written)))
        return left_out(self._in_order(parts, [i for chunk in chunks for i in chunk]), skipped)

    def _in_context(self, stream: Stream, wanted: Sequence[Request]) -> tuple[list[Request], list[bool]]:
        """The requests with the texts that the stream's contexts are made of, and which of them must be left out for want of one."""
        made = [context for context in stream.contexts if context.made]
        if not made:
            return list(wanted), [False] * len(wanted)
        if self.judge is None:
            raise ZooError("a stream's context is made during the run, which needs the pair's task; pass judge= to the engine")
        prompts = [request.prompt for request in wanted]
        answers: dict[str | None, Answers] = {name: self.judge.answers(source) for name, source in self._sources.items()}
        answers[None] = Answers(prompts, (), [request.group for request in wanted])
        filled = made_prompts(prompts, [(context, context) for context in made], answers, self.judge)
        skipped = [any(lacks(prompt, context) and context.absent == "skip" for context in made) for prompt in filled]
        return [replace(request, prompt=prompt) for request, prompt in zip(wanted, filled, strict=True)], skipped

    def _context_of(self, stream: Stream, name: str) -> Context | None:
        return stream.context_of(name) if isinstance(stream, TeacherWarp) else stream.context

    def _labels(self, name: str, wanted: Sequence[Request], heads: Sequence[Sequence[int]] | None) -> list[list[int]] | None:
        """What a scorer of given text reads: the rest of each answer, the stop token at its end. None for models."""
        given = self.teachers.get(name)
        if not isinstance(given, Labels):
            return None
        rows = [self._text(Dataset(field=given.field), request)[1] for request in wanted]
        return [row[len(head) :] or row[-1:] for row, head in zip(rows, heads or [()] * len(rows), strict=True)]

    def _shown(
        self, context: Context | None, wanted: Sequence[Request], plain: Sequence[Sequence[int]], heads: Sequence[Sequence[int]] | None
    ) -> list[list[int]]:
        """What a model reads: each prompt in its context, and the given beginning of the response."""
        prompts = plain if context is None else [self.format_prompt(request.prompt, context) for request in wanted]
        return [[*prompt, *head] for prompt, head in zip(prompts, heads or [()] * len(wanted), strict=True)]

    def _given(self, stream: Dataset | Corpus, wanted: Sequence[Request], limit: int) -> Rollout:
        """Texts that no model writes: log-probabilities are NaN."""
        pairs = [self._text(stream, request) for request in wanted]
        if empty := [request.prompt.id for request, (_, response) in zip(wanted, pairs, strict=True) if not response]:
            raise ZooError(f"prompt '{empty[0]}' has an empty text for author '{stream.author}'")
        author = Author.DATASET if isinstance(stream, Dataset) else Author.CORPUS
        columns = columns_of([response for _, response in pairs], limit, self.pad_id, self.student.device, author)
        return self._rollout(wanted, [prompt for prompt, _ in pairs], **columns)

    def _text(self, stream: Dataset | Corpus, request: Request) -> tuple[list[int], list[int]]:
        """Prompt and response of a given text, the stop token included. A corpus text's first token, which nothing predicts, is
        its prompt."""
        if isinstance(stream, Corpus) and self.corpus:
            text = self.corpus[int(uniforms([request.seed], 1, stream=TEXT_DRAW)[0, 0] * len(self.corpus))]
            ids = [*self._encode(text), self.stop_ids[0]]
            return ids[:1], ids[1:]
        fields = request.prompt.fields
        if stream.field not in fields:
            hint = suggest(stream.field, fields)
            raise ZooError(f"prompt '{request.prompt.id}' has no field '{stream.field}' for author '{stream.author}'{hint}")
        prompt, response = list(self.format_prompt(request.prompt, None)), [*self._encode(fields[stream.field]), self.stop_ids[0]]
        return (prompt, response) if isinstance(stream, Dataset) else (prompt[:1], prompt[1:] + response)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _rollout(self, wanted: Sequence[Request], prompt_ids: Sequence[Sequence[int]], **columns: Any) -> Rollout:
        return Rollout(
            prompts=tuple(request.prompt for request in wanted),
            prompt_ids=tuple(tuple(ids) for ids in prompt_ids),
            group_B=torch.tensor([request.group for request in wanted], device=self.student.device),
            **columns,
        )

    def _replay(
        self,
        stream: Replay,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        seed_axes: tuple[str | int, ...],
        version: int,
        memory: ReplayBuffer | None,
        progress: float,
    ) -> Rollout:
        if memory is None:
            raise ZooError("a replay stream needs its buffer; make one with zoo.harness.replay.buffer_for and pass memory=")
        uniform = float(uniforms([seed_for(*seed_axes, "replay source")], 1)[0, 0])
        source = memory.source(uniform, progress)
        if source == "buffer":
            return memory.sample(len(prompts), seed_for(*seed_axes, "replay batch")).to(self.student.device)
        inner = stream.of if source == "fresh" else stream.otherwise
        rollout = self.rollout(inner, prompts, max_new_tokens=max_new_tokens, seed_axes=seed_axes, version=version)
        if source == "fresh":
            memory.append(rollout)
        return rollout
