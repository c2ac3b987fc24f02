"""The kinds of environments."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from zoo.components.base import Number, component
from zoo.components.environments.base import Environment, Ground, filled
from zoo.tensors import Episode, Prompt


@component("environment")
class SingleTurn(Environment):
    """Nobody answers. The stream is written as without an environment, and its tokens have roles: the final answer is told from the rest."""

    kind: Literal["single_turn"] = "single_turn"
    turns: Number = 1.0

    @model_validator(mode="after")
    def _one(self) -> SingleTurn:
        if self.turns != 1.0:
            raise ValueError("single_turn has one turn; use scripted_turns, tool or simulated_user")
        return self

    def reply(self, episode: Episode, called: bool, finished: bool, prompt: Prompt, ground: Ground) -> str | None:
        return None


@component("environment")
class ScriptedTurns(Environment):
    """Fixed further turns: the pair's templates `say`, one after the other, which may show `{feedback}`, `{verdict}` (the pair's words for a
    check), `{attempt}` and the prompt's fields; or the prompt in `shards` parts, one a turn (sharded conversations).

    With `until`, a turn that passes this check ends the dialogue. A turn that was cut is answered all the same.
    """

    kind: Literal["scripted_turns"] = "scripted_turns"
    turns: Number = 1e9
    say: tuple[str, ...] = ()
    shards: int | None = Field(None, ge=2)
    check: str = "answer"
    until: str | None = None

    @model_validator(mode="after")
    def _one_script(self) -> ScriptedTurns:
        if bool(self.say) == (self.shards is not None):
            raise ValueError("give either say, templates of the pair, or shards, the number of parts of the prompt")
        return self

    def templates(self) -> tuple[str, ...]:
        return (*self.say, "right", "wrong")

    def opening(self, prompt: Prompt, ground: Ground) -> str:
        return prompt.text if self.shards is None else ground.shards(prompt, self.shards)[0]

    def reply(self, episode: Episode, called: bool, finished: bool, prompt: Prompt, ground: Ground) -> str | None:
        turn, text = len(episode.said) - 1, episode.said[-1]
        if self.until is not None and ground.verify(self.until, text, prompt) > 0.5:
            return None
        if self.shards is not None:
            parts = ground.shards(prompt, self.shards)
            return parts[turn + 1] if turn + 1 < len(parts) else None
        if turn >= len(self.say):
            return None
        template = ground.turns[self.say[turn]]
        places = {"attempt": text}
        if "{feedback}" in template:
            places["feedback"] = ground.feedback(text, prompt)
        if "{verdict}" in template:
            places["verdict"] = ground.turns["right" if ground.verify(self.check, text, prompt) > 0.5 else "wrong"]
        return filled(ground, self.say[turn], prompt, **places)


@component("environment")
class Tool(Environment):
    """A tool of the pair's task answers each call, a turn that ends in the pair's mark `call_end`, and a turn without a call ends the dialogue.

    With `answers: turn` every turn is an action, and the tool a simulator that says what came of it, until a turn passes the check `until`.
    A verifier reads all of a dialogue with calls, the tool's results included, and the last action of the other kind.
    """

    kind: Literal["tool"] = "tool"
    turns: Number = 4.0
    tool: str
    answers: Literal["call", "turn"] = "call"
    until: str | None = None

    @model_validator(mode="after")
    def _goal(self) -> Tool:
        if self.until is not None and self.answers == "call":
            raise ValueError("a dialogue with calls ends at a turn without one; drop until, or set answers: turn")
        return self

    @property
    def judged(self) -> Literal["all", "last_turn"]:  # type: ignore[override]
        return "all" if self.answers == "call" else "last_turn"

    @property
    def calls(self) -> bool:  # type: ignore[override]
        return self.answers == "call"

    def templates(self) -> tuple[str, ...]:
        return ("result", "call", "call_end") if self.answers == "call" else ("observation",)

    def reply(self, episode: Episode, called: bool, finished: bool, prompt: Prompt, ground: Ground) -> str | None:
        if self.answers == "call":
            if not called:
                return None
            return filled(ground, "result", prompt, result=ground.tool(self.tool, transcript(episode), prompt))
        text = episode.said[-1]
        if not finished or (self.until is not None and ground.verify(self.until, text, prompt) > 0.5):
            return None
        return filled(ground, "observation", prompt, result=ground.tool(self.tool, text, prompt), attempt=text)


@component("environment")
class SimulatedUser(Environment):
    """Someone with a state of mind of their own answers each turn: the task's scripted `policy`, which ends the dialogue when it is content,
    or a model (the student, or a teacher by name), which reads the pair's template `user` and writes at most `tokens` tokens.

    A model's messages are environment like all others: nobody learns from them.
    """

    kind: Literal["simulated_user"] = "simulated_user"
    turns: Number = 2.0
    by: str = "policy"
    tokens: int = Field(16, ge=1)
    until: str | None = None
    POLICY: ClassVar[str] = "policy"

    @property
    def speaker(self) -> str | None:
        return None if self.by == self.POLICY else self.by

    def templates(self) -> tuple[str, ...]:
        return ("message",) if self.speaker is None else ("user", "message")

    def reply(self, episode: Episode, called: bool, finished: bool, prompt: Prompt, ground: Ground) -> str | None:
        """What the policy says; of a model, what it reads before it speaks."""
        text = episode.said[-1]
        if self.until is not None and ground.verify(self.until, text, prompt) > 0.5:
            return None
        if self.speaker is not None:
            return filled(ground, "user", prompt, attempt=text)
        said = ground.user(text, len(episode.said) - 1, prompt)
        return None if said is None else filled(ground, "message", prompt, message=said)


def transcript(episode: Episode) -> str:
    """All that was said after the opening, in order."""
    replies = [reply or "" for reply in episode.replies]
    replies += [""] * (len(episode.said) - len(replies))
    return "".join(text for pair in zip(episode.said, replies, strict=True) for text in pair)
