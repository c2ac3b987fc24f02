"""Stages: phases of a run that follow each other or take turns, written as terms with windows.

```yaml
stages:
  - {share: 0.3, rollout: {author: dataset}, objective: [...]}
  - {share: 0.7, rollout: {author: student}, objective: [...]}
rounds: 1
```
A stage has a `share` of the budget, streams and terms; teachers, rewards, learners and the update are the entry's, and the student passes
on. With `rounds` the stages take turns: the run has so many equal parts, and each stage has its share of each. What comes out is an
entry without stages, whose terms act `during` their stage's window; a stream is written while one of its terms acts. Streams of the
same name that differ from stage to stage get the stage's number behind their name, counted from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.errors import ZooError, suggest
from zoo.yamlio import Short

KEYS = ("share", "rollout", "rollouts", "objective")
NAMES_A_STREAM = ("on", "chosen", "rejected")


def flatten_stages(data: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without stages.

    Raises:
        ZooError: shares that do not sum to 1, unknown keys, an objective beside the stages, a term with a window of its own.
    """
    stages, rounds = data.get("stages"), data.get("rounds", 1)
    if not isinstance(stages, list | tuple) or len(stages) < 2:
        raise ZooError("stages: should be a list of two or more stages; a single one is the entry itself")
    if "objective" in data:
        raise ZooError("objective: belongs to each of the stages; a term that acts in all of them is written in each")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ZooError(f"rounds: should be a whole number from 1 on, not {rounds}")
    for i, stage in enumerate(stages):
        _refuse(i, stage)
    if abs(sum(stage["share"] for stage in stages) - 1.0) > 1e-9:
        raise ZooError(f"stages: the shares sum to {sum(stage['share'] for stage in stages):g}; they are parts of one budget and sum to 1")
    streams = [_streams(stage) for stage in stages]
    rollouts, start = dict(_streams(data)), 0.0
    objective: list[Any] = []
    for i, stage in enumerate(stages):
        end = 1.0 if i == len(stages) - 1 else round(start + stage["share"], 12)
        names = {name: _name(name, i, streams, rollouts) for name in streams[i]}
        rollouts |= {names[name]: stream for name, stream in streams[i].items()}
        objective += [{**_renamed(term, names), "during": (start, end), **({"rounds": rounds} if rounds > 1 else {})} for term in stage["objective"]]
        start = end
    kept = {key: value for key, value in data.items() if key not in ("stages", "rounds", "rollout", "rollouts")}
    return {**kept, "rollouts": rollouts, "objective": tuple(objective)}


def stage_places(data: Any) -> Short:
    """Where the flat entry's streams and terms were written."""
    stages = data.get("stages") if isinstance(data, Mapping) else None
    if not isinstance(stages, list | tuple):
        return {}
    places: dict[Any, Any] = {}
    usable = [stage if isinstance(stage, Mapping) else {} for stage in stages]
    streams, number = [_streams(stage) for stage in usable], 0
    for i, stage in enumerate(usable):
        for name in streams[i]:
            key = ("rollout",) if "rollout" in stage else ("rollouts", name)
            places["rollouts", _name(name, i, streams, _streams(data))] = ("stages", i, *key)
        for j, _ in enumerate(stage.get("objective") or ()):
            places["objective", number] = ("stages", i, "objective", j)
            number += 1
    return places


def _refuse(i: int, stage: Any) -> None:
    if not isinstance(stage, Mapping):
        raise ZooError(f"stages[{i}]: should be a mapping with share, rollout and objective")
    for key in stage:
        if key not in KEYS:
            raise ZooError(f"stages[{i}]: unknown key '{key}'{suggest(str(key), KEYS)}")
    share = stage.get("share")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share < 1.0:
        raise ZooError(f"stages[{i}].share: is the stage's part of the budget, between 0 and 1, not {share}")
    if not isinstance(stage.get("objective"), list | tuple) or not stage["objective"]:
        raise ZooError(f"stages[{i}].objective: is required and missing: a list of terms")
    for j, term in enumerate(stage["objective"]):
        if isinstance(term, Mapping) and ("during" in term or "rounds" in term):
            raise ZooError(f"stages[{i}].objective[{j}]: the stage is the term's window; drop during and rounds, or split the stage")
    if "rollout" in stage and "rollouts" in stage:
        raise ZooError(f"stages[{i}]: rollout: is short for rollouts: {{main: ...}}; give one of the two, not both")


def _streams(part: Mapping[str, Any]) -> dict[str, Any]:
    if "rollout" in part:
        return {"main": part["rollout"]}
    return dict(part["rollouts"]) if isinstance(part.get("rollouts"), Mapping) else {}


def _name(name: str, i: int, streams: list[dict[str, Any]], common: Mapping[str, Any]) -> str:
    """A stream's name in the flat entry: its own unless another stage means something else by it."""
    others = [found[name] for found in (*streams, common) if name in found]
    return name if all(other == streams[i][name] for other in others) else f"{name}_{i + 1}"


def _renamed(term: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(term, Mapping):
        return term
    found = {key: names.get(value, value) if key in NAMES_A_STREAM and isinstance(value, str) else value for key, value in term.items()}
    return found if "on" in found or "main" not in names or "chosen" in found else {**found, "on": names["main"]}
