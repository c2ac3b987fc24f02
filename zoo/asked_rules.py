"""Compatibility rules about what is asked of others: judges, reward models, discriminators, prompt fields that rewards read.

Each is a function from an entry to messages, like those of `zoo.compat`, which runs them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from zoo.components.base import extremes
from zoo.components.learners import Discriminator
from zoo.components.rewards import Judge, Learned, Match, RewardModel, UnitTests
from zoo.components.rollouts import Corpus, Replay
from zoo.components.teachers import Composite, Endpoint
from zoo.errors import suggest

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


def unknown_asked(entry: MethodEntry) -> Messages:
    """Judges that are no teachers, scores of learners that are no discriminators, discriminators of streams that are not written."""
    for name, reward in entry.rewards.items():
        for asked in reward.asks():
            if asked not in entry.teachers:
                yield f"rewards.{name}: judge '{asked}' is not under teachers{suggest(asked, entry.teachers)}"
        if isinstance(reward, Learned) and not isinstance(entry.learners.get(reward.learner), Discriminator):
            yield f"rewards.{name}: '{reward.learner}' is no learner of kind discriminator{suggest(reward.learner, entry.learners)}"
    for name, learner in entry.learners.items():
        for stream in learner.streams():
            if stream not in entry.rollouts:
                yield f"learners.{name}: stream '{stream}' is not under rollouts{suggest(stream, entry.rollouts)}"


def judges(entry: MethodEntry) -> Messages:
    """An endpoint gives no likelihood, and a judge is one model."""
    for name, reward in entry.rewards.items():
        if not isinstance(reward, Judge):
            continue
        judge = entry.teachers[reward.by]
        if isinstance(judge, Endpoint) and reward.ask == "likelihood":
            yield f"rewards.{name}: an endpoint gives no probabilities of an answer; ask: verdict or score, or name a teacher of kind external"
        if isinstance(judge, Composite):
            yield f"rewards.{name}: '{reward.by}' is made of other teachers; name one of its members as the judge"


def paired_texts(entry: MethodEntry) -> Messages:
    """A discriminator compares texts to the same prompts."""
    for name, learner in entry.learners.items():
        if not isinstance(learner, Discriminator):
            continue
        real, fake = entry.rollouts[learner.real], entry.rollouts[learner.fake]
        shares = [extremes(stream.share)[1] / stream.group for stream in (real, fake)]
        if any(isinstance(stream, Replay | Corpus) for stream in (real, fake)):
            yield f"learners.{name}: a replayed batch or a corpus answers other prompts; compare streams of plain authors"
        elif abs(shares[0] - shares[1]) > 1e-9 or fake.group % real.group:
            yield (
                f"learners.{name}: '{learner.real}' and '{learner.fake}' answer different numbers of prompts; give rollouts.{learner.real} a group "
                f"that divides {fake.group} and the share group / {fake.group} of that of '{learner.fake}'"
            )


def pair_lacks(entry: MethodEntry, fields: Collection[str] | None, reward_models: Collection[str] | None) -> Messages:
    """What a pair lacks for an entry's rewards: prompt fields and reward models."""
    for name, outer in entry.rewards.items():
        reward = getattr(outer, "reward", outer)
        if isinstance(reward, Match | UnitTests) and fields is not None and reward.field not in fields:
            yield f"rewards.{name} reads the prompt field '{reward.field}', which this pair's prompts lack{suggest(reward.field, fields)}"
        if isinstance(reward, RewardModel) and reward_models is not None and reward.model not in reward_models:
            yield f"rewards.{name}.model '{reward.model}' is no reward model of this pair{suggest(reward.model, reward_models)}"


NAMES = (unknown_asked,)
RULES = (judges, paired_texts)
