"""Episodes: a stream's author writes a turn, the environment answers, and so on until one of them ends the dialogue.

Every turn of all open rows is one call of the engine's own decoding, behind what was said before, with noise of its own; so an episode
depends on its prompt, its seed and the models alone, never on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from zoo.components.environments import Environment
from zoo.components.environments.base import Filled, filled
from zoo.components.rollouts import Mixture, Policy, Stream, Teacher
from zoo.errors import ZooError, suggest
from zoo.harness.contexts import TaskJudge
from zoo.harness.pieces import LENGTH_DRAW, Pieces, Request
from zoo.harness.pieces_of import encoded
from zoo.seeds import uniforms
from zoo.tensors import Author, Episode, Role, Rollout

TURN_AUTHOR_DRAW = LENGTH_DRAW + (1 << 16)  # behind all streams of uniforms that pieces are drawn with
SPEAKER_PIECES = 1 << 10
UNKNOWN = float("nan")


@dataclass
class Said:
    """One row's dialogue while it is being held."""

    opening: str
    ids: list[int] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in ("mask", "author", "behaviour", "student", "turn", "role")})
    said: list[str] = field(default_factory=list)
    replies: list[str | None] = field(default_factory=list)
    called: bool = False
    finished: bool = False

    @property
    def episode(self) -> Episode:
        """The dialogue as text."""
        return Episode(self.opening, tuple(self.said), tuple(self.replies))

    def add(self, ids: Sequence[int], **columns: Sequence[Any]) -> None:
        """Append tokens with their columns."""
        self.ids.extend(ids)
        for name, values in columns.items():
            self.columns[name].extend(values)


@dataclass(frozen=True)
class Marks:
    """Token ids that tell a call and an answer from other text: `call` begins a call and `end` closes it, `answer` begins an answer."""

    call: tuple[int, ...] = ()
    end: int | None = None
    answer: tuple[int, ...] = ()

    def roles(self, ids: Sequence[int], called: bool) -> list[int]:
        """The role of each token of a turn. A call goes from behind the last mark `call` to the end, an answer from behind the first mark."""
        if called:
            start = _behind(ids, self.call, last=True) or 0
            return [int(Role.TEXT)] * start + [int(Role.CALL)] * (len(ids) - start)
        found = _behind(ids, self.answer, last=False)
        start = len(ids) if found is None else found
        return [int(Role.TEXT)] * start + [int(Role.ANSWER)] * (len(ids) - start)


def _behind(ids: Sequence[int], mark: tuple[int, ...], *, last: bool) -> int | None:
    """The place behind an occurrence of a mark."""
    places = [i + len(mark) for i in range(len(ids) - len(mark) + 1) if tuple(ids[i : i + len(mark)]) == mark] if mark else []
    return None if not places else places[-1 if last else 0]


class Episodes(Pieces):
    """The part of an engine that holds dialogues."""

    tokenizer: Any
    student: Any

    def _episodes(self, stream: Stream, wanted: Sequence[Request], limit: int) -> Rollout:
        """One dialogue for each request; what the author is shown first replaces the prompt's text."""
        environment, ground = stream.environment, self.judge
        assert isinstance(environment, Environment)
        if ground is None:
            raise ZooError("an environment asks the pair's task; pass judge= to the engine")
        marks = self._marks(environment, ground)
        opened = [replace(r, prompt=replace(r.prompt, text=environment.opening(r.prompt, ground))) for r in wanted]
        rows = [Said(request.prompt.text) for request in opened]
        active, first = list(range(len(rows))), None
        for turn in range(int(environment.turns)):
            heads = [rows[i].ids for i in active]
            piece = self._turn(stream, [opened[i] for i in active], limit, heads if turn else None, turn, marks)
            first = piece if first is None else first
            self._note(piece, [rows[i] for i in active], turn, marks)
            active = self._answered(environment, ground, [opened[i] for i in active], active, rows, turn)
            if not active:
                break
        assert first is not None
        return self._joined(first, rows, environment)

    def _turn(self, stream: Stream, wanted: Sequence[Request], limit: int, heads: Sequence[Sequence[int]] | None, turn: int, marks: Marks) -> Rollout:
        """One turn of the rows that are open, by the stream's author or by the one drawn for the turn."""
        stops = self.stop_ids if marks.end is None else (*self.stop_ids, marks.end)
        if not isinstance(stream, Mixture) or stream.per != "turn":
            assert isinstance(stream, Policy)
            return self._decode(stream, wanted, limit, heads, turn, stops)
        drawn = uniforms([request.seed for request in wanted], 1, stream=TURN_AUTHOR_DRAW + turn)[:, 0].tolist()
        names = [stream.author_at(request.member, uniform) for request, uniform in zip(wanted, drawn, strict=True)]
        parts, order = [], list[int]()
        for name in dict.fromkeys(names):
            at = [i for i, author in enumerate(names) if author == name]
            parts.append(self._decode(stream.part(name), [wanted[i] for i in at], limit, [heads[i] for i in at] if heads else None, turn, stops))
            order += at
        return self._in_order(parts, order)

    def _note(self, piece: Rollout, rows: Sequence[Said], turn: int, marks: Marks) -> None:
        """Write a turn's tokens and columns down."""
        columns = {"mask": piece.mask_BT, "author": piece.author_BT, "behaviour": piece.behaviour_logp_BT, "student": piece.student_logp_BT}
        lists = {name: column.tolist() for name, column in columns.items()}
        length = piece.mask_BT.sum(1)
        for b, row in enumerate(rows):
            size = int(length[b])
            ids = piece.response_BT[b, :size].tolist()
            row.called = bool(ids) and ids[-1] == marks.end
            row.finished = bool(piece.finished_B[b])
            roles = marks.roles(ids, row.called)
            row.add(ids, **{name: values[b][:size] for name, values in lists.items()}, turn=[turn] * size, role=roles)
            row.said.append(self._said(ids))

    def _answered(
        self, environment: Environment, ground: TaskJudge, wanted: Sequence[Request], active: Sequence[int], rows: Sequence[Said], turn: int
    ) -> list[int]:
        """Append what the environment says to each open row; the rows that go on."""
        replies: list[str | None] = []
        for request, i in zip(wanted, active, strict=True):
            row = rows[i]
            open_row = bool(row.ids) and bool(row.said[-1] or row.finished)
            replies.append(environment.reply(row.episode, row.called, row.finished, request.prompt, ground) if open_row else None)
        if environment.speaker is not None:
            replies = self._spoken(environment, ground, wanted, replies, turn)
        still = []
        for i, text in zip(active, replies, strict=True):
            rows[i].replies.append(text)
            if text is None:
                continue
            ids = self._heard(text)
            unknown = [UNKNOWN] * len(ids)
            constant = {"mask": False, "author": int(Author.ENVIRONMENT), "turn": turn, "role": int(Role.REPLY)}
            rows[i].add(ids, behaviour=unknown, student=unknown, **{name: [value] * len(ids) for name, value in constant.items()})
            still.append(i)
        return still

    def _spoken(self, environment: Any, ground: TaskJudge, wanted: Sequence[Request], asked: Sequence[str | None], turn: int) -> list[str | None]:
        """The messages of a model that plays the environment, each an answer to what it is asked."""
        rows = [i for i, text in enumerate(asked) if text is not None]
        if not rows:
            return list(asked)
        requests = [replace(wanted[i], prompt=replace(wanted[i].prompt, text=str(asked[i]))) for i in rows]
        speaker = Teacher(teacher=environment.speaker)
        written = self._decode(speaker, requests, environment.tokens, [()] * len(rows), SPEAKER_PIECES + turn)
        found: list[str | None] = [None] * len(asked)
        for i, ids, mask in zip(rows, written.response_BT.tolist(), written.mask_BT.tolist(), strict=True):
            message = self._said([token for token, m in zip(ids, mask, strict=True) if m])
            found[i] = filled(ground, "message", wanted[i].prompt, message=message)
        return found

    def _heard(self, text: str) -> list[int]:
        """A reply's tokens. Markup of the pair's template is markup; in what a tool or a user says it is text, and ends nobody's turn."""
        special = self.tokenizer.all_special_tokens
        parts = text.parts if isinstance(text, Filled) else ()
        if not any(token in said for said, own in parts if not own for token in special):
            return self._encode(text)
        return [token for said, own in parts for token in (self._encode(said) if own else encoded(self.tokenizer, said))]

    def _joined(self, first: Rollout, rows: Sequence[Said], environment: Environment) -> Rollout:
        """All rows side by side."""
        width, device = max(max(len(row.ids) for row in rows), 1), first.response_BT.device

        def column(name: str, empty: Any, like: torch.Tensor) -> torch.Tensor:
            values = [row.ids if name == "ids" else row.columns[name] for row in rows]
            return torch.tensor([[*v, *[empty] * (width - len(v))] for v in values], dtype=like.dtype, device=device)

        return replace(
            first,
            response_BT=column("ids", self.pad_id, first.response_BT),
            mask_BT=column("mask", False, first.mask_BT),
            author_BT=column("author", 0, first.author_BT),
            behaviour_logp_BT=column("behaviour", 0.0, first.behaviour_logp_BT),
            student_logp_BT=column("student", 0.0, first.student_logp_BT),
            turn_BT=column("turn", 0, first.author_BT),
            role_BT=column("role", 0, first.author_BT),
            finished_B=torch.tensor([row.finished for row in rows], device=device),
            judged=environment.judged,
        )

    def _marks(self, environment: Environment, ground: TaskJudge) -> Marks:
        """The pair's marks as token ids."""
        if missing := [name for name in environment.templates() if name not in ground.turns]:
            raise ZooError(f"an environment needs the pair's turn template '{missing[0]}'{suggest(missing[0], ground.turns)}; add it under turns")
        answer = tuple(self._encode(ground.turns["answer"])) if "answer" in ground.turns else ()
        if not environment.calls:
            return Marks(answer=answer)
        end = self._encode(ground.turns["call_end"])
        if len(end) != 1:
            raise ZooError(f"the pair's mark call_end is {len(end)} tokens; a call ends with one token, so choose a mark that is one")
        return Marks(tuple(self._encode(ground.turns["call"])), end[0], answer)

    def _said(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode([i for i in ids if i not in self.stop_ids], skip_special_tokens=True))
