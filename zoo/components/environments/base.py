"""What every environment is: a pure function from a dialogue so far to its next message.

The texts come from the pair: `turns` holds its templates by name, and the marks by which calls and answers are told apart. An environment
keeps no state of its own, so an episode depends on nothing but its prompt and what was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import ClassVar, Literal, Protocol

from pydantic import model_validator

from zoo.components.base import Component, Number, check_range
from zoo.tensors import Episode, Prompt


class Ground(Protocol):
    """What an environment may ask: the pair's templates, and its task's checks, feedback, tools, user and cut prompts."""

    @property
    def turns(self) -> Mapping[str, str]: ...

    def verify(self, check: str, text: str, prompt: Prompt) -> float: ...

    def feedback(self, text: str, prompt: Prompt) -> str: ...

    def tool(self, name: str, text: str, prompt: Prompt) -> str: ...

    def user(self, text: str, turn: int, prompt: Prompt) -> str | None: ...

    def shards(self, prompt: Prompt, count: int) -> list[str]: ...


class Environment(Component):
    """The writer speaks first and has `turns` turns at most, rounded down, each of at most the stream's new tokens. What is said to the last
    turn stands behind it, unread by the writer, for contexts that show what came of it.
    """

    judged: ClassVar[Literal["all", "last_turn"]] = "last_turn"
    calls: ClassVar[bool] = False

    turns: Number

    @model_validator(mode="after")
    def _some(self) -> Environment:
        check_range("turns", self.turns, 1.0)
        return self

    @property
    def speaker(self) -> str | None:
        """The model that writes its messages, if one does."""
        return None

    def templates(self) -> tuple[str, ...]:
        """Names of the pair's templates and marks that it needs."""
        return ()

    def opening(self, prompt: Prompt, ground: Ground) -> str:
        """What the writer is shown first."""
        return prompt.text

    def reply(self, episode: Episode, called: bool, finished: bool, prompt: Prompt, ground: Ground) -> str | None:
        """What is said to the last turn; None ends the dialogue. `called`: the turn ended in a call; `finished`: it was not cut."""
        raise NotImplementedError


class Filled(str):
    """A filled template that still knows its `parts`: each text, and whether it is the template's own."""

    parts: tuple[tuple[str, bool], ...]


def filled(ground: Ground, name: str, prompt: Prompt, **places: str) -> Filled:
    """A template of the pair with the prompt's fields and further texts in its places."""
    known, parts = {**prompt.fields, "prompt": prompt.text, **places}, list[tuple[str, bool]]()
    for own, field, form, conversion in Formatter().parse(ground.turns[name]):
        parts.append((own, True))
        if field is not None:
            place = "{" + field + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}"
            parts.append((place.format(**known), False))
    made = Filled("".join(text for text, _ in parts))
    made.parts = tuple(parts)
    return made
