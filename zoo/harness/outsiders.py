"""Authors that are not decoded in the student's tokens: endpoints, and local models with a tokenizer of their own. And who wrote how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.components.base import Context
from zoo.components.rollouts import Policy, Stream, Teacher
from zoo.errors import ZooError
from zoo.harness.endpoint import Question
from zoo.harness.endpoint.texts import columns_of, written_by
from zoo.harness.environments import Episodes
from zoo.harness.foreign import Interpreter, columns_of_texts
from zoo.harness.pieces import Heads, Request
from zoo.harness.pieces_of import encoded
from zoo.tensors import Rollout


class Outsiders(Episodes):
    """The part of an engine that asks others for texts."""

    endpoints: dict[str, Any]
    interpreters: Mapping[str, Interpreter]
    generated_tokens: int
    wrote: Counter[str]

    def _context_of(self, stream: Stream, name: str) -> Context | None:
        raise NotImplementedError

    def _rollout(self, wanted: Sequence[Request], prompt_ids: Sequence[Sequence[int]], **columns: Any) -> Rollout:
        raise NotImplementedError

    def _asked(self, stream: Teacher, wanted: Sequence[Request], limit: int, heads: Heads) -> Rollout:
        """Let an endpoint write, or go on from beginnings."""
        if self.judge is None:
            raise ZooError("an endpoint is asked in the pair's words; pass judge= to the engine")
        pair, context = self.judge.pair, self._context_of(stream, stream.teacher)
        begun = [pair.decode(head) for head in heads] if heads else [""] * len(wanted)
        sampled: dict[str, Any] = {"temperature": stream.temperature, "top_p": stream.top_p, "max_tokens": limit}
        questions = [Question(pair.question(r.prompt, context), head, seed=r.seed, **sampled) for r, head in zip(wanted, begun, strict=True)]
        texts = written_by(self.endpoints[stream.teacher], questions)
        # Markup in what others say is text like any other.
        ids = [[*encoded(self.tokenizer, text), self.stop_ids[0]] for text in texts]
        self._count(stream, sum(min(len(row), limit) for row in ids))
        plain = [self.format_prompt(request.prompt, None) for request in wanted]
        return self._rollout(wanted, plain, **columns_of(ids, limit, self.pad_id, self.student.device))

    def _interpreted(self, stream: Teacher, wanted: Sequence[Request], limit: int, heads: Heads, draw: int, stops: Sequence[int] | None) -> Mapping[str, Any]:
        """Let a local model with tokens of its own write, or go on from beginnings."""
        author = self.interpreters[stream.teacher]
        begun = [author.pair.decode(head) for head in heads] if heads else [""] * len(wanted)
        prompts, seeds = [request.prompt for request in wanted], [request.seed for request in wanted]
        texts = author.write(stream, prompts, self._context_of(stream, stream.teacher), begun, seeds, limit, draw)
        tokens = [encoded(self.tokenizer, text) for text, _ in texts]
        columns = columns_of_texts(texts, tokens, stops or self.stop_ids, limit, self.pad_id, self.student.device)
        self._count(stream, int(columns["mask_BT"].sum()))
        return columns

    def _count(self, stream: Policy, tokens: int, by_teacher: int | None = None) -> None:
        """Charge tokens to whoever wrote them; where several teachers write one text token by token, to none of them."""
        self.generated_tokens += tokens
        teachers = [name for name in stream.reads if name != "student"]
        if len(teachers) == 1:
            self.wrote[teachers[0]] += tokens if by_teacher is None else by_teacher
