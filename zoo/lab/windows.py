"""The law of a stream whose straying stretches are given back to the verifier, token by token through the stream's own rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from zoo.components.rollouts import Interleaved, Watched, WindowVerify
from zoo.lab.doubles import Tables
from zoo.lab.laws import Law, from_texts
from zoo.lab.world import World
from zoo.lab.writing import read_logits, warped
from zoo.tensors import Author


@dataclass(frozen=True)
class _Text:
    """One way in which a text may have come about so far."""

    tokens: tuple[int, ...] = ()
    authors: tuple[int, ...] = ()
    behaviour: tuple[float, ...] = ()
    mass: float = 1.0

    def and_then(self, token: int, author: Author, logp: float) -> _Text:
        return _Text((*self.tokens, token), (*self.authors, int(author)), (*self.behaviour, logp), self.mass * float(np.exp(logp)))

    def cut(self, length: int) -> _Text:
        return replace(self, tokens=self.tokens[:length], authors=self.authors[:length], behaviour=self.behaviour[:length])


def given_back(stream: Interleaved, rule: WindowVerify, tables: Tables, horizon: int) -> Law:
    """Every way to write, stray, be cut, continued by the verifier and go on."""
    walk = _Walk(stream, rule, tables, min(horizon, tables.world.horizon))
    found = list(walk.student(_Text(), rule.returns))
    return from_texts(tables.world, [(t.tokens, t.authors, t.behaviour, t.mass) for t in found])


class _Walk:
    def __init__(self, stream: Interleaved, rule: WindowVerify, tables: Tables, horizon: int) -> None:
        self.world: World = tables.world
        self.rule, self.horizon = rule, horizon
        self.watched = Watched(verify=rule, temperature=stream.temperature, top_p=stream.top_p)
        self.read = {name: read_logits(stream, name, tables) for name in ("student", rule.by)}
        self.law = {name: warped(stream, name, tables) for name in ("student", rule.by)}

    def state(self, text: _Text) -> int:
        """The row of every table at the end of a text."""
        return self.world.states.index(text.tokens)

    def over(self, text: _Text) -> bool:
        """Whether nothing can follow."""
        return len(text.tokens) >= self.horizon or text.tokens[-1:] == (self.world.stop,)

    def student(self, text: _Text, returns: int) -> Iterator[_Text]:
        """What the student makes of a beginning, its statistics begun afresh."""
        open_texts: list[tuple[_Text, Any]] = [(text, None)]
        while open_texts:
            now, trail = open_texts.pop()
            if self.over(now):
                yield now
                continue
            if trail is not None and bool(trail.strays_B[0]):
                yield from [now] if returns == 0 else self.teacher(now.cut(len(now.tokens) - self.rule.window), returns)
                continue
            at = self.state(now)
            law_V = self.law["student"][at]
            below = 0.0
            for token, mass in enumerate(np.exp(law_V)):
                if mass > 0:
                    middle = torch.tensor([[below + 0.5 * mass]], dtype=torch.float64)  # a uniform that draws this token
                    choice, then = self.watched.choose(trail, {n: table_SV[[at]] for n, table_SV in self.read.items()}, middle)
                    assert int(choice.token_B[0]) == token
                    open_texts.append((now.and_then(token, Author.STUDENT, float(law_V[token])), then))
                below += mass

    def teacher(self, text: _Text, returns: int) -> Iterator[_Text]:
        """The stretch that the verifier writes, and what follows it."""
        open_texts, begun = [text], len(text.tokens)
        while open_texts:
            now = open_texts.pop()
            if self.over(now):
                yield now
            elif len(now.tokens) - begun >= self.rule.give:
                yield from self.student(now, returns - 1)
            else:
                law_V = self.law[self.rule.by][self.state(now)]
                open_texts += [now.and_then(token, Author.TEACHER, float(logp)) for token, logp in enumerate(law_V) if logp > -np.inf]
