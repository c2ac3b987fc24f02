"""Streams written in pieces: a given beginning and what follows, texts with another end, stretches that are given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.components.base import Context
from zoo.components.contexts import Answers
from zoo.components.rollouts import Branch, Continued, Edited, Interleaved, Prefix, Reread, Stream, Teacher, Watched, WindowVerify
from zoo.errors import ZooError
from zoo.harness.contexts import TaskJudge, written_ids
from zoo.harness.splice import content_lengths, edited, heads_of, spliced
from zoo.seeds import seed_for, uniforms
from zoo.tensors import Prompt, Rollout

FormatPrompt = Callable[[Prompt, Context | None], Sequence[int]]
LENGTH_DRAW = (1 << 16) + 2  # behind the streams of uniforms that authors and texts are drawn with
Heads = Sequence[Sequence[int]] | None  # the beginnings of responses, behind which something is written


@dataclass(frozen=True)
class Request:
    """One response to write: to which prompt, in which group, at which place of it, from which noise."""

    prompt: Prompt
    group: int
    member: int
    seed: int


def requests(prompts: Sequence[Prompt], group: int, seed_axes: Sequence[str | int], earlier: Sequence[int] | None = None) -> list[Request]:
    """`group` responses to each prompt, next to each other. The noise depends on the prompt's id, how often that id came
    before in this batch (`earlier`, where these are a part of it), and the place in the group: never on the order or the number of the others."""
    seen: Counter[str] = Counter()
    made = []
    for index, prompt in enumerate(prompts):
        before = seen[prompt.id] if earlier is None else earlier[index]
        for member in range(group):
            made.append(Request(prompt, index, member, seed_for(*seed_axes, prompt.id, before, member)))
        seen[prompt.id] += 1
    return made


class Pieces:
    """The part of an engine that puts responses together; the engine writes the pieces."""

    judge: TaskJudge | None
    stop_ids: tuple[int, ...]
    pad_id: int
    format_prompt: FormatPrompt
    _sources: dict[str, Rollout]

    def _write(self, stream: Stream, wanted: Sequence[Request], limit: int) -> Rollout:
        raise NotImplementedError

    def _decode(
        self, stream: Stream, wanted: Sequence[Request], limit: int, heads: Heads = None, piece: int = 0, stops: Sequence[int] | None = None
    ) -> Rollout:
        raise NotImplementedError

    def _in_order(self, parts: Sequence[Rollout], order: Sequence[int]) -> Rollout:
        raise NotImplementedError

    def _encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def _in_context(self, stream: Stream, wanted: Sequence[Request]) -> tuple[list[Request], list[bool]]:
        raise NotImplementedError

    def _continue(self, stream: Continued, wanted: Sequence[Request], limit: int) -> Rollout:
        """Given beginnings, and what `by` makes of them."""
        if isinstance(stream, Branch):
            given = self._sources[stream.of]
            # By the text it leaves from, so that two branches of one stream leave it at the same places.
            seeds = [seed_for("branch", p.id, given.version, *ids) for p, ids in zip(given.prompts, written_ids(given), strict=True)]
        else:
            assert isinstance(stream, Prefix)
            given = self._write(stream.of, wanted, stream.of.horizon(limit))
            seeds = [request.seed for request in wanted]
        uniform_B = uniforms(seeds, 1, stream=LENGTH_DRAW)[:, 0].to(given.mask_BT.device)
        if stream.unit == "turn":
            return self._leave(stream, given, wanted, limit, uniform_B)
        length_B = stream.lengths(content_lengths(given, self.stop_ids), uniform_B).clamp(max=limit - 1)
        rest = self._decode(stream.rest(), wanted, min(limit, stream.window or limit), heads_of(given, length_B))
        return spliced(given, rest, length_B, limit=limit, learn_given=stream.supervise == "all", pad_id=self.pad_id)

    def _leave(self, stream: Continued, given: Rollout, wanted: Sequence[Request], limit: int, uniform_B: Tensor) -> Rollout:
        """One turn of each dialogue written by `by` instead; what is judged of it is that turn."""
        count_B = torch.where(given.mask_BT, given.turns_BT, -1).amax(1) + 1
        turn_B = torch.minimum(stream.lengths(count_B, uniform_B), (count_B - 1).clamp(min=0))
        length_B = (given.written_BT & (given.turns_BT < turn_B[:, None])).sum(1)
        opened = [replace(request, prompt=prompt) for request, prompt in zip(wanted, given.prompts, strict=True)]
        rest = self._decode(stream.rest(), opened, min(limit, stream.window or limit), heads_of(given, length_B))
        whole = spliced(given, rest, length_B, limit=int(length_B.max()) + limit, learn_given=False, pad_id=self.pad_id)
        before_BT = torch.nn.functional.pad(given.turns_BT, (0, max(whole.mask_BT.shape[1] - given.turns_BT.shape[1], 0)))[:, : whole.mask_BT.shape[1]]
        turn_BT = torch.where(whole.mask_BT, turn_B[:, None], torch.minimum(before_BT, (turn_B[:, None] - 1).clamp(min=0)))
        return replace(whole, turn_BT=turn_BT, role_BT=torch.zeros_like(turn_BT), judged="last_turn")

    def _backtrack(self, stream: Interleaved, rule: WindowVerify, wanted: Sequence[Request], limit: int) -> Rollout:
        """The student writes; a stretch that strays is cut back and written by the verifier; the student goes on."""
        common: dict[str, Any] = {"temperature": stream.temperature, "top_p": stream.top_p, "context": stream.context}
        temperature, top_p = stream.warp_of(rule.by)
        student = Watched(verify=rule, teacher_context=stream.teacher_context, **common)
        teacher = Teacher(teacher=rule.by, temperature=temperature, top_p=top_p, context=stream.context_of(rule.by))
        text = self._decode(student, wanted, limit)
        for turn in range(rule.returns):
            length_B = text.mask_BT.sum(1)
            strayed = [i for i, (done, n) in enumerate(zip(text.finished_B.tolist(), length_B.tolist(), strict=True)) if not done and 0 < n < limit]
            if not strayed:
                break
            piece = self._go_on(text.rows(strayed), teacher, [wanted[i] for i in strayed], length_B[strayed] - rule.window, rule.give, limit, 2 * turn + 1)
            length_B = piece.mask_BT.sum(1)
            open_rows = [i for i, (done, n) in enumerate(zip(piece.finished_B.tolist(), length_B.tolist(), strict=True)) if not done and n < limit]
            if open_rows:
                own = [wanted[strayed[i]] for i in open_rows]
                rest = self._go_on(piece.rows(open_rows), student, own, length_B[open_rows], limit, limit, 2 * turn + 2)
                closed = [i for i in range(len(strayed)) if i not in open_rows]
                piece = self._in_order([piece.rows(closed), rest], [*closed, *open_rows])
            kept = [i for i in range(len(wanted)) if i not in strayed]
            text = self._in_order([text.rows(kept), piece], [*kept, *strayed])
        return text

    def _go_on(self, text: Rollout, stream: Stream, wanted: Sequence[Request], length_B: Tensor, tokens: int, limit: int, piece: int) -> Rollout:
        """The first tokens of each text and what a stream writes behind them."""
        rest = self._decode(stream, wanted, tokens, heads_of(text, length_B), piece)
        return spliced(text, rest, length_B, limit=limit, learn_given=True, pad_id=self.pad_id)

    def _edit(self, stream: Edited, wanted: Sequence[Request], limit: int) -> Rollout:
        """Another stream's texts, cut at their statement about themselves and ended by a computed one."""
        if self.judge is None:
            raise ZooError("an edited stream asks the pair's task; pass judge= to the engine")
        source, judge = self._sources[stream.of], self.judge
        answers: dict[str | None, Answers] = {name: judge.answers(rollout) for name, rollout in self._sources.items()}
        answers[None] = answers[stream.of]
        mark, put = judge.words["mark"], stream.put.texts(answers, judge)
        kept = [text if said is None else text.split(mark)[0] + mark + said for text, said in zip(answers[None].texts, put, strict=True)]
        ids = [[*self._encode(text), self.stop_ids[0]][:limit] for text in kept]
        changed = edited(source, ids, learn_all=stream.supervise == "all", stop_ids=self.stop_ids, pad_id=self.pad_id)
        return replace(changed, mask_BT=changed.mask_BT & torch.tensor([said is not None for said in put], device=changed.mask_BT.device)[:, None])

    def _reread(self, stream: Reread, wanted: Sequence[Request]) -> Rollout:
        """Another stream's texts behind the prompts in a context; what the student thought of them without it says nothing here."""
        source, (filled, skipped) = self._sources[stream.of], self._in_context(stream, wanted)
        read = tuple(tuple(self.format_prompt(request.prompt, stream.context)) for request in filled)
        mask_BT = source.mask_BT & ~torch.tensor(skipped, device=source.mask_BT.device)[:, None]
        unknown_BT = torch.zeros_like(source.student_logp_BT).masked_fill(mask_BT, float("nan"))
        prompts = tuple(request.prompt for request in filled)
        return replace(source, prompts=prompts, prompt_ids=read, mask_BT=mask_BT, student_logp_BT=unknown_BT)
