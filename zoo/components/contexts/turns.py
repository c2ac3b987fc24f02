"""Parts about dialogues: what came of a turn, what was said before it, what only the environment knows, and lessons of earlier episodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zoo.components.base import Slot, component
from zoo.components.contexts.base import Answers, Judge, Part, TextPart, Texts


@component("context")
class Observation(TextPart):
    """What the environment said to the turn, in a context `per: turn`; else the last thing that it said (the next state of OpenClaw-RL
    2603.10165, a user's follow-up in 2603.12273)."""

    kind: Literal["observation"] = "observation"

    def make(self, answers: Answers, judge: Judge) -> Texts:
        if answers.turn is not None:
            return [episode.replies[answers.turn] if answers.turn < len(episode.replies) else None for episode in answers.episodes]
        return [next((reply for reply in reversed(episode.replies) if reply is not None), None) for episode in answers.episodes]


@component("context")
class History(TextPart):
    """What was said before the turn, in a context `per: turn`, or in the whole dialogue: `shows: user` the environment's messages alone, the
    opening first (MAIGO 2605.27186 removes the writer's own replies), `all` everything in its order. The pair's word `between` parts them."""

    kind: Literal["history"] = "history"
    shows: Literal["user", "all"] = "user"

    def make(self, answers: Answers, judge: Judge) -> Texts:
        found: Texts = []
        for episode in answers.episodes:
            said, heard = episode.before(answers.turn)
            order = list(heard)
            if self.shows == "all":
                replies = [reply or "" for reply in episode.replies]
                order = [episode.opening, *(text for k, own in enumerate(said) for text in (own, replies[k] if k < len(replies) else ""))]
            found.append(judge.words["between"].join(text for text in order if text))
        return found


@component("context")
class HiddenState(Part):
    """What only the environment knows, as the pair's task tells it: a simulated user's wishes (2605.22240)."""

    kind: Literal["hidden_state"] = "hidden_state"

    def make(self, answers: Answers, judge: Judge) -> Texts:
        return [judge.hidden(prompt) for prompt in answers.prompts]


@component("context")
class Experience(Part):
    """Lessons that the run has kept from earlier episodes: what was written to other prompts and passed the check (`is: wrong`: failed it),
    the newest `count` whose prompts have the same value of the field `by`. Without any, `otherwise` is asked (skills of Skill-SD 2604.10674,
    the playbook of RESD 2605.12741; lessons are the texts themselves, not summaries of them).

    The lessons are those of iterations before the present one.
    """

    kind: Literal["experience"] = "experience"
    check: str = "answer"
    verdict: Literal["right", "wrong"] = Field("right", alias="is")
    by: str | None = None
    count: int = Field(1, ge=1)
    otherwise: Annotated[Part, Slot("context")] | None = None
    outcome = True

    model_config = {"populate_by_name": True}

    def make(self, answers: Answers, judge: Judge) -> Texts:
        kept = [lesson for lesson in judge.lessons if lesson.check == self.check and lesson.right == (self.verdict == "right")]
        found: Texts = []
        for prompt in answers.prompts:
            fit = [x.text for x in kept if x.prompt != prompt.text and (self.by is None or x.fields.get(self.by) == prompt.fields.get(self.by))]
            found.append(judge.words["between"].join(fit[-self.count :]) if fit else None)
        return found
